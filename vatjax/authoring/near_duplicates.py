"""Near-duplicates: texts that share most of their words, three at a time.

    J(a, b) = |S(a) & S(b)| / |S(a) | S(b)|        S: set of word 3-grams; of letter 3-grams for fewer than four words

Exact, by an inverted index from each 3-gram to the texts that contain it.
"""

from __future__ import annotations

import collections
from typing import NamedTuple

from vatjax.authoring.tokenize_words import tokenize_words


class NearestText(NamedTuple):
    """The nearest indexed text: its name, and its Jaccard similarity from 0 to 1."""

    name: str
    share: float


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Returns the case-folded word 3-grams of a text, or its letter 3-grams if it has fewer than four words."""
    parts = tokenize_words(text.casefold())
    if len(parts) < 4:
        parts = list("".join(parts))
    return frozenset(tuple(parts[i : i + 3]) for i in range(max(1, len(parts) - 2))) if parts else frozenset()


class ShingleIndex:
    """An inverted index of texts by their shingles."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, frozenset[tuple[str, ...]]]] = []
        self._having: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)

    def nearest(self, text: str) -> NearestText | None:
        """Returns the nearest indexed text, the first on ties; None if none shares a shingle."""
        own_shingles = shingles(text)
        shared = collections.Counter(number for shingle in own_shingles for number in self._having.get(shingle, ()))
        if not shared:
            return None
        shares = {
            number: both / (len(own_shingles) + len(self._texts[number][1]) - both) for number, both in shared.items()
        }
        best = min(shares, key=lambda number: (-shares[number], number))
        return NearestText(self._texts[best][0], shares[best])

    def add(self, name: str, text: str) -> None:
        """Adds a text to the index."""
        own_shingles = shingles(text)
        for shingle in own_shingles:
            self._having[shingle].append(len(self._texts))
        self._texts.append((name, own_shingles))
