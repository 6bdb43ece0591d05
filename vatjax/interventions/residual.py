"""A direction that is added to the residual stream: difference of means, principal component, or a linear probe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, cast

from vatjax.edits import Method
from vatjax.edits.candidates import METHODS_BY_OPTION, Finder
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

    def finder(self, test: float, seed: int, draw: int) -> Finder:
        """Returns the finder of its edit, for a draw of pairs of the train side of a split."""
        options: dict[str, Any] = {name: getattr(self, name) for name in METHODS_BY_OPTION if hasattr(self, name)}
        return Finder(cast(Method, self.method), **options, test=test, seed=seed, draw=draw)

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for edits with the same parts."""
        del arm, weights
        return self.kind, self.operator, self.positions
