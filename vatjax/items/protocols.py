"""Checks which elicitation protocols a set of items allows, with the reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vatjax.items.table import Items


class Protocol(NamedTuple):
    """Applicability of a protocol to a set of items.

    Attributes:
        name: "paired", "labelled", "dense" or "stated".
        allowed: True if the protocol can be used with the items.
        contexts: number of rows of its value state.
        clusters: number of independent scenes that the rows come from.
        reason: explanation, in a sentence.
    """

    name: str
    allowed: bool
    contexts: int
    clusters: int
    reason: str


def protocols(items: Items) -> tuple[Protocol, ...]:
    """Checks the four protocols against the items."""
    pairs = items.pair()
    places = {(scene.country, scene.topic) for scene in items.scenes}
    return (
        _paired(items, pairs.scene, pairs.value, len(pairs.unpaired)),
        _labelled(items),
        _dense(items, pairs.scene),
        Protocol(
            "stated",
            bool(places),
            len(places),
            len(places),
            f"each country and topic is a context ({len(places)})" if places else "the set of items is empty",
        ),
    )


def _paired(items: Items, scene: np.ndarray, value: np.ndarray, unpaired: int) -> Protocol:
    if not len(scene):
        return Protocol("paired", False, 0, 0, "no scene has both an express and a suppress action of one value")
    total = len(items.taxonomy.names)
    filled = np.zeros((len(items.scenes), total), bool)
    filled[scene, value] = True
    rest = f"; {unpaired} items have no partner" if unpaired else ""
    width = filled.sum(1)
    if width.max() > 1:
        rows = int((width > 0).sum())
        share = filled.sum() / (rows * total)
        return Protocol("paired", True, rows, rows, f"a scene is a context; {share:.1%} of its values are paired{rest}")
    place_of = {place: i for i, place in enumerate(dict.fromkeys((s.country, s.topic) for s in items.scenes))}
    coarse = np.array([place_of[s.country, s.topic] for s in items.scenes])
    filled = np.zeros((len(place_of), total), bool)
    filled[coarse[scene], value] = True
    rows = int((filled.sum(1) > 0).sum())
    share = filled.sum() / (rows * total)
    reason = f"a scene carries one value, so country and topic are the context; {share:.1%} of its values are paired"
    return Protocol("paired", True, rows, rows, reason + rest)


def _labelled(items: Items) -> Protocol:
    if not len(items):
        return Protocol("labelled", False, 0, 0, "the set of items is empty")
    reason = "an item is a context; needs a label for each item and value: elicited once, or from a file"
    return Protocol("labelled", True, len(items), len(items.scenes), reason)


def _dense(items: Items, scene: np.ndarray) -> Protocol:
    if not len(scene):
        return Protocol("dense", False, 0, 0, "no scene has both an express and a suppress action of one value")
    total = len(items.taxonomy.names)
    reason = f"a pair of actions is a context, rated from the standpoint of each of {total} values"
    return Protocol("dense", True, len(scene), len(np.unique(scene)), reason)
