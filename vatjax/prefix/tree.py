"""Prefix tree of prompts, cut into stems, whose keys are computed once and kept, and the leaves that continue them.

    trunk    the tokens with which every prompt begins
    stems    tokens whose subtree does not fit one row: their keys are kept for later passes
    leaves   whole subtrees that fit one row, with the places where answers are read

Stems are cut into chains. A chain or a leaf is a `Unit`: its tokens attend to the stems above it, and each of them to
those tokens of the unit that it continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatjax.models.edit import LAST, PROMPT, WRITTEN
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts


class Unit(NamedTuple):
    """A part of the tree that is computed in one row.

    Attributes:
        nodes: its nodes, each after the one that it continues.
        parent: the stem it continues; None if it continues the shared trunk.
        seen: how many of that stem's nodes precede it.
        wave: the round in which it is computed: units of one round do not depend on each other.
        stem: whether its keys are kept.
    """

    nodes: list[int]
    parent: Unit | None
    seen: int
    wave: int
    stem: bool

    def depth(self) -> int:
        """Returns the number of stem nodes before it."""
        unit, count = self, 0
        while unit.parent is not None:
            unit, count = unit.parent, count + unit.seen
        return count

    def path(self) -> list[int]:
        """Returns the stem nodes before it, from the trunk down."""
        unit, parts = self, []
        while unit.parent is not None:
            parts.append(unit.parent.nodes[: unit.seen])
            unit = unit.parent
        return [node for part in reversed(parts) for node in part]


class Tree(NamedTuple):
    """Tokens of prompts, each shared token once, without the trunk.

    Attributes:
        token: [nodes] int32.
        parent: [nodes] int32, an earlier node; -1 after the trunk.
        position: [nodes] int32, in its text.
        ends: [prompts, places] int32, the nodes at which each prompt's answer is read: its last token, and within
            spellings of several tokens.
        kind: [nodes] int8, a token's role in its prompts: within them, the last of one, or an answer after it. A text
            that ends where another goes on has a separate last token there.
    """

    token: np.ndarray
    parent: np.ndarray
    position: np.ndarray
    ends: np.ndarray
    kind: np.ndarray


def common_prefix_length(tokenized: TokenizedPrompts) -> int:
    """Returns the number of tokens that all prompts begin with.

    Each prompt keeps at least one token after them, so that no tree is empty.
    """
    shared, lengths = 0, tokenized.lengths()
    for level in range(len(tokenized.levels)):
        used = [tokenized.levels[level][i] for i in np.unique(tokenized.which[:, level])]
        if len(used) > 1:
            shared += _prefix(used)
            break
        shared += len(used[0])
    return min(shared, int(lengths.min()) - 1)


def _prefix(texts: Sequence[tuple[int, ...]]) -> int:
    """Returns the length of the longest common prefix of several token lists."""
    low, high = min(texts), max(texts)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def answer_places(spellings: Sequence[Spelling]) -> list[tuple[int, ...]]:
    """Returns the token prefixes of spellings after which a token is read, the empty one first."""
    places = {spelling.tokens[:k] for spelling in spellings for k in range(len(spelling.tokens))}
    return sorted(places, key=lambda place: (len(place), place))


def build_tree(tokenized: TokenizedPrompts, prompts: np.ndarray, trunk: int, spellings: Sequence[Spelling]) -> Tree:
    """Builds the tree of some prompts.

    Args:
        tokenized: tokens of all texts.
        prompts: indices of the prompts.
        trunk: how many tokens all prompts begin with.
        spellings: the ways to write an answer.
    """
    token: list[int] = []
    parent: list[int] = []
    position: list[int] = []
    kind: list[int] = []
    children: dict[tuple[int, int, int], int] = {}

    def walk(node: int, place: int, ids: Sequence[int], what: int) -> int:
        """Follows tokens down from a node, and adds the nodes that are missing."""
        for token_id in ids:
            known = children.get((node, token_id, what))
            if known is None:
                known = children[node, token_id, what] = len(token)
                token.append(token_id)
                parent.append(node)
                position.append(place)
                kind.append(what)
            node, place = known, place + 1
        return node

    places = answer_places(spellings)
    reached: dict[tuple[int, ...], tuple[int, int]] = {(): (-1, 0)}
    ends = np.empty((len(prompts), len(places)), np.int32)
    for row, prompt in enumerate(prompts):
        key = tuple(tokenized.which[prompt].tolist())
        depth = len(key)
        while key[:depth] not in reached:
            depth -= 1
        for level in range(depth, len(key)):
            node, length = reached[key[:level]]
            ids = tokenized.levels[level][key[level]]
            start = max(0, min(len(ids), trunk - length))  # the part that lies in the trunk
            rest = ids[start:]
            last = rest[-1:] if level == len(key) - 1 else ()
            node = walk(node, length + start, rest[: len(rest) - len(last)], PROMPT)
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


def cut_tree(tree: Tree, time: int) -> list[Unit]:
    """Cuts a tree into units of at most `time` tokens, in the order of their texts.

    Args:
        tree: the tree.
        time: the length of a row.
    """
    size = _sizes(tree)
    stem = size > time
    home: list[tuple[Unit, int]] = []  # for each node its unit, and its place in it, from 1
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
    """Returns the number of nodes in each node's subtree, itself included."""
    size = np.ones(len(tree.parent), np.int64)
    for node in range(len(size) - 1, -1, -1):
        if tree.parent[node] >= 0:
            size[tree.parent[node]] += size[node]
    return size
