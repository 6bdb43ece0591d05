"""Expands a design into artifacts: each measured push, the edit or training it depends on, and its comparisons."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from vatjax import config, prompts, store
from vatjax.elicit import provenance
from vatjax.items import Items
from vatjax.study.artifacts import Artifact
from vatjax.study.design import Design, Intervention, Side
from vatjax.train import Training
from vatjax.values import Taxonomy

UNITS = {"shots": "examples", "instruction": "", "trained": "steps", "edits": "strength"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One intervention on one model, for one target, one direction and one seed.

    Attributes:
        model: as the design names it.
        name: of the intervention.
        intervention: the intervention.
        target, direction, seed: the target, its direction, and the seed of everything drawn.
    """

    model: str
    name: str
    intervention: Intervention = dataclasses.field(compare=False)
    target: str
    direction: Side
    seed: int

    @property
    def sign(self) -> int:
        """Returns +1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def draw_seed(self, draw: int) -> int:
        """Returns the seed of a placebo draw; it differs between cells and draws."""
        return int(store.address(self.target, self.direction, self.seed, draw)[:7], 16)

    def training(self, design: Design, draw: int | None = None) -> Training:
        """Returns the settings of the training run, or of a draw of its placebo."""
        if draw is None:
            return self.intervention.make_training(design, self.model, self.target, self.sign, self.seed)
        neutral = self.intervention.placebo_of_training() == "neutral text"
        seed = self.seed + 1000 * draw if neutral else self.draw_seed(draw)  # the same for all targets: trained once
        return self.intervention.make_training(design, self.model, self.target, self.sign, seed, True)

    @property
    def unit(self) -> str:
        """Returns the unit of its levels."""
        kind = (
            self.intervention.kind
            if not (self.intervention.trains or self.intervention.edits)
            else "trained"
            if self.intervention.trains
            else "edits"
        )
        return UNITS[kind]

    def __str__(self) -> str:
        way = "towards" if self.sign == 1 else "away from"
        seed = f", seed {self.seed}" if self.seed else ""
        return f"{display_name(self.model)}: {self.name} {way} {self.target}{seed}"


def display_name(model: str) -> str:
    """Returns a model's name without its folders; a generic name such as `checkpoint` keeps its last folder."""
    *folders, name = model.rstrip("/").split("/")
    plain = name in ("model", "checkpoint", "final", "merged") or name.startswith(("checkpoint-", "step"))
    return f"{folders[-1]}/{name}" if plain and folders else name


class Arm(NamedTuple):
    """A push at one level, or a draw of its placebo.

    Attributes:
        cell: the cell it belongs to.
        level: number of examples, strength, or number of steps.
        placebo: name of the placebo it is a draw of; empty for the intervention itself.
        draw: index of the draw.
    """

    cell: Cell
    level: float
    placebo: str = ""
    draw: int = 0

    def __str__(self) -> str:
        blind = f", {self.placebo} {self.draw + 1}" if self.placebo else ""
        amount = f", {self.level:g} {self.cell.unit}" if self.cell.unit else ""
        return f"{self.cell}{amount}{blind}"


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
    """

    model: str
    results: dict[Arm, Artifact]
    states: dict[tuple[Arm | None, str], Artifact]
    placebos: dict[tuple[Arm, str], Artifact]
    comparisons: dict[tuple[Cell, Cell], Artifact]
    texts: dict[Arm, Artifact] = dataclasses.field(default_factory=dict)
    weights: int = 0

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


class _GraphBuilder:
    def __init__(self, design: Design, model: str, identity: str, items: Items, test_items: Items) -> None:
        self.design, self.model, self.items = design, model, items
        split = {"test": design.items.test, "seed": design.items.seed}
        self.taxonomy = store.address(items.taxonomy)
        common = {"model": identity, "dtype": design.dtype, "taxonomy": self.taxonomy, "prompts": prompts.digest()}
        self.train_inputs = {
            **common,
            "items": provenance.digest(items),
            **split,
            "how": config.to_dict(design.how.of_pairs()),
            "wording": dataclasses.asdict(design.how.of_pairs().wordings()[0]),
        }
        self.test_inputs = {**common, "items": provenance.digest(test_items)}
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
                for wording in self.wordings:
                    states[arm, wording] = self.state(arm, wording)
                results[arm] = self.result(arm, states)
        blind: dict[tuple[Arm, str], list[Arm]] = {}
        for arm in results:
            if arm.placebo:
                blind.setdefault((Arm(arm.cell, arm.level), arm.placebo), []).append(arm)
        placebos = {key: self.placebo(*key, draws, states) for key, draws in blind.items()}
        pairs = {}
        for first, second in itertools.combinations(every, 2):
            same = (first.target, first.direction, first.seed) == (second.target, second.direction, second.seed)
            if same:
                pairs[first, second] = self.comparison(first, second, states)
        shown = [arm for arm in results if not arm.placebo] if design.texts else []
        return ArtifactGraph(
            self.model, results, states, placebos, pairs, {arm: self.texts(arm, states) for arm in shown}
        )

    # Edits and trainings --------------------------------------------------------------------------------------------

    def edit(self, cell: Cell, exchanged: int | None = None) -> Artifact:
        """Returns an edit at strength 1 in the chosen place, or the edit found there from shuffled labels."""
        intervention = cell.intervention
        finder = intervention.finder(self.design.items.test, self.design.items.seed, cell.seed)
        inputs: dict[str, Any] = {**self.train_inputs, "target": cell.target, "direction": cell.direction}
        inputs |= {"finder": config.to_dict(finder)}
        if exchanged is not None:
            label = f"{cell}: shuffled labels {exchanged + 1}"
            return Artifact("edit", label, {"exchanged": exchanged}, {"real": self.edit(cell)}, (cell, exchanged))
        inputs["layers"] = list(intervention.layers)
        if intervention.sweeps:  # otherwise no measurement chooses the place
            inputs |= {"strengths": list(intervention.strengths), "scenes": intervention.scenes}
        return Artifact("edit", f"{cell}: finding it", inputs, task=(cell, None))

    def training(self, cell: Cell, draw: int | None = None) -> Artifact:
        """Returns a training run with an edit for each measured step, or the run of a placebo."""
        run = cell.training(self.design, draw)
        inputs = {key: value for key, value in config.to_dict(run).items() if key not in ("model", "source", "dtype")}
        if run.file:
            inputs["file"] = store.file_address(run.file)
        inputs |= {**self.train_inputs, "marks": list(cell.intervention.training.measured_steps())}
        label = f"{cell}: training" if draw is None else f"{cell}: training on {run.placebo} {draw + 1}"
        if run.placebo == "neutral text":  # the same for every target
            inputs |= {"target": "", "direction": ""}
            label = f"{display_name(cell.model)}: {cell.name}, training on neutral text {draw + 1 if draw is not None else ''}"
        return Artifact("training", label, inputs, task=(cell, draw))

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
            cell, intervention = arm.cell, arm.cell.intervention
            if intervention.edits:
                dependencies["edit"] = self.edit(cell, arm.draw if arm.placebo == "shuffled labels" else None)
                inputs["strength"] = arm.level
                if arm.placebo == "random":
                    inputs["random"] = cell.draw_seed(arm.draw)
            elif intervention.trains:
                dependencies["training"] = self.training(cell, arm.draw if arm.placebo else None)
                inputs["step"] = arm.level
            else:
                inputs["said"] = self.prompt_inputs(arm)
        return Artifact("state", label, inputs, dependencies, (arm, wording))

    def prompt_inputs(self, arm: Arm) -> dict[str, Any]:
        """Returns the inputs that determine examples and instructions."""
        cell = arm.cell
        if cell.intervention.kind == "instruction":
            return {"instruction": instruction(arm, self.items.taxonomy)}
        inputs: dict[str, Any] = {**self.train_inputs, "shots": arm.level, "target": cell.target}
        if arm.placebo:
            return {**inputs, "neutral": cell.draw_seed(arm.draw)}
        return {**inputs, "direction": cell.direction, "draw": cell.seed}

    def result(self, arm: Arm, states: dict[tuple[Arm | None, str], Artifact]) -> Artifact:
        """Returns the statistics of one arm."""
        design = self.design
        dependencies = {f"before {wording}": states[None, wording] for wording in self.wordings}
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
        dependencies = {f"before {wording}": states[None, wording] for wording in self.wordings}
        for side, side_arm in (("after", arm), *((f"blind {drawn.draw}", drawn) for drawn in draws)):
            dependencies |= {f"{side} {wording}": states[side_arm, wording] for wording in self.wordings}
        inputs = {"target": arm.cell.target, "direction": arm.cell.direction, "draws": len(draws)}
        inputs["taxonomy"] = self.taxonomy
        return Artifact("placebo", f"{arm}: against {name}", inputs, dependencies, arm)

    def texts(self, arm: Arm, states: dict[tuple[Arm | None, str], Artifact]) -> Artifact:
        """Returns prompts and written answers, before and after, of the items that moved most."""
        wording = next(iter(self.wordings))
        dependencies = {"before": states[None, wording], "after": states[arm, wording]}
        return Artifact("texts", f"{arm}: answers in words", {"items": self.design.texts}, dependencies, arm)

    def comparison(self, first: Cell, second: Cell, states: dict[tuple[Arm | None, str], Artifact]) -> Artifact:
        """Returns the comparison of two interventions, paired by scene: at their last levels, and at the same gain."""
        dependencies = {f"before {wording}": states[None, wording] for wording in self.wordings}
        for side, cell in (("one", first), ("other", second)):
            dependencies |= {
                f"{side} {level:g} {wording}": states[Arm(cell, level), wording]
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


def arms(cell: Cell, placebos: int) -> Iterator[Arm]:
    """Yields each push of a cell, then the draws of its placebos at each level."""
    intervention = cell.intervention
    levels = intervention.levels()
    for level in levels:
        yield Arm(cell, level)
    for level, name, draw in itertools.product(levels, intervention.placebo_names(), range(placebos)):
        yield Arm(cell, level, name, draw)


def instruction(arm: Arm, taxonomy: Taxonomy) -> str:
    """Returns the sentence of an arm; a placebo gets a neutral sentence."""
    if arm.placebo:
        plain = prompts.neutral_texts()
        return plain[arm.cell.draw_seed(arm.draw) % len(plain)]
    return prompts.instruction(taxonomy, arm.cell.target, arm.cell.sign, arm.cell.intervention.wording)
