"""Examples in the prompt: actions with ratings that are for the target, from the train side."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import elicit, errors, prompts
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, check_levels, register
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("shots")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Shots(Intervention):
    """Examples with ratings before every question; the placebo shows examples of other values."""

    unit: ClassVar[str] = "examples"

    counts: tuple[int, ...] = (2, 4, 8)
    """Numbers of examples."""

    def __post_init__(self) -> None:
        check_levels("counts", self.counts)
        if any(count < 1 for count in self.counts):
            raise errors.InputError(f"counts: expected at least 1 example, found {list(self.counts)}")

    def levels(self) -> tuple[float, ...]:
        """Returns the numbers of examples."""
        return self.counts

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the placebo: examples of other values."""
        return ("neutral shots",)

    def check(self, protocol: str, depth: int | None = None) -> None:
        """Raises InputError for the protocol stated: examples show actions."""
        del depth
        if protocol == "stated":
            raise errors.InputError("how.protocol: shots cannot be used with protocol stated")

    def known_condition(self, arm: Arm, plan: PlanContext) -> Condition:
        """Returns examples for the target, as many as a placebo has too."""
        split: dict[str, Any] = {"test": plan.source.test, "seed": plan.source.seed}
        cell = arm.cell
        return Condition(prompts.demonstrations(plan.items, cell.target, cell.sign, int(arm.level), **split))

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the inputs that determine the examples."""
        cell = arm.cell
        inputs: dict[str, Any] = {**plan.train_inputs, "shots": arm.level, "target": cell.target}
        if arm.placebo:
            return {"said": {**inputs, "neutral": cell.draw_seed(arm.draw)}}
        return {"said": {**inputs, "direction": cell.direction, "draw": cell.seed}}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the examples."""
        del state
        cell, count, how = arm.cell, int(arm.level), work.how
        drawn: dict[str, Any] = {"test": work.source.test, "seed": work.source.seed}
        if arm.placebo:
            number = cell.draw_seed(arm.draw)
            return Condition(
                elicit.neutral_shots(work.model, work.items, count, cell.target, how, draw=number, **drawn)
            )
        scale = prompts.Scale(how.low, how.high)
        return Condition(
            prompts.demonstrations(work.items, cell.target, cell.sign, count, scale, draw=cell.seed, **drawn)
        )
