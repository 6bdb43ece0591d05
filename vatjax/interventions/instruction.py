"""A shipped sentence before every question that names the target."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import errors, names, prompts
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, neutral_texts, register
from vatjax.store.artifacts import Artifact
from vatjax.values import Taxonomy

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("instruction")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction(Intervention):
    """A sentence before every question; the placebo is a sentence about nothing of the kind."""

    seeded: ClassVar[bool] = False

    wording: str = ""
    """The name of a shipped one, by default the first."""

    def __post_init__(self) -> None:
        known = list(prompts.instructions())
        if self.wording and self.wording not in known:
            raise errors.InputError(names.unknown_name("wording", self.wording, known))

    def levels(self) -> tuple[float, ...]:
        """Returns the only level."""
        return (1,)

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the placebo: a neutral sentence."""
        return ("neutral sentence",)

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the sentence."""
        return {"said": {"instruction": self.sentence(arm, plan.items.taxonomy)}}

    def known_condition(self, arm: Arm, plan: PlanContext) -> Condition:
        """Returns the sentence."""
        return Condition((), self.sentence(arm, plan.items.taxonomy))

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the sentence."""
        del state
        return Condition((), self.sentence(arm, work.items.taxonomy))

    def sentence(self, arm: Arm, taxonomy: Taxonomy) -> str:
        """Returns the sentence of an arm."""
        if arm.placebo:
            return next(neutral_texts(arm))
        return prompts.instruction(taxonomy, arm.cell.target, arm.cell.sign, self.wording)
