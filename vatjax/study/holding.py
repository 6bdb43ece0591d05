"""Who works where: a study's folder belongs to one run, or to its shards; a batch of pieces to whoever has claimed it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from vatjax import errors, store
from vatjax.models import hosts

_SHARD = re.compile(r"(\d+)/(\d+)")


class Shard(NamedTuple):
    """One of several that work on a study beside each other.

    Attributes:
        number: which, from 1.
        of: how many.
    """

    number: int
    of: int


def shard(text: str) -> Shard | None:
    """A shard from a text such as 3/16; None for an empty one.

    Raises:
        InputError: for any other text.
    """
    if not text:
        return None
    match = _SHARD.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise errors.InputError(f"shard: expected which of how many, such as 3/16, found {text!r}")
    return Shard(int(match[1]), int(match[2]))


@contextlib.contextmanager
def at_work(
    folder: Any, one: Shard | None = None, told: Callable[[str], None] = lambda _: None
) -> Iterator[store.Held]:
    """Holds a study's folder, however long the work takes.

    Nobody else can work in it at the same time, but for other shards of the same study where one of them does.

    Raises:
        InputError: where somebody is at work there.
    """
    held = hosts.on_first(lambda: _begun(folder, one, told)) or store.Held()
    try:
        yield held
    finally:
        held.end()


def _begun(folder: Any, one: Shard | None, told: Callable[[str], None]) -> store.Held:
    if one is None:
        return store.alone(folder, rival=lambda other: other.startswith("shard-"), called=_called, told=told)
    return store.alone(folder, f"shard-{one.number}-of-{one.of}", lambda other: other == "run", _called, told)


def once(folder: Any, name: str, work: Callable[[], object]) -> None:
    """Does what several come to the end of and one of them has to do; all of them return when it is done.

    Args:
        folder: of the study.
        name: of what is done: under another name it is done again.
        work: what is to be done.
    """
    mark = folder / "written.json"
    while True:
        if _marked(mark, name):
            return
        held = store.hold(folder / "claims", ["results"])
        if held is None:
            time.sleep(1)
            continue
        try:
            if not _marked(mark, name):
                work()
                store.commit_json(mark, {"name": name})
        finally:
            held.end()


def _marked(mark: Any, name: str) -> bool:
    try:
        return bool(mark.exists()) and json.loads(store.read_text(mark)) == {"name": name}
    except ValueError:  # damaged: done again
        return False


def _called(name: str) -> str:
    return "a run" if name == "run" else "shard " + name.removeprefix("shard-").replace("-of-", "/")
