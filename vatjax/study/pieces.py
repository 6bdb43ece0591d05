"""Pieces of a study: each is named by everything that decides it, made once, and taken again by every study that has it.

pieces/3f/3f09.../piece.json     what it is and what decides it; written last, so that a piece is there whole or not
pieces/3f/3f09.../...            what was made
pieces/3f/3f09.../time.json      how long that took, and where
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import vatjax
from vatjax import errors, store

Kind = Literal["edit", "training", "state", "result", "placebo", "comparison"]

# What a piece is made by; a change of what it computes is a new number, and old pieces are no longer taken.
VERSIONS: Mapping[Kind, int] = {"edit": 1, "training": 1, "state": 1, "result": 1, "placebo": 1, "comparison": 1}

# What is only needed while a piece is made: checkpoints of a training, its reference, shards of answers.
RUN, REFERENCE, SHARDS = SCRATCH = ("run", "reference", "shards")


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """One piece.

    Attributes:
        kind: what is made.
        label: what it is called to a person.
        decides: everything that decides it and is not in what it needs, as plain data.
        needs: pieces that it is made of, by what they are to it.
        task: what its maker needs to know besides, such as how it is spelt in the study.
    """

    kind: Kind
    label: str
    decides: Mapping[str, Any]
    needs: Mapping[str, Piece] = dataclasses.field(default_factory=dict)
    task: Any = None

    @functools.cached_property
    def address(self) -> str:
        """Its name: the same wherever the same is made."""
        needs = {name: piece.address for name, piece in self.needs.items()}
        return store.address(self.kind, VERSIONS[self.kind], vatjax.__version__, self.decides, needs)


class Shelf:
    """A folder of finished pieces, on a disk or in a bucket.

    Args:
        folder: may be shared by studies.
    """

    def __init__(self, folder: store.Path) -> None:
        self.folder = store.path(folder)

    def place(self, piece: Piece) -> Any:
        """Where a piece is, or will be."""
        return self.folder / piece.address[:2] / piece.address

    def has(self, piece: Piece) -> bool:
        """Whether a piece is there, whole."""
        return bool((self.place(piece) / "piece.json").exists())

    def put(self, piece: Piece, seconds: float, about: Mapping[str, Any]) -> None:
        """Says that everything of a piece is there, and removes what was only needed to make it.

        Args:
            piece: the piece.
            seconds: that it took.
            about: versions and hardware.
        """
        place = self.place(piece)
        store.commit_json(place / "time.json", {"seconds": round(seconds, 3), "host": socket.gethostname(), **about})
        content = {"kind": piece.kind, "label": piece.label, "decides": piece.decides}
        needs = {name: need.address for name, need in piece.needs.items()}
        store.commit_json(place / "piece.json", {**content, "needs": needs})
        for part in SCRATCH if piece.kind in ("training", "state") else ():
            with contextlib.suppress(OSError):
                _remove(place / part)

    def json(self, piece: Piece, name: str) -> Any:
        """A JSON file of a piece."""
        where = self.place(piece) / name
        try:
            return json.loads(store.read_text(where))
        except ValueError:
            raise errors.InputError(f"{where}: damaged; remove {self.place(piece)} and run the study again") from None


def _remove(folder: Any) -> None:
    """A folder and what is in it, on a disk or in a bucket."""
    if not store.writes() or not folder.exists():
        return
    for entry in list(folder.iterdir()):
        _remove(entry) if entry.is_dir() else entry.unlink()
    folder.rmdir()


def ordered(wanted: Iterable[Piece]) -> list[Piece]:
    """Pieces and all that they need, each once, behind what it needs itself."""
    found: dict[str, Piece] = {}

    def visit(piece: Piece) -> None:
        if piece.address not in found:
            for need in piece.needs.values():
                visit(need)
            found[piece.address] = piece

    for piece in wanted:
        visit(piece)
    return list(found.values())
