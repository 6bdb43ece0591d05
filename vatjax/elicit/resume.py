"""Answers kept shard by shard, so that a run that was killed goes on where it was.

A folder belongs to one run, named by a hash of all that decides its answers. Each shard is committed whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from vatjax import errors, store
from vatjax.elicit.plan import Size
from vatjax.models import hosts

_RUN, _SIZE = "run.json", "size.json"


class Kept:
    """The shards of one run in a folder.

    Args:
        folder: local path or bucket URI; made when the first shard is kept.
        run: what decides the answers, as plain data.

    Raises:
        InputError: where the folder holds the shards of another run, with what differs.
    """

    def __init__(self, folder: store.Path, run: Mapping[str, Any]) -> None:
        self.folder, self.run = store.path(folder), dict(run)
        self.count = 0
        self.begun = (self.folder / _RUN).exists()
        if self.begun:
            try:
                other = dict(json.loads(store.read_text(self.folder / _RUN)))
            except (ValueError, TypeError):
                raise errors.InputError(f"{self.folder / _RUN}: damaged; remove the folder") from None
            differs = sorted(key for key in {*other, *self.run} if other.get(key) != self.run.get(key))
            if differs:
                raise errors.InputError(
                    f"{self.folder}: shards of another run are there ({', '.join(differs)} differ); remove the folder, or "
                    "write to another file"
                )

    def put(self, order: int, number: int, prompts: np.ndarray, log_probs: np.ndarray) -> None:
        """Commits a shard."""
        self._begin()
        store.commit_npz(self._file(order, number), {"prompts": prompts, "log_probs": log_probs})
        self.count += 1

    def get(self, order: int, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A shard's prompts and their answers; None where it is not there, or damaged."""
        found = self._read(self._file(order, number)) if self.begun else None
        return found if hosts.everywhere(found is not None) else None  # else all of a run's processes compute it

    def _read(self, file: Any) -> tuple[np.ndarray, np.ndarray] | None:
        if not file.exists():
            return None
        try:
            arrays = store.load_npz(file)
            return arrays["prompts"], arrays["log_probs"]
        except errors.InputError:
            raise
        except (ValueError, KeyError):
            return None

    def shrink(self, size: Size) -> None:
        """Notes that a device ran out of memory, so that a run that goes on here computes the rest in the same passes."""
        self._begin()
        store.commit_json(self.folder / _SIZE, dataclasses.asdict(size))

    def size(self) -> Size | None:
        """The size that the run had come down to; None where it never had to."""
        if not self.begun or not (self.folder / _SIZE).exists():
            return None
        try:
            return Size(**json.loads(store.read_text(self.folder / _SIZE)))
        except (ValueError, TypeError):
            raise errors.InputError(f"{self.folder / _SIZE}: damaged; remove the folder") from None

    def _begin(self) -> None:
        """Says whose folder this is, before anything else is in it."""
        if not self.begun:
            store.commit_json(self.folder / _RUN, self.run)
            self.begun = True

    def _file(self, order: int, number: int) -> Any:
        return self.folder / f"shard-{order}-{number:06d}.npz"


def drop(folder: store.Path) -> None:
    """Removes a folder of shards: what they were for is done."""
    where = store.path(folder)
    if store.writes() and where.exists():
        files = list(where.iterdir())
        torn = [file for file in files if file.name.startswith(".") and file.name.endswith(".tmp")]  # by a kill
        ours = [file for file in files if file.name in (_RUN, _SIZE) or file.name.startswith("shard-")] + torn
        for file in ours:
            file.unlink()
        if len(ours) == len(files):
            where.rmdir()
