"""Cache of finished shards, so that a run that was killed continues where it stopped.

A folder belongs to one run: `run.json` holds all inputs of its answers. Each shard is committed whole or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vatjax import errors, store
from vatjax.prefix.plan import Size
from vatjax.runtime import processes

_RUN, _SIZE = "run.json", "size.json"


class ShardCache:
    """Cached shards of one run in a folder.

    Args:
        folder: local path or bucket URI; created with the first shard.
        run: all inputs of the answers, as plain data.

    Raises:
        InputError: if the folder holds the shards of another run, with the inputs that differ.
    """

    def __init__(self, folder: store.Path, run: Mapping[str, Any]) -> None:
        self.folder, self.run = store.path(folder), dict(run)
        self.count = 0
        self.begun = (self.folder / _RUN).exists()
        if self.begun:
            try:
                other = dict(store.read_json(self.folder / _RUN))
            except (ValueError, TypeError):
                raise errors.InputError(f"{self.folder / _RUN}: damaged; remove the folder") from None
            differs = sorted(key for key in {*other, *self.run} if other.get(key) != self.run.get(key))
            if differs:
                raise errors.InputError(
                    f"{self.folder}: it holds shards of another run ({', '.join(differs)} differ); remove the folder, or "
                    "write to another file"
                )

    def put(self, order: int, number: int, prompts: np.ndarray, log_probs: np.ndarray) -> None:
        """Commits a shard."""
        self._begin()
        store.commit_npz(self._file(order, number), {"prompts": prompts, "log_probs": log_probs})
        self.count += 1

    def get(self, order: int, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns a shard's prompts and their answers; None if it is missing or damaged."""
        cached = self._read(self._file(order, number)) if self.begun else None
        return cached if processes.global_all(cached is not None) else None  # else all of a run's processes compute it

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

    def save_size(self, size: Size) -> None:
        """Records the size after a device ran out of memory, so that a resumed run computes in the same passes."""
        self._begin()
        store.commit_json(self.folder / _SIZE, dataclasses.asdict(size))

    def saved_size(self) -> Size | None:
        """Returns the size to which the run was reduced; None if it never was."""
        if not self.begun or not (self.folder / _SIZE).exists():
            return None
        try:
            return Size(**store.read_json(self.folder / _SIZE))
        except (ValueError, TypeError):
            raise errors.InputError(f"{self.folder / _SIZE}: damaged; remove the folder") from None

    def _begin(self) -> None:
        """Writes the inputs of the run, before any other file of the folder."""
        if not self.begun:
            store.commit_json(self.folder / _RUN, self.run)
            self.begun = True

    def _file(self, order: int, number: int) -> Any:
        return self.folder / f"shard-{order}-{number:06d}.npz"


def drop_shards(folder: store.Path) -> None:
    """Removes a folder of shards after its run is complete."""
    path = store.path(folder)
    if store.writes_enabled() and path.exists():
        files = list(path.iterdir())
        torn = [file for file in files if file.name.startswith(".") and file.name.endswith(".tmp")]  # left by a kill
        ours = [file for file in files if file.name in (_RUN, _SIZE) or file.name.startswith("shard-")] + torn
        for file in ours:
            file.unlink()
        if len(ours) == len(files):
            path.rmdir()
