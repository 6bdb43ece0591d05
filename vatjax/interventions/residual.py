"""A direction that is added to the residual stream: difference of means, principal component, or a linear probe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax.edits.directions import Method as Along
from vatjax.edits.directions import Operator
from vatjax.edits.pairs import Way
from vatjax.interventions.base import register
from vatjax.interventions.found import FoundEdit

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("residual")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(FoundEdit):
    """A steering vector."""

    default_places: ClassVar[int] = 6
    placebo_asks: ClassVar[bool] = False

    method: Along = "mean"
    """mean, pca or probe."""
    way: Way = "acted"
    """The texts of a pair: acted, or instructed."""
    operator: Operator = "add"
    """add, project, set or turn."""

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for edits with the same parts."""
        del arm, weights
        return self.kind, self.operator, self.positions
