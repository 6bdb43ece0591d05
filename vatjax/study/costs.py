"""What a study takes, before it is run: tokens of each piece, and the seconds that they need at least."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from vatjax import elicit, errors, prompts, train
from vatjax.elicit.free import WRITTEN
from vatjax.items import Items
from vatjax.models import Model
from vatjax.progress import OnProgress, silent
from vatjax.prompts import How, Shot
from vatjax.study.arms import Arm, Cell, shown
from vatjax.study.finding import some_scenes
from vatjax.study.pieces import Piece, ordered
from vatjax.study.planned import Planned, detectable, loader, shelf_of

_BACKWARD = 3  # a step of training takes about three forward passes of its tokens


class Work(NamedTuple):
    """What a piece takes.

    Attributes:
        tokens: that go through the model, padding included; of a training, three times those of its steps, and once those
            that its reference reads. A price on a training is not counted.
        operations: of products, each multiplication and each addition.
    """

    tokens: int
    operations: float

    def __mul__(self, times: int) -> Work:  # type: ignore[override]
        return Work(times * self.tokens, times * self.operations)

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(self.tokens + other.tokens, self.operations + other.operations)


NOTHING = Work(0, 0.0)


def costs(
    planned: Planned, load: Callable[[str], Model] | None = None, on_progress: OnProgress = silent
) -> dict[str, Any]:
    """The pieces of a study in the order in which they are made, each with what it takes.

    Args:
        planned: of `plan`.
        load: opens a model.
        on_progress: is called with the completed fraction.

    Returns:
        Plain data: of each piece its address and the addresses of those that it needs, its group, kind and label, whether
        it is there already, the tokens that go through the model, the operations of their products, and the seconds that the
        tokens take at least on this device.
        Where a piece is sure to fail it says why. `detectable` says what the contexts that are asked about can tell from noise.
    """
    design = planned.design
    load, shelf = load or loader(design), shelf_of(design)
    found: list[dict[str, Any]] = []
    total = sum(len(ordered(expanded.pieces())) for expanded in planned.expanded)
    for expanded in planned.expanded:
        model = load(expanded.model)
        meter = Meter(planned, model, elicit.size_for(model))  # told once: several processes agree on it
        for piece in ordered(expanded.pieces()):
            on_progress(len(found) / max(1, total))
            there = shelf.has(piece)
            work, why = NOTHING, ""
            try:
                work = NOTHING if there else meter.work(piece)
            except errors.InputError as error:
                why = str(error)
            found.append(
                {
                    "address": piece.address,
                    "needs": [need.address for need in piece.needs.values()],
                    "fails": why,
                    "group": _group(piece, expanded.model),
                    "kind": piece.kind,
                    "label": piece.label,
                    "there": there,
                    "tokens": work.tokens,
                    "operations": work.operations,
                    "seconds": elicit.seconds_for(meter.model, work.tokens),
                }
            )
    power = detectable(design, planned.asked)
    return {"out": design.out, "shelf": str(shelf.folder), "pieces": found, "detectable": power}


def _group(piece: Piece, model: str) -> str:
    """The model and intervention that a piece is of."""
    task = piece.task
    first = task[0] if isinstance(task, tuple) and not isinstance(task, (Arm, Cell)) else task
    cell = first.cell if isinstance(first, Arm) else first
    if piece.kind == "comparison":
        return f"{shown(model)}: comparisons"
    return f"{shown(model)}: unedited" if cell is None else f"{shown(model)}: {cell.name}"


class Meter:
    """Counts what pieces take; what many have in common is counted once.

    Args:
        planned: of `plan`.
        model: whose pieces they are; an outline will do.
        size: how much is computed at one time.
    """

    def __init__(self, planned: Planned, model: Model, size: elicit.Size | None = None) -> None:
        self.planned, self.model, self.size = planned, model, size
        self.weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
        self.known: dict[Any, Work] = {}

    def work(self, piece: Piece) -> Work:
        """Of one piece; nothing for one that takes no model."""
        if piece.kind == "state":
            arm, wording = piece.task
            shots = int(arm.level) if arm is not None and arm.cell.what.kind == "shots" else 0
            shown = self._shots(arm.cell, shots) if shots else []
            return self._once(
                ("state", shots, wording), lambda: self._asked(self.planned.asked, self._how(wording), shown)
            )
        if piece.kind == "training":
            cell, draw = piece.task
            return self._once(("training", piece.address), lambda: self._trained(cell, draw))
        if piece.kind == "texts":
            return self._once(("texts",), lambda: self._written(piece.decides["items"]))
        if piece.kind == "edit":
            cell, exchanged = piece.task
            return self._once(("edit", piece.address), lambda: self._found(cell, exchanged))
        return NOTHING

    def _once(self, key: Any, count: Callable[[], Work]) -> Work:
        if key not in self.known:
            self.known[key] = count()
        return self.known[key]

    def _forward(self, tokens: int, seen: float, read: int) -> Work:
        """One pass: the weights of the layers, attention to what is seen, and the vocabulary where an answer is read."""
        config = self.model.config
        attention = 4 * config.layers * config.heads * config.head_size * seen
        return Work(tokens, tokens * (2 * self.weights + attention) + 2 * read * config.width * config.vocabulary)

    def _how(self, wording: str) -> How:
        return dataclasses.replace(self.planned.design.how, wording=wording)

    def _asked(self, items: Items, how: How, shots: Sequence[Shot] = ()) -> Work:
        cost = elicit.cost(self.model, items, how, shots=shots, size=self.size)
        return self._forward(cost.computed, cost.full / max(1, cost.prompts), cost.prompts)

    def _written(self, items: int) -> Work:
        """Both prompts of each cell rated, and one of them continued, before and after."""
        cost = elicit.cost(self.model, self.planned.asked, self._how(""), size=self.size)
        mean = cost.full // max(1, cost.prompts)
        return self._forward(items * 2 * (3 * mean + WRITTEN), mean, 6 * items)

    def _shots(self, cell: Cell, count: int) -> list[Shot]:
        source = self.planned.design.items
        return prompts.demonstrations(
            self.planned.items, cell.target, cell.sign, count, test=source.test, seed=source.seed
        )

    def _trained(self, cell: Cell, draw: int | None) -> Work:
        design = self.planned.design
        run = cell.training(design, draw)
        laid = train.laid(self.model, run)
        data, shape = laid.data, laid.data.shape
        seen = data.tokens / max(1, len(data.examples))
        rows = run.course.steps * shape.rows
        steps = self._forward(rows * shape.time, seen, rows * shape.learned) * _BACKWARD
        if not laid.loss.reference:
            return steps
        every = len(train.rows_drawn(data, run.course.steps, run.course.seed))
        return steps + self._forward(every * shape.time, seen, every * shape.learned)

    def _found(self, cell: Cell, exchanged: int | None) -> Work:
        """The contrast pairs, and for a real edit the places that are tried."""
        design, what = self.planned.design, cell.what
        side, _ = self.planned.items.split(design.items.test, design.items.seed)
        mask = side.taxonomy.mask(cell.target)[side.value]
        some = side.take(mask.nonzero()[0][: 2 * what.pairs])
        pairs = self._once(("pairs", cell.target, what.pairs), lambda: self._asked(some, design.how.of_pairs()))
        if exchanged is not None:
            return pairs if what.kind in ("split", "conva", "neurons", "conditional") else NOTHING
        places = what.places(self.model.config.layers) or [(0,)] * (6 if what.kind == "residual" else 1)
        if len(places) < 2:
            return pairs
        tried = some_scenes(side, cell.target, what.scenes, design.items.seed)
        swept = self._once(("swept", cell.target, what.scenes), lambda: self._asked(tried, design.how.of_pairs()))
        return pairs + swept * (len(places) * len(what.strengths))
