"""Other checkpoints of the same model: a fine-tune that exists, or several along a training, of which each is a level.

The place of a checkpoint in the list is its level. They have no placebo, and the report says so.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import errors, store
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, register
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
        if not self.checkpoints or len(set(self.checkpoints)) != len(self.checkpoints):
            raise errors.InputError(
                f"checkpoints: expected at least one, and none twice, found {list(self.checkpoints)}"
            )

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
        del plan
        folder = local_folder(self.checkpoints[int(arm.level) - 1])
        files = [folder] if folder.is_file() else sorted(folder.iterdir())
        suffixes = (".safetensors", ".json", ".gguf", ".jinja", ".model", ".txt")
        return {"weights": {file.name: store.file_address(file) for file in files if file.name.endswith(suffixes)}}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns a condition without any change: the weights themselves differ."""
        del arm, state, work
        return Condition()

    def rated_model(self, arm: Arm, state: Artifact, work: WorkContext) -> Model:
        """Returns the checkpoint; raises InputError if its prompts would have other tokens."""
        del state
        path = self.checkpoints[int(arm.level) - 1]
        model = work.load(path)
        mine, other = work.model.tokenizer, model.tokenizer
        if other is None or mine.get_vocab() != other.get_vocab():
            raise errors.InputError(f"{path}: it has another vocabulary than {work.model.name}; {_APART}")
        if getattr(mine, "chat_template", None) != getattr(other, "chat_template", None):
            raise errors.InputError(f"{path}: it has another chat template than {work.model.name}; {_APART}")
        return model


_APART = "rate both with `vatjax rate`, and compare them with `vatjax tax`"
