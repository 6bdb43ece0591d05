"""Neurons whose activations differ between the texts of the pairs, raised or lowered."""

from __future__ import annotations

import dataclasses

from vatjax.edits.pairs import Way
from vatjax.interventions.base import register
from vatjax.interventions.found import FoundEdit


@register("neurons")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Neurons(FoundEdit):
    """The neurons that differ most."""

    way: Way = "acted"
    """The texts of a pair: acted, or instructed."""
    top: int = 100
    """Number of neurons."""
