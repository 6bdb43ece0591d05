"""Checks of a validation: the measured number, its requirement, and the outcome."""

from __future__ import annotations

import math
from typing import NamedTuple


class Check(NamedTuple):
    """One property that an instrument must have.

    Attributes:
        part: the part of the instrument.
        name: of the property.
        found: the measured number.
        wanted: the requirement on the number, in words.
        passed: True if the number meets it.
    """

    part: str
    name: str
    found: float
    wanted: str
    passed: bool


def at_least(part: str, name: str, value: float, bound: float) -> Check:
    """Checks that a number reaches a bound; NaN never does."""
    return Check(part, name, float(value), f">= {bound:g}", bool(value >= bound))


def at_most(part: str, name: str, value: float, bound: float) -> Check:
    """Checks that a number does not exceed a bound; NaN fails."""
    return Check(part, name, float(value), f"<= {bound:g}", bool(value <= bound))


def share_at_most(part: str, name: str, count: int, tries: int, rate: float) -> Check:
    """Checks that a share exceeds a rate by at most three of its standard errors, to allow for chance."""
    bound = rate + 3 * math.sqrt(rate * (1 - rate) / tries)
    return at_most(part, name, count / tries, round(bound, 3))


def share_at_least(part: str, name: str, count: int, tries: int, rate: float) -> Check:
    """Checks that a share falls below a rate by at most three of its standard errors."""
    bound = rate - 3 * math.sqrt(rate * (1 - rate) / tries)
    return at_least(part, name, count / tries, round(bound, 3))
