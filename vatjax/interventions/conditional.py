"""A direction that is added only where a condition direction says that the target is at stake."""

from __future__ import annotations

import dataclasses

from vatjax.edits.pairs import Way
from vatjax.interventions.base import register
from vatjax.interventions.found import FoundEdit


@register("conditional")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditional(FoundEdit):
    """A direction with a condition."""

    way: Way = "acted"
    """The texts of a pair: acted, or instructed."""
