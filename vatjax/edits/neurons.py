"""Neuron edits: shifts of the few inner activations of the MLPs that separate the pairs of one value only.

    score(v)[l, j] = mean(a+ - a-) / sd(a+ - a-)          over the contrast pairs of v, at the answer token

For every value, the k neurons with the largest absolute scores are selected; those that several values share are
dropped. The target's remaining neurons are shifted by their mean difference (add), or scaled by its ratio to the
negative mean (scale).
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


class NeuronResult(NamedTuple):
    """The edit and the neurons that it moves.

    Attributes:
        edit: at strength 1.
        neurons: [n, 2] int, layer and number of each, the largest score first.
        dropped: number of the target's neurons that another value shares.
    """

    edit: Edit
    neurons: np.ndarray
    dropped: int


def scores(pairs: Contrast) -> np.ndarray:
    """Returns the standardised mean difference of each neuron, [layers, hidden]; 0 where it never differs."""
    difference = np.asarray(pairs.difference, np.float64)
    spread = difference.std(1, ddof=1)
    score: np.ndarray = np.where(spread > 0, difference.mean(1) / np.where(spread > 0, spread, 1), 0)
    return score


def neuron_edit(
    pairs: Mapping[str, Contrast],
    target: str,
    top: int = TOP,
    form: Form = "add",
    positions: Positions = "all",
) -> NeuronResult:
    """Returns the edit of the neurons that belong to the target alone, from the contrast pairs of all values.

    Args:
        pairs: of each value or type, read with `every="neurons"`.
        target: a key of `pairs`.
        top: number of neurons selected for each value.
        form: "add" shifts them, "scale" scales them.
        positions: edited tokens.

    Raises:
        InputError: if the target or form is unknown, or all of the target's neurons are shared.
    """
    if form not in FORMS:
        raise errors.InputError(names.unknown_name("form", form, FORMS))
    if target not in pairs:
        raise errors.InputError(names.unknown_name("value with pairs", target, list(pairs)))
    if top < 1:
        raise errors.InputError(f"top: expected a number above 0, found {top}")
    scores_by_name = {name: scores(contrast) for name, contrast in pairs.items()}
    first = {name: _top_neurons(score, top) for name, score in scores_by_name.items()}
    others = np.concatenate([np.zeros(0, np.int64), *(index for name, index in first.items() if name != target)])
    unique = first[target][~np.isin(first[target], others)]
    if not len(unique):
        raise errors.InputError(
            f"all {len(first[target])} neurons of {target} are among those of another value; look at fewer of each (top)"
        )
    shape = scores_by_name[target].shape
    mean = np.asarray(pairs[target].difference, np.float64).mean(1)
    if form == "scale":
        baseline = np.asarray(pairs[target].negative, np.float64).mean(1)
        mean = np.clip(mean / np.where(baseline == 0, np.inf, baseline), -MOST, MOST)
    selected = np.zeros(shape, bool)
    selected.reshape(-1)[unique] = True
    change = jnp.asarray(np.where(selected, mean, 0), jnp.float32)
    added, grown = (change, None) if form == "add" else (None, change)
    edit = Edit(jnp.float32(1), neurons=added, gains=grown, positions=positions)
    return NeuronResult(edit, np.stack(np.unravel_index(unique, shape), 1), len(first[target]) - len(unique))


def _top_neurons(score: np.ndarray, top: int) -> np.ndarray:
    """Returns the flat indices of the largest absolute scores, without neurons that never differ."""
    flat = np.abs(score).reshape(-1)
    order = np.argsort(-flat, kind="stable")[:top]
    chosen: np.ndarray = order[flat[order] > 0]
    return chosen
