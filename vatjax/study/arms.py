"""From a design to its pieces: every push that is measured, what it takes to make it, and what it is compared with."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from vatjax import config, prompts, store
from vatjax.elicit import provenance
from vatjax.items import Items
from vatjax.study.design import Design, Intervention, Side
from vatjax.study.pieces import Piece
from vatjax.train import Training
from vatjax.values import Taxonomy

UNITS = {"shots": "examples", "instruction": "", "trained": "steps", "edits": "strength"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One intervention on one model, towards one target, one way, from one seed.

    Attributes:
        model: as the design names it.
        name: of the intervention.
        what: the intervention.
        target, direction, seed: what is pushed, and which way; of what is drawn.
    """

    model: str
    name: str
    what: Intervention = dataclasses.field(compare=False)
    target: str
    direction: Side
    seed: int

    @property
    def sign(self) -> int:
        """+1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def key(self, draw: int) -> int:
        """What a draw of a placebo is drawn with: another number for every cell and draw."""
        return int(store.address(self.target, self.direction, self.seed, draw)[:7], 16)

    def training(self, design: Design, draw: int | None = None) -> Training:
        """The training run, or that of a draw of its placebo."""
        if draw is None:
            return self.what.run(design, self.model, self.target, self.sign, self.seed)
        neutral = self.what.placebo_of_training() == "neutral text"
        seed = self.seed + 1000 * draw if neutral else self.key(draw)  # what is the same for all targets is made once
        return self.what.run(design, self.model, self.target, self.sign, seed, True)

    @property
    def unit(self) -> str:
        """What its levels count."""
        kind = (
            self.what.kind if not (self.what.trains or self.what.edits) else "trained" if self.what.trains else "edits"
        )
        return UNITS[kind]

    def __str__(self) -> str:
        way = "towards" if self.sign == 1 else "away from"
        seed = f", seed {self.seed}" if self.seed else ""
        return f"{shown(self.model)}: {self.name} {way} {self.target}{seed}"


def shown(model: str) -> str:
    """Returns a model's name without the folders that it lies in; with the last of them where the name says nothing."""
    *folders, name = model.rstrip("/").split("/")
    plain = name in ("model", "checkpoint", "final", "merged") or name.startswith(("checkpoint-", "step"))
    return f"{folders[-1]}/{name}" if plain and folders else name


class Arm(NamedTuple):
    """A push at one level, or a draw of its placebo.

    Attributes:
        cell: whose it is.
        level: how many examples, how strong, or after how many steps.
        placebo: what it is a draw of, where it is not meant to push.
        draw: which.
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
class Expanded:
    """The pieces of one model.

    Attributes:
        model: as the design names it.
        results: of every arm, those of placebos too.
        states: by arm and wording; None stands for the model alone.
        placebos: of every arm that is meant to push and has placebos at its level: how far it goes beyond them, by their
            name.
        comparisons: of two interventions with the same target.
        texts: of every arm that is meant to push: what the items that moved most were asked and how they were answered.
        weights: how many the model has.
    """

    model: str
    results: dict[Arm, Piece]
    states: dict[tuple[Arm | None, str], Piece]
    placebos: dict[tuple[Arm, str], Piece]
    comparisons: dict[tuple[Cell, Cell], Piece]
    texts: dict[Arm, Piece] = dataclasses.field(default_factory=dict)
    weights: int = 0

    def pieces(self) -> list[Piece]:
        """Those that nothing else needs."""
        return [*self.texts.values(), *self.results.values(), *self.placebos.values(), *self.comparisons.values()]


def cells(design: Design, model: str, items: Items) -> list[Cell]:
    """Every cell of one model."""
    return [Cell(model, *cell) for cell in design.cells(items.taxonomy)]


def expand(design: Design, model: str, identity: str, items: Items, asked: Items) -> Expanded:
    """The pieces of one model.

    Args:
        design: the study.
        model: as the design names it.
        identity: of its weights, its configuration and its tokenizer.
        items: all of them.
        asked: those of the test side that are asked about.
    """
    return _Expansion(design, model, identity, items, asked).whole()


class _Expansion:
    def __init__(self, design: Design, model: str, identity: str, items: Items, asked: Items) -> None:
        self.design, self.model, self.items = design, model, items
        split = {"test": design.items.test, "seed": design.items.seed}
        self.taxonomy = store.address(items.taxonomy)
        common = {"model": identity, "dtype": design.dtype, "taxonomy": self.taxonomy, "prompts": prompts.digest()}
        self.found_from = {
            **common,
            "items": provenance.digest(items),
            **split,
            "how": config.to_dict(design.how.of_pairs()),
            "wording": dataclasses.asdict(design.how.of_pairs().wordings()[0]),
        }
        self.asked = {**common, "items": provenance.digest(asked)}
        self.wordings = {one.name: one for one in design.how.wordings()}

    def whole(self) -> Expanded:
        design = self.design
        results: dict[Arm, Piece] = {}
        states: dict[tuple[Arm | None, str], Piece] = {
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
        for one, other in itertools.combinations(every, 2):
            same = (one.target, one.direction, one.seed) == (other.target, other.direction, other.seed)
            if same:
                pairs[one, other] = self.comparison(one, other, states)
        shown = [arm for arm in results if not arm.placebo] if design.texts else []
        return Expanded(self.model, results, states, placebos, pairs, {arm: self.texts(arm, states) for arm in shown})

    # What pushes ----------------------------------------------------------------------------------------------------

    def edit(self, cell: Cell, exchanged: int | None = None) -> Piece:
        """An edit at strength 1, in the place that was chosen; or what the finder makes of shuffled labels there."""
        what = cell.what
        finder = what.finder(self.design.items.test, self.design.items.seed, cell.seed)
        decides: dict[str, Any] = {**self.found_from, "target": cell.target, "direction": cell.direction}
        decides |= {"finder": config.to_dict(finder)}
        if exchanged is not None:
            label = f"{cell}: shuffled labels {exchanged + 1}"
            return Piece("edit", label, {"exchanged": exchanged}, {"real": self.edit(cell)}, (cell, exchanged))
        decides["layers"] = list(what.layers)
        if what.sweeps:  # else the place hangs on nothing that is measured
            decides |= {"strengths": list(what.strengths), "scenes": what.scenes}
        return Piece("edit", f"{cell}: finding it", decides, task=(cell, None))

    def training(self, cell: Cell, draw: int | None = None) -> Piece:
        """A training run, with an edit for each step that is measured; or that of a placebo."""
        run = cell.training(self.design, draw)
        decides = {key: value for key, value in config.to_dict(run).items() if key not in ("model", "source", "dtype")}
        if run.file:
            decides["file"] = store.file_address(run.file)
        decides |= {**self.found_from, "marks": list(cell.what.training.marks())}
        label = f"{cell}: training" if draw is None else f"{cell}: training on {run.placebo} {draw + 1}"
        if run.placebo == "neutral text":  # whatever is pushed, that is the same
            decides |= {"target": "", "direction": ""}
            label = f"{shown(cell.model)}: {cell.name}, training on neutral text {draw + 1 if draw is not None else ''}"
        return Piece("training", label, decides, task=(cell, draw))

    # What is measured -----------------------------------------------------------------------------------------------

    def state(self, arm: Arm | None, wording: str) -> Piece:
        """A value state."""
        how = {
            **config.to_dict(self.design.how),
            "wording": wording,
            "text": dataclasses.asdict(self.wordings[wording]),
        }
        decides: dict[str, Any] = {**self.asked, "how": how}
        label = f"{shown(self.model)}: unedited" if arm is None else str(arm)
        label += f", {wording}" if len(self.wordings) > 1 else ""
        needs: dict[str, Piece] = {}
        if arm is not None:
            cell, what = arm.cell, arm.cell.what
            if what.edits:
                needs["edit"] = self.edit(cell, arm.draw if arm.placebo == "shuffled labels" else None)
                decides["strength"] = arm.level
                if arm.placebo == "random":
                    decides["random"] = cell.key(arm.draw)
            elif what.trains:
                needs["training"] = self.training(cell, arm.draw if arm.placebo else None)
                decides["step"] = arm.level
            else:
                decides["said"] = self.said(arm)
        return Piece("state", label, decides, needs, (arm, wording))

    def said(self, arm: Arm) -> dict[str, Any]:
        """What decides examples and instructions."""
        cell = arm.cell
        if cell.what.kind == "instruction":
            return {"instruction": instruction(arm, self.items.taxonomy)}
        found: dict[str, Any] = {**self.found_from, "shots": arm.level, "target": cell.target}
        if arm.placebo:
            return {**found, "neutral": cell.key(arm.draw)}
        return {**found, "direction": cell.direction, "draw": cell.seed}

    def result(self, arm: Arm, states: dict[tuple[Arm | None, str], Piece]) -> Piece:
        """The numbers of one arm."""
        design = self.design
        needs = {f"before {wording}": states[None, wording] for wording in self.wordings}
        needs |= {f"after {wording}": states[arm, wording] for wording in self.wordings}
        decides = {
            "target": arm.cell.target,
            "direction": arm.cell.direction,
            "resamples": design.resamples,
            "reading": design.reading,
            "placebo": bool(arm.placebo),
            "taxonomy": self.taxonomy,
        }
        if design.robust and not arm.placebo:
            decides["robust"] = True
        return Piece("result", f"{arm}: its numbers", decides, needs, arm)

    def placebo(self, arm: Arm, name: str, draws: list[Arm], states: dict[tuple[Arm | None, str], Piece]) -> Piece:
        """An arm beside the draws of one of its placebos."""
        needs = {f"before {wording}": states[None, wording] for wording in self.wordings}
        for side, own in (("after", arm), *((f"blind {one.draw}", one) for one in draws)):
            needs |= {f"{side} {wording}": states[own, wording] for wording in self.wordings}
        decides = {"target": arm.cell.target, "direction": arm.cell.direction, "draws": len(draws)}
        decides["taxonomy"] = self.taxonomy
        return Piece("placebo", f"{arm}: against {name}", decides, needs, arm)

    def texts(self, arm: Arm, states: dict[tuple[Arm | None, str], Piece]) -> Piece:
        """What the items that moved most were asked, and how they were answered, before and after."""
        wording = next(iter(self.wordings))
        needs = {"before": states[None, wording], "after": states[arm, wording]}
        return Piece("texts", f"{arm}: answers in words", {"items": self.design.texts}, needs, arm)

    def comparison(self, one: Cell, other: Cell, states: dict[tuple[Arm | None, str], Piece]) -> Piece:
        """Two interventions, paired by scene: as far as both go, and at the same gain."""
        needs = {f"before {wording}": states[None, wording] for wording in self.wordings}
        for side, cell in (("one", one), ("other", other)):
            needs |= {
                f"{side} {level:g} {wording}": states[Arm(cell, level), wording]
                for level in cell.what.levels()
                for wording in self.wordings
            }
        decides = {
            "target": one.target,
            "direction": one.direction,
            "levels": [list(cell.what.levels()) for cell in (one, other)],
            "taxonomy": self.taxonomy,
        }
        label = f"{shown(one.model)}: {one.name} against {other.name}, {one.direction} {one.target}"
        return Piece("comparison", label, decides, needs, (one, other))


def arms(cell: Cell, placebos: int) -> Iterator[Arm]:
    """Every push of a cell, and at each of its levels the draws of its placebos."""
    what = cell.what
    levels = what.levels()
    for level in levels:
        yield Arm(cell, level)
    for level, name, draw in itertools.product(levels, what.placebo_names(), range(placebos)):
        yield Arm(cell, level, name, draw)


def instruction(arm: Arm, taxonomy: Taxonomy) -> str:
    """The sentence of an arm: for its placebo a plain one about nothing."""
    if arm.placebo:
        plain = prompts.neutral_texts()
        return plain[arm.cell.key(arm.draw) % len(plain)]
    return prompts.instruction(taxonomy, arm.cell.target, arm.cell.sign, arm.cell.what.wording)
