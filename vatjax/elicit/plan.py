"""How a tree of prompts is computed: which tokens stand in which row of which pass, in a few fixed shapes.

The plan depends on the prompts, the options and the settings alone. So a run that was interrupted continues with the same
plan, and gives the same bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vatjax.elicit.pieces import Option, Pieces
from vatjax.elicit.tree import Tree, Unit, answer_places, common, cut, grow
from vatjax.models import Config
from vatjax.models.packed import Rows

_TIMES = (64, 80, 96, 128, 160, 192, 256, 384, 512)
CHUNK = 64  # places that are read at one time, over the whole vocabulary
_OPEN = 32  # rows that a unit may still go into


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is computed at one time.

    Attributes:
        tokens: of a pass.
        shard: of the prompts that are computed together, and saved together.
        rows: what the number of rows in a pass must be a multiple of.
    """

    tokens: int = 2048
    shard: int = 65_536
    rows: int = 1

    def halved(self) -> Size:
        """Half as much."""
        return dataclasses.replace(self, tokens=self.tokens // 2, shard=max(1, self.shard // 2))


class Shapes(NamedTuple):
    """The sizes of all arrays of a run.

    Attributes:
        trunk: tokens that all prompts begin with.
        time, path: of a row.
        many, few: rows of a pass, and of one that holds a rest.
        store: tokens whose keys are kept.
        answers: places that are read in a shard.
        reach: the most tokens of a prompt.
    """

    trunk: int
    time: int
    path: int
    many: int
    few: int
    store: int
    answers: int
    reach: int


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


class Pass(NamedTuple):
    """One call of the model: its rows, and where the residual streams of its tokens go; a place beyond the end is nowhere."""

    rows: Rows
    answers: np.ndarray


class Plan(NamedTuple):
    """The plan of a run.

    Attributes:
        shards: the prompts of each shard.
        shapes: of all arrays.
        cost: of all shards.
        places: for each place at which a prompt's answer is read, the tokens of it that have been read.
        shard_tokens: [shards], how many tokens each computes.
    """

    shards: list[np.ndarray]
    shapes: Shapes
    cost: Cost
    places: list[tuple[int, ...]]
    shard_tokens: list[int]


def make(found: Pieces, options: Sequence[Option], config: Config, size: Size) -> Plan:
    """Plans a run.

    Args:
        found: tokens of the prompts.
        options: the ways to write an answer.
        config: of the model, whose shape decides what is cheap.
        size: how much is computed at one time.
    """
    trunk = common(found)
    shards = _shards(found, size.shard)
    places = answer_places(options)
    time = _best_time(grow(found, shards[0], trunk, options), trunk, config, size)
    surveys = [_survey(grow(found, shard, trunk, options), time) for shard in shards]
    many, few = _rows(time, max(max(survey.rows) for survey in surveys), size)
    # Half as much again, so that a row can hold the end of one stem's leaves and the beginning of the next one's.
    path = _up(max(survey.path for survey in surveys) * 3 // 2, 16)
    shapes = Shapes(
        trunk=trunk,
        time=time,
        path=path,
        many=many,
        few=few,
        store=_up(max(1, *(survey.stems for survey in surveys)), 16),
        answers=_up(max(len(shard) for shard in shards) * len(places), CHUNK),
        reach=int(found.lengths().max()),
    )
    tokens = []
    for shard in shards:
        waves = pack(cut(grow(found, shard, trunk, options), time), time, path)
        tokens.append(sum(sum(_batches(len(rows), many, few)) for rows in waves) * time)
    distinct = trunk + sum(survey.nodes for survey in surveys)
    full = int(found.lengths().sum())
    return Plan(shards, shapes, Cost(len(found.which), distinct, trunk + sum(tokens), full), places, tokens)


def _shards(found: Pieces, limit: int) -> list[np.ndarray]:
    """Prompts that share a context stay together; contexts are put together up to a number of tokens."""
    first = found.which[:, min(1, found.which.shape[1] - 1)]
    order = np.argsort(_appearance(first), kind="stable")
    own = found.lengths() - len(found.levels[0][0]) if len(found.levels) > 1 else found.lengths()
    last = np.array([len(text) for text in found.levels[-1]])[found.which[:, -1]]
    # A context's tokens are about those of its prompts' last texts; what is above them is shared.
    weight = last if len(found.levels) > 2 else own
    shards: list[np.ndarray] = []
    start, total = 0, 0
    starts = np.flatnonzero(np.diff(first[order], prepend=-1))
    for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        tokens = int(weight[order[begin:end]].sum())
        if total and total + tokens > limit:
            shards.append(np.sort(order[start:begin]))
            start, total = begin, 0
        total += tokens
    return [*shards, np.sort(order[start:])]


def _appearance(x: np.ndarray) -> np.ndarray:
    """Numbers in the order in which they appear."""
    _, first, inverse = np.unique(x, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


class _Survey(NamedTuple):
    nodes: int
    stems: int
    path: int
    rows: list[int]


def _survey(tree: Tree, time: int) -> _Survey:
    units = cut(tree, time)
    waves: dict[int, int] = {}
    for unit in units:
        waves[unit.wave] = waves.get(unit.wave, 0) + len(unit.nodes)
    return _Survey(
        len(tree.token),
        sum(len(unit.nodes) for unit in units if unit.stem),
        max(len(unit.path) for unit in units),
        [math.ceil(tokens / time) for tokens in waves.values()],
    )


def _best_time(tree: Tree, trunk: int, config: Config, size: Size) -> int:
    """The length of a row that makes the passes cheapest: short rows are badly filled, long ones attend to themselves."""
    layer = 3 * config.width * config.hidden + 2 * config.width * config.head_size * (config.heads + config.kv_heads)

    def cost(time: int) -> float:
        units = cut(tree, time)
        path = max(len(unit.path) for unit in units) * 3 // 2
        waves = [len(rows) for rows in pack(units, time, path)]
        many, few = _rows(time, max(waves), size)
        rows = sum(sum(_batches(count, many, few)) for count in waves)
        return rows * time * (layer + 2 * config.heads * config.head_size * (trunk + path + time))

    longest = max(len(unit.nodes) for unit in cut(tree, 1 << 30)) if len(tree.token) else 1
    fitting = [time for time in _TIMES if time <= max(size.tokens, _TIMES[0])]
    return min([time for time in fitting if time < 2 * longest] or fitting[:1], key=cost)


def _rows(time: int, most: int, size: Size) -> tuple[int, int]:
    """Rows of a pass and of a pass for the rest: a multiple of what the devices share out."""
    many = max(1, min(size.tokens // time, most))
    many = _up(many, size.rows)
    few = _up(max(1, many // 8), size.rows)
    return many, few


def _batches(rows: int, many: int, few: int) -> list[int]:
    """The sizes of the passes that take so many rows."""
    whole, rest = divmod(rows, many)
    small = math.ceil(rest / few)
    return [many] * whole + ([many] if small * few >= many else [few] * small)


def _up(x: int, multiple: int) -> int:
    return math.ceil(x / multiple) * multiple


def pack(units: Sequence[Unit], time: int, path: int) -> list[list[list[Unit]]]:
    """Units in rows, for each wave: the first of the open rows that has room for a unit and for what it sees.

    Args:
        units: of a tree.
        time, path: of a row.
    """
    waves: list[list[list[Unit]]] = [[] for _ in range(1 + max((unit.wave for unit in units), default=-1))]
    room: list[list[tuple[int, frozenset[int]]]] = [[] for _ in waves]
    for unit in units:
        rows, state = waves[unit.wave], room[unit.wave]
        needed = frozenset(unit.path)
        for i in range(max(0, len(rows) - _OPEN), len(rows)):
            left, seen = state[i]
            if left >= len(unit.nodes) and len(seen | needed) <= path:
                rows[i].append(unit)
                state[i] = left - len(unit.nodes), seen | needed
                break
        else:
            rows.append([unit])
            state.append((time - len(unit.nodes), needed))
    return waves


def passes(tree: Tree, shapes: Shapes) -> Iterator[Pass]:
    """The calls of the model that compute a tree, in order."""
    units = cut(tree, shapes.time)
    place = np.full(len(tree.token), shapes.store, np.int32)
    kept = [node for unit in units if unit.stem for node in unit.nodes]
    place[kept] = np.arange(len(kept))
    answer = np.full(len(tree.token), shapes.answers, np.int32)
    ends = tree.ends.ravel()
    first = np.full(len(tree.token), -1)
    first[ends[::-1]] = np.arange(len(ends))[::-1]  # two equal prompts end at one node: read once, for the first
    answer[first >= 0] = first[first >= 0]
    for rows in pack(units, shapes.time, shapes.path):
        start = 0
        for count in _batches(len(rows), shapes.many, shapes.few):
            yield _fill(rows[start : start + count], count, tree, place, answer, shapes)
            start += count


def _fill(
    rows: Sequence[Sequence[Unit]], count: int, tree: Tree, place: np.ndarray, answer: np.ndarray, shapes: Shapes
) -> Pass:
    """The arrays of one pass."""
    time, path = shapes.time, shapes.path
    tokens, positions = np.zeros((count, time), np.int32), np.zeros((count, time), np.int32)
    looked = np.zeros((count, path), np.int32)
    sees_path, sees_row = np.zeros((count, time, path), bool), np.zeros((count, time, time), bool)
    sees_row[:, np.arange(time), np.arange(time)] = True
    places = np.full((count, time), shapes.store, np.int32)
    answers = np.full((count, time), shapes.answers, np.int32)
    for r, row in enumerate(rows):
        column: dict[int, int] = {}
        start = 0
        for unit in row:
            nodes = np.array(unit.nodes)
            here = slice(start, start + len(nodes))
            tokens[r, here], positions[r, here] = tree.token[nodes], tree.position[nodes]
            places[r, here] = place[nodes] if unit.stem else shapes.store
            answers[r, here] = answer[nodes]
            seen = [column.setdefault(node, len(column)) for node in unit.path]
            sees_path[r, here, seen] = True
            at = {node: start + i for i, node in enumerate(unit.nodes)}
            for node in unit.nodes[1:]:
                up = at.get(int(tree.parent[node]))
                if up is not None:
                    sees_row[r, at[node]] |= sees_row[r, up]
            start += len(nodes)
        looked[r, : len(column)] = place[list(column)]
    return Pass(Rows(tokens, positions, looked, sees_path, sees_row, places), answers)  # type: ignore[arg-type]


def same_ends(tree: Tree) -> np.ndarray:
    """For each answer of a tree, where it is read: at the first of those that end at the same node, [prompts, places]."""
    ends = tree.ends.ravel()
    _, first, inverse = np.unique(ends, return_index=True, return_inverse=True)
    return first[inverse].reshape(tree.ends.shape)
