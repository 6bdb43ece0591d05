"""Converts the actions that passed all gates to items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vatjax.authoring.pipeline import BuildResult
from vatjax.authoring.records import Record
from vatjax.items import Items
from vatjax.items.table import POLARITIES
from vatjax.values import Taxonomy

_SIGN = {name: sign for sign, name in POLARITIES.items()}


def to_items(result: BuildResult, taxonomy: Taxonomy) -> Items | None:
    """Returns the actions that passed as items, or None if no action passed."""
    if not result.actions:
        return None

    def column(texts: Iterable[Any]) -> np.ndarray:
        entries = list(texts)
        array = np.empty(len(entries), object)
        array[:] = entries
        return array

    fields = [record.request.fields for record in result.actions]
    origins = [_origin(record) for record in result.actions]
    return Items(
        taxonomy,
        column(row["country"] for row in fields),
        column(row["topic"] for row in fields),
        column(row["scene"] for row in fields),
        np.array([taxonomy.index(row["value"]) for row in fields], np.int32),
        np.array([_SIGN[row["polarity"]] for row in fields], np.int8),
        column(record.text for record in result.actions),
        np.arange(1, len(fields) + 1, dtype=np.int32),
        "built",
        {name: column(origin[name] for origin in origins) for name in origins[0]},
    )


def _origin(record: Record) -> dict[str, Any]:
    return {"id": record.request.name, "attempt": record.attempt, "variant": record.request.variant, **record.origin}
