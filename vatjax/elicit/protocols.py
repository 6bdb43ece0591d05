"""What is asked under each protocol, and how the answers make a value state.

paired      x[scene, v] = (r_express - r_suppress) / 2
labelled    x[item, v] = (r - middle) * label[item, v]                     label in {-1, 0, 1}
dense       x[(scene, u), w] = (r_w(express u) - r_w(suppress u)) / 2
stated      x[(country, topic), v] = r - middle
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names
from vatjax.items import EXPRESS, SITUATION, SUPPRESS, Items, protocols
from vatjax.prompts import PROTOCOLS, Protocol, fields
from vatjax.values import Taxonomy


class Asked(NamedTuple):
    """What is asked, and where each answer goes.

    Attributes:
        rows: the fields of each prompt, to be gone through once.
        context: [prompts] int32, the row of the state.
        value: [prompts] int32, the column; -1 for all columns, by their labels.
        side: [prompts] int8, +1 or -1 for the action of a pair; 0 where there are no pairs.
        clusters: [contexts] int32.
        contexts: context key -> [contexts] text.
    """

    rows: Iterable[dict[str, str]]
    context: np.ndarray
    value: np.ndarray
    side: np.ndarray
    clusters: np.ndarray
    contexts: dict[str, np.ndarray]


def ask(items: Items, protocol: Protocol) -> Asked:
    """The prompts of a protocol over some items.

    Raises:
        InputError: where the items don't allow it, with the reason.
    """
    if protocol not in PROTOCOLS:
        raise errors.InputError(names.unknown("protocol", protocol, PROTOCOLS))
    allowed = next(p for p in protocols(items) if p.name == protocol)
    if not allowed.allowed:
        raise errors.InputError(f"{items.source}: {protocol} is not possible: {allowed.reason}")
    if protocol in ("paired", "dense"):
        alone = items.pair().unpaired
        if len(alone):
            first = items[int(alone[0])]
            warnings.warn(
                f"{items.source}: {len(alone)} of {len(items)} items have no partner and are not asked about, such as "
                f"line {items.line[alone[0]]} ({first.value}, {first.polarity})",
                stacklevel=2,
            )
    return _ASK[protocol](items)


def views(taxonomy: Taxonomy) -> list[dict[str, str]]:
    """The fields that name each value, where everything is asked about all of them."""
    return [
        {"value": name, "definition": definition}
        for name, definition in zip(taxonomy.names, taxonomy.definitions, strict=True)
    ]


def _paired(items: Items) -> Asked:
    pairs = items.pair()
    scene, value = pairs.scene, pairs.value
    several = max(np.bincount(np.unique(np.stack([scene, value], 1), axis=0)[:, 0])) > 1
    # Where a scene has one value only, a row of many values needs a coarser context: its country and topic.
    parts = ("country", "topic", "scene") if several else ("country", "topic")
    keys = [tuple(getattr(items, part)[i] for part in parts) for i in pairs.express]
    row, context = _numbered(keys)
    first = pairs.express[np.unique(context, return_index=True)[1]]
    which = np.stack([pairs.express, pairs.suppress], 1).ravel()
    return Asked(
        (fields(items, i) for i in which),
        np.repeat(context, 2),
        np.repeat(value, 2).astype(np.int32),
        np.tile(np.array([EXPRESS, SUPPRESS], np.int8), len(value)),
        _clusters(items, first) if several else np.arange(len(row), dtype=np.int32),
        _columns(parts, row) | (_situations(items, first) if several else {}),
    )


def _clusters(items: Items, rows: np.ndarray) -> np.ndarray:
    """The situations of some items, numbered as they appear, [rows] int32."""
    return _numbered(items.situation_of[rows].tolist())[1]


def _situations(items: Items, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The situation of each row as a context key, where items have one."""
    return {SITUATION: items.extra[SITUATION][rows].astype(str)} if SITUATION in items.extra else {}


def _labelled(items: Items) -> Asked:
    count = len(items)
    keys = {part: np.array(getattr(items, part), str) for part in ("country", "topic", "scene", "action")}
    keys |= {"value": items.column("value").astype(str), "polarity": items.column("polarity").astype(str)}
    return Asked(
        (fields(items, i) for i in range(count)),
        np.arange(count, dtype=np.int32),
        np.full(count, -1, np.int32),
        np.zeros(count, np.int8),
        _clusters(items, np.arange(count)),
        keys | _situations(items, np.arange(count)),
    )


def _dense(items: Items) -> Asked:
    pairs, taxonomy = items.pair(), items.taxonomy
    total = len(taxonomy.names)
    seen = views(taxonomy)
    rows = (
        {**own, **view}
        for own in (fields(items, i) for pair in zip(pairs.express, pairs.suppress, strict=True) for i in pair)
        for view in seen
    )
    count = len(pairs.scene)
    parts = ("country", "topic", "scene", "action")
    contexts = {part: np.array(getattr(items, part)[pairs.express], str) for part in parts}
    contexts["value"] = items.column("value")[pairs.express].astype(str)
    contexts |= _situations(items, pairs.express)
    return Asked(
        rows,
        np.repeat(np.arange(count, dtype=np.int32), 2 * total),
        np.tile(np.arange(total, dtype=np.int32), 2 * count),
        np.tile(np.repeat(np.array([EXPRESS, SUPPRESS], np.int8), total), count),
        _clusters(items, pairs.express),
        contexts,
    )


def _stated(items: Items) -> Asked:
    places, _ = _numbered(list(zip(items.country.tolist(), items.topic.tolist(), strict=True)))
    columns = np.unique(items.value)  # a value without items was filtered out
    every = views(items.taxonomy)
    questions = [every[column] for column in columns]
    rows = ({"country": country, "topic": topic, **view} for country, topic in places for view in questions)
    total = len(columns)
    return Asked(
        rows,
        np.repeat(np.arange(len(places), dtype=np.int32), total),
        np.tile(columns.astype(np.int32), len(places)),
        np.zeros(len(places) * total, np.int8),
        np.arange(len(places), dtype=np.int32),
        _columns(("country", "topic"), places),
    )


_ASK: Mapping[str, Callable[[Items], Asked]] = {
    "paired": _paired,
    "labelled": _labelled,
    "dense": _dense,
    "stated": _stated,
}


def _numbered(keys: list[Any]) -> tuple[list[Any], np.ndarray]:
    """Distinct keys in order of appearance, and each one's number."""
    seen: dict[Any, int] = {}
    index = [seen.setdefault(key, len(seen)) for key in keys]
    return list(seen), np.array(index, np.int32)


def _columns(parts: tuple[str, ...], rows: list[Any]) -> dict[str, np.ndarray]:
    return {part: np.array([row[i] for row in rows], str) for i, part in enumerate(parts)}


class Answers(NamedTuple):
    """A value state's array, and what is read beside it.

    Attributes:
        state: [contexts, values] float32, NaN where nothing was answered.
        agreement: [contexts, values] float32, in protocols of pairs: (r_express + r_suppress) / 2 - middle.
    """

    state: np.ndarray
    agreement: np.ndarray | None


def answered(
    asked: Asked, ratings: np.ndarray, middle: float, values: int, labels: np.ndarray | None = None
) -> Answers:
    """The state that ratings make; several pairs of one value in one context are averaged.

    Args:
        asked: what was asked.
        ratings: [prompts], NaN for a missing answer.
        middle: of the scale.
        values: how many columns.
        labels: [contexts, values] of -1, 0 and 1, for `labelled`.
    """
    ratings = np.asarray(ratings, np.float64)
    contexts = len(asked.clusters)
    if (asked.value < 0).all():
        assert labels is not None
        return Answers(((ratings - middle)[:, None] * labels).astype(np.float32), None)
    if not asked.side.any():
        state = np.full((contexts, values), np.nan, np.float32)
        state[asked.context, asked.value] = ratings - middle
        return Answers(state, None)
    express, suppress = (np.flatnonzero(asked.side == side) for side in (EXPRESS, SUPPRESS))
    order = [
        np.argsort(asked.context[part] * values + asked.value[part], kind="stable") for part in (express, suppress)
    ]
    express, suppress = express[order[0]], suppress[order[1]]  # pair by pair
    cell = asked.context[express] * values + asked.value[express]
    difference = (ratings[express] - ratings[suppress]) / 2
    level = (ratings[express] + ratings[suppress]) / 2 - middle
    return Answers(*(_means(cell, x, contexts, values) for x in (difference, level)))


def asked_cells(asked: Asked, values: int) -> int:
    """Returns the number of cells (context, value) that at least one prompt asks about."""
    if (asked.value < 0).all():
        return len(asked.clusters) * values
    return len(np.unique(asked.context.astype(np.int64) * values + asked.value))


def least_of_cells(asked: Asked, mass: np.ndarray, values: int) -> np.ndarray:
    """Returns the least option mass among the prompts of each cell, [contexts, values] float32; NaN where none is asked.

    Args:
        asked: what was asked.
        mass: [prompts].
        values: how many columns.
    """
    contexts = len(asked.clusters)
    if (asked.value < 0).all():
        return np.repeat(np.asarray(mass, np.float32)[:, None], values, 1)
    least = np.full((contexts, values), np.inf, np.float32)
    np.minimum.at(least, (asked.context, asked.value), np.asarray(mass, np.float32))
    return np.where(np.isinf(least), np.float32(np.nan), least)


def _means(cell: np.ndarray, x: np.ndarray, contexts: int, values: int) -> np.ndarray:
    there = ~np.isnan(x)
    total = np.bincount(cell[there], x[there], contexts * values)
    count = np.bincount(cell[there], minlength=contexts * values)
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    return mean.reshape(contexts, values).astype(np.float32)
