"""A residual vector trained on preferences, with a margin for the texts that it should leave alone."""

from __future__ import annotations

import dataclasses

from vatjax.interventions.base import register
from vatjax.interventions.found import FoundEdit


@register("split")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(FoundEdit):
    """A trained vector."""

    gamma: float = 1.0
    """Weight of the margin."""
    theta: float = 5.0
    """Size of the margin, in nats."""
