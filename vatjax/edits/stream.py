"""Directions of the residual stream from contrast pairs, one for each layer, and the edits that they make.

    mean     the mean difference of the pairs
    pca      the first uncentred principal direction of the differences: centring them would remove their mean
    probe    the weights of a logistic probe

All point to the positive side and have the length of the mean difference along them, so that strength 1 means the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from vatjax import errors, names
from vatjax.edits import logistic
from vatjax.edits.pairs import Contrast
from vatjax.models import Edit, Step
from vatjax.models.edit import Positions

Method = Literal["mean", "pca", "probe"]
Operator = Literal["add", "project", "set", "turn"]
METHODS: tuple[Method, ...] = get_args(Method)
OPERATORS: tuple[Operator, ...] = get_args(Operator)


class Directions(NamedTuple):
    """Directions, and how well they tell pairs apart that they were not found from.

    Attributes:
        vector: [layers, width]; its length is the mean difference along it.
        middle: [layers], halfway between both sides along the unit vector.
        accuracy: [layers], the share of kept pairs whose difference points along it.
    """

    vector: np.ndarray
    middle: np.ndarray
    accuracy: np.ndarray


def directions(pairs: Contrast, method: Method = "mean", seed: int = 0) -> Directions:
    """Directions from all pairs; the accuracy is that of directions from most of them on the others.

    Args:
        pairs: of `contrast`.
        method: how.
        seed: of the division that the accuracy is judged on.

    Raises:
        InputError: for an unknown method, and where positive and negative states are the same in every layer.
    """
    if method not in METHODS:
        raise errors.InputError(names.unknown("method", method, METHODS))
    first, second = pairs.halves(seed=seed)
    unit = _unit(pairs, method)
    if not unit.any():
        raise errors.InputError("the pairs have no difference: the model holds the same for both sides")
    size = np.einsum("lnd,ld->l", np.float64(pairs.difference), unit) / pairs.difference.shape[1]
    both = np.concatenate([pairs.positive, pairs.negative], 1)
    middle = np.einsum("lnd,ld->l", np.float64(both), unit) / both.shape[1]
    right = np.einsum("lnd,ld->ln", np.float64(second.difference), _unit(first, method)) > 0
    return Directions((size[:, None] * unit).astype(np.float32), middle, right.mean(1))


def _unit(pairs: Contrast, method: Method) -> np.ndarray:
    """Unit vectors that point from the negative side to the positive, [layers, width] float64; 0 where there is none."""
    difference = np.float64(pairs.difference)
    mean = difference.mean(1)
    if method == "mean":
        found = mean
    elif method == "pca":
        found = np.linalg.svd(difference, full_matrices=False)[2][:, 0]
        found = found * np.where((found * mean).sum(-1, keepdims=True) < 0, -1, 1)
    else:
        found = logistic.fit(pairs.positive, pairs.negative).weight
    found = np.where(np.abs(difference).max((1, 2))[:, None] > 0, found, 0)
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    unit: np.ndarray = found / np.where(length > 0, length, 1)
    return unit


def steer(
    found: Directions,
    layers: Sequence[int] | Mapping[int, float],
    operator: Operator = "add",
    positions: Positions = "all",
    strength: float = 1.0,
) -> Edit:
    """An edit along directions.

        add        h + s v                      a vector space of its own
        project    h - s (u . h) u
        set        u . h becomes that of the positive side: halfway and half of the difference
        turn       as add, with the length of h

    Args:
        found: of `directions`.
        layers: which, or a profile: the share of the strength that each of them gets.
        operator: what is done.
        positions: at which tokens.
        strength: of the edit.
    """
    if operator not in OPERATORS:
        raise errors.InputError(names.unknown("operator", operator, OPERATORS))
    count = len(found.vector)
    share = profile(layers, count)
    size = np.linalg.norm(found.vector, axis=-1)
    silent = [layer for layer in np.flatnonzero(share) if not size[layer] > 0]
    if silent:
        raise errors.InputError(
            f"layer {silent[0]}: both sides of the pairs are the same there; no direction leads from one"
        )
    s = jnp.float32(strength)
    if operator == "add":
        return Edit(s, residual=jnp.asarray(share[:, None] * found.vector, jnp.float32), positions=positions)
    unit = found.vector / np.where(size > 0, size, 1)[:, None]
    amount = {"project": np.zeros(count), "set": found.middle + size / 2, "turn": size}[operator]
    step = Step(
        jnp.asarray(unit, jnp.float32),
        jnp.asarray(amount, jnp.float32),
        jnp.asarray(share, jnp.float32),
        kind=operator,
    )
    return Edit(s, steps=(step,), positions=positions)


def profile(layers: Sequence[int] | Mapping[int, float], count: int) -> np.ndarray:
    """The share of each layer, [layers]; negative numbers count from the last.

    Raises:
        InputError: for a layer that the model does not have, and for none at all.
    """
    shares = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    wrong = [layer for layer in shares if not -count <= layer < count]
    if wrong:
        raise errors.InputError(f"layer {wrong[0]}: the model has layers 0 to {count - 1}")
    if not shares:
        raise errors.InputError("layers: none are given")
    share = np.zeros(count)
    for layer, own in shares.items():
        share[layer] = own
    return share
