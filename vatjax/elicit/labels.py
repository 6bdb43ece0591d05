"""Labels for the protocol `labelled`, given once by an annotator: which values an action supports, and which it violates.

    label[item, v] = sign(r_v(action) - middle) where |r_v(action) - middle| >= sure, else 0

r_v is the annotator's rating of the action from the standpoint of value v, as in `dense`. The same labels serve before and
after an intervention, so they come from a model that is left alone.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, models, store
from vatjax.elicit import asking, protocols, provenance
from vatjax.elicit.plan import Size
from vatjax.items import Items
from vatjax.models import Model
from vatjax.progress import OnProgress, silent
from vatjax.prompts import How, Scale, fields


class Labels(NamedTuple):
    """What an annotator says of every item.

    Attributes:
        labels: [items, values] int8 of -1, 0 and 1; 0 also where there was no answer.
        ratings: [items, values] float32, how well the action serves each value.
        own: the share of items whose own value has the label that the item's polarity says: how far the annotator and
            the authors of the items agree.
        meta: who gave them, and how.
    """

    labels: np.ndarray
    ratings: np.ndarray
    own: float
    meta: dict[str, Any]


def label(
    model: Model,
    items: Items,
    how: How | None = None,
    *,
    sure: float = 0.5,
    size: Size | None = None,
    keep: store.Path | None = None,
    on_cost: asking.OnCost = lambda *_: None,
    on_progress: OnProgress = silent,
) -> Labels:
    """Has a model label every item.

    Args:
        model: the annotator.
        items: what is labelled.
        how: how it is asked; of the protocol dense.
        sure: how far from the middle a rating must be, as a part of the way to the scale's end.
        size, keep, on_cost, on_progress: how the run is carried out; see `asking.Run`.
    """
    how = how or How("dense")
    if how.protocol != "dense":
        raise errors.InputError(
            f"labels are asked for from each value's standpoint, as in dense, not as in {how.protocol}"
        )
    if not 0 < sure <= 1:
        raise errors.InputError(f"sure: expected more than 0 and at most 1, found {sure}")
    views = protocols.views(items.taxonomy)
    rows = [{**own, **view} for own in (fields(items, i) for i in range(len(items))) for view in views]
    decides = {"items": provenance.digest(items)}
    found = asking.answers(model, rows, how, run=asking.Run(size, keep, on_cost, on_progress), about=decides)
    scale = Scale(how.low, how.high)
    rated = found.ratings.reshape(len(items), len(views))
    far = (rated - scale.middle) / (scale.high - scale.middle)
    labels = np.where(np.abs(np.nan_to_num(far)) >= sure, np.sign(far), 0).astype(np.int8)
    own = labels[np.arange(len(items)), items.value] == items.polarity
    meta = {**found.meta, **provenance.described(items), "sure": sure}
    return Labels(labels, rated.astype(np.float32), float(own.mean()), meta)


def save(given: Labels, where: store.Path) -> None:
    """Writes labels, with what produced them, as an `.npz`."""
    meta = np.array(json.dumps({**given.meta, "own": given.own}, sort_keys=True))
    store.commit_npz(where, {"labels": given.labels, "ratings": given.ratings, "meta": meta})


def load(where: store.Path) -> Labels | np.ndarray:
    """Labels from an `.npz`: what `save` wrote, or a user's own array `labels` alone.

    Raises:
        InputError: where there is no such array.
    """
    try:
        found = store.load_npz(where)
        if "meta" not in found:
            return found["labels"]
        meta = json.loads(str(found["meta"]))
        return Labels(found["labels"], found["ratings"], float(meta.pop("own")), meta)
    except errors.InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise errors.InputError(f"{where}: expected an .npz with the array `labels`") from None


def given_by(given: Labels | np.ndarray, model: Model, items: Items, how: How) -> bool:
    """Whether a model gave these labels for these items, asked in this way."""
    if not isinstance(given, Labels):
        return False
    asked, said = given.meta["how"], dataclasses.asdict(how)
    same = all(asked[key] == said[key] for key in ("low", "high", "counterbalance", "prior"))
    weights = given.meta["model"]["weights"] == models.fingerprint(model.arrays)
    return same and weights and given.meta["items"]["sha256"] == provenance.digest(items)
