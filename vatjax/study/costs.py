"""What a study takes, before it is run: tokens of each piece, and the seconds that they need at least."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from vatjax import elicit, errors, prompts, train
from vatjax.items import Items
from vatjax.models import Model
from vatjax.prompts import Shot
from vatjax.study.arms import Arm, Cell
from vatjax.study.finding import some_scenes
from vatjax.study.pieces import Piece, ordered
from vatjax.study.planned import Planned, loader, shelf_of

_BACKWARD = 3  # a step of training takes about three forward passes of its tokens


def costs(planned: Planned, load: Callable[[str], Model] | None = None) -> dict[str, Any]:
    """The pieces of a study in the order in which they are made, each with what it takes.

    Args:
        planned: of `plan`.
        load: opens a model.

    Returns:
        Plain data: of each piece its address and the addresses of those that it needs, its group, kind and label, whether
        it is there already, the tokens that go through the model, and the seconds that these take at least on this device.
        Where a piece is sure to fail it says why.
    """
    design = planned.design
    load, shelf = load or loader(design), shelf_of(design)
    found = []
    for expanded in planned.expanded:
        meter = _Meter(planned, load(expanded.model))
        for piece in ordered(expanded.pieces()):
            there = shelf.has(piece)
            tokens, why = 0, ""
            try:
                tokens = 0 if there else meter.tokens(piece)
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
                    "tokens": tokens,
                    "seconds": elicit.seconds_for(meter.model, tokens),
                }
            )
    return {"out": design.out, "shelf": str(shelf.folder), "pieces": found}


def _group(piece: Piece, model: str) -> str:
    """The model and intervention that a piece is of."""
    task = piece.task
    first = task[0] if isinstance(task, tuple) and not isinstance(task, (Arm, Cell)) else task
    cell = first.cell if isinstance(first, Arm) else first
    if piece.kind == "comparison":
        return f"{model}: comparisons"
    return f"{model}: unedited" if cell is None else f"{model}: {cell.name}"


class _Meter:
    """Counts the tokens of pieces; what many have in common is counted once."""

    def __init__(self, planned: Planned, model: Model) -> None:
        self.planned, self.model = planned, model
        self.known: dict[Any, int] = {}

    def tokens(self, piece: Piece) -> int:
        """Of one piece; 0 for one that takes no model."""
        if piece.kind == "state":
            arm, wording = piece.task
            shots = int(arm.level) if arm is not None and arm.cell.what.kind == "shots" else 0
            shown = self._shots(arm.cell, shots) if shots else []
            return self._once(("state", shots, wording), lambda: self._asked(self.planned.asked, wording, shown))
        if piece.kind == "training":
            cell, draw = piece.task
            return self._once(("training", piece.address), lambda: self._trained(cell, draw))
        if piece.kind == "edit":
            cell, exchanged = piece.task
            return self._once(("edit", piece.address), lambda: self._found(cell, exchanged))
        return 0

    def _once(self, key: Any, count: Callable[[], int]) -> int:
        if key not in self.known:
            self.known[key] = count()
        return self.known[key]

    def _asked(self, items: Items, wording: str, shots: Sequence[Shot] = ()) -> int:
        how = dataclasses.replace(self.planned.design.how, wording=wording)
        return elicit.cost(self.model, items, how, shots=shots).computed

    def _shots(self, cell: Cell, count: int) -> list[Shot]:
        source = self.planned.design.items
        return prompts.demonstrations(
            self.planned.items, cell.target, cell.sign, count, test=source.test, seed=source.seed
        )

    def _trained(self, cell: Cell, draw: int | None) -> int:
        design = self.planned.design
        run = cell.training(design, draw)
        made = train.prepared(self.model, run, planning=True)
        return _BACKWARD * train.tokens_until(made.data, run.course.steps, run.course.seed)

    def _found(self, cell: Cell, exchanged: int | None) -> int:
        """The contrast pairs, and for a real edit the places that are tried."""
        design, what = self.planned.design, cell.what
        side, _ = self.planned.items.split(design.items.test, design.items.seed)
        wording = design.wordings()[0]
        own = some_scenes(side, cell.target, 0)
        mask = own.taxonomy.mask(cell.target)[own.value]
        pairs = self._once(("pairs", cell.target), lambda: self._asked(own.take(mask.nonzero()[0]), wording))
        if exchanged is not None:
            return pairs if what.kind in ("split", "conva", "neurons", "conditional") else 0
        places = what.places(self.model.config.layers) or [(0,)] * (6 if what.kind == "residual" else 1)
        if len(places) < 2:
            return pairs
        some = some_scenes(side, cell.target, what.scenes, design.items.seed)
        swept = self._once(("swept", cell.target, what.scenes), lambda: self._asked(some, wording))
        return pairs + len(places) * len(what.strengths) * swept
