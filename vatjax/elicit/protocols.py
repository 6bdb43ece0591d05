"""Questions of each protocol, and the value state that their answers make.

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
from vatjax.prompts import PROTOCOLS, Protocol, item_fields
from vatjax.values import Taxonomy


class Questions(NamedTuple):
    """Prompts of a protocol, and the cell of the state for each answer.

    Attributes:
        rows: the fields of each prompt, to be gone through once.
        context: [prompts] int32, the row of the state.
        value: [prompts] int32, the column; -1 for all columns, by their labels.
        side: [prompts] int8, +1 or -1 for the action of a pair; 0 in protocols without pairs.
        clusters: [contexts] int32.
        contexts: context key -> [contexts] text.
    """

    rows: Iterable[dict[str, str]]
    context: np.ndarray
    value: np.ndarray
    side: np.ndarray
    clusters: np.ndarray
    contexts: dict[str, np.ndarray]


def make_questions(items: Items, protocol: Protocol) -> Questions:
    """Makes the questions of a protocol over some items.

    Raises:
        InputError: if the items don't allow it, with the reason.
    """
    if protocol not in PROTOCOLS:
        raise errors.InputError(names.unknown_name("protocol", protocol, PROTOCOLS))
    allowed = next(p for p in protocols(items) if p.name == protocol)
    if not allowed.allowed:
        raise errors.InputError(f"{items.source}: {protocol} is not possible: {allowed.reason}")
    if protocol in ("paired", "dense"):
        unpaired = items.pair().unpaired
        if len(unpaired):
            first = items[int(unpaired[0])]
            warnings.warn(
                f"{items.source}: {len(unpaired)} of {len(items)} items have no partner and are not asked about, such as "
                f"line {items.line[unpaired[0]]} ({first.value}, {first.polarity})",
                stacklevel=2,
            )
    return _ASK[protocol](items)


def value_fields(taxonomy: Taxonomy) -> list[dict[str, str]]:
    """Returns the fields that name each value, for protocols that ask about all values."""
    return [
        {"value": name, "definition": definition}
        for name, definition in zip(taxonomy.names, taxonomy.definitions, strict=True)
    ]


def _paired(items: Items) -> Questions:
    pairs = items.pair()
    scene, value = pairs.scene, pairs.value
    several = max(np.bincount(np.unique(np.stack([scene, value], 1), axis=0)[:, 0])) > 1
    # Where a scene has one value only, a row of many values needs a coarser context: its country and topic.
    parts = ("country", "topic", "scene") if several else ("country", "topic")
    keys = [tuple(getattr(items, part)[i] for part in parts) for i in pairs.express]
    row, context = _numbered(keys)
    first = pairs.express[np.unique(context, return_index=True)[1]]
    which = np.stack([pairs.express, pairs.suppress], 1).ravel()
    return Questions(
        (item_fields(items, i) for i in which),
        np.repeat(context, 2),
        np.repeat(value, 2).astype(np.int32),
        np.tile(np.array([EXPRESS, SUPPRESS], np.int8), len(value)),
        _clusters(items, first) if several else np.arange(len(row), dtype=np.int32),
        _columns(parts, row) | (_situations(items, first) if several else {}),
    )


def _clusters(items: Items, rows: np.ndarray) -> np.ndarray:
    """Numbers the situations of some items in order of appearance, [rows] int32."""
    return _numbered(items.situation_of[rows].tolist())[1]


def _situations(items: Items, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the situation of each row as a context key, if items have one."""
    return {SITUATION: items.extra[SITUATION][rows].astype(str)} if SITUATION in items.extra else {}


def _labelled(items: Items) -> Questions:
    count = len(items)
    keys = {part: np.array(getattr(items, part), str) for part in ("country", "topic", "scene", "action")}
    keys |= {"value": items.column("value").astype(str), "polarity": items.column("polarity").astype(str)}
    return Questions(
        (item_fields(items, i) for i in range(count)),
        np.arange(count, dtype=np.int32),
        np.full(count, -1, np.int32),
        np.zeros(count, np.int8),
        _clusters(items, np.arange(count)),
        keys | _situations(items, np.arange(count)),
    )


def _dense(items: Items) -> Questions:
    pairs, taxonomy = items.pair(), items.taxonomy
    total = len(taxonomy.names)
    seen = value_fields(taxonomy)
    rows = (
        {**action, **view}
        for action in (item_fields(items, i) for pair in zip(pairs.express, pairs.suppress, strict=True) for i in pair)
        for view in seen
    )
    count = len(pairs.scene)
    parts = ("country", "topic", "scene", "action")
    contexts = {part: np.array(getattr(items, part)[pairs.express], str) for part in parts}
    contexts["value"] = items.column("value")[pairs.express].astype(str)
    contexts |= _situations(items, pairs.express)
    return Questions(
        rows,
        np.repeat(np.arange(count, dtype=np.int32), 2 * total),
        np.tile(np.arange(total, dtype=np.int32), 2 * count),
        np.tile(np.repeat(np.array([EXPRESS, SUPPRESS], np.int8), total), count),
        _clusters(items, pairs.express),
        contexts,
    )


def _stated(items: Items) -> Questions:
    places, _ = _numbered(list(zip(items.country.tolist(), items.topic.tolist(), strict=True)))
    columns = np.unique(items.value)  # a value without items was filtered out
    every = value_fields(items.taxonomy)
    questions = [every[column] for column in columns]
    rows = ({"country": country, "topic": topic, **view} for country, topic in places for view in questions)
    total = len(columns)
    return Questions(
        rows,
        np.repeat(np.arange(len(places), dtype=np.int32), total),
        np.tile(columns.astype(np.int32), len(places)),
        np.zeros(len(places) * total, np.int8),
        np.arange(len(places), dtype=np.int32),
        _columns(("country", "topic"), places),
    )


_ASK: Mapping[str, Callable[[Items], Questions]] = {
    "paired": _paired,
    "labelled": _labelled,
    "dense": _dense,
    "stated": _stated,
}


def _numbered(keys: list[Any]) -> tuple[list[Any], np.ndarray]:
    """Numbers distinct keys in order of appearance; returns them, and each entry's number."""
    seen: dict[Any, int] = {}
    index = [seen.setdefault(key, len(seen)) for key in keys]
    return list(seen), np.array(index, np.int32)


def _columns(parts: tuple[str, ...], rows: list[Any]) -> dict[str, np.ndarray]:
    return {part: np.array([row[i] for row in rows], str) for i, part in enumerate(parts)}


class StateArrays(NamedTuple):
    """Arrays of a value state, and of the agreement read from the same ratings.

    Attributes:
        state: [contexts, values] float32, NaN where nothing was answered.
        agreement: [contexts, values] float32, in protocols of pairs: (r_express + r_suppress) / 2 - middle.
    """

    state: np.ndarray
    agreement: np.ndarray | None


def answers_to_state(
    questions: Questions, ratings: np.ndarray, middle: float, values: int, labels: np.ndarray | None = None
) -> StateArrays:
    """Computes the state from ratings; several pairs of one value in one context are averaged.

    Args:
        questions: of the protocol.
        ratings: [prompts], NaN for a missing answer.
        middle: of the scale.
        values: how many columns.
        labels: [contexts, values] of -1, 0 and 1, for `labelled`.
    """
    ratings = np.asarray(ratings, np.float64)
    contexts = len(questions.clusters)
    if (questions.value < 0).all():
        assert labels is not None
        return StateArrays(((ratings - middle)[:, None] * labels).astype(np.float32), None)
    if not questions.side.any():
        state = np.full((contexts, values), np.nan, np.float32)
        state[questions.context, questions.value] = ratings - middle
        return StateArrays(state, None)
    express, suppress = (np.flatnonzero(questions.side == side) for side in (EXPRESS, SUPPRESS))
    order = [
        np.argsort(questions.context[part] * values + questions.value[part], kind="stable")
        for part in (express, suppress)
    ]
    express, suppress = express[order[0]], suppress[order[1]]  # pair by pair
    cell = questions.context[express] * values + questions.value[express]
    difference = (ratings[express] - ratings[suppress]) / 2
    level = (ratings[express] + ratings[suppress]) / 2 - middle
    return StateArrays(*(_means(cell, x, contexts, values) for x in (difference, level)))


def asked_cells(questions: Questions, values: int) -> int:
    """Returns the number of cells (context, value) that at least one prompt asks about."""
    if (questions.value < 0).all():
        return len(questions.clusters) * values
    return len(np.unique(questions.context.astype(np.int64) * values + questions.value))


def least_of_cells(questions: Questions, mass: np.ndarray, values: int) -> np.ndarray:
    """Returns the least option mass among the prompts of each cell, [contexts, values] float32; NaN where none is asked.

    Args:
        questions: of the protocol.
        mass: [prompts].
        values: how many columns.
    """
    contexts = len(questions.clusters)
    if (questions.value < 0).all():
        return np.repeat(np.asarray(mass, np.float32)[:, None], values, 1)
    least = np.full((contexts, values), np.inf, np.float32)
    np.minimum.at(least, (questions.context, questions.value), np.asarray(mass, np.float32))
    return np.where(np.isinf(least), np.float32(np.nan), least)


def _means(cell: np.ndarray, x: np.ndarray, contexts: int, values: int) -> np.ndarray:
    present = ~np.isnan(x)
    total = np.bincount(cell[present], x[present], contexts * values)
    count = np.bincount(cell[present], minlength=contexts * values)
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    return mean.reshape(contexts, values).astype(np.float32)
