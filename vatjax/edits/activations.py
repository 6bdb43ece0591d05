"""Neuron edits: a few inner activations of the MLPs that tell one value apart and no other.

    score(v)[l, j] = mean(a+ - a-) / sd(a+ - a-)          over the contrast pairs of v, at the answer token

Of every value the k neurons with the largest scores, of either sign, are looked at; those that several values share are dropped. What is
left of the target's is moved by its mean difference (add), or grown by the ratio of both sides (scale).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from vatjax import errors, names
from vatjax.edits.pairs import Contrast
from vatjax.models import Edit
from vatjax.models.edit import Positions

Form = Literal["add", "scale"]
FORMS: tuple[Form, ...] = get_args(Form)
TOP = 100
MOST = 2.0  # the largest growth of a neuron


class Found(NamedTuple):
    """The edit, and which neurons it moves.

    Attributes:
        edit: at strength 1.
        neurons: [n, 2] int, layer and number of each, the largest score first.
        dropped: how many of the target's were shared with another value.
    """

    edit: Edit
    neurons: np.ndarray
    dropped: int


def scores(pairs: Contrast) -> np.ndarray:
    """The standardised mean difference of each neuron, [layers, hidden]; 0 where it never differs."""
    difference = np.asarray(pairs.difference, np.float64)
    spread = difference.std(1, ddof=1)
    score: np.ndarray = np.where(spread > 0, difference.mean(1) / np.where(spread > 0, spread, 1), 0)
    return score


def neurons(
    pairs: Mapping[str, Contrast],
    target: str,
    top: int = TOP,
    form: Form = "add",
    positions: Positions = "all",
) -> Found:
    """The target's own neurons, from the contrast pairs of all values that it is told apart from.

    Args:
        pairs: of each value or type, read with `every="neurons"`.
        target: one of them.
        top: how many neurons of each are looked at.
        form: whether they are moved or grown.
        positions: at which tokens.

    Raises:
        InputError: for an unknown target or form, and where the target shares all of its neurons.
    """
    if form not in FORMS:
        raise errors.InputError(names.unknown("form", form, FORMS))
    if target not in pairs:
        raise errors.InputError(names.unknown("value with pairs", target, list(pairs)))
    if top < 1:
        raise errors.InputError(f"top: expected a number above 0, found {top}")
    found = {name: scores(own) for name, own in pairs.items()}
    first = {name: _first(score, top) for name, score in found.items()}
    others = np.concatenate([np.zeros(0, np.int64), *(one for name, one in first.items() if name != target)])
    own = first[target][~np.isin(first[target], others)]
    if not len(own):
        raise errors.InputError(
            f"all {len(first[target])} neurons of {target} are among those of another value; look at fewer of each (top)"
        )
    shape = found[target].shape
    mean = np.asarray(pairs[target].difference, np.float64).mean(1)
    if form == "scale":
        from_ = np.asarray(pairs[target].negative, np.float64).mean(1)
        mean = np.clip(mean / np.where(from_ == 0, np.inf, from_), -MOST, MOST)
    kept = np.zeros(shape, bool)
    kept.reshape(-1)[own] = True
    change = jnp.asarray(np.where(kept, mean, 0), jnp.float32)
    added, grown = (change, None) if form == "add" else (None, change)
    edit = Edit(jnp.float32(1), neurons=added, gains=grown, positions=positions)
    return Found(edit, np.stack(np.unravel_index(own, shape), 1), len(first[target]) - len(own))


def _first(score: np.ndarray, top: int) -> np.ndarray:
    """The places of the largest scores, flat; what never differs is none of them."""
    flat = np.abs(score).reshape(-1)
    order = np.argsort(-flat, kind="stable")[:top]
    chosen: np.ndarray = order[flat[order] > 0]
    return chosen
