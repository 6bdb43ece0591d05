"""Proportional allocation of a sample to the cells of crossed keys, in whole numbers with balanced margins.

x_c in {floor(e_c), ceil(e_c)},  e_c = n size_c / sum size,  sum x_c = n
minimised:  sum over keys, and pairs of keys, and their levels l of (x_l - e_l)^2
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np

_SWEEPS = 50  # maximum number of exchange sweeps; a handful is enough


def proportional_allocation(
    cells: Sequence[tuple[Hashable, ...]], sizes: Sequence[int], count: int, random: np.random.Generator
) -> list[int]:
    """Returns the number of draws from each cell.

    Args:
        cells: the level of each key, for every cell.
        sizes: number of items in each cell.
        count: total number of draws.
        random: breaks ties.
    """
    exact = np.array(sizes) * count / sum(sizes)
    chosen = np.floor(exact + 1e-9).astype(int)
    remaining = count - int(chosen.sum())
    open_ = exact - chosen > 1e-9  # cells that may be rounded up
    levels = _levels(cells)
    short = _shortfalls(levels, exact - chosen)
    more = np.zeros(len(cells), bool)
    for _ in range(remaining):
        gain = _cell_shortfalls(levels, short) + random.random(len(cells)) * 1e-6
        _round_cell(levels, short, more, int(np.argmax(np.where(open_ & ~more, gain, -np.inf))), 1)
    _exchange(levels, short, more, open_, random)
    return [int(number) for number in chosen + more]


def _levels(cells: Sequence[tuple[Hashable, ...]]) -> list[np.ndarray]:
    """Returns, for each key and each pair of keys, the index of every cell's level."""
    keys = range(len(cells[0]))
    indices = []
    for some in (*itertools.combinations(keys, 1), *itertools.combinations(keys, 2)):
        known: dict[tuple[Hashable, ...], int] = {}
        indices.append(np.array([known.setdefault(tuple(cell[i] for i in some), len(known)) for cell in cells]))
    return indices


def _shortfalls(levels: Sequence[np.ndarray], missing: np.ndarray) -> list[np.ndarray]:
    """Returns how many draws each level is short of its exact share."""
    return [np.bincount(level_of_cell, missing) for level_of_cell in levels]


def _cell_shortfalls(levels: Sequence[np.ndarray], short: Sequence[np.ndarray]) -> np.ndarray:
    """Sums the shortfalls of each cell's levels: rounding a cell up lowers the sum of squares by twice this, minus one
    per level."""
    rows = [level_shortfalls[which] for which, level_shortfalls in zip(levels, short, strict=True)]
    return np.sum(rows, 0) if rows else np.zeros(1)


def _round_cell(
    levels: Sequence[np.ndarray], short: Sequence[np.ndarray], more: np.ndarray, cell: int, by: int
) -> None:
    more[cell] = by > 0
    for which, level_shortfalls in zip(levels, short, strict=True):
        level_shortfalls[which[cell]] -= by


def _exchange(
    levels: Sequence[np.ndarray],
    short: Sequence[np.ndarray],
    more: np.ndarray,
    open_: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Moves one draw from a cell to another while that brings the levels nearer to their shares."""
    for _ in range(_SWEEPS):
        changed = False
        for cell in random.permutation(np.flatnonzero(more)).tolist():
            _round_cell(levels, short, more, cell, -1)
            missing = np.where(open_ & ~more, _cell_shortfalls(levels, short), -np.inf)
            best = int(np.argmax(missing))
            nearer = bool(missing[best] > missing[cell] + 1e-9)
            _round_cell(levels, short, more, best if nearer else cell, 1)
            changed |= nearer
        if not changed:
            return
