"""How a tree of prompts is computed: which tokens stand in which row of which pass, in a few fixed shapes.

The plan depends on the prompts, the options and the settings alone. So a run that was interrupted continues with the same
plan, and gives the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors
from vatjax.elicit.passes import Shapes, batches, pack
from vatjax.elicit.pieces import Option, Pieces, digest
from vatjax.elicit.tree import Tree, answer_places, common, cut, grow
from vatjax.models import Config

_TIMES = (64, 80, 96, 128, 160, 192, 256, 384, 512)
_SAMPLE = 1024  # prompts that the length of a row is chosen by
CHUNK = 64  # places that are read at one time, over the whole vocabulary


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is computed at one time.

    Attributes:
        tokens: of a pass.
        shard: of the prompts that are computed together, and saved together.
        memory: the most bytes that a pass may need beside the weights, by `need`; 0 is no limit. Passes are halved until
            they fit.
    """

    tokens: int = 2048
    shard: int = 65_536
    memory: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.shard < 1 or self.memory < 0:
            raise errors.InputError(f"expected numbers of tokens above 0, and bytes of memory or 0; found {self}")

    def halved(self) -> Size:
        """Half as much."""
        return dataclasses.replace(self, tokens=max(1, self.tokens // 2), shard=max(1, self.shard // 2))


class Cost(NamedTuple):
    """What a run takes.

    Attributes:
        prompts: how many there are.
        distinct: tokens of the tree.
        computed: tokens that are computed, padding included.
        full: tokens of all prompts, one by one.
    """

    prompts: int
    distinct: int
    computed: int
    full: int


class Plan(NamedTuple):
    """The plan of a run.

    Attributes:
        shards: the prompts of each shard.
        shapes: of all arrays.
        cost: of all shards.
        places: for each place at which a prompt's answer is read, the tokens of it that have been read.
        shard_tokens: [shards], how many tokens each computes.
        trunk: how many tokens all prompts begin with.
        inside: [shards], in which of the given groups each lies.
    """

    shards: list[np.ndarray]
    shapes: Shapes
    cost: Cost
    places: list[tuple[int, ...]]
    shard_tokens: list[int]
    trunk: int
    inside: list[int]


class _Survey(NamedTuple):
    nodes: int
    stems: int
    path: int
    rows: list[int]


class _Draft(NamedTuple):
    """What of a plan depends on its own prompts alone."""

    found: Pieces
    options: Sequence[Option]
    shards: list[np.ndarray]
    inside: list[int]
    trunk: int
    surveys: list[_Survey]


def make(
    asked: Sequence[tuple[Pieces, Sequence[Option]]],
    config: Config,
    size: Size,
    rows: int = 1,
    within: Sequence[np.ndarray] | None = None,
) -> list[Plan]:
    """Plans of several sets of prompts, all in the same shapes, so that what is compiled for one serves all.

    Where memory is limited, and the passes of the smallest size need more than that, they are planned all the same.

    Args:
        asked: of each set the prompts' tokens, and the ways to write an answer.
        config: of the model, whose shape decides what is cheap.
        size: how much is computed at one time.
        rows: what the number of rows in a pass must be a multiple of: the devices that share them.
        within: groups of the prompts; no shard has prompts of two of them. For one set alone.
    """
    named = tuple(digest(*one) for one in asked)
    groups = None if within is None else tuple(group.tobytes() for group in within)
    return list(_kept(_Question((named, repr(config), size, rows, groups), asked, config, size, rows, within)))


@dataclasses.dataclass(frozen=True)
class _Question:
    """What `make` is asked; two of one name have one plan."""

    name: tuple[Any, ...]
    asked: Sequence[tuple[Pieces, Sequence[Option]]] = dataclasses.field(compare=False)
    config: Config = dataclasses.field(compare=False)
    size: Size = dataclasses.field(compare=False)
    rows: int = dataclasses.field(compare=False)
    within: Sequence[np.ndarray] | None = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=4)
def _kept(question: _Question) -> tuple[Plan, ...]:
    """Plans of what was asked last: the same is asked again under many edits, and planning takes longer than a small model."""
    _, asked, config, size, rows, within = (getattr(question, field.name) for field in dataclasses.fields(question))
    while True:
        made = _made(asked, config, size, rows, within)
        fits = not size.memory or need(made[0].shapes, config) <= size.memory
        if fits or size.tokens <= _TIMES[0]:
            return tuple(made)
        size = size.halved()


def need(shapes: Shapes, config: Config, item: int = 4) -> int:
    """About how many bytes a pass takes beside the weights.

    Args:
        shapes: of a plan.
        config: of the model.
        item: bytes of one number of the model's dtype.
    """
    tokens = shapes.many * shapes.time
    seen = shapes.trunk + shapes.path + shapes.time
    keys = 2 * config.kv_heads * config.head_size
    kept = config.layers * keys * (shapes.trunk + shapes.store + tokens) * item
    gathered = shapes.many * shapes.path * keys * item
    scores = 2 * tokens * config.heads * seen * 4
    streams = tokens * (4 * config.width + 3 * config.hidden + 3 * config.heads * config.head_size) * 4
    return kept + gathered + scores + streams + shapes.answers * config.width * item + CHUNK * config.vocabulary * 8


def _made(
    asked: Sequence[tuple[Pieces, Sequence[Option]]],
    config: Config,
    size: Size,
    rows: int,
    within: Sequence[np.ndarray] | None,
) -> list[Plan]:
    time, drafts = 0, []
    for found, options in asked:
        trunk = common(found)
        groups = [np.arange(len(found.which))] if within is None else within
        parts = [(number, part) for number, group in enumerate(groups) for part in _shards(found, group, size.shard)]
        shards = [part for _, part in parts]
        time = time or _best_time(grow(found, shards[0][:_SAMPLE], trunk, options), trunk, config, size, rows)
        surveys = [_survey(grow(found, shard, trunk, options), time) for shard in shards]
        drafts.append(_Draft(found, options, shards, [number for number, _ in parts], trunk, surveys))
    shapes = _shapes(drafts, time, size, rows)
    return [_settled(draft, shapes) for draft in drafts]


def _shapes(drafts: Sequence[_Draft], time: int, size: Size, rows: int) -> Shapes:
    """What holds the largest shard of all."""
    surveys = [survey for draft in drafts for survey in draft.surveys]
    many, few = _rows(time, max(max(survey.rows) for survey in surveys), size, rows)
    read = max(max(map(len, draft.shards)) * len(answer_places(draft.options)) for draft in drafts)
    return Shapes(
        trunk=_coarse(max(draft.trunk for draft in drafts)),
        time=time,
        # Half as much again, so that a row can hold the end of one stem's leaves and the beginning of the next one's.
        path=_up(max(survey.path for survey in surveys) * 3 // 2, 16),
        many=many,
        few=few,
        store=_up(max(1, *(survey.stems for survey in surveys)), 16),
        answers=_up(read, CHUNK),
    )


def _settled(draft: _Draft, shapes: Shapes) -> Plan:
    tokens = []
    for shard in draft.shards:
        tree = grow(draft.found, shard, draft.trunk, draft.options)
        waves = pack(cut(tree, shapes.time), shapes.time, shapes.path)
        tokens.append(sum(sum(batches(len(rows), shapes.many, shapes.few)) for rows in waves) * shapes.time)
    distinct = draft.trunk + sum(survey.nodes for survey in draft.surveys)
    lengths = draft.found.lengths()
    return Plan(
        draft.shards,
        shapes,
        Cost(len(draft.found.which), distinct, shapes.trunk + sum(tokens), int(lengths.sum())),
        answer_places(draft.options),
        tokens,
        draft.trunk,
        draft.inside,
    )


def _shards(found: Pieces, group: np.ndarray, limit: int) -> list[np.ndarray]:
    """Prompts that share a context stay together, and contexts are put together, up to a number of tokens.

    A context with more tokens than that is divided, and its own text computed for each part.
    """
    which = found.which[group]
    first = which[:, min(1, which.shape[1] - 1)]
    order = np.argsort(_appearance(first), kind="stable")
    weight = _weights(found)[group][order]
    starts = np.flatnonzero(np.diff(first[order], prepend=-1))
    shards: list[np.ndarray] = []
    open_from, total = 0, 0
    for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        tokens = int(weight[begin:end].sum())
        if total and total + tokens > limit:
            shards.append(order[open_from:begin])
            open_from, total = begin, 0
        if tokens > limit:
            cuts = np.flatnonzero(np.diff(np.cumsum(weight[begin:end]) // limit, prepend=0)) + begin
            for cut_at in cuts[(cuts > begin) & (cuts < end)].tolist():
                shards.append(order[open_from:cut_at])
                open_from = cut_at
            tokens = int(weight[open_from:end].sum())
        total += tokens
    return [group[np.sort(part)] for part in (*shards, order[open_from:])]


def _weights(found: Pieces) -> np.ndarray:
    """About how many tokens each prompt adds to a tree, [prompts]: its last text, and its part of what others share."""
    total = np.zeros(len(found.which))
    for level in range(1 if len(found.levels) > 1 else 0, len(found.levels)):
        own = found.which[:, level]
        sharing = np.bincount(own, minlength=len(found.levels[level]))
        lengths = np.array([len(text) for text in found.levels[level]])
        # The last text stands behind every prompt's own; those above it are computed once for all that share them.
        total += lengths[own] / (1 if level == len(found.levels) - 1 else sharing[own])
    return np.ceil(total).astype(np.int64)


def _appearance(x: np.ndarray) -> np.ndarray:
    """Numbers in the order in which they appear."""
    _, first, inverse = np.unique(x, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _survey(tree: Tree, time: int) -> _Survey:
    units = cut(tree, time)
    waves: dict[int, int] = {}
    for unit in units:
        waves[unit.wave] = waves.get(unit.wave, 0) + len(unit.nodes)
    return _Survey(
        len(tree.token),
        sum(len(unit.nodes) for unit in units if unit.stem),
        max(unit.depth() for unit in units),
        [math.ceil(tokens / time) for tokens in waves.values()],
    )


def _best_time(tree: Tree, trunk: int, config: Config, size: Size, shared: int) -> int:
    """The length of a row that makes the passes cheapest: short rows are badly filled, long ones attend to themselves."""
    layer = 3 * config.width * config.hidden + 2 * config.width * config.head_size * (config.heads + config.kv_heads)

    def cost(time: int) -> float:
        units = cut(tree, time)
        path = max(unit.depth() for unit in units) * 3 // 2
        waves = [len(rows) for rows in pack(units, time, path)]
        many, few = _rows(time, max(waves), size, shared)
        rows = sum(sum(batches(count, many, few)) for count in waves)
        return rows * time * (layer + 2 * config.heads * config.head_size * (trunk + path + time))

    longest = max(len(unit.nodes) for unit in cut(tree, 1 << 30)) if len(tree.token) else 1
    fitting = [time for time in _TIMES if time <= max(size.tokens, _TIMES[0])]
    return min([time for time in fitting if time < 2 * longest] or fitting[:1], key=cost)


def _rows(time: int, most: int, size: Size, shared: int) -> tuple[int, int]:
    """Rows of a pass and of a pass for the rest: a multiple of what the devices share out."""
    many = max(1, min(size.tokens // time, most))
    many = _up(many, shared)
    few = _up(max(1, many // 8), shared)
    return many, few


def _coarse(trunk: int) -> int:
    """One of few lengths, so that runs with other examples share compilations; it is computed once for a shard."""
    octave = 1 << max(3, trunk.bit_length() - 1)
    return _up(trunk, max(8, octave // (2 if octave < 256 else 4)))


def _up(x: int, multiple: int) -> int:
    return math.ceil(x / multiple) * multiple
