"""Edits that are found from contrast pairs of the train side: what their kinds share.

The place of an edit is that with the largest gain on some scenes of the train side. Each strength is a level. Placebos
are random edits of the same size, and edits that the same finder finds from shuffled labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from vatjax import config, edits, errors, models, store
from vatjax.edits import Method
from vatjax.edits.candidates import METHODS_BY_OPTION, Candidate, Finder, Place, find_candidate
from vatjax.edits.directions import layer_shares
from vatjax.edits.pairs import PAIRS
from vatjax.elicit import Condition
from vatjax.interventions.base import (
    CostMeter,
    Intervention,
    PlanContext,
    WorkContext,
    at_strength,
    check_strengths,
    strength_inputs,
)
from vatjax.models.edit import Positions
from vatjax.runtime import processes
from vatjax.runtime.progress import stage_progress
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm, Cell


# Folder of the edit in its artifact.
EDIT = "edit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundEdit(Intervention):
    """Settings that all kinds of found edits have."""

    unit: ClassVar[str] = "strength"
    # Number of places that are tried if none are given; 1 for a method that chooses its layers itself.
    default_places: ClassVar[int] = 1
    # True if the placebo from shuffled labels asks about the pairs once more.
    placebo_asks: ClassVar[bool] = True

    layers: tuple[str, ...] = ()
    """The places to try, each a layer or several such as 3+4; the place with the largest gain on the train side is used."""
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """The strengths to measure."""
    scenes: int = 12
    """Number of scenes of the train side used to choose the place; 0 for all."""
    positions: Positions = "all"
    """The tokens that are edited: all, the prompt's, its last, or written ones."""
    pairs: int = PAIRS
    """Number of pairs that the edit is found from."""

    def __post_init__(self) -> None:
        check_strengths(self.strengths)

    @property
    def method(self) -> Method:
        """Returns its method, as `edits.Finder` names it."""
        return cast(Method, self.kind)

    def finder(self, test: float, seed: int, draw: int) -> Finder:
        """Returns the finder of its edit, for a draw of pairs of the train side of a split."""
        options: dict[str, Any] = {name: getattr(self, name) for name in METHODS_BY_OPTION if hasattr(self, name)}
        return Finder(self.method, **options, test=test, seed=seed, draw=draw)

    def levels(self) -> tuple[float, ...]:
        """Returns the strengths."""
        return self.strengths

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the placebos."""
        return "random", "shuffled labels"

    def check(self, protocol: str, depth: int | None = None) -> None:
        """Raises InputError for a layer that the model does not have."""
        del protocol
        if depth is not None:
            parse_places(self.layers, depth)

    def tried_places(self, depth: int) -> int:
        """Returns the number of places among which the edit's is chosen by its effect."""
        return len(parse_places(self.layers, depth)) or self.default_places

    def dependencies(self, arm: Arm, plan: PlanContext) -> dict[str, Artifact]:
        """Returns the edit at strength 1 in the chosen place, or the edit found there from shuffled labels."""
        return {"edit": self.edit(arm.cell, plan, arm.draw if arm.placebo == "shuffled labels" else None)}

    def edit(self, cell: Cell, plan: PlanContext, exchanged: int | None = None) -> Artifact:
        """Returns the artifact of the edit, or of a draw of its placebo."""
        if exchanged is not None:
            label = f"{cell}: shuffled labels {exchanged + 1}"
            return Artifact(
                "edit", label, {"exchanged": exchanged}, {"real": self.edit(cell, plan)}, (cell, exchanged), self
            )
        finder = self.finder(plan.source.test, plan.source.seed, cell.seed)
        inputs: dict[str, Any] = {**plan.train_inputs, "target": cell.target, "direction": cell.direction}
        inputs |= {"finder": config.to_dict(finder), "layers": list(self.layers)}
        if len(self.layers) > 1 or (not self.layers and self.default_places > 1):  # chosen by measurement
            inputs |= {"strengths": list(self.strengths), "scenes": self.scenes}
        return Artifact("edit", f"{cell}: finding it", inputs, task=(cell, None), maker=self)

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the strength, and the seed of a random edit."""
        del plan
        return strength_inputs(arm)

    def edit_folder(self, arm: Arm, state: Artifact) -> tuple[Artifact, str] | None:
        """Returns the edit at strength 1; a random one is drawn anew each time."""
        return None if arm.placebo == "random" else (state.dependencies["edit"], EDIT)

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the edit at the arm's strength."""
        folder = work.artifact_store.path(state.dependencies["edit"]) / EDIT
        return Condition(edit=at_strength(models.load_edit(folder, work.model), arm))

    def batch_key(self, artifact: Artifact, weights: int) -> Any:
        """Returns a key that an edit shares with its placebos: they use the same activations of pairs."""
        del weights
        return artifact.dependencies.get("real", artifact).address

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for edits with the same parts, as far as known before they are found."""
        del arm, weights
        return self.kind, self.positions

    def cost(self, artifact: Artifact, meter: CostMeter) -> Any:
        """Returns the cost of the search, or of that of a placebo."""
        cell, exchanged = artifact.task
        return meter.edit_search(self, cell, exchanged)

    # Finding --------------------------------------------------------------------------------------------------------

    def make(self, batch: Sequence[Artifact], work: WorkContext) -> None:
        """Finds an edit and chooses its place, or finds the edit of a placebo."""
        artifact = batch[0]
        cell, exchanged = artifact.task
        folder = work.artifact_store.path(artifact)
        if exchanged is not None:
            self._make_placebo(artifact, exchanged, work)
            return
        tried = self._candidate(artifact, work)
        layers, points = self._choose_place(cell, tried, work)
        facts = {**tried.facts(layers), "layers": list(layers)}
        store.commit_json(folder / "chosen.json", {"layers": list(layers), "sweep": points})
        models.save_edit(tried.make(layers), work.model, folder / EDIT, store.nonfinite_to_none(facts))
        processes.barrier("an edit is written")  # all processes read it for its placebos

    def _make_placebo(self, artifact: Artifact, exchanged: int, work: WorkContext) -> None:
        """Finds an edit from shuffled labels; if the finder finds nothing, writes an edit that does nothing."""
        real = artifact.dependencies["real"]
        meta: dict[str, Any] = {"shuffled labels": exchanged}
        layers = tuple(work.artifact_store.read_json(real, "chosen.json")["layers"])
        try:
            edit = self._candidate(real, work).make_placebo(layers, exchanged)
        except errors.InputError as error:
            work.on_message(f"{artifact.label}: found nothing: {error}")
            edit = 0.0 * models.load_edit(work.artifact_store.path(real) / EDIT, work.model)
            meta |= {"none": str(error)}
        models.save_edit(edit, work.model, work.artifact_store.path(artifact) / EDIT, meta)

    def _candidate(self, artifact: Artifact, work: WorkContext) -> Candidate:
        """Returns the finder's result for a real edit; the last result is cached for its placebos."""
        if artifact.address not in work.cache:
            cell, source = artifact.task[0], work.source
            work.cache.clear()
            work.cache[artifact.address] = find_candidate(
                work.model,
                work.items,
                cell.target,
                cell.sign,
                self.finder(source.test, source.seed, cell.seed),
                parse_places(self.layers, work.model.config.layers),
                work.how.of_pairs(),
            )
        candidate: Candidate = work.cache[artifact.address]
        return candidate

    def _choose_place(self, cell: Cell, tried: Candidate, work: WorkContext) -> tuple[Place, list[dict[str, Any]]]:
        """Chooses the place with the largest gain on the train side, at a strength that does not break the model if one
        exists."""
        if len(tried.places) == 1:
            return tried.places[0], []
        points = edits.sweep_train_side(
            work.model,
            work.items,
            cell.target,
            tried,
            self.strengths,
            cell.sign,
            scenes=self.scenes,
            test=work.source.test,
            seed=work.source.seed,
            how=work.how.of_pairs(),
            on_progress=stage_progress(work.on_progress, 0.2, 1),
        )
        chosen = edits.best_point(points) or max(points, key=lambda point: point.outcome.mass)
        sweep_points = [
            {"layers": list(p.layers), "strength": p.strength, **store.nonfinite_to_none(p.outcome._asdict())}
            for p in points
        ]
        return chosen.layers, sweep_points


def parse_places(texts: tuple[str, ...], depth: int) -> list[Place]:
    """Parses places of a model from texts such as 3, -1 and 3+4.

    Raises:
        InputError: if the model does not have a layer.
    """
    try:
        parsed = [tuple(int(layer) for layer in text.split("+")) for text in texts]
    except ValueError:
        raise errors.InputError(f"layers: expected layers such as 3 or 3+4, found {', '.join(texts)}") from None
    for place in parsed:
        layer_shares(place, depth)  # raises an error for a layer that does not exist
    return list(dict.fromkeys(tuple(sorted({layer % depth for layer in place})) for place in parsed))
