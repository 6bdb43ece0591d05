"""The actions that passed, as items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vatjax.build.making import Made
from vatjax.build.records import Record
from vatjax.items import Items
from vatjax.items.table import POLARITIES
from vatjax.values import Taxonomy

_SIGN = {name: sign for sign, name in POLARITIES.items()}


def items_of(made: Made, taxonomy: Taxonomy) -> Items | None:
    """The actions that passed, as items; None where there are none."""
    if not made.actions:
        return None

    def column(texts: Iterable[Any]) -> np.ndarray:
        own = list(texts)
        found = np.empty(len(own), object)
        found[:] = own
        return found

    fields = [one.request.fields for one in made.actions]
    origins = [_origin(one) for one in made.actions]
    return Items(
        taxonomy,
        column(own["country"] for own in fields),
        column(own["topic"] for own in fields),
        column(own["scene"] for own in fields),
        np.array([taxonomy.index(own["value"]) for own in fields], np.int32),
        np.array([_SIGN[own["polarity"]] for own in fields], np.int8),
        column(one.text for one in made.actions),
        np.arange(1, len(fields) + 1, dtype=np.int32),
        "built",
        {name: column(own[name] for own in origins) for name in origins[0]},
    )


def _origin(record: Record) -> dict[str, Any]:
    return {"id": record.request.name, "attempt": record.attempt, "variant": record.request.variant, **record.origin}
