"""Running a study: what is to be made, in which order, what is there already, and what went wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import platform
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import vatjax
from vatjax import errors, lost, stopping, store
from vatjax.models import hosts
from vatjax.progress import OnProgress, silent
from vatjax.study import numbers
from vatjax.study.batches import Batch, fixed
from vatjax.study.folder import begin
from vatjax.study.holding import Shard, at_work
from vatjax.study.making import Workshop
from vatjax.study.pieces import Piece, Shelf
from vatjax.study.planned import Load, Planned, loader, shelf_of

OnMessage = Callable[[str], None]


class Ran(NamedTuple):
    """What a run came to.

    Attributes:
        planned: what was to be made.
        made, reused: how many pieces were made here, and how many were there or were made by other shards.
        failed: what could not be made, by address, and why.
    """

    planned: Planned
    made: int
    reused: int
    failed: dict[str, str]

    def name(self) -> str:
        """A name for what it came to."""
        return store.address(self.planned.name(), sorted(self.failed))


class Progress(NamedTuple):
    """Where a run is.

    Attributes:
        done, of: pieces.
        piece: what was made last.
        seconds: that it took.
    """

    done: int
    of: int
    piece: Piece
    seconds: float


def run(
    planned: Planned,
    on_message: OnMessage = lambda _: None,
    on_piece: Callable[[Progress], None] = lambda _: None,
    load: Load | None = None,
    shard: Shard | None = None,
    on_batch: Callable[[Sequence[Piece]], None] = lambda _: None,
    on_progress: OnProgress = silent,
) -> Ran:
    """Makes whatever is not there yet; a piece that fails is reported, and the rest goes on.

    Args:
        planned: of `plan`.
        on_message: is called with lines for the user.
        on_piece: is called with every piece that is made.
        load: opens a model.
        shard: which of many runs of the same study this is; each makes what no other has begun, and all of them end when
            there is nothing left to make.
        on_batch: is called with the pieces that are made next.
        on_progress: is called with the completed fraction of these pieces.

    Raises:
        InputError: for a design that can't be carried out, a folder of another study, and one that a run is at work in.
    """
    design = planned.design
    folder = store.path(design.out)
    with at_work(folder, shard, on_message) as claim:
        hosts.on_first(lambda: begin(design, folder))
        calls = _Calls(on_message, on_piece, on_batch, on_progress)
        work = _Work(planned, shelf_of(design), load or loader(design), shard, calls, claim)
        work.all()
        claim.check(design.out)
        reused = len(work.pieces) - work.count - len(work.failed)
        return Ran(planned, work.count, reused, work.failed)


class _Calls(NamedTuple):
    """The callbacks of `run`."""

    on_message: OnMessage
    on_piece: Callable[[Progress], None]
    on_batch: Callable[[Sequence[Piece]], None]
    on_progress: OnProgress


@dataclasses.dataclass
class _Work:
    """One run on its way, or one of its shards."""

    planned: Planned
    shelf: Shelf
    load: Load
    shard: Shard | None
    calls: _Calls
    claim: store.Held

    def __post_init__(self) -> None:
        self.pieces = self.planned.pieces()
        self.failed: dict[str, str] = {}
        self.there = self._on_the_shelf() if hosts.first() else set()
        self.total = len(self.pieces) - len(self.there)
        self.count = self.settled = 0
        self.failures = Failures(store.path(self.planned.design.out) / "failed")
        self.workshops: dict[int, Workshop] = {}
        self._agree()

    def _on_the_shelf(self) -> set[str]:
        """What is there already; damaged pieces are taken away, to be made again."""
        there, damaged = self.shelf.there(self.pieces)
        for piece in damaged:
            self.calls.on_message(f"{piece.label}: {self.shelf.place(piece)} is damaged: it is made again")
            self.shelf.drop(piece)
        return there

    def all(self) -> None:
        """Every batch: again and again those that are left, until others have made what they are at work on."""
        pause = _PAUSE
        left = in_turn(fixed(self.planned, self.there), self.shard)
        while left:
            before = len(left)
            left = [batch for batch in left if not self.attempt(batch)]
            stopping.point()
            pause = _PAUSE if len(left) < before else min(2 * pause, _LONGEST)
            if left and len(left) == before:
                self._wait(left, pause)

    def _wait(self, left: Sequence[Batch], pause: float) -> None:
        if pause == 2 * _PAUSE:
            self.calls.on_message(f"waiting for what others are at work on: {len(left)} batches are left")
        time.sleep(pause)
        self.claim.check(self.planned.design.out)

    def attempt(self, batch: Batch) -> bool:
        """Makes a batch, if it is its turn. False where what it needs is not there yet, or somebody is at work on it."""
        turn, held = hosts.on_first(lambda: self._turn(batch)) or (_LATER, None)
        turn = int(hosts.agreed(np.int32(turn)))
        if turn == _NOW:
            try:
                stopping.point()
                self._agree()
                self._make(batch)
                self._agree()
            finally:
                if held is not None:
                    held.end(done=all(piece.address in self.there for piece in batch.pieces))
            self.claim.check(self.planned.design.out)
        elif turn == _OVER:
            self._agree()
        return turn != _LATER

    def _turn(self, batch: Batch) -> tuple[int, store.Held | None]:
        """Whether a batch is made now; then with the claim on it."""
        own = {piece.address for piece in batch.pieces}
        needs = [need for piece in batch.pieces for need in piece.needs.values() if need.address not in own]
        if not all(self._known(need) for need in needs):
            return _LATER, None
        if self._over(batch):
            return _OVER, None
        try:
            held = store.hold(self.shelf.folder / "claims", batch.claims())
        except OSError as error:
            raise errors.InputError(f"{self.shelf.folder}: {store.reason(error)}") from None
        if held is None:
            return _LATER, None
        if self._over(batch):  # somebody has made it before it was claimed
            held.end(done=True)
            return _OVER, None
        return _NOW, held

    def _agree(self) -> None:
        """What the first process knows of the pieces comes to the others: where they are told nothing, they only compute."""
        if not hosts.several():
            return
        known = [0 if p.address not in self.there else 1 for p in self.pieces]
        known = [2 if p.address in self.failed else k for p, k in zip(self.pieces, known, strict=True)]
        for piece, own in zip(self.pieces, hosts.agreed(np.array(known, np.int32)).tolist(), strict=True):
            if own == 1 and piece.address in self.failed:
                raise RuntimeError(
                    f"{piece.label}: made in the first process and failed here: {self.failed[piece.address]}"
                )
            if own == 1:
                self.there.add(piece.address)
            elif own == 2:
                self.failed.setdefault(piece.address, piece.label)

    def _over(self, batch: Batch) -> bool:
        """Whether nothing is left to do of a batch."""
        known = [self._known(piece) for piece in batch.pieces]  # each is looked at, for the count of what is settled
        return all(known)

    def _known(self, piece: Piece) -> bool:
        """Whether a piece is there, or can't be made; one that another shard has made or given up counts from then on."""
        if piece.address in self.there or piece.address in self.failed:
            return True
        if self.shelf.has(piece):
            self.there.add(piece.address)
            self.settled += 1
            return True
        why = self.failures.why(piece.address)
        if why is not None:
            self._gone(piece, why)
        return why is not None

    def _make(self, batch: Batch) -> None:
        make = self._numbers
        if batch.of_model:
            try:
                make = self._workshop(batch.model).make
            except Exception as error:
                _raise_local(error)
                for piece in batch.pieces:
                    self._fail(piece, error)
                return
        if batch.joint:
            self.batch(batch.pieces, make)
            return
        for piece in batch.pieces:
            if batch.of_model or hosts.first():
                self.batch([piece], make)

    def _workshop(self, model: int) -> Workshop:
        """Of one model at a time."""
        if model not in self.workshops:
            planned = self.planned
            self.workshops.clear()
            opened = self.load(planned.expanded[model].model)
            self.workshops[model] = Workshop(
                planned.design,
                opened,
                planned.items,
                planned.asked,
                self.shelf,
                self.calls.on_message,
                self.calls.on_progress,
            )
        return self.workshops[model]

    def _numbers(self, batch: Sequence[Piece]) -> None:
        """What takes states alone, and so one process."""
        make = {"result": numbers.result, "placebo": numbers.against_placebo, "comparison": numbers.comparison}
        for piece in batch:
            content = make[piece.kind](piece, self.shelf, self.planned.design, self.planned.items)
            store.commit_json(self.shelf.place(piece) / "numbers.json", content)

    def batch(self, batch: Sequence[Piece], make: Callable[[Sequence[Piece]], None]) -> None:
        """Makes pieces that belong together; where there is no room for all of them, half of them at a time."""
        ready = [piece for piece in batch if self._ready(piece)]
        if all(piece.address in self.there for piece in ready):
            return
        start = time.monotonic()
        self.calls.on_batch([piece for piece in ready if piece.address not in self.there])
        try:
            make(ready)
        except Exception as error:
            _raise_local(error)
            if isinstance(error, OSError) and error.errno in _FATAL:
                raise errors.InputError(f"{error.filename or self.shelf.folder}: {store.reason(error)}") from error
            if len(ready) > 1:
                why = "too many for the memory" if _no_room(error) else f"not made together ({_first_line(error)})"
                half = len(ready) // 2
                self.calls.on_message(f"{len(ready)} pieces at once are {why}: in two halves")
                self.batch(ready[:half], make)
                self.batch(ready[half:], make)
                return
            if ready[0].address not in self.there:  # one that was there is only made again for its batch
                self._fail(ready[0], error)
            return
        seconds = (time.monotonic() - start) / len(ready)
        for piece in ready:
            if piece.address in self.there:
                continue
            self.shelf.put(piece, seconds, _about())
            self.failures.forget(piece.address)
            self.there.add(piece.address)
            self.count += 1
            self.settled += 1
            self.calls.on_piece(Progress(self.settled, self.total, piece, seconds))

    def _ready(self, piece: Piece) -> bool:
        """Whether all that a piece needs is there; what is not has failed."""
        lacking = [need for need in piece.needs.values() if need.address in self.failed]
        if lacking:
            self._gone(piece, f"{piece.label}{_LACKING}{lacking[0].label}")
        return not lacking

    def _fail(self, piece: Piece, error: Exception) -> None:
        if isinstance(error, errors.InputError):
            why = str(error)
        elif _no_room(error):
            why = "it does not fit the memory: ask fewer scenes at a time on a larger device, or give dtype: bfloat16"
        else:
            where = self.shelf.place(piece) / "error.txt"
            store.commit(where, "".join(traceback.format_exception(error)).encode())
            why = f"{type(error).__name__}: {_first_line(error)} (in full in {where})"
        said = why if why.startswith(piece.label) else f"{piece.label}: {why}"
        self.failures.add(piece.address, said)
        self._gone(piece, said)
        self.calls.on_message(said)

    def _gone(self, piece: Piece, why: str) -> None:
        self.failed[piece.address] = why
        self.settled += 1


def in_turn(batches: Sequence[Batch], shard: Shard | None) -> list[Batch]:
    """The order in which batches are tried: what needs nothing first, and each shard begins at another place."""
    if shard is None:
        return list(batches)
    groups: dict[Any, list[Batch]] = {}
    for batch in batches:
        groups.setdefault((batch.model, batch.kind), []).append(batch)
    found = []
    for group in groups.values():
        first = len(group) * (shard.number - 1) // shard.of
        found += group[first:] + group[:first]
    return found


class Failures:
    """What can't be made, told to the other shards; what failed before this run began is tried again.

    Args:
        folder: for a file of each failure.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        before = list(folder.iterdir()) if folder.exists() else []
        self.before = {file.name: self._read(file) for file in before if file.suffix == ".json"}

    def add(self, address: str, why: str) -> None:
        """Says why a piece could not be made."""
        content = {"why": why, "when": secrets.token_hex(8)}
        with contextlib.suppress(OSError):  # a full disk: the others find out themselves
            store.commit_json(self.folder / f"{address}.json", content)

    def forget(self, address: str) -> None:
        """A piece that failed before this run began is there now."""
        if f"{address}.json" in self.before:
            with contextlib.suppress(OSError):
                (self.folder / f"{address}.json").unlink()

    def why(self, address: str) -> str | None:
        """Why a piece could not be made since this run began; None where nobody has failed to."""
        where = self.folder / f"{address}.json"
        text = self._read(where) if where.exists() else ""
        return str(json.loads(text)["why"]) if text and text != self.before.get(where.name) else None

    def _read(self, where: Any) -> str:
        """The text of a failure; nothing of one that another shard has just got over."""
        try:
            return store.read_text(where)
        except errors.InputError:
            if where.exists():
                raise
            return ""


# What no other piece could be written under either.
_FATAL = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_LACKING = ": not made, since it needs what failed: "
_LATER, _OVER, _NOW = range(3)
_PAUSE, _LONGEST = 0.5, 20.0  # seconds between two looks at what others are at work on


def _raise_local(error: Exception) -> None:
    """Of several processes one can't go on alone, whatever has happened to it: what all of them meet is an `InputError`."""
    if lost.is_lost(error):
        raise error
    if hosts.several() and (not isinstance(error, errors.InputError) or isinstance(error, errors.LocalError)):
        raise error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _no_room(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _about() -> dict[str, Any]:
    """Versions and hardware."""
    device = jax.devices()[0]
    return {
        "vatjax": vatjax.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "system": f"{platform.system()} {platform.machine()}",
    }


def failures(ran: Ran) -> list[str]:
    """What could not be made, and why; of what only lacked it, how much that is."""
    own = [line for line in ran.failed.values() if _LACKING not in line]
    rest = len(ran.failed) - len(own)
    return [*own, *([f"{rest} pieces that need them"] if rest else [])]
