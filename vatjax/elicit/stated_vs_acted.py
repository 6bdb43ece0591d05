"""Importance that a model states for values, against the actions it rates: two states of one model, joined by place."""

from __future__ import annotations

from typing import Any

import numpy as np

from vatjax import errors, metrics
from vatjax.states import ValueState, align
from vatjax.values import Level, Taxonomy


def stated_and_acted(stated: ValueState, acted: ValueState, taxonomy: Taxonomy) -> dict[str, Any]:
    """Computes the gap of every value and every type, the widest first.

    Each context of the acted state is compared with the stated one of its country and topic.

    Args:
        stated: of the protocol `stated`.
        acted: of the protocol `paired`.
        taxonomy: of both.

    Returns:
        Plain data: for "values" and "types" a list of name, agreement, f1, distance, bias and weight (how many contexts),
        the widest distance first, those without any context in common last; and which contexts were compared.

    Raises:
        InputError: if the two have no context in common, different scales, or come from different models.
    """
    half = _half(stated, acted)
    keys = [key for key in stated.contexts if key in acted.contexts]
    if not keys:
        raise errors.InputError(
            "the stated and the acted state have no context key in common, such as country and topic"
        )
    places = {place: row for row, place in enumerate(_places(stated, keys))}
    if len(places) < len(stated.clusters):
        raise errors.InputError(
            f"the stated state has several contexts with the same {' and '.join(keys)}, which the acted one does not "
            "distinguish"
        )
    pairs = [(places[place], row) for row, place in enumerate(_places(acted, keys)) if place in places]
    if not pairs:
        raise errors.InputError(f"the stated and the acted state share no {' and '.join(keys)}")
    left, right = np.array(pairs).T
    stated_rows, acted_rows = (align(state, taxonomy).state[rows] for state, rows in ((stated, left), (acted, right)))
    return {
        "positive_class": "for the value: above the middle of the scale",
        "contexts": len(pairs),
        "only_acted": len(acted.clusters) - len(pairs),
        "only_stated": len(stated.clusters) - len(set(left.tolist())),
        "values": _table(stated_rows, acted_rows, taxonomy, "values", half),
        "types": _table(stated_rows, acted_rows, taxonomy, "types", half),
    }


def _half(stated: ValueState, acted: ValueState) -> float:
    halves = set()
    for state, protocol in ((stated, "stated"), (acted, "paired")):
        how = state.meta.get("how", {})
        if how.get("protocol", protocol) != protocol or state.meta.get("form") or state.meta.get("reads"):
            raise errors.InputError(
                f"expected a state of the protocol {protocol}, found one of {how.get('protocol', 'a choice')}"
            )
        halves.add((how.get("high", 5) - how.get("low", 1)) / 2)
    if len(halves) > 1:
        raise errors.InputError("the stated and the acted state were rated on different scales")
    for what, pair in (
        ("models", [state.meta.get("model", {}).get("weights") for state in (stated, acted)]),
        ("edits", [state.meta.get("edit") for state in (stated, acted)]),
        ("instructions", [state.meta.get("instruction") for state in (stated, acted)]),
    ):
        if pair[0] != pair[1]:
            raise errors.InputError(f"the stated and the acted state come from different {what}")
    return float(halves.pop())


def _places(state: ValueState, keys: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(state.contexts[key].tolist() for key in keys), strict=True))


def _table(
    stated: np.ndarray, acted: np.ndarray, taxonomy: Taxonomy, level: Level, half: float
) -> list[dict[str, Any]]:
    if level != "values":
        both = ~np.isnan(stated) & ~np.isnan(acted)  # a type's mean is over the same values on both sides
        stated, acted = (np.where(both, x, np.nan) for x in (stated, acted))
        stated, acted = (taxonomy.aggregate(x, ~np.isnan(x), level) for x in (stated, acted))
    gaps = metrics.stated_acted_gap(stated, acted, half)
    columns = {name: np.asarray(column, float) for name, column in gaps._asdict().items()}
    order = np.argsort(np.where(np.isnan(columns["distance"]), -1, columns["distance"]), kind="stable")[::-1]
    names = taxonomy.level_names(level)
    return [
        {"name": names[i], **{key: None if np.isnan(x[i]) else float(x[i]) for key, x in columns.items()}}
        for i in order
    ]
