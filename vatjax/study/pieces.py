"""Pieces of a study: each is named by everything that decides it, made once, and taken again by every study that has it.

pieces/3f/3f09.../piece.json     what it is, what decides it, its files; written last, so that a piece is there whole or not
pieces/3f/3f09.../...            what was made
pieces/3f/3f09.../time.json      how long that took, and where
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import vatjax
from vatjax import errors, store

Kind = Literal["edit", "training", "state", "texts", "result", "placebo", "comparison"]

# What a piece is made by; a change of what it computes is a new number, and old pieces are no longer taken.
VERSIONS: Mapping[Kind, int] = {
    "edit": 1,
    "training": 1,
    "state": 1,
    "texts": 1,
    "result": 3,
    "placebo": 3,
    "comparison": 2,
}

_MARK = "piece.json"

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
        """Returns whether a piece is there."""
        return bool((self.place(piece) / _MARK).exists())

    def there(self, pieces: Sequence[Piece]) -> tuple[set[str], list[Piece]]:
        """Addresses of the pieces that are there and as long as they were when they were made; and those that are not."""
        with concurrent.futures.ThreadPoolExecutor(16) as pool:  # in a bucket each look takes its time
            looks = list(pool.map(self._whole, pieces))
        whole = {piece.address for piece, look in zip(pieces, looks, strict=True) if look}
        return whole, [piece for piece, look in zip(pieces, looks, strict=True) if look is False]

    def _whole(self, piece: Piece) -> bool | None:
        """Returns whether a piece is whole; None where it is not there."""
        place = self.place(piece)
        try:
            if not (place / _MARK).exists():
                return None
            sizes = json.loads(store.read_text(place / _MARK))["files"]
            return all(store.size(place / name) == size for name, size in sizes.items())
        except (ValueError, KeyError, TypeError, OSError):
            return False

    def drop(self, piece: Piece) -> None:
        """Takes a damaged piece from the shelf."""
        _remove(self.place(piece))

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
        for part in SCRATCH if piece.kind in ("training", "state") else ():
            with contextlib.suppress(OSError):
                _remove(place / part)
        sizes = dict(_sizes(place)) if store.writes() else {}
        store.commit_json(place / _MARK, {**content, "needs": needs, "files": sizes})

    def json(self, piece: Piece, name: str) -> Any:
        """A JSON file of a piece."""
        where = self.place(piece) / name
        try:
            return json.loads(store.read_text(where))
        except ValueError:
            raise errors.InputError(f"{where}: damaged; remove {self.place(piece)} and run the study again") from None


def _sizes(folder: Any, within: str = "") -> Iterator[tuple[str, int]]:
    """The files of a folder and of those in it, each with its bytes."""
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            yield from _sizes(entry, f"{within}{entry.name}/")
        elif entry.name not in (_MARK, "error.txt"):
            yield within + entry.name, store.size(entry)


def _remove(folder: Any) -> None:
    """A folder and what is in it, on a disk or in a bucket."""
    if not store.writes() or not folder.exists():
        return
    for entry in list(folder.iterdir()):
        _remove(entry) if entry.is_dir() else entry.unlink()
    with contextlib.suppress(NotADirectoryError):  # in a bucket a folder is gone with what was in it
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
