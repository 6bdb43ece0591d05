"""Near-duplicates: texts that share most of their words, three at a time.

    J(a, b) = |S(a) & S(b)| / |S(a) | S(b)|        S: sets of three words in a row; of a few words, of three letters

Exact, by an index from each triple to the texts that have it.
"""

from __future__ import annotations

import collections
from typing import NamedTuple

from vatjax.build.words import words


class Twin(NamedTuple):
    """The text that is nearest to another: which, and how near, from 0 to 1."""

    name: str
    share: float


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Its words three at a time, whatever their case; of a text with fewer than four words, its letters."""
    parts = words(text.casefold())
    if len(parts) < 4:
        parts = list("".join(parts))
    return frozenset(tuple(parts[i : i + 3]) for i in range(max(1, len(parts) - 2))) if parts else frozenset()


class Index:
    """Texts by what they are made of."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, frozenset[tuple[str, ...]]]] = []
        self._having: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)

    def nearest(self, text: str) -> Twin | None:
        """The nearest of the texts that are there; the first of several, None where none has anything in common."""
        own = shingles(text)
        shared = collections.Counter(number for shingle in own for number in self._having.get(shingle, ()))
        if not shared:
            return None
        shares = {number: both / (len(own) + len(self._texts[number][1]) - both) for number, both in shared.items()}
        best = min(shares, key=lambda number: (-shares[number], number))
        return Twin(self._texts[best][0], shares[best])

    def add(self, name: str, text: str) -> None:
        """Puts a text in."""
        own = shingles(text)
        for shingle in own:
            self._having[shingle].append(len(self._texts))
        self._texts.append((name, own))
