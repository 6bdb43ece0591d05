"""Calls of the model that compute a tree: units in rows of one length, rows in passes of two sizes, and their masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vatjax.models.edit import PROMPT
from vatjax.prefix.packed_attention import Rows
from vatjax.prefix.tree import Tree, Unit, cut_tree

_OPEN = 32  # rows that a unit may still go into
_CLOSED: tuple[int, frozenset[int]] = (0, frozenset())


class Shapes(NamedTuple):
    """The sizes of all arrays of a run.

    Attributes:
        trunk: places for the tokens that all prompts begin with.
        time, path: tokens of a row, and stem nodes that it may see.
        many, few: rows of a full pass, and of one that holds a remainder.
        store: tokens whose keys are kept.
        answers: places that are read in a shard.
    """

    trunk: int
    time: int
    path: int
    many: int
    few: int
    store: int
    answers: int


class Pass(NamedTuple):
    """One call of the model: its rows, and the place of each token's residual stream in the output.

    A place past the end is dropped.
    """

    rows: Rows
    answers: np.ndarray


def pass_sizes(rows: int, many: int, few: int) -> list[int]:
    """Returns the sizes of the passes that compute `rows` rows."""
    whole, rest = divmod(rows, many)
    small = math.ceil(rest / few)
    return [many] * whole + ([many] if small * few >= many else [few] * small)


def pack_rows(units: Sequence[Unit], time: int, path: int) -> list[list[list[Unit]]]:
    """Packs the units of each wave into rows, first fit: a row must have room for a unit and for the stems it sees.

    Args:
        units: of a tree.
        time, path: of a row.
    """
    waves: list[list[list[Unit]]] = [[] for _ in range(1 + max((unit.wave for unit in units), default=-1))]
    room: list[list[tuple[int, frozenset[int]]]] = [[] for _ in waves]
    for unit in units:
        rows, state = waves[unit.wave], room[unit.wave]
        needed = frozenset(unit.path())
        for i in range(max(0, len(rows) - _OPEN), len(rows)):
            left, seen = state[i]
            if left >= len(unit.nodes) and len(seen | needed) <= path:
                rows[i].append(unit)
                state[i] = left - len(unit.nodes), seen | needed
                break
        else:
            rows.append([unit])
            state.append((time - len(unit.nodes), needed))
            if len(state) > _OPEN:
                state[-_OPEN - 1] = _CLOSED
    return waves


def make_passes(tree: Tree, shapes: Shapes) -> Iterator[Pass]:
    """Yields the calls of the model that compute a tree, in order."""
    units = cut_tree(tree, shapes.time)
    place = np.full(len(tree.token), shapes.store, np.int32)
    stem_nodes = [node for unit in units if unit.stem for node in unit.nodes]
    place[stem_nodes] = np.arange(len(stem_nodes))
    answer = np.full(len(tree.token), shapes.answers, np.int32)
    ends = tree.ends.ravel()
    first = np.full(len(tree.token), -1)
    first[ends[::-1]] = np.arange(len(ends))[::-1]  # two equal prompts end at one node: read once, for the first
    answer[first >= 0] = first[first >= 0]
    for rows in pack_rows(units, shapes.time, shapes.path):
        start = 0
        for count in pass_sizes(len(rows), shapes.many, shapes.few):
            yield _fill(rows[start : start + count], count, tree, place, answer, shapes)
            start += count


def _fill(
    rows: Sequence[Sequence[Unit]], count: int, tree: Tree, place: np.ndarray, answer: np.ndarray, shapes: Shapes
) -> Pass:
    """Fills the arrays of one pass."""
    time, path = shapes.time, shapes.path
    tokens, positions = np.zeros((count, time), np.int32), np.zeros((count, time), np.int32)
    looked = np.zeros((count, path), np.int32)
    sees_path, sees_row = np.zeros((count, time, path), bool), np.zeros((count, time, time), bool)
    sees_row[:, np.arange(time), np.arange(time)] = True
    places = np.full((count, time), shapes.store, np.int32)
    answers = np.full((count, time), shapes.answers, np.int32)
    kinds = np.full((count, time), PROMPT, np.int8)
    for r, row in enumerate(rows):
        column: dict[int, int] = {}
        start = 0
        for unit in row:
            nodes = np.array(unit.nodes)
            here = slice(start, start + len(nodes))
            tokens[r, here], positions[r, here] = tree.token[nodes], tree.position[nodes]
            places[r, here] = place[nodes] if unit.stem else shapes.store
            answers[r, here], kinds[r, here] = answer[nodes], tree.kind[nodes]
            seen = [column.setdefault(node, len(column)) for node in unit.path()]
            sees_path[r, here, seen] = True
            at = {node: start + i for i, node in enumerate(unit.nodes)}
            for node in unit.nodes[1:]:
                up = at.get(int(tree.parent[node]))
                if up is not None:
                    sees_row[r, at[node]] |= sees_row[r, up]
            start += len(nodes)
        looked[r, : len(column)] = place[list(column)]
    return Pass(Rows(tokens, positions, looked, sees_path, sees_row, places, kinds), answers)  # type: ignore[arg-type]


def same_ends(tree: Tree) -> np.ndarray:
    """Returns the place in which each answer of a tree is read, [prompts, places].

    Answers at the same node are read once, in the place of the first of them.
    """
    ends = tree.ends.ravel()
    _, first, inverse = np.unique(ends, return_index=True, return_inverse=True)
    return first[inverse].reshape(tree.ends.shape)
