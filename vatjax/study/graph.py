"""Expands a design into artifacts: each measured push, the edit or training it depends on, and its comparisons."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from vatjax import config, errors, names, prompts, store
from vatjax.elicit import provenance
from vatjax.interventions import Arm, Cell, arms, display_name
from vatjax.items import Items
from vatjax.store.artifacts import Artifact
from vatjax.study.design import Design


@dataclasses.dataclass(frozen=True, eq=False)
class ArtifactGraph:
    """The artifacts of one model.

    Attributes:
        model: as the design names it.
        results: the statistics of each arm, placebos included.
        states: value states by arm and wording; the arm None is the unedited model.
        placebos: the gain over a placebo, by arm and placebo name, for arms that are not placebos themselves.
        comparisons: of two interventions with the same target.
        texts: by arm, without placebos: prompts and written answers of the items that moved most.
        weights: number of the model's weights.
        context: what interventions may read of the study.
    """

    model: str
    results: dict[Arm, Artifact]
    states: dict[tuple[Arm | None, str], Artifact]
    placebos: dict[tuple[Arm, str], Artifact]
    comparisons: dict[tuple[Cell, Cell], Artifact]
    texts: dict[Arm, Artifact] = dataclasses.field(default_factory=dict)
    weights: int = 0
    context: StudyContext | None = None

    def final_artifacts(self) -> list[Artifact]:
        """Returns the artifacts that no other artifact depends on."""
        return [*self.texts.values(), *self.results.values(), *self.placebos.values(), *self.comparisons.values()]


def cells(design: Design, model: str, items: Items) -> list[Cell]:
    """Returns all cells of one model."""
    return [Cell(model, *cell) for cell in design.cells(items.taxonomy)]


def build_graph(design: Design, model: str, identity: str, items: Items, test_items: Items) -> ArtifactGraph:
    """Builds the artifact graph of one model.

    Args:
        design: the study.
        model: as the design names it.
        identity: hash of its weights, its configuration and its tokenizer.
        items: all items.
        test_items: items of the test side that are rated.
    """
    return _GraphBuilder(design, model, identity, items, test_items).build()


class StudyContext:
    """What interventions may read of a study while it is planned; see `interventions.PlanContext`.

    Args:
        design: the study.
        identity: hash of the model.
        items: all items.
    """

    def __init__(self, design: Design, identity: str, items: Items) -> None:
        self.items, self.source, self.how, self.dtype = items, design.items, design.how, design.dtype
        self.taxonomy = store.address(items.taxonomy)
        self.common = {
            "model": identity,
            "dtype": design.dtype,
            "taxonomy": self.taxonomy,
            "prompts": prompts.digest(),
        }
        self.train_inputs: dict[str, Any] = {
            **self.common,
            "items": provenance.digest(items),
            "test": design.items.test,
            "seed": design.items.seed,
            "how": config.to_dict(design.how.of_pairs()),
            "wording": dataclasses.asdict(design.how.of_pairs().wordings()[0]),
        }
        self._addresses: dict[tuple[Any, ...], str] = {}

    def file_address(self, path: Any) -> str:
        """Returns the content hash of a file, read once until it changes; raises InputError if there is none."""
        file = store.path(path)
        if not file.exists():
            raise errors.InputError(f"{path}: no such file")
        about = file.stat() if isinstance(file, pathlib.Path) else None
        key = (str(file), about and (about.st_size, about.st_mtime_ns, about.st_ino))
        if about is None or key not in self._addresses:
            self._addresses[key] = store.file_address(file)
        return self._addresses[key]


class _GraphBuilder:
    def __init__(self, design: Design, model: str, identity: str, items: Items, test_items: Items) -> None:
        self.design, self.model, self.items = design, model, items
        self.context = StudyContext(design, identity, items)
        self.taxonomy = self.context.taxonomy
        self.test_inputs = {**self.context.common, "items": provenance.digest(test_items)}
        self.wordings = {wording.name: wording for wording in design.how.wordings()}

    def build(self) -> ArtifactGraph:
        design = self.design
        results: dict[Arm, Artifact] = {}
        states: dict[tuple[Arm | None, str], Artifact] = {
            (None, wording): self.state(None, wording) for wording in self.wordings
        }
        every = cells(design, self.model, self.items)
        for cell in every:
            for arm in arms(cell, design.placebos):
                for measured in (arm, before_of(arm)):
                    for wording in self.wordings:
                        if (measured, wording) not in states:
                            states[measured, wording] = self.state(measured, wording)
                results[arm] = self.result(arm, states)
        blind: dict[tuple[Arm, str], list[Arm]] = {}
        for arm in results:
            if arm.placebo:
                blind.setdefault((Arm(arm.cell, arm.level), arm.placebo), []).append(arm)
        placebos = {key: self.placebo(*key, draws, states) for key, draws in blind.items()}
        pairs = {}
        for first, second in itertools.combinations(every, 2):
            if _are_comparable(first, second):
                pairs[first, second] = self.comparison(first, second, states)
        shown = [arm for arm in results if not arm.placebo and arm.cell.intervention.elicited] if design.texts else []
        texts = {arm: self.texts(arm, states) for arm in shown}
        return ArtifactGraph(self.model, results, states, placebos, pairs, texts, context=self.context)

    # Measurements ---------------------------------------------------------------------------------------------------

    def state(self, arm: Arm | None, wording: str) -> Artifact:
        """Returns a value state."""
        how = {
            **config.to_dict(self.design.how),
            "wording": wording,
            "text": dataclasses.asdict(self.wordings[wording]),
        }
        inputs: dict[str, Any] = {**self.test_inputs, "how": how}
        label = f"{display_name(self.model)}: unedited" if arm is None else str(arm)
        label += f", {wording}" if len(self.wordings) > 1 else ""
        dependencies: dict[str, Artifact] = {}
        if arm is not None:
            intervention = arm.cell.intervention
            with errors.named(f"interventions.{arm.cell.name}"):
                dependencies = intervention.dependencies(arm, self.context)
                inputs |= intervention.state_inputs(arm, self.context)
                _check_kinds(dependencies)
        return Artifact("state", label, inputs, dependencies, (arm, wording))

    def result(self, arm: Arm, states: dict[tuple[Arm | None, str], Artifact]) -> Artifact:
        """Returns the statistics of one arm."""
        design = self.design
        dependencies = {f"before {wording}": states[before_of(arm), wording] for wording in self.wordings}
        dependencies |= {f"after {wording}": states[arm, wording] for wording in self.wordings}
        inputs = {
            "target": arm.cell.target,
            "direction": arm.cell.direction,
            "resamples": design.resamples,
            "reading": design.reading,
            "placebo": bool(arm.placebo),
            "taxonomy": self.taxonomy,
        }
        if design.robust and not arm.placebo:
            inputs["robust"] = True
        return Artifact("result", f"{arm}: its numbers", inputs, dependencies, arm)

    def placebo(
        self, arm: Arm, name: str, draws: list[Arm], states: dict[tuple[Arm | None, str], Artifact]
    ) -> Artifact:
        """Returns the comparison of an arm with the draws of one of its placebos."""
        dependencies = {f"before {wording}": states[before_of(arm), wording] for wording in self.wordings}
        for side, side_arm in (("after", arm), *((f"blind {drawn.draw}", drawn) for drawn in draws)):
            dependencies |= {f"{side} {wording}": states[side_arm, wording] for wording in self.wordings}
            if before_of(side_arm) != before_of(arm):
                before = {f"before {side} {w}": states[before_of(side_arm), w] for w in self.wordings}
                dependencies |= before
        inputs = {"target": arm.cell.target, "direction": arm.cell.direction, "draws": len(draws)}
        inputs["taxonomy"] = self.taxonomy
        return Artifact("placebo", f"{arm}: against {name}", inputs, dependencies, arm)

    def texts(self, arm: Arm, states: dict[tuple[Arm | None, str], Artifact]) -> Artifact:
        """Returns prompts and written answers, before and after, of the items that moved most."""
        wording = next(iter(self.wordings))
        dependencies = {"before": states[before_of(arm), wording], "after": states[arm, wording]}
        return Artifact("texts", f"{arm}: answers in words", {"items": self.design.texts}, dependencies, arm)

    def comparison(self, first: Cell, second: Cell, states: dict[tuple[Arm | None, str], Artifact]) -> Artifact:
        """Returns the comparison of two interventions, paired by scene: at their last levels, and at the same gain."""
        dependencies = {f"before {wording}": states[None, wording] for wording in self.wordings}
        for side, cell in (("one", first), ("other", second)):
            dependencies |= {
                f"{side} {level:.12g} {wording}": states[Arm(cell, level), wording]
                for level in cell.intervention.levels()
                for wording in self.wordings
            }
        inputs = {
            "target": first.target,
            "direction": first.direction,
            "levels": [list(cell.intervention.levels()) for cell in (first, second)],
            "taxonomy": self.taxonomy,
        }
        label = f"{display_name(first.model)}: {first.name} against {second.name}, {first.direction} {first.target}"
        return Artifact("comparison", label, inputs, dependencies, (first, second))


def before_of(arm: Arm) -> Arm | None:
    """Returns the arm whose ratings come before those of an arm; None for the unedited model."""
    return arm.cell.intervention.arm_before(arm)


def _are_comparable(first: Cell, second: Cell) -> bool:
    """Returns True if two interventions have the same push, start from the unedited model, and have levels in an order."""
    if (first.target, first.direction) != (second.target, second.direction):
        return False
    if first.seed != second.seed and first.intervention.seeded and second.intervention.seeded:
        return False
    levels = [(cell, cell.intervention.levels()) for cell in (first, second)]
    return all(
        (cell.intervention.ordered or len(of_cell) == 1) and all(before_of(Arm(cell, x)) is None for x in of_cell)
        for cell, of_cell in levels
    )


# Kinds of artifacts that the study itself makes.
_RESERVED = ("state", "texts", "result", "placebo", "comparison")


def _check_kinds(dependencies: Mapping[str, Artifact]) -> None:
    if not isinstance(dependencies, Mapping) or not all(isinstance(x, Artifact) for x in dependencies.values()):
        raise errors.InputError(
            f"dependencies: expected artifacts by their role, found {names.short_repr(dependencies)}"
        )
    for artifact in dependencies.values():
        if artifact.maker is None:
            raise errors.InputError(f"the artifact {artifact.label!r} has no maker: use self.artifact(...)")
        if artifact.kind in _RESERVED:
            raise errors.InputError(f"an artifact cannot have the kind {artifact.kind!r}, which the study itself makes")
        _check_kinds(artifact.dependencies)
