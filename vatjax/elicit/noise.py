"""Numerical noise: how far ratings depend on the size of a pass, which changes nothing but the order of additions."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from vatjax.elicit import ask, protocols
from vatjax.items import Items
from vatjax.models import Model
from vatjax.prefix import scorer
from vatjax.prefix.plan import Size
from vatjax.prompts import ElicitConfig

PROMPTS = 64
_LEAST = 16  # tokens of a pass


class Noise(NamedTuple):
    """The difference between ratings of the same prompts in passes of two sizes, in points.

    Attributes:
        sd: standard deviation of the noise of one rating, the root mean square difference over the square root of 2.
        most: the largest difference.
        prompts: how many were rated twice.
    """

    sd: float
    most: float
    prompts: int


def numerical_noise(
    model: Model,
    items: Items,
    how: ElicitConfig,
    condition: ask.Condition = ask.PLAIN,
    size: Size | None = None,
    prompts: int = PROMPTS,
) -> Noise:
    """Rates some prompts twice, in passes of a size and of a quarter of it.

    Args:
        model: the model.
        items: the items.
        how: the settings of elicitation.
        condition: shots, instruction and edit.
        size: how much is computed at one time.
        prompts: how many are rated twice, at most.
    """
    size = size or scorer.size_for(model)
    rows = list(itertools.islice(protocols.make_questions(items, how.protocol).rows, prompts))
    full = ask.answers(model, rows, how, condition, ask.RunOptions(size))
    # A quarter of the tokens computed, not of those that fit: few prompts go through in one pass of either size.
    smaller = dataclasses.replace(size, tokens=max(_LEAST, min(size.tokens, full.cost.computed) // 4))
    quarter = ask.answers(model, rows, how, condition, ask.RunOptions(smaller))
    apart = full.ratings - quarter.ratings
    apart = apart[~np.isnan(apart)]
    if not apart.size:
        return Noise(float("nan"), float("nan"), 0)
    return Noise(float(np.sqrt(np.mean(apart**2) / 2)), float(np.abs(apart).max()), len(apart))


def is_noisy(model: Model) -> bool:
    """Returns whether ratings can depend on the size of a pass by more than a thousandth of a point: below float32."""
    return bool(model.arrays["embedding"].dtype.itemsize < 4)
