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
        self._sets: dict[str, frozenset[tuple[str, ...]]] = {}
        self._having: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)

    def nearest(self, text: str) -> Twin | None:
        """The nearest of the texts that are there; the first of several, None where none has anything in common."""
        own = shingles(text)
        shared = collections.Counter(name for shingle in own for name in self._having.get(shingle, ()))
        best: Twin | None = None
        for name in sorted(shared, key=list(self._sets).index) if len(shared) < 50 else shared:
            share = shared[name] / (len(own) + len(self._sets[name]) - shared[name])
            if best is None or share > best.share:
                best = Twin(name, share)
        return best

    def add(self, name: str, text: str) -> None:
        """Puts a text in."""
        own = self._sets[name] = shingles(text)
        for shingle in own:
            self._having[shingle].append(name)
