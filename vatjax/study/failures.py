"""Failures of artifacts: their reasons in words, and their files, which the shards of a study share."""

from __future__ import annotations

import contextlib
import errno
import secrets
import traceback
from collections.abc import Mapping
from typing import Any

from vatjax import errors, store
from vatjax.runtime import peer_failure, processes
from vatjax.runtime.memory import is_out_of_memory

# Errors that would affect every other artifact too.
FATAL = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_DEPENDENCY_FAILED = ": not computed: dependency failed: "


class Failures:
    """Failures of artifacts, shared with other shards; failures from before this run are retried.

    Args:
        folder: for a file of each failure.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        before = list(folder.iterdir()) if folder.exists() else []
        self.before = {file.name: self._read(file) for file in before if file.suffix == ".json"}

    def add(self, address: str, why: str) -> None:
        """Records why an artifact failed."""
        content = {"why": why, "when": secrets.token_hex(8)}
        with contextlib.suppress(OSError):  # full disk: the other shards notice it themselves
            store.commit_json(self.folder / f"{address}.json", content)

    def forget(self, address: str) -> None:
        """Removes the failure, from before this run, of an artifact that is now complete."""
        if f"{address}.json" in self.before:
            with contextlib.suppress(OSError):
                (self.folder / f"{address}.json").unlink()

    def why(self, address: str) -> str | None:
        """Returns why an artifact has failed since this run began; None if it has not."""
        path = self.folder / f"{address}.json"
        text = self._read(path) if path.exists() else ""
        return str(store.parse_json(text)["why"]) if text and text != self.before.get(path.name) else None

    def _read(self, path: Any) -> str:
        """Returns the text of a failure; empty if another shard has just resolved it."""
        try:
            return store.read_text(path)
        except errors.InputError:
            if path.exists():
                raise
            return ""


def raise_if_local(error: Exception) -> None:
    """Raises an error that affects only this process: of several, none can continue alone. All processes see an
    `InputError` alike."""
    if peer_failure.is_peer_failure(error):
        raise error
    if processes.is_multiprocess() and (
        not isinstance(error, errors.InputError) or isinstance(error, errors.LocalError)
    ):
        raise error


def describe(error: Exception, folder: Any) -> str:
    """Returns the reason of a failure in words; an unexpected error is written in full to error.txt in the folder."""
    if isinstance(error, errors.InputError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory; reduce `scenes`, use a larger device, or set `dtype: bfloat16`"
    store.commit(folder / "error.txt", "".join(traceback.format_exception(error)).encode())
    return f"{type(error).__name__}: {first_line(error)} (in full in {folder / 'error.txt'})"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return (str(error).splitlines() or [""])[0][:200]


def dependency_failed(label: str, dependency: str) -> str:
    """Returns the reason why an artifact was not computed although nothing is wrong with it."""
    return f"{label}{_DEPENDENCY_FAILED}{dependency}"


def failure_lines(failed: Mapping[str, str]) -> list[str]:
    """Returns the reasons of failures by address, with a count of the artifacts that depend on failed ones."""
    lines = [line for line in failed.values() if _DEPENDENCY_FAILED not in line]
    rest = len(failed) - len(lines)
    return [*lines, *([f"{rest} artifacts that depend on them"] if rest else [])]
