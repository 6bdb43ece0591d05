"""Placebos: edits of the same form that know nothing of the target."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.edits.pairs import Contrast
from vatjax.edits.stream import Directions
from vatjax.models import Edit, LowRank

Array = jax.Array


def random_like(edit: Edit, key: Array | int) -> Edit:
    """An edit of the same form whose directions are random, each with the norm that the real one has in that layer.

    Neurons are exchanged within their layer, so that as many are moved by the same amounts; amounts, shares, gates and
    thresholds of steps stay. What a step does with its amount hangs on what it finds along its direction: taking a random
    direction away takes less away than taking a real one.

    Args:
        edit: the real one.
        key: a PRNG key, or a seed.
    """
    key = jax.random.key(key) if isinstance(key, int) else key
    keys = iter(jax.random.split(key, 4 + 2 * len(edit.lora) + len(edit.steps)))

    def turned(x: Array) -> Array:
        drawn = jax.random.normal(next(keys), x.shape, jnp.float32)
        axes = tuple(range(1, x.ndim))
        own, new = (jnp.sqrt(jnp.sum(part.astype(jnp.float32) ** 2, axes, keepdims=True)) for part in (x, drawn))
        return (drawn * own / new).astype(x.dtype)

    def exchanged(x: Array) -> Array:
        return jax.random.permutation(next(keys), x, axis=1, independent=True)

    return dataclasses.replace(
        edit,
        residual=None if edit.residual is None else turned(edit.residual),
        neurons=None if edit.neurons is None else exchanged(edit.neurons),
        gains=None if edit.gains is None else exchanged(edit.gains),
        lora={name: LowRank(turned(change.down), turned(change.up)) for name, change in edit.lora.items()},
        steps=tuple(dataclasses.replace(step, direction=turned(step.direction)) for step in edit.steps),
    )


def as_long_as(found: Directions, real: Directions) -> Directions:
    """Directions with the length of others in each layer."""
    own, wanted = (np.linalg.norm(one.vector, axis=-1, keepdims=True) for one in (found, real))
    return found._replace(vector=found.vector * np.where(own > 0, wanted / np.where(own > 0, own, 1), 0))


def shuffled(pairs: Contrast, seed: int = 0) -> Contrast:
    """The same pairs, half of them with positive and negative exchanged: what a finder makes of labels that mean nothing."""
    turn = turned(pairs.positive.shape[1], seed)[None, :, None]
    return Contrast(
        np.where(turn, pairs.negative, pairs.positive), np.where(turn, pairs.positive, pairs.negative), pairs.scene
    )


def turned(count: int, seed: int = 0) -> np.ndarray:
    """Which of so many pairs change their labels: half of them, drawn by chance, [pairs] bool."""
    found: np.ndarray = np.random.default_rng(seed).permutation(np.arange(count) % 2 == 0)
    return found
