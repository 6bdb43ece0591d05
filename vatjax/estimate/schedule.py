"""Estimates operations, memory, hours and price of a study on accelerators that need not be attached."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from vatjax import elicit, errors, models, prefix
from vatjax.elicit import protocols
from vatjax.estimate.accelerators import Slice
from vatjax.estimate.costs import NOTHING, Meter, Work
from vatjax.items import open_source
from vatjax.models import Model
from vatjax.store.artifacts import Artifact, topological_order
from vatjax.study.batches import group_artifacts
from vatjax.study.design import Design
from vatjax.study.graph import ArtifactGraph
from vatjax.study.planning import Plan, detectable, plan

SIZE = prefix.Size(16_384, 1 << 18)  # amount computed at once on an accelerator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumed:
    """Assumptions of the estimate."""

    rating: float = 0.35
    """Share of a chip's peak that rating reaches."""
    training: float = 0.3
    """Share of a chip's peak that training reaches."""
    price: float = 0.0
    """Dollars per chip and hour; 0 uses a round price of each kind."""
    room: float = 0.9
    """Share of a chip's memory available to weights and passes."""
    reading: float = 1e9
    """Bytes of weights that a host reads per second."""

    def __post_init__(self) -> None:
        for name in ("rating", "training", "room"):
            if not 0 < getattr(self, name) <= 1:
                raise errors.InputError(f"{name}: expected a share above 0 and up to 1, found {getattr(self, name):g}")
        if self.price < 0 or not math.isfinite(self.price):
            raise errors.InputError(f"price: expected dollars, 0 or more, found {self.price:g}")
        if not self.reading > 0:
            raise errors.InputError(f"reading: expected bytes a second, more than 0, found {self.reading:g}")


class Workload(NamedTuple):
    """Cost of the artifacts of one model, on any hardware.

    Attributes:
        model: as the design names it.
        weights: number of its weights.
        held: bytes of the weights.
        working: further bytes of a pass.
        borrowed: True if the model has no tokenizer, so that a stand-in counts the tokens.
        artifacts: those that need the model, in topological order.
        batches: artifacts that one shard computes together, in topological order.
        works: cost of each artifact by its address; finding an edit counts as rating.
        answers: bytes of all states.
        detectable: smallest effects that the contexts can distinguish from noise.
    """

    model: str
    weights: int
    held: int
    working: int
    borrowed: bool
    artifacts: Sequence[Artifact]
    batches: Sequence[Sequence[Artifact]]
    works: Mapping[str, Work]
    answers: int
    detectable: Mapping[str, Any] = MappingProxyType({})

    def of_kind(self, *kinds: str) -> list[Artifact]:
        """Returns the artifacts of some kinds."""
        return [artifact for artifact in self.artifacts if artifact.kind in kinds]

    def work(self, *kinds: str) -> Work:
        """Returns the cost of the artifacts of some kinds."""
        return sum((self.works[artifact.address] for artifact in self.of_kind(*kinds)), NOTHING)


class Estimate(NamedTuple):
    """Cost of the artifacts of one model on some accelerators.

    Attributes:
        load: the cost on any hardware.
        on: the accelerators.
        copy: number of chips that share one copy of the model; 0 if it does not fit.
        memory: bytes per chip, of weights and of the largest pass.
        shards: number of machines, or groups of machines, that work in parallel.
        hours: from the first artifact to the last; infinite if the model does not fit.
        price: dollars per chip and hour.
    """

    load: Workload
    on: Slice
    copy: int
    memory: float
    shards: int
    hours: float
    price: float

    @property
    def money(self) -> float:
        """Returns the dollars for all chips over these hours."""
        return self.hours * self.on.chips * self.price


def workloads(design: Design, count: int = 0) -> list[Workload]:
    """Computes the cost of a study for each model, from scratch; no weights are read or downloaded.

    Args:
        design: the study.
        count: number of rated items, in place of the design's; the cost of states is scaled.

    Raises:
        InputError: if the design cannot be run.
    """
    items = open_source(design.items)
    tokenizer = models.stand_in_tokenizer(" ".join(text) for text in zip(items.scene, items.action, strict=True))
    abstract_models = {
        name: models.abstract_model(name, design.dtype, None, tokenizer, design.ignore, design.context)
        for name in design.models
    }
    planned = plan(design, abstract_models.__getitem__, lambda model: f"{model.name} {model.config!r}")
    factor = count / len(planned.test_items) if count else 1.0
    return [
        _workload(
            planned, graph, abstract_models[graph.model], abstract_models[graph.model].tokenizer is tokenizer, factor
        )
        for graph in planned.graphs
    ]


def estimate_on(load: Workload, accelerators: Slice, assumed: Assumed | None = None) -> Estimate:
    """Estimates the cost of one model's artifacts on some accelerators.

    Shards of the study work in parallel (`vatjax run --shard`), each on the fewest whole hosts that fit the model.
    """
    assumed = assumed or Assumed()
    chip, price = accelerators.chip, assumed.price or accelerators.chip.price
    copy, memory = _chips_per_copy(load.held + load.working, accelerators, assumed.room)
    if not copy:
        return Estimate(load, accelerators, 0, memory, 0, math.inf, price)
    together = max(copy, min(chip.host, accelerators.chips))
    shards = accelerators.chips // together
    shares = {"training": assumed.training}
    seconds = {
        artifact.address: load.works[artifact.address].operations
        / (together * chip.peak * shares.get(artifact.kind, assumed.rating))
        for artifact in load.artifacts
    }
    reading = load.held / (assumed.reading * math.ceil(together / chip.host))
    hours = (_end_time(load.batches, seconds, shards) + reading) / 3600
    return Estimate(load, accelerators, copy, memory, shards, hours, price)


def _workload(planned: Plan, graph: ArtifactGraph, model: Model, borrowed: bool, factor: float) -> Workload:
    artifacts = [
        artifact
        for artifact in topological_order(graph.final_artifacts())
        if artifact.kind in ("state", "training", "edit")
    ]
    addresses = {artifact.address for artifact in artifacts}
    batches = [list(batch.artifacts) for batch in group_artifacts(0, graph, addresses)]
    batches.sort(
        key=lambda batch: max(len(topological_order([artifact])) for artifact in batch)
    )  # by depth of dependencies
    meter = Meter(planned, model, SIZE)
    works = {}
    for artifact in artifacts:
        tokens, operations = meter.work(artifact)
        scale = (
            factor if artifact.kind == "state" else 1.0
        )  # edits and trainings use the train side, which `count` does not change
        works[artifact.address] = Work(round(tokens * scale), operations * scale)
    leaves = jax.tree.leaves(model.arrays)
    numbers = len(graph.states) * _state_size(planned) * factor
    return Workload(
        graph.model,
        sum(leaf.size for leaf in leaves),
        sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        _pass_bytes(planned, model),
        borrowed,
        artifacts,
        batches,
        works,
        round(numbers) * 5,  # float32, and a byte of the mask
        detectable(planned.design, planned.test_items),
    )


def _chips_per_copy(needed_bytes: float, accelerators: Slice, room: float) -> tuple[int, float]:
    """Returns the number of chips that share the bytes, a power of two, and the bytes per chip; (0, total per chip) if
    too many."""
    copy = 1
    while copy <= accelerators.chips:
        if needed_bytes / copy <= room * accelerators.chip.memory:
            return copy, needed_bytes / copy
        copy *= 2
    return 0, needed_bytes / accelerators.chips


def _pass_bytes(planned: Plan, model: Model) -> int:
    """Returns the bytes of a rating pass, without the weights."""
    how = dataclasses.replace(planned.design.how, wording=planned.design.wordings()[0])
    parts = elicit.plan_ratings(model, planned.test_items, how, size=SIZE)
    item = jax.tree.leaves(model.arrays)[0].dtype.itemsize
    return max(prefix.pass_memory(part.plan.shapes, model.config, item) for part in parts)


def _end_time(batches: Sequence[Sequence[Artifact]], seconds: Mapping[str, float], shards: int) -> float:
    """Returns the end of the last batch; each goes to the first free shard, after its dependencies."""
    free, ends = [0.0] * shards, dict[str, float]()
    for batch in batches:
        dependencies = [dependency.address for artifact in batch for dependency in artifact.dependencies.values()]
        ready = max((ends[dependency] for dependency in dependencies if dependency in ends), default=0.0)
        end = max(heapq.heappop(free), ready) + sum(seconds[artifact.address] for artifact in batch)
        heapq.heappush(free, end)
        ends |= {artifact.address: end for artifact in batch}
    return max(ends.values(), default=0.0)


def _state_size(planned: Plan) -> int:
    """Returns the size of one state."""
    return len(protocols.make_questions(planned.test_items, planned.design.how.protocol).clusters) * len(
        planned.items.taxonomy.names
    )
