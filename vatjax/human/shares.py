"""How many of each cell of a cross of keys are drawn: whole numbers in proportion, with margins that fit too.

x_c in {floor(e_c), ceil(e_c)},  e_c = n size_c / sum size,  sum x_c = n
minimised:  sum over keys, and pairs of keys, and their levels l of (x_l - e_l)^2
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np

_SWEEPS = 50  # of exchanges; a handful is enough


def shares(
    cells: Sequence[tuple[Hashable, ...]], sizes: Sequence[int], count: int, random: np.random.Generator
) -> list[int]:
    """How many of each cell.

    Args:
        cells: the level of each key, of every cell that there is.
        sizes: how many each cell has.
        count: how many are wanted of all together.
        random: decides between equals.
    """
    exact = np.array(sizes) * count / sum(sizes)
    chosen = np.floor(exact + 1e-9).astype(int)
    left = count - int(chosen.sum())
    open_ = exact - chosen > 1e-9  # cells that may have one more
    levels = _levels(cells)
    short = _short(levels, exact - chosen)
    more = np.zeros(len(cells), bool)
    for _ in range(left):
        gain = _of_cells(levels, short) + random.random(len(cells)) * 1e-6
        _move(levels, short, more, int(np.argmax(np.where(open_ & ~more, gain, -np.inf))), 1)
    _exchange(levels, short, more, open_, random)
    return [int(own) for own in chosen + more]


def _levels(cells: Sequence[tuple[Hashable, ...]]) -> list[np.ndarray]:
    """Of each key and each pair of keys the number of every cell's level."""
    keys = range(len(cells[0]))
    found = []
    for some in (*itertools.combinations(keys, 1), *itertools.combinations(keys, 2)):
        known: dict[tuple[Hashable, ...], int] = {}
        found.append(np.array([known.setdefault(tuple(cell[i] for i in some), len(known)) for cell in cells]))
    return found


def _short(levels: Sequence[np.ndarray], missing: np.ndarray) -> list[np.ndarray]:
    """Of each level how many are missing to its share."""
    return [np.bincount(own, missing) for own in levels]


def _of_cells(levels: Sequence[np.ndarray], short: Sequence[np.ndarray]) -> np.ndarray:
    """What all levels of each cell miss together: by twice this the sum of squares falls, less one for each of them."""
    rows = [own[which] for which, own in zip(levels, short, strict=True)]
    return np.sum(rows, 0) if rows else np.zeros(1)


def _move(levels: Sequence[np.ndarray], short: Sequence[np.ndarray], more: np.ndarray, cell: int, by: int) -> None:
    more[cell] = by > 0
    for which, own in zip(levels, short, strict=True):
        own[which[cell]] -= by


def _exchange(
    levels: Sequence[np.ndarray],
    short: Sequence[np.ndarray],
    more: np.ndarray,
    open_: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Gives one cell's place to another while that brings the levels nearer to their shares."""
    for _ in range(_SWEEPS):
        changed = False
        for cell in random.permutation(np.flatnonzero(more)).tolist():
            _move(levels, short, more, cell, -1)
            missing = np.where(open_ & ~more, _of_cells(levels, short), -np.inf)
            best = int(np.argmax(missing))
            nearer = bool(missing[best] > missing[cell] + 1e-9)
            _move(levels, short, more, best if nearer else cell, 1)
            changed |= nearer
        if not changed:
            return
