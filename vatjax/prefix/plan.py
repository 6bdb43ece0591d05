"""Plans of a prefix tree's computation: which tokens stand in which row of which pass, in a few fixed shapes.

The plan depends on the prompts, the spellings and the settings alone. So a run that was interrupted continues with the
same plan, and gives the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors
from vatjax.models import Config
from vatjax.prefix.packing import Shapes, pack_rows, pass_sizes
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts, digest
from vatjax.prefix.tree import Tree, answer_places, build_tree, common_prefix_length, cut_tree

_TIMES = (64, 80, 96, 128, 160, 192, 256, 384, 512)
_SAMPLE = 1024  # prompts by which the length of a row is chosen
CHUNK = 64  # places that are read at one time, over the whole vocabulary


@dataclasses.dataclass(frozen=True)
class Size:
    """Amounts that are computed at one time.

    Attributes:
        tokens: of a pass.
        shard: tokens of the prompts that are computed together, and saved together.
        memory: the most bytes that a pass may need in addition to the weights, by `pass_memory`; 0 for no limit. Passes
            are halved until they fit.
    """

    tokens: int = 2048
    shard: int = 65_536
    memory: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.shard < 1 or self.memory < 0:
            raise errors.InputError(f"expected numbers of tokens above 0, and bytes of memory or 0; found {self}")

    def halved(self) -> Size:
        """Returns half the size."""
        return dataclasses.replace(self, tokens=max(1, self.tokens // 2), shard=max(1, self.shard // 2))


class Cost(NamedTuple):
    """Tokens that a run computes.

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
        places: for each place at which a prompt's answer is read, the answer's tokens before it.
        shard_tokens: [shards], how many tokens each computes.
        trunk: how many tokens all prompts begin with.
        inside: [shards], the index of the group that each lies in.
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
    """The part of a plan that depends on its own prompts alone."""

    tokenized: TokenizedPrompts
    spellings: Sequence[Spelling]
    shards: list[np.ndarray]
    inside: list[int]
    trunk: int
    surveys: list[_Survey]


def make_plans(
    prompt_sets: Sequence[tuple[TokenizedPrompts, Sequence[Spelling]]],
    config: Config,
    size: Size,
    rows: int = 1,
    within: Sequence[np.ndarray] | None = None,
) -> list[Plan]:
    """Plans several sets of prompts, all in the same shapes, so that one compilation serves all.

    Where memory is limited and the smallest passes need more, they are planned all the same.

    Args:
        prompt_sets: of each set the prompts' tokens, and the ways to write an answer.
        config: of the model, whose shape decides the cheapest plan.
        size: how much is computed at one time.
        rows: the number of rows in a pass is a multiple of it: the devices that share them.
        within: groups of the prompts; no shard has prompts of two of them. For one set alone.
    """
    named = tuple(digest(*prompt_set) for prompt_set in prompt_sets)
    groups = None if within is None else tuple(group.tobytes() for group in within)
    return list(
        _cached_plans(_PlanRequest((named, repr(config), size, rows, groups), prompt_sets, config, size, rows, within))
    )


@dataclasses.dataclass(frozen=True)
class _PlanRequest:
    """The arguments of `make_plans`; two requests of one name have one plan."""

    name: tuple[Any, ...]
    prompt_sets: Sequence[tuple[TokenizedPrompts, Sequence[Spelling]]] = dataclasses.field(compare=False)
    config: Config = dataclasses.field(compare=False)
    size: Size = dataclasses.field(compare=False)
    rows: int = dataclasses.field(compare=False)
    within: Sequence[np.ndarray] | None = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=4)
def _cached_plans(request: _PlanRequest) -> tuple[Plan, ...]:
    """Returns the plans of a request, the last four cached: the same prompts are asked under many edits.

    Planning takes longer than computing a small model.
    """
    _, prompt_sets, config, size, rows, within = (getattr(request, field.name) for field in dataclasses.fields(request))
    while True:
        plans = _make_plans(prompt_sets, config, size, rows, within)
        fits = not size.memory or pass_memory(plans[0].shapes, config) <= size.memory
        if fits or size.tokens <= _TIMES[0]:
            return tuple(plans)
        size = size.halved()


def pass_memory(shapes: Shapes, config: Config, item: int = 4) -> int:
    """Returns about how many bytes a pass takes in addition to the weights.

    Args:
        shapes: of a plan.
        config: of the model.
        item: bytes of one number of the model's dtype.
    """
    tokens = shapes.many * shapes.time
    seen = shapes.trunk + shapes.path + shapes.time
    keys = 2 * config.kv_heads * config.head_size
    stored = config.layers * keys * (shapes.trunk + shapes.store + tokens) * item
    gathered = shapes.many * shapes.path * keys * item
    scores = 2 * tokens * config.heads * seen * 4
    streams = tokens * (4 * config.width + 3 * config.hidden + 3 * config.heads * config.head_size) * 4
    return stored + gathered + scores + streams + shapes.answers * config.width * item + CHUNK * config.vocabulary * 8


def _make_plans(
    prompt_sets: Sequence[tuple[TokenizedPrompts, Sequence[Spelling]]],
    config: Config,
    size: Size,
    rows: int,
    within: Sequence[np.ndarray] | None,
) -> list[Plan]:
    time, drafts = 0, []
    for tokenized, spellings in prompt_sets:
        trunk = common_prefix_length(tokenized)
        groups = [np.arange(len(tokenized.which))] if within is None else within
        parts = [
            (number, part) for number, group in enumerate(groups) for part in _shards(tokenized, group, size.shard)
        ]
        shards = [part for _, part in parts]
        time = time or _best_time(
            build_tree(tokenized, shards[0][:_SAMPLE], trunk, spellings), trunk, config, size, rows
        )
        surveys = [_survey(build_tree(tokenized, shard, trunk, spellings), time) for shard in shards]
        drafts.append(_Draft(tokenized, spellings, shards, [number for number, _ in parts], trunk, surveys))
    shapes = _shapes(drafts, time, size, rows)
    return [_finish_plan(draft, shapes) for draft in drafts]


def _shapes(drafts: Sequence[_Draft], time: int, size: Size, rows: int) -> Shapes:
    """Returns the shapes that hold the largest shard of all drafts."""
    surveys = [survey for draft in drafts for survey in draft.surveys]
    many, few = _rows(time, max(max(survey.rows) for survey in surveys), size, rows)
    read = max(max(map(len, draft.shards)) * len(answer_places(draft.spellings)) for draft in drafts)
    return Shapes(
        trunk=_coarse(max(draft.trunk for draft in drafts)),
        time=time,
        # Half as much again, so that a row can hold the end of one stem's leaves and the beginning of the next one's.
        path=_round_up(max(survey.path for survey in surveys) * 3 // 2, 16),
        many=many,
        few=few,
        store=_round_up(max(1, *(survey.stems for survey in surveys)), 16),
        answers=_round_up(read, CHUNK),
    )


def _finish_plan(draft: _Draft, shapes: Shapes) -> Plan:
    tokens = []
    for shard in draft.shards:
        tree = build_tree(draft.tokenized, shard, draft.trunk, draft.spellings)
        waves = pack_rows(cut_tree(tree, shapes.time), shapes.time, shapes.path)
        tokens.append(sum(sum(pass_sizes(len(rows), shapes.many, shapes.few)) for rows in waves) * shapes.time)
    distinct = draft.trunk + sum(survey.nodes for survey in draft.surveys)
    lengths = draft.tokenized.lengths()
    return Plan(
        draft.shards,
        shapes,
        Cost(len(draft.tokenized.which), distinct, shapes.trunk + sum(tokens), int(lengths.sum())),
        answer_places(draft.spellings),
        tokens,
        draft.trunk,
        draft.inside,
    )


def _shards(tokenized: TokenizedPrompts, group: np.ndarray, limit: int) -> list[np.ndarray]:
    """Divides prompts into shards of up to `limit` tokens; prompts that share a context stay together.

    A context with more tokens than that is divided, and its text is computed again for each part.
    """
    which = tokenized.which[group]
    first = which[:, min(1, which.shape[1] - 1)]
    order = np.argsort(_appearance(first), kind="stable")
    weight = _weights(tokenized)[group][order]
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


def _weights(tokenized: TokenizedPrompts) -> np.ndarray:
    """Returns about how many tokens each prompt adds to a tree, [prompts].

    These are its last text, and its part of the texts that it shares.
    """
    total = np.zeros(len(tokenized.which))
    for level in range(1 if len(tokenized.levels) > 1 else 0, len(tokenized.levels)):
        texts = tokenized.which[:, level]
        sharing = np.bincount(texts, minlength=len(tokenized.levels[level]))
        lengths = np.array([len(text) for text in tokenized.levels[level]])
        # The last text is computed for every prompt; those above it once for all prompts that share them.
        total += lengths[texts] / (1 if level == len(tokenized.levels) - 1 else sharing[texts])
    return np.ceil(total).astype(np.int64)


def _appearance(x: np.ndarray) -> np.ndarray:
    """Numbers the distinct values of an array in order of appearance."""
    _, first, inverse = np.unique(x, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _survey(tree: Tree, time: int) -> _Survey:
    units = cut_tree(tree, time)
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
    """Returns the row length that makes the passes cheapest.

    Short rows are badly filled, long ones attend to themselves.
    """
    layer = 3 * config.width * config.hidden + 2 * config.width * config.head_size * (config.heads + config.kv_heads)

    def cost(time: int) -> float:
        units = cut_tree(tree, time)
        path = max(unit.depth() for unit in units) * 3 // 2
        waves = [len(rows) for rows in pack_rows(units, time, path)]
        many, few = _rows(time, max(waves), size, shared)
        rows = sum(sum(pass_sizes(count, many, few)) for count in waves)
        return rows * time * (layer + 2 * config.heads * config.head_size * (trunk + path + time))

    longest = max(len(unit.nodes) for unit in cut_tree(tree, 1 << 30)) if len(tree.token) else 1
    fitting = [time for time in _TIMES if time <= max(size.tokens, _TIMES[0])]
    return min([time for time in fitting if time < 2 * longest] or fitting[:1], key=cost)


def _rows(time: int, most: int, size: Size, shared: int) -> tuple[int, int]:
    """Returns the rows of a full pass and of a pass for the remainder: multiples of the devices that share them."""
    many = max(1, min(size.tokens // time, most))
    many = _round_up(many, shared)
    few = _round_up(max(1, many // 8), shared)
    return many, few


def _coarse(trunk: int) -> int:
    """Rounds the trunk's length up to one of few values, so that runs with other shots share compilations.

    It is computed once for a shard.
    """
    octave = 1 << max(3, trunk.bit_length() - 1)
    return _round_up(trunk, max(8, octave // (2 if octave < 256 else 4)))


def _round_up(x: int, multiple: int) -> int:
    return math.ceil(x / multiple) * multiple
