"""Prompts as a tree of tokens, cut into what is computed once and kept, and what hangs from it.

    trunk    the tokens with which every prompt begins
    stems    tokens below which more hangs than fits one row: their keys are kept for later passes
    leaves   whole subtrees that fit one row, with the places where answers are read

Stems are cut into chains. A chain or a leaf is a `Unit`: it sees the stems above it, and within itself each token sees
those it continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatjax.elicit.pieces import Option, Pieces
from vatjax.models.edit import LAST, PROMPT, WRITTEN


class Unit(NamedTuple):
    """A piece of the tree that is computed in one row.

    Attributes:
        nodes: its nodes, each behind the one that it continues.
        above: the stem that it hangs from; None behind the trunk.
        seen: how many of that stem's nodes stand before it.
        wave: in which pass: those of one pass need nothing of each other.
        stem: whether its keys are kept.
    """

    nodes: list[int]
    above: Unit | None
    seen: int
    wave: int
    stem: bool

    def depth(self) -> int:
        """How many stem nodes stand before it."""
        unit, count = self, 0
        while unit.above is not None:
            unit, count = unit.above, count + unit.seen
        return count

    def path(self) -> list[int]:
        """The stem nodes before it, from the trunk down."""
        unit, parts = self, []
        while unit.above is not None:
            parts.append(unit.above.nodes[: unit.seen])
            unit = unit.above
        return [node for part in reversed(parts) for node in part]


class Tree(NamedTuple):
    """Tokens of prompts, each shared one once, without the trunk.

    Attributes:
        token: [nodes] int32.
        parent: [nodes] int32, an earlier node; -1 behind the trunk.
        position: [nodes] int32, in its text.
        ends: [prompts, places] int32, the nodes at which each prompt's answer is read: its last token, and within options
            of several tokens.
        kind: [nodes] int8, what a token is to its prompts: within them, the last of one, or an answer behind it. A text
            that ends where another goes on has a last token of its own there.
    """

    token: np.ndarray
    parent: np.ndarray
    position: np.ndarray
    ends: np.ndarray
    kind: np.ndarray


def common(found: Pieces) -> int:
    """How many tokens all prompts begin with; each prompt keeps one token of its own, so that no tree is empty."""
    shared, lengths = 0, found.lengths()
    for level in range(len(found.levels)):
        used = [found.levels[level][i] for i in np.unique(found.which[:, level])]
        if len(used) > 1:
            shared += _prefix(used)
            break
        shared += len(used[0])
    return min(shared, int(lengths.min()) - 1)


def _prefix(texts: Sequence[tuple[int, ...]]) -> int:
    """The length of what several token lists begin with."""
    low, high = min(texts), max(texts)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def answer_places(options: Sequence[Option]) -> list[tuple[int, ...]]:
    """What of an option has been read where the next token is looked at: nothing, or the beginning of a longer one."""
    places = {option.tokens[:k] for option in options for k in range(len(option.tokens))}
    return sorted(places, key=lambda place: (len(place), place))


def grow(found: Pieces, prompts: np.ndarray, trunk: int, options: Sequence[Option]) -> Tree:
    """The tree of some prompts.

    Args:
        found: tokens of all texts.
        prompts: which of the prompts.
        trunk: how many tokens all prompts begin with.
        options: the ways to write an answer.
    """
    token: list[int] = []
    parent: list[int] = []
    position: list[int] = []
    kind: list[int] = []
    children: dict[tuple[int, int, int], int] = {}

    def walk(node: int, place: int, ids: Sequence[int], what: int) -> int:
        """Follows tokens down from a node, and grows what is not there yet."""
        for one in ids:
            known = children.get((node, one, what))
            if known is None:
                known = children[node, one, what] = len(token)
                token.append(one)
                parent.append(node)
                position.append(place)
                kind.append(what)
            node, place = known, place + 1
        return node

    places = answer_places(options)
    reached: dict[tuple[int, ...], tuple[int, int]] = {(): (-1, 0)}
    ends = np.empty((len(prompts), len(places)), np.int32)
    for row, prompt in enumerate(prompts):
        key = tuple(found.which[prompt].tolist())
        depth = len(key)
        while key[:depth] not in reached:
            depth -= 1
        for level in range(depth, len(key)):
            node, length = reached[key[:level]]
            ids = found.levels[level][key[level]]
            start = max(0, min(len(ids), trunk - length))  # the part that lies in the trunk
            own = ids[start:]
            last = own[-1:] if level == len(key) - 1 else ()
            node = walk(node, length + start, own[: len(own) - len(last)], PROMPT)
            reached[key[: level + 1]] = walk(node, length + len(ids) - 1, last, LAST), length + len(ids)
        end, length = reached[key]
        ends[row] = [walk(end, length, place, WRITTEN) for place in places]
    return Tree(
        np.array(token, np.int32),
        np.array(parent, np.int32),
        np.array(position, np.int32),
        ends,
        np.array(kind, np.int8),
    )


def cut(tree: Tree, time: int) -> list[Unit]:
    """Cuts a tree into units of at most so many tokens, in the order of their texts.

    Args:
        tree: the tree.
        time: the length of a row.
    """
    size = _sizes(tree)
    stem = size > time
    home: list[
        tuple[Unit, int]
    ] = []  # of each node, its unit and how many of that unit's nodes stand before it or are it
    units: list[Unit] = []
    forks = np.bincount(tree.parent[stem] + 1, minlength=len(size) + 1)[1:]  # how many stems continue a node
    for node, up in enumerate(tree.parent.tolist()):
        unit, before = home[up] if up >= 0 else (None, 0)
        joins = unit is not None and ((forks[up] == 1 and len(unit.nodes) < time) if stem[node] else not stem[up])
        if unit is None or not joins:
            unit = Unit([], unit, before, 0 if unit is None else unit.wave + 1, bool(stem[node]))
            units.append(unit)
        unit.nodes.append(node)
        home.append((unit, len(unit.nodes)))
    return units


def _sizes(tree: Tree) -> np.ndarray:
    """How many nodes hang from each, itself included."""
    size = np.ones(len(tree.parent), np.int64)
    for node in range(len(size) - 1, -1, -1):
        if tree.parent[node] >= 0:
            size[tree.parent[node]] += size[node]
    return size
