"""Placebos: edits of the same form that hold no information about the target."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.edits.directions import Directions
from vatjax.edits.pairs import Contrast
from vatjax.models import Edit, LowRank

Array = jax.Array


def random_like(edit: Edit, key: Array | int) -> Edit:
    """Returns an edit of the same form with random directions, each with the norm of the real one in its layer.

    Neurons are permuted within their layer, so that equally many are moved by the same amounts. Amounts, shares, gates
    and thresholds of steps stay. The effect of a step depends on the state's component along its direction: projecting
    out a random direction removes less than projecting out a real one.

    Args:
        edit: the real one.
        key: a PRNG key, or a seed.
    """
    key = jax.random.key(key) if isinstance(key, int) else key
    keys = iter(jax.random.split(key, 4 + 2 * len(edit.lora) + len(edit.steps)))

    def randomized(x: Array) -> Array:
        drawn = jax.random.normal(next(keys), x.shape, jnp.float32)
        axes = tuple(range(1, x.ndim))
        norm, drawn_norm = (
            jnp.sqrt(jnp.sum(part.astype(jnp.float32) ** 2, axes, keepdims=True)) for part in (x, drawn)
        )
        return (drawn * norm / drawn_norm).astype(x.dtype)

    def permuted(x: Array) -> Array:
        return jax.random.permutation(next(keys), x, axis=1, independent=True)

    return dataclasses.replace(
        edit,
        residual=None if edit.residual is None else randomized(edit.residual),
        neurons=None if edit.neurons is None else permuted(edit.neurons),
        gains=None if edit.gains is None else permuted(edit.gains),
        lora={name: _same_norm(LowRank(randomized(x.down), randomized(x.up)), x) for name, x in edit.lora.items()},
        steps=tuple(dataclasses.replace(step, direction=randomized(step.direction)) for step in edit.steps),
    )


def _same_norm(drawn: LowRank, real: LowRank) -> LowRank:
    """Scales a random change so that the product of its factors has the norm of the real one in each layer."""
    norm, drawn_norm = (_product_norm(change) for change in (real, drawn))
    scale = jnp.where(drawn_norm > 0, norm / jnp.where(drawn_norm > 0, drawn_norm, 1), 0)
    return LowRank(drawn.down, (drawn.up * scale[:, None, None]).astype(real.up.dtype))


def _product_norm(change: LowRank) -> Array:
    """Returns |A B| of each layer from the Gram matrices of its factors: |A B|^2 = tr(A'A B B')."""
    down, up = (x.astype(jnp.float32) for x in (change.down, change.up))
    precision = jax.lax.Precision.HIGHEST
    left = jnp.einsum("lir,lis->lrs", down, down, precision=precision)
    right = jnp.einsum("lro,lso->lrs", up, up, precision=precision)
    return jnp.sqrt(jnp.maximum(jnp.sum(left * right, (1, 2)), 0))


def match_lengths(directions: Directions, reference: Directions) -> Directions:
    """Returns directions that have the lengths of the reference in each layer."""
    length, target_length = (np.linalg.norm(each.vector, axis=-1, keepdims=True) for each in (directions, reference))
    return directions._replace(
        vector=directions.vector * np.where(length > 0, target_length / np.where(length > 0, length, 1), 0)
    )


def shuffle_labels(pairs: Contrast, seed: int = 0) -> Contrast:
    """Returns the same pairs with half of them swapped: contrast pairs whose labels mean nothing."""
    turn = flipped_pairs(pairs.positive.shape[1], seed)[None, :, None]
    return Contrast(
        np.where(turn, pairs.negative, pairs.positive), np.where(turn, pairs.positive, pairs.negative), pairs.scene
    )


def flipped_pairs(count: int, seed: int = 0) -> np.ndarray:
    """Returns which of `count` pairs have flipped labels: a random half, [pairs] bool."""
    flipped: np.ndarray = np.random.default_rng(seed).permutation(np.arange(count) % 2 == 0)
    return flipped
