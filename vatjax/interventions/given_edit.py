"""Changes of the computation that exist already: edits that vatjax wrote, and PEFT adapters.

Each strength is a level. The placebo is a random edit of the same form and norm.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import errors, models, store
from vatjax.elicit import Condition
from vatjax.interventions.base import (
    Intervention,
    PlanContext,
    WorkContext,
    at_strength,
    check_strengths,
    register,
    strength_inputs,
)
from vatjax.models import Edit, Model
from vatjax.models.hub import local_folder
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Given(Intervention):
    seeded: ClassVar[bool] = False
    unit: ClassVar[str] = "strength"
    # Names of the files that determine it.
    files: ClassVar[tuple[str, ...]] = ()

    path: str = ""
    strengths: tuple[float, ...] = (1.0,)
    """The strengths to measure."""

    def __post_init__(self) -> None:
        if not self.path:
            raise errors.InputError(f"path: the kind {self.kind} needs a folder")
        check_strengths(self.strengths)

    def levels(self) -> tuple[float, ...]:
        """Returns the strengths."""
        return self.strengths

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the placebo: a random edit of the same norm."""
        return ("random",)

    def folder(self) -> Any:
        """Returns its folder; raises InputError if a file is missing there."""
        folder = self.find_folder()
        for name in self.files:
            if not (folder / name).exists():
                raise errors.InputError(f"{self.path}: no {name} there, which the kind {self.kind} needs")
        return folder

    def find_folder(self) -> Any:
        """Returns its folder, which may lack files."""
        return store.path(self.path)

    def load(self, model: Model) -> Edit:
        """Returns the edit at strength 1."""
        raise NotImplementedError

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the content of its files, the strength, and the seed of a random edit."""
        folder = self.folder()
        norm = {"norm": "product"} if arm.placebo else {}  # of low-rank changes: that of A B
        return {self.kind: [plan.file_address(folder / name) for name in self.files], **strength_inputs(arm), **norm}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the edit at the arm's strength."""
        del state
        return Condition(edit=at_strength(self.load(work.model), arm))

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for its strengths."""
        del arm, weights
        return self.kind, self.path


@register("edit")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenEdit(_Given):
    """An edit that vatjax wrote, at some strengths."""

    files: ClassVar[tuple[str, ...]] = ("edit.json", "edit.safetensors")

    path: str = ""
    """Folder of the edit."""

    def load(self, model: Model) -> Edit:
        """Returns the edit; raises InputError, which names both models, if it was made for another one."""
        return models.load_edit(self.folder(), model)


@register("adapter")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter(_Given):
    """A PEFT adapter, at some strengths."""

    files: ClassVar[tuple[str, ...]] = ("adapter_config.json", "adapter_model.safetensors")

    path: str = ""
    """Folder of the adapter, or owner/name on the Hub."""

    def find_folder(self) -> Any:
        """Returns the local folder; an adapter on the Hub is downloaded."""
        folder = store.path(self.path)
        return folder if folder.exists() else local_folder(self.path, patterns=self.files)

    def load(self, model: Model) -> Edit:
        """Returns the adapter; raises InputError, which names its base and the model, if it does not fit."""
        folder = self.folder()
        try:
            return models.load_adapter(folder, model.config)
        except errors.InputError as error:
            base = store.read_json(folder / self.files[0]).get("base_model_name_or_path")
            made_for = f"it is for {base}" if base else "it does not name its base"
            first, *more = str(error).splitlines()
            rest = f"; and {len(more)} more lines" if more else ""
            raise errors.InputError(
                f"{self.path}: this adapter does not fit {model.name} ({made_for}): {first}{rest}"
            ) from None
