"""Other checkpoints of the same model: a fine-tune that exists, or several along a training, of which each is a level.

The place of a checkpoint in the list is its level. They have no placebo, and the report says so.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import errors
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, check_levels, register
from vatjax.models import Model
from vatjax.models.hub import local_folder
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("weights")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights(Intervention):
    """Checkpoints with the vocabulary and the chat template of the study's model."""

    seeded: ClassVar[bool] = False

    checkpoints: tuple[str, ...] = ()
    """Folders in Hugging Face's layout, or names on the Hub, in the order of a training."""

    def __post_init__(self) -> None:
        check_levels("checkpoints", self.checkpoints)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Returns the unit of its levels: none for a single checkpoint."""
        return "checkpoint" if len(self.checkpoints) > 1 else ""

    def levels(self) -> tuple[float, ...]:
        """Returns the numbers of the checkpoints, from 1."""
        return tuple(range(1, len(self.checkpoints) + 1))

    def placebo_names(self) -> tuple[str, ...]:
        """Returns nothing: given weights have no placebo."""
        return ()

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the content of the checkpoint's files."""
        files = sorted(local_folder(self.checkpoints[int(arm.level) - 1]).iterdir())
        suffixes = (".safetensors", ".json", ".jinja", ".model", ".txt")
        return {"weights": {file.name: plan.file_address(file) for file in files if file.name.endswith(suffixes)}}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns a condition without any change: the weights themselves differ."""
        del arm, state, work
        return Condition()

    def rated_model(self, arm: Arm, state: Artifact, work: WorkContext) -> Model:
        """Returns the checkpoint; raises InputError if its prompts would have other tokens."""
        del state
        path = self.checkpoints[int(arm.level) - 1]
        model = work.load(path)
        check_same_prompts(work.model, model, path)
        return model


def check_same_prompts(model: Model, other: Model, name: str) -> None:
    """Raises InputError unless two models read a prompt as the same tokens."""
    hint = "rate both with `vatjax rate`, and compare them with `vatjax tax`"
    tokenizer, other_tokenizer = model.tokenizer, other.tokenizer
    if other_tokenizer is None or tokenizer.get_vocab() != other_tokenizer.get_vocab():
        raise errors.InputError(f"{name}: it has another vocabulary than {model.name}; {hint}")
    if getattr(tokenizer, "chat_template", None) != getattr(other_tokenizer, "chat_template", None):
        raise errors.InputError(f"{name}: it has another chat template than {model.name}; {hint}")
