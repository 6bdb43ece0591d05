"""Which pieces are made in one go.

What lies in one batch is computed together, and its last bits hang on that. So the batches of a study are fixed before the
first of them is made, in a file that whoever works on the study reads: one process after a kill, or many beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from typing import Any, NamedTuple

from vatjax import errors, store
from vatjax.elicit import together
from vatjax.models import hosts
from vatjax.study.arms import Arm, Expanded
from vatjax.study.pieces import Kind, Piece, ordered
from vatjax.study.planned import Planned

# Below so many weights adapters are trained side by side; above, one after the other, with checkpoints to go on from.
_SMALL = 500_000_000
_FEW = 4  # states of a larger model that are made together: more would save little, and leave other shards without work
_MODEL: tuple[Kind, ...] = ("edit", "training", "state", "texts")  # what takes the model itself
_NUMBERS: tuple[Kind, ...] = ("result", "placebo", "comparison")
_SHEETS = 16  # pieces of numbers that one claim is worth


class Batch(NamedTuple):
    """Pieces that are made in one go, each behind what it needs.

    Attributes:
        model: that they are of, by its place in the study.
        pieces: one or more, of one kind.
    """

    model: int
    pieces: tuple[Piece, ...]

    @property
    def kind(self) -> Kind:
        """Of its pieces."""
        return self.pieces[0].kind

    @property
    def of_model(self) -> bool:
        """Whether it takes the model itself."""
        return self.kind in _MODEL

    @property
    def joint(self) -> bool:
        """Whether its pieces are computed together, and not only by the same hand."""
        return self.kind in ("training", "state")

    def claims(self) -> list[str]:
        """What to claim before it is made. Edits and trainings are worth a claim each; what of the rest is made twice, since
        another study has it in another batch, is made twice for nothing and does no harm."""
        own = sorted(piece.address for piece in self.pieces)
        return own if self.kind in ("edit", "training") else own[:1]


def fixed(planned: Planned, there: Set[str]) -> list[Batch]:
    """The batches of whatever was not there when the study was begun; the first who asks fixes them.

    What was there then and is gone now comes last, each piece by itself.

    Args:
        planned: the study.
        there: addresses of the pieces that are there now.

    Raises:
        InputError: where the file is damaged.
    """
    here = {piece.address: (number, piece) for number, one in enumerate(planned.expanded) for piece in _all(one)}
    where = store.path(planned.design.out) / f"batches-{planned.name()[:16]}.json"
    if hosts.first() and not where.exists():
        missing = set(here) - there
        made = [batch for number, one in enumerate(planned.expanded) for batch in grouped(number, one, missing)]
        store.create(where, json.dumps(_plain(made), indent=1).encode())
    hosts.meet("batches are fixed")
    try:
        lines = [line["pieces"] for line in json.loads(store.read_text(where))]
        found = [Batch(here[line[0]][0], tuple(here[address][1] for address in line)) for line in lines]
    except (ValueError, KeyError, TypeError, IndexError):
        raise errors.InputError(f"{where}: damaged; remove it, and run the study again") from None
    known = {piece.address for batch in found for piece in batch.pieces}
    lost = [(number, piece) for address, (number, piece) in here.items() if address not in known | there]
    return [*found, *(Batch(number, (piece,)) for number, piece in lost)]


def _plain(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """What each batch has, and which batches have to be made before it."""
    place = {piece.address: number for number, batch in enumerate(batches) for piece in batch.pieces}
    found = []
    for number, batch in enumerate(batches):
        needs = {place.get(need.address, number) for piece in batch.pieces for need in piece.needs.values()}
        own = [piece.address for piece in batch.pieces]
        labels = [piece.label for piece in batch.pieces]
        found.append({"kind": batch.kind, "after": sorted(needs - {number}), "pieces": own, "labels": labels})
    return found


def _all(expanded: Expanded) -> list[Piece]:
    return ordered(expanded.pieces())


def grouped(model: int, expanded: Expanded, missing: Iterable[str]) -> list[Batch]:
    """The missing pieces of a model: edits, then adapters side by side, then states under like edits, then numbers."""
    wanted = set(missing)
    own = [piece for piece in _all(expanded) if piece.address in wanted]
    found: list[Batch] = []
    for kind in (*_MODEL, *_NUMBERS):
        groups: dict[Any, list[Piece]] = {}
        for piece in own:
            if piece.kind == kind:
                groups.setdefault(_beside(piece, expanded.weights), []).append(piece)
        for group in groups.values():
            states = together.AT_ONCE if expanded.weights < _SMALL else _FEW
            size = {"state": states, "training": len(group)}.get(kind, _SHEETS)
            found += [Batch(model, tuple(group[start : start + size])) for start in range(0, len(group), size)]
    return found


def _beside(piece: Piece, weights: int) -> Any:
    """What pieces have in common that can be made together."""
    if piece.kind in _NUMBERS:
        return piece.kind
    if piece.kind == "edit":  # an edit and its placebos are found from the same reading of pairs
        return piece.needs.get("real", piece).address
    if piece.kind == "texts":
        return piece.address
    if piece.kind == "training":
        cell, draw = piece.task
        priced = bool(cell.what.training.price.weight)
        return (cell.name, draw is None) if weights < _SMALL and not priced else piece.address
    arm, wording = piece.task
    if arm is None or not piece.needs or (arm.cell.what.trains and weights >= _SMALL):
        return piece.address  # low-rank changes of a whole model have no layers in common that could be computed once
    return _form(arm), wording


def _form(arm: Arm) -> Any:
    """What edits have in common that have the same parts, as far as it can be told before they are found."""
    what = arm.cell.what
    if what.trains:
        return what.training.trained
    own = "along" if what.kind == "residual" else what.kind
    return own, what.operator, what.positions, what.gate
