"""Answers kept shard by shard, so that a run that was killed goes on where it was.

A folder belongs to one run, named by a hash of all that decides its answers. Each shard is committed whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from vatjax import errors, store

_RUN = "run.json"


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
        if (self.folder / _RUN).exists():
            other = json.loads(store.read_text(self.folder / _RUN))
            differs = sorted(key for key in {*other, *self.run} if other.get(key) != self.run.get(key))
            if differs:
                raise errors.InputError(
                    f"{self.folder}: shards of another run are there ({', '.join(differs)} differ); remove the folder, or "
                    "write to another file"
                )

    def has(self, order: int, number: int) -> bool:
        """Whether a shard is there."""
        return bool(self._file(order, number).exists())

    def put(self, order: int, number: int, prompts: np.ndarray, log_probs: np.ndarray) -> None:
        """Commits a shard."""
        if not (self.folder / _RUN).exists():
            store.commit_json(self.folder / _RUN, self.run)
        store.commit_npz(self._file(order, number), {"prompts": prompts, "log_probs": log_probs})
        self.count += 1

    def get(self, order: int, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """A shard's prompts and their answers; None where it is not there, or damaged."""
        if not self.has(order, number):
            return None
        try:
            arrays = store.load_npz(self._file(order, number))
            return arrays["prompts"], arrays["log_probs"]
        except errors.InputError:
            raise
        except (ValueError, KeyError):
            return None

    def _file(self, order: int, number: int) -> Any:
        return self.folder / f"shard-{order}-{number:06d}.npz"


def drop(folder: store.Path) -> None:
    """Removes a folder of shards: what they were for is done."""
    where = store.path(folder)
    if where.exists():
        files = list(where.iterdir())
        ours = [file for file in files if file.name == _RUN or file.name.startswith("shard-")]
        for file in ours:
            file.unlink()
        if len(ours) == len(files):
            where.rmdir()
