"""What a validation says: each thing that was checked, what was found, what was wanted."""

from __future__ import annotations

import math
from typing import NamedTuple


class Check(NamedTuple):
    """One thing that an instrument must get right.

    Attributes:
        part: what it is about.
        name: what is looked at.
        found: its number.
        wanted: what the number must be, in words.
        passed: whether it is.
    """

    part: str
    name: str
    found: float
    wanted: str
    passed: bool


def at_least(part: str, name: str, found: float, bound: float) -> Check:
    """A number that must reach a bound; NaN never does."""
    return Check(part, name, float(found), f">= {bound:g}", bool(found >= bound))


def at_most(part: str, name: str, found: float, bound: float) -> Check:
    """A number that must not pass a bound; NaN always does."""
    return Check(part, name, float(found), f"<= {bound:g}", bool(found <= bound))


def rarely(part: str, name: str, count: int, tries: int, rate: float) -> Check:
    """A share that may lie above a rate by no more than three of its standard errors, as chance alone allows."""
    bound = rate + 3 * math.sqrt(rate * (1 - rate) / tries)
    return at_most(part, name, count / tries, round(bound, 3))


def mostly(part: str, name: str, count: int, tries: int, rate: float) -> Check:
    """A share that may lie below a rate by no more than three of its standard errors."""
    bound = rate - 3 * math.sqrt(rate * (1 - rate) / tries)
    return at_least(part, name, count / tries, round(bound, 3))
