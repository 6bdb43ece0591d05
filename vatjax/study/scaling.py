"""What a study takes on accelerators that are not here: operations, memory, hours and money, by arithmetic alone."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from vatjax import elicit, errors, models
from vatjax.elicit import protocols
from vatjax.hardware import Slice
from vatjax.items import open_source
from vatjax.models import Model
from vatjax.study.arms import Expanded
from vatjax.study.batches import grouped
from vatjax.study.costs import NOTHING, Meter, Work
from vatjax.study.design import Design
from vatjax.study.pieces import Piece, ordered
from vatjax.study.planned import Planned, detectable, plan

SIZE = elicit.Size(16_384, 1 << 18)  # what is computed at one time on an accelerator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumed:
    """What arithmetic does not tell."""

    rating: float = 0.35
    """The share of a chip's peak that rating reaches."""
    training: float = 0.3
    """The share that training reaches."""
    price: float = 0.0
    """Dollars for a chip and an hour; 0 takes a round one for each kind."""
    room: float = 0.9
    """The share of a chip's memory that weights and passes may take."""
    reading: float = 1e9
    """Bytes of weights that a host reads in a second."""

    def __post_init__(self) -> None:
        for name in ("rating", "training", "room"):
            if not 0 < getattr(self, name) <= 1:
                raise errors.InputError(f"{name}: expected a share above 0 and up to 1, found {getattr(self, name):g}")
        if self.price < 0 or not math.isfinite(self.price):
            raise errors.InputError(f"price: expected dollars, 0 or more, found {self.price:g}")
        if not self.reading > 0:
            raise errors.InputError(f"reading: expected bytes a second, more than 0, found {self.reading:g}")


class Load(NamedTuple):
    """What the pieces of one model take, wherever they are made.

    Attributes:
        model: as the design names it.
        weights: how many it has.
        held: bytes of these.
        working: bytes of a pass beside them.
        borrowed: whether it has no tokenizer, and tokens are those of a stand-in.
        pieces: that take the model, each behind what it needs.
        batches: which of them one shard makes together, each behind what it needs.
        works: of each by its address; finding an edit is rating.
        answers: bytes of all states.
        detectable: what the contexts that are asked about can tell from noise.
    """

    model: str
    weights: int
    held: int
    working: int
    borrowed: bool
    pieces: Sequence[Piece]
    batches: Sequence[Sequence[Piece]]
    works: Mapping[str, Work]
    answers: int
    detectable: Mapping[str, Any] = MappingProxyType({})

    def of(self, *kinds: str) -> list[Piece]:
        """The pieces of some kinds."""
        return [piece for piece in self.pieces if piece.kind in kinds]

    def work(self, *kinds: str) -> Work:
        """Of the pieces of some kinds."""
        return sum((self.works[piece.address] for piece in self.of(*kinds)), NOTHING)


class Estimate(NamedTuple):
    """What the pieces of one model take on some accelerators.

    Attributes:
        load: what they take anywhere.
        on: the accelerators.
        copy: over how many chips one copy of the model is spread; 0 where there is no room for one.
        memory: bytes that a chip then holds, of weights and of the largest pass.
        shards: how many machines, or groups of them, work side by side.
        hours: from the first piece to the last; infinite without room.
        price: dollars for a chip and an hour.
    """

    load: Load
    on: Slice
    copy: int
    memory: float
    shards: int
    hours: float
    price: float

    @property
    def money(self) -> float:
        """Dollars for all chips over these hours."""
        return self.hours * self.on.chips * self.price


def loads(design: Design, count: int = 0) -> list[Load]:
    """What a study takes of each model, from nothing; no weights are read or fetched.

    Args:
        design: the study.
        count: how many items are asked about, in place of those that the design asks: states are scaled.

    Raises:
        InputError: for a design that can't be carried out.
    """
    items = open_source(design.items)
    words = models.stand_in(" ".join(own) for own in zip(items.scene, items.action, strict=True))
    opened = {
        name: models.outline(name, design.dtype, None, words, design.ignore, design.context) for name in design.models
    }
    planned = plan(design, opened.__getitem__, lambda model: f"{model.name} {model.config!r}")
    factor = count / len(planned.asked) if count else 1.0
    return [
        _load(planned, one, opened[one.model], opened[one.model].tokenizer is words, factor) for one in planned.expanded
    ]


def on(load: Load, where: Slice, assumed: Assumed | None = None) -> Estimate:
    """What the pieces of one model take on some accelerators.

    Shards of the study work side by side (`vatjax run --shard`), each on as few whole hosts as have room for the model.
    """
    assumed = assumed or Assumed()
    chip, price = where.chip, assumed.price or where.chip.price
    copy, memory = _copy(load.held + load.working, where, assumed.room)
    if not copy:
        return Estimate(load, where, 0, memory, 0, math.inf, price)
    together = max(copy, min(chip.host, where.chips))
    shards = where.chips // together
    shares = {"training": assumed.training}
    seconds = {
        piece.address: load.works[piece.address].operations
        / (together * chip.peak * shares.get(piece.kind, assumed.rating))
        for piece in load.pieces
    }
    reading = load.held / (assumed.reading * math.ceil(together / chip.host))
    hours = (_end(load.batches, seconds, shards) + reading) / 3600
    return Estimate(load, where, copy, memory, shards, hours, price)


def _load(planned: Planned, expanded: Expanded, model: Model, borrowed: bool, factor: float) -> Load:
    pieces = [piece for piece in ordered(expanded.pieces()) if piece.kind in ("state", "training", "edit")]
    addresses = {piece.address for piece in pieces}
    batches = [list(batch.pieces) for batch in grouped(0, expanded, addresses)]
    batches.sort(key=lambda batch: max(len(ordered([piece])) for piece in batch))  # what needs nothing is made first
    meter = Meter(planned, model, SIZE)
    works = {}
    for piece in pieces:
        tokens, operations = meter.work(piece)
        scale = (
            factor if piece.kind == "state" else 1.0
        )  # edits and trainings take the train side, whatever is asked about
        works[piece.address] = Work(round(tokens * scale), operations * scale)
    leaves = jax.tree.leaves(model.arrays)
    numbers = len(expanded.states) * _cells(planned) * factor
    return Load(
        expanded.model,
        sum(leaf.size for leaf in leaves),
        sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        _working(planned, model),
        borrowed,
        pieces,
        batches,
        works,
        round(numbers) * 5,  # float32, and a byte of the mask
        detectable(planned.design, planned.asked),
    )


def _copy(wanted: float, where: Slice, room: float) -> tuple[int, float]:
    """Over how many chips bytes are spread, a power of two, and what each then holds; (0, what all would) without room."""
    copy = 1
    while copy <= where.chips:
        if wanted / copy <= room * where.chip.memory:
            return copy, wanted / copy
        copy *= 2
    return 0, wanted / where.chips


def _working(planned: Planned, model: Model) -> int:
    """Bytes that a pass of a rating takes beside the weights."""
    how = dataclasses.replace(planned.design.how, wording=planned.design.wordings()[0])
    parts = elicit.layout(model, planned.asked, how, size=SIZE)
    item = jax.tree.leaves(model.arrays)[0].dtype.itemsize
    return max(elicit.need(part.plan.shapes, model.config, item) for part in parts)


def _end(batches: Sequence[Sequence[Piece]], seconds: Mapping[str, float], shards: int) -> float:
    """When the last batch is done: each goes to the shard that is free first, behind what it needs."""
    free, ends = [0.0] * shards, dict[str, float]()
    for batch in batches:
        needs = [need.address for piece in batch for need in piece.needs.values()]
        ready = max((ends[need] for need in needs if need in ends), default=0.0)
        end = max(heapq.heappop(free), ready) + sum(seconds[piece.address] for piece in batch)
        heapq.heappush(free, end)
        ends |= {piece.address: end for piece in batch}
    return max(ends.values(), default=0.0)


def _cells(planned: Planned) -> int:
    """Numbers of one state."""
    return len(protocols.ask(planned.asked, planned.design.how.protocol).clusters) * len(planned.items.taxonomy.names)
