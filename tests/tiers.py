"""Two tiers: what runs each time, and what is `thorough` and runs when it is asked for with `-m ""`."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def quick(every: Iterable[Any], chosen: Sequence[Any], whole: bool = False) -> list[Any]:
    """All parameters, of which those that are not chosen are of the second tier.

    Args:
        every, chosen: values of one parameter, or tuples of several parameters' values.
        whole: whether a tuple is the value of one parameter.
    """
    every = list(every)
    assert all(one in every for one in chosen)
    return [
        one
        if one in chosen
        else pytest.param(*(one if isinstance(one, tuple) and not whole else (one,)), marks=pytest.mark.thorough)
        for one in every
    ]
