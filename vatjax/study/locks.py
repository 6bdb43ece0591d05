"""Leases of a study: a run or its shards hold the folder, and one process holds each batch of artifacts."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from vatjax import errors, store
from vatjax.runtime import processes

_SHARD = re.compile(r"(\d+)/(\d+)")


class ShardSpec(NamedTuple):
    """One of several processes that work on a study in parallel.

    Attributes:
        number: index of the shard, from 1.
        of: number of shards.
    """

    number: int
    of: int


def parse_shard(text: str) -> ShardSpec | None:
    """Parses a shard from a text such as 3/16; returns None for an empty text.

    Raises:
        InputError: for any other text.
    """
    if not text:
        return None
    match = _SHARD.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise errors.InputError(f"shard: expected which of how many, such as 3/16, found {text!r}")
    return ShardSpec(int(match[1]), int(match[2]))


@contextlib.contextmanager
def exclusive_access(
    folder: Any, shard_spec: ShardSpec | None = None, on_message: Callable[[str], None] = lambda _: None
) -> Iterator[store.Leases]:
    """Holds the lease on a study's folder for as long as the block runs.

    No other process can work in the folder meanwhile, except other shards of the same study if this is a shard.

    Raises:
        InputError: if another process is at work in the folder.
    """
    leases = processes.run_on_first(lambda: _acquire_folder(folder, shard_spec, on_message)) or store.Leases()
    try:
        yield leases
    finally:
        leases.release()


def _acquire_folder(folder: Any, shard_spec: ShardSpec | None, on_message: Callable[[str], None]) -> store.Leases:
    if shard_spec is None:
        return store.acquire_exclusive(
            folder, is_rival=lambda other: other.startswith("shard-"), describe=_holder_name, on_message=on_message
        )
    store.check_exclusive_creation(folder)
    return store.acquire_exclusive(
        folder, f"shard-{shard_spec.number}-of-{shard_spec.of}", lambda other: other == "run", _holder_name, on_message
    )


def run_once(folder: Any, name: str, work: Callable[[], object]) -> None:
    """Runs a task that several processes reach and only one has to do; returns in all of them when it is done.

    Args:
        folder: of the study.
        name: key of the task; another key runs it again.
        work: the task.
    """
    mark, claims = folder / "written.json", store.Claims(folder / "claims")
    while True:
        if _is_done(mark, name):
            return
        leases = store.acquire_all(claims, ["results"])
        if leases is None:
            time.sleep(1)
            continue
        try:
            if not _is_done(mark, name):
                with store.guard_writes(functools.partial(leases.check, f"{folder}: results")):
                    work()
                    store.commit_json(mark, {"name": name})
        finally:
            leases.release()


def _is_done(mark: Any, name: str) -> bool:
    try:
        return bool(mark.exists()) and store.read_json(mark) == {"name": name}
    except ValueError:  # damaged: run again
        return False


def _holder_name(name: str) -> str:
    return "a run" if name == "run" else "shard " + name.removeprefix("shard-").replace("-of-", "/")
