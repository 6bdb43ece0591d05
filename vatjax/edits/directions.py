"""Directions of the residual stream from contrast pairs, one for each layer, and the edits along them.

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
    """Directions, and their accuracy on held-out pairs.

    Attributes:
        vector: [layers, width]; its length is the mean difference along it.
        middle: [layers], halfway between both sides along the unit vector.
        accuracy: [layers], the share of held-out pairs whose difference points along it.
    """

    vector: np.ndarray
    middle: np.ndarray
    accuracy: np.ndarray


def directions(pairs: Contrast, method: Method = "mean", seed: int = 0) -> Directions:
    """Returns directions from all pairs; their accuracy is measured by fitting most pairs and testing on the others.

    Args:
        pairs: of `contrast`.
        method: "mean", "pca" or "probe".
        seed: of the held-out scenes.

    Raises:
        InputError: if the method is unknown, or positive and negative states are the same in every layer.
    """
    if method not in METHODS:
        raise errors.InputError(names.unknown_name("method", method, METHODS))
    first, second = pairs.split_by_scene(seed=seed)
    unit = _unit(pairs, method)
    if not unit.any():
        raise errors.InputError("the pairs have no difference: both sides have the same states in every layer")
    size = np.einsum("lnd,ld->l", np.float64(pairs.difference), unit) / pairs.difference.shape[1]
    both = np.concatenate([pairs.positive, pairs.negative], 1)
    middle = np.einsum("lnd,ld->l", np.float64(both), unit) / both.shape[1]
    right = np.einsum("lnd,ld->ln", np.float64(second.difference), _unit(first, method)) > 0
    return Directions((size[:, None] * unit).astype(np.float32), middle, right.mean(1))


def _unit(pairs: Contrast, method: Method) -> np.ndarray:
    """Returns unit vectors from the negative side to the positive, [layers, width] float64; 0 without a difference."""
    difference = np.float64(pairs.difference)
    mean = difference.mean(1)
    if method == "mean":
        vector = mean
    elif method == "pca":
        vector = np.linalg.svd(difference, full_matrices=False)[2][:, 0]
        vector = vector * np.where((vector * mean).sum(-1, keepdims=True) < 0, -1, 1)
    else:
        vector = logistic.fit(pairs.positive, pairs.negative).weight
    vector = np.where(np.abs(difference).max((1, 2))[:, None] > 0, vector, 0)
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    unit: np.ndarray = vector / np.where(length > 0, length, 1)
    return unit


def steer(
    layer_directions: Directions,
    layers: Sequence[int] | Mapping[int, float],
    operator: Operator = "add",
    positions: Positions = "all",
    strength: float = 1.0,
) -> Edit:
    """Returns an edit along directions.

        add        h + s v                      such edits form a vector space
        project    h - s (u . h) u
        set        u . h becomes that of the positive side: halfway and half of the difference
        turn       as add, with the length of h

    Args:
        layer_directions: of `directions`.
        layers: edited layers, or each layer's share of the strength.
        operator: one of the four.
        positions: edited tokens.
        strength: of the edit.
    """
    if operator not in OPERATORS:
        raise errors.InputError(names.unknown_name("operator", operator, OPERATORS))
    count = len(layer_directions.vector)
    share = layer_shares(layers, count)
    size = np.linalg.norm(layer_directions.vector, axis=-1)
    silent = [layer for layer in np.flatnonzero(share) if not size[layer] > 0]
    if silent:
        raise errors.InputError(f"layer {silent[0]}: both sides of the pairs are the same, so it has no direction")
    s = jnp.float32(strength)
    if operator == "add":
        return Edit(s, residual=jnp.asarray(share[:, None] * layer_directions.vector, jnp.float32), positions=positions)
    unit = layer_directions.vector / np.where(size > 0, size, 1)[:, None]
    amount = {"project": np.zeros(count), "set": layer_directions.middle + size / 2, "turn": size}[operator]
    step = Step(
        jnp.asarray(unit, jnp.float32),
        jnp.asarray(amount, jnp.float32),
        jnp.asarray(share, jnp.float32),
        kind=operator,
    )
    return Edit(s, steps=(step,), positions=positions)


def layer_shares(layers: Sequence[int] | Mapping[int, float], count: int) -> np.ndarray:
    """Returns the share of each layer, [layers]; negative numbers count from the last.

    Raises:
        InputError: if the model does not have a layer, or no layer is given.
    """
    shares = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, 1.0)
    wrong = [layer for layer in shares if not -count <= layer < count]
    if wrong:
        raise errors.InputError(f"layer {wrong[0]}: the model has layers 0 to {count - 1}")
    if not shares:
        raise errors.InputError("layers: none are given")
    share = np.zeros(count)
    for layer, layer_share in shares.items():
        share[layer] = layer_share
    return share
