"""Running a study: what is to be made, in which order, what is there already, and what went wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import vatjax
from vatjax import config, errors, models, store
from vatjax.elicit import protocols
from vatjax.items import Items, open_source
from vatjax.study import arms, numbers
from vatjax.study.design import Design
from vatjax.study.finding import of_scenes
from vatjax.study.making import Workshop
from vatjax.study.pieces import Piece, Shelf, ordered

Told = Callable[[str], None]

_CLAIM = 900.0  # seconds that a run's claim on its folder lives unless it is renewed


class Planned(NamedTuple):
    """A study, laid out.

    Attributes:
        design: the study.
        items: all items.
        asked: those of the test side that are asked about.
        expanded: the pieces of each model.
    """

    design: Design
    items: Items
    asked: Items
    expanded: list[arms.Expanded]

    def pieces(self) -> list[Piece]:
        """All of them, each behind what it needs."""
        return ordered([piece for one in self.expanded for piece in one.pieces()])


class Ran(NamedTuple):
    """What a run came to.

    Attributes:
        planned: what was to be made.
        made, reused: how many pieces.
        failed: what could not be made, by address, and why.
    """

    planned: Planned
    made: int
    reused: int
    failed: dict[str, str]


class Progress(NamedTuple):
    """Where a run is.

    Attributes:
        done, of: pieces.
        label: of what was made last.
        seconds: that it took.
    """

    done: int
    of: int
    label: str
    seconds: float


def opened(design: Design) -> tuple[Items, Items]:
    """All items of a study, and those that are asked about; refused where no target has a pair among these."""
    items = open_source(design.items)
    aims = design.aims(items.taxonomy)
    _, test = items.split(design.items.test, design.items.seed)
    test = of_scenes(test, np.unique(test.scene.astype(str)), design.scenes, design.items.seed)
    if design.how.protocol != "stated":
        for aim in aims:
            own = test.take(np.flatnonzero(items.taxonomy.mask(aim)[test.value]))
            if not len(own.pair().express):
                raise errors.InputError(
                    f"targets: no pair of {aim} among the {len(test):,} items of {items.source} that are asked about"
                )
    clusters = len(np.unique(protocols.ask(test, design.how.protocol).clusters))
    if clusters < 2:
        raise errors.InputError(
            f"{items.source}: {clusters} cluster of scenes is asked about; intervals need at least two"
        )
    return items, test


Load = Callable[[str], models.Model]


def loader(design: Design) -> Load:
    """Opens models as a design wants them. The one that was opened last is kept, and let go before another is opened."""
    kept: dict[str, models.Model] = {}

    def load(name: str) -> models.Model:
        if name not in kept:
            kept.clear()
            kept[name] = models.load(name, design.dtype)
        return kept[name]

    return load


def identity(model: models.Model) -> str:
    """A name for what a model answers: its weights, what is computed with them, its tokens and its chat template."""
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return store.address(
        models.fingerprint(model.arrays), repr(model.config), words, getattr(tokenizer, "chat_template", None)
    )


def plan(design: Design, load: Load | None = None) -> Planned:
    """Lays a study out; every model is opened, for the name of its weights.

    Args:
        design: the study.
        load: opens a model.

    Raises:
        InputError: for a target, an item or a layer that is not there.
    """
    load = load or loader(design)
    items, asked = opened(design)
    found = []
    for name in design.models:
        model = load(name)
        for what in design.interventions.values():
            what.places(model.config.layers)  # refused before anything is computed
        found.append(arms.expand(design, name, identity(model), items, asked))
        del model
    return Planned(design, items, asked, found)


def shelf_of(design: Design) -> Shelf:
    """Where a study's pieces are."""
    return Shelf(design.pieces or store.path(design.out) / "pieces")


def run(
    planned: Planned,
    told: Told = lambda _: None,
    done: Callable[[Progress], None] = lambda _: None,
    load: Load | None = None,
) -> Ran:
    """Makes whatever is not there yet; a piece that fails is reported, and the rest goes on.

    Args:
        planned: of `plan`.
        told: hears what is worth saying.
        done: is told of every piece that is made.
        load: opens a model.

    Raises:
        InputError: for a design that can't be carried out, a folder of another study, and one that a run is at work in.
    """
    design = planned.design
    load = load or loader(design)
    folder = store.path(design.out)
    with at_work(folder) as claim:
        begin(design, folder)
        shelf = shelf_of(design)
        every = planned.pieces()
        missing = {piece.address for piece in every if not shelf.has(piece)}
        ran = _Run(planned, shelf, missing, told, done, claim)
        for one in planned.expanded:
            ran.model(one, load)
        ran.numbers()
        claim.check(design.out)
        return Ran(planned, ran.count, len(every) - len(missing), ran.failed)


def begin(design: Design, folder: Any) -> None:
    """Writes the resolved design into the folder of its results.

    Raises:
        InputError: where the folder can't be written to, or holds another study.
    """
    where = folder / "study.yaml"
    text = config.to_yaml(design)
    try:
        if where.exists():
            there = config.parse(Design, store.read_text(where), str(where))
            own, other = config.to_dict(design), config.to_dict(there)
            differs = [key for key in own if own[key] != other[key] and key not in ("out", "pieces")]
            if differs:
                raise errors.InputError(
                    f"{design.out}: another study is there: it differs in {', '.join(differs)}; give another out (with the "
                    f"same pieces, {shelf_of(there).folder}, what both have is taken again)"
                )
            return
        if folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
            raise errors.InputError(f"{design.out}: something is there that is no study; give another out")
        store.commit(where, text.encode())
    except OSError as error:
        raise errors.InputError(f"{design.out}: {store.reason(error)}") from None


def _foreign(path: Any) -> bool:
    """Whether a file is none that a run leaves before it has written its design."""
    return not (path.name == "claims" or (path.name.startswith(".study.yaml") and path.name.endswith(".tmp")))


@contextlib.contextmanager
def at_work(folder: Any) -> Iterator[Held]:
    """Holds a study's folder, however long the work takes: nobody else can work in it at the same time.

    Raises:
        InputError: where somebody is at work there.
    """
    claims = folder / "claims"
    try:
        claim = store.claim(claims, "run", _CLAIM)
    except OSError as error:
        raise errors.InputError(f"{folder}: {store.reason(error)}") from None
    if claim is None:
        holder = store.holder(claims, "run")
        who = "somebody" if holder is None else f"process {holder.pid} on {holder.host}"
        raise errors.InputError(f"{folder}: a run is at work there: {who}; wait for it, or end it")
    held = Held(claim)
    try:
        yield held
    finally:
        held.end()


class Held:
    """A claim that is renewed by a thread until it ends."""

    def __init__(self, claim: store.Claim) -> None:
        self._claim, self._ended, self._lost = claim, threading.Event(), False
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(_CLAIM / 10):
            with contextlib.suppress(OSError):  # a folder that can't be reached for a moment
                if not self._claim.renew():
                    self._lost = True
                    return

    def lost(self) -> bool:
        """Whether somebody else has it now."""
        return self._lost

    def check(self, where: str) -> None:
        """Stops a run whose folder somebody else has now."""
        if self._lost:
            raise errors.InputError(f"{where}: another run has taken this folder over; this one stops")

    def end(self) -> None:
        """Gives the folder back."""
        self._ended.set()
        self._thread.join()
        if not self._lost:
            with contextlib.suppress(OSError):
                self._claim.release()


@dataclasses.dataclass
class _Run:
    """One run on its way."""

    planned: Planned
    shelf: Shelf
    missing: set[str]
    told: Told
    done: Callable[[Progress], None]
    claim: Held

    def __post_init__(self) -> None:
        self.log = _Groups(store.path(self.planned.design.out) / "together.jsonl")
        self.failed: dict[str, str] = {}
        self.tidy: Callable[[Piece], None] = lambda _: None
        self.count, self.total = 0, len(self.missing)

    def model(self, expanded: arms.Expanded, load: Load) -> None:
        """Everything that takes the model itself."""
        own = [p for p in ordered(expanded.pieces()) if p.address in self.missing and p.kind in _OF_MODEL]
        if not own:
            return
        planned = self.planned
        try:
            model = load(expanded.model)
        except Exception as error:
            for piece in own:
                self._fail(piece, error)
            return
        workshop = Workshop(planned.design, model, planned.items, planned.asked, self.shelf, self.told)
        self.tidy = workshop.tidy
        for group in self._broken_off(expanded):
            self.batch(group, workshop.make)
        for batch in workshop.batches([piece for piece in own if not self.shelf.has(piece)]):
            self.batch(batch, workshop.make)

    def _broken_off(self, expanded: arms.Expanded) -> list[list[Piece]]:
        """Groups of which a run was killed between its pieces: together they give the same bits as they would have."""
        here = {piece.address: piece for piece in ordered(expanded.pieces())}
        found = []
        for line in self.log.read():
            group = [here[address] for address in line if address in here]
            there = sum(self.shelf.has(piece) for piece in group)
            if len(group) == len(line) and 0 < there < len(group):
                found.append(group)
        return found

    def numbers(self) -> None:
        """Everything that takes states alone."""
        design, items = self.planned.design, self.planned.items
        make = {"result": numbers.result, "placebo": numbers.against_placebo, "comparison": numbers.comparison}
        for piece in self.planned.pieces():
            if piece.kind not in _OF_MODEL and piece.address in self.missing:

                def made(batch: Sequence[Piece]) -> None:
                    content = make[batch[0].kind](batch[0], self.shelf, design, items)
                    store.commit_json(self.shelf.place(batch[0]) / "numbers.json", content)

                self.batch([piece], made)

    def batch(self, batch: Sequence[Piece], make: Callable[[Sequence[Piece]], None]) -> None:
        """Makes pieces that belong together; where there is no room for all of them, half of them at a time."""
        ready = [piece for piece in batch if self._ready(piece)]
        if not ready:
            return
        if len(ready) > 1:
            self.log.add([piece.address for piece in ready])
        start = time.monotonic()
        try:
            make(ready)
        except Exception as error:
            if len(ready) > 1:
                why = "too many for the memory" if _no_room(error) else f"not made together ({_first_line(error)})"
                half = len(ready) // 2
                self.told(f"{len(ready)} pieces at once are {why}: in two halves")
                self.batch(ready[:half], make)
                self.batch(ready[half:], make)
                return
            if isinstance(error, OSError) and error.errno in _FATAL:
                raise errors.InputError(f"{error.filename or self.shelf.folder}: {store.reason(error)}") from error
            if not self.shelf.has(ready[0]):  # one that was there is only made again for its group
                self._fail(ready[0], error)
            return
        seconds = (time.monotonic() - start) / len(ready)
        for piece in ready:
            if self.shelf.has(piece):
                continue
            self.shelf.put(piece, seconds, _about())
            self.tidy(piece)
            self.count += 1
            self.done(Progress(self.count + len(self.failed), self.total, piece.label, seconds))
        self.claim.check(self.planned.design.out)

    def _ready(self, piece: Piece) -> bool:
        """Whether all that a piece needs is there; what is not has failed."""
        lacking = [need for need in piece.needs.values() if need.address in self.failed]
        if lacking:
            self.failed[piece.address] = f"{piece.label}{_LACKING}{lacking[0].label}"
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
        self.failed[piece.address] = said
        self.told(said)


@dataclasses.dataclass(frozen=True)
class _Groups:
    """Which pieces were begun together, a line for each group."""

    where: Any

    def add(self, group: list[str]) -> None:
        store.append(self.where, (json.dumps(group) + "\n").encode())

    def read(self) -> list[list[str]]:
        if not self.where.exists():
            return []
        found = []
        for line in store.read_text(self.where).splitlines():
            with contextlib.suppress(ValueError):  # a line that a kill left half-written
                found.append(json.loads(line))
        return found


# What no other piece could be written under either.
_FATAL = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_LACKING = ": not made, since it needs what failed: "
_OF_MODEL = ("edit", "training", "state")


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
