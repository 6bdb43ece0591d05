"""Controlled value activation: a step along a probe's normal that is just large enough for a requested probability."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vatjax.edits.pairs import Way
from vatjax.interventions.base import register
from vatjax.interventions.found import FoundEdit

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("conva")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Conva(FoundEdit):
    """ConVA: a controlled step along a probe's normal."""

    way: Way = "acted"
    """The texts of a pair: acted, or instructed."""
    gate: bool = False
    """Edit only the tokens on the other side of the probe."""
    probability: float = 0.99
    """The probability of the target's class that the step has to reach."""

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for edits with the same parts."""
        del arm, weights
        return self.kind, self.positions, self.gate
