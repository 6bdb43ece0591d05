"""Labels for the protocol `labelled`, given once by an annotator: which values an action supports, and which it violates.

    label[item, v] = sign(r_v(action) - middle) where |r_v(action) - middle| >= sure, else 0

r_v is the annotator's rating of the action from the standpoint of value v, as in `dense`. The same labels serve before and
after an intervention, so they come from a model without one.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, models, store
from vatjax.elicit import ask, protocols, provenance
from vatjax.items import Items
from vatjax.models import Model
from vatjax.prefix.plan import Size
from vatjax.prompts import ElicitConfig, Scale, item_fields
from vatjax.runtime.progress import OnProgress, ignore_progress


class Labels(NamedTuple):
    """An annotator's labels of every item.

    Attributes:
        labels: [items, values] int8 of -1, 0 and 1; 0 also where there was no answer.
        ratings: [items, values] float32, how well the action serves each value.
        polarity_agreement: the share of items whose value is labelled with the item's polarity: how far the annotator
            and the authors of the items agree.
        meta: the annotator and the settings.
    """

    labels: np.ndarray
    ratings: np.ndarray
    polarity_agreement: float
    meta: dict[str, Any]


def label(
    model: Model,
    items: Items,
    how: ElicitConfig | None = None,
    *,
    sure: float = 0.5,
    size: Size | None = None,
    keep: store.Path | None = None,
    on_cost: ask.OnCost = lambda *_: None,
    on_progress: OnProgress = ignore_progress,
) -> Labels:
    """Labels every item with a model.

    Args:
        model: the annotator.
        items: the items to label.
        how: the settings of elicitation; of the protocol dense.
        sure: how far from the middle a rating must be, as a part of the way to the scale's end.
        size, keep, on_cost, on_progress: the settings of the run; see `ask.RunOptions`.
    """
    how = how or ElicitConfig("dense")
    if how.protocol != "dense":
        raise errors.InputError(
            f"labels are asked for from each value's standpoint, as in dense, not as in {how.protocol}"
        )
    if not 0 < sure <= 1:
        raise errors.InputError(f"sure: expected more than 0 and at most 1, found {sure}")
    views = protocols.value_fields(items.taxonomy)
    rows = [{**item, **view} for item in (item_fields(items, i) for i in range(len(items))) for view in views]
    decides = {"items": provenance.digest(items)}
    answers = ask.answers(model, rows, how, run=ask.RunOptions(size, keep, on_cost, on_progress), about=decides)
    scale = Scale(how.low, how.high)
    rated = answers.ratings.reshape(len(items), len(views))
    far = (rated - scale.middle) / (scale.high - scale.middle)
    labels = np.where(np.abs(np.nan_to_num(far)) >= sure, np.sign(far), 0).astype(np.int8)
    agrees = labels[np.arange(len(items)), items.value] == items.polarity
    meta = {**answers.meta, **provenance.items_meta(items), "sure": sure}
    return Labels(labels, rated.astype(np.float32), float(agrees.mean()), meta)


def save(given: Labels, path: store.Path) -> None:
    """Writes labels, with the annotator and settings that produced them, as an `.npz`."""
    meta = np.array(json.dumps({**given.meta, "own": given.polarity_agreement}, sort_keys=True))
    store.commit_npz(path, {"labels": given.labels, "ratings": given.ratings, "meta": meta})


def load(path: store.Path) -> Labels | np.ndarray:
    """Loads labels from an `.npz`: one that `save` wrote, or a user's, with the array `labels` alone.

    Raises:
        InputError: if the file has no such array.
    """
    try:
        arrays = store.load_npz(path)
        if "meta" not in arrays:
            return arrays["labels"]
        meta = store.parse_json(str(arrays["meta"]))
        return Labels(arrays["labels"], arrays["ratings"], float(meta.pop("own")), meta)
    except errors.InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise errors.InputError(f"{path}: expected an .npz with the array `labels`") from None


def given_by(given: Labels | np.ndarray, model: Model, items: Items, how: ElicitConfig) -> bool:
    """Returns whether a model gave these labels for these items, with these settings."""
    if not isinstance(given, Labels):
        return False
    recorded, current = given.meta["how"], dataclasses.asdict(how)
    same = all(recorded[key] == current[key] for key in ("low", "high", "counterbalance", "prior"))
    weights = given.meta["model"]["weights"] == models.fingerprint(model.arrays)
    return same and weights and given.meta["items"]["sha256"] == provenance.digest(items)
