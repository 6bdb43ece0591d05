"""Conditional steering: a direction that is added only to hidden states about the target.

    h <- h + s v          where cos(h, g) >= threshold

The condition g is the mean difference between states of questions about the target and of questions about other values.
Layer and threshold are those with the best F1 on the train side.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vatjax import errors
from vatjax.edits.directions import Directions, layer_shares
from vatjax.models import Edit, Step
from vatjax.models.edit import Positions


class Condition(NamedTuple):
    """The test for hidden states about the target.

    Attributes:
        direction: g, [layers, width].
        threshold: of the cosine, [layers].
        f1: with that threshold, [layers].
    """

    direction: np.ndarray
    threshold: np.ndarray
    f1: np.ndarray


def fit_condition(about: np.ndarray, others: np.ndarray) -> Condition:
    """Fits the condition that separates states about the target from others.

    Args:
        about, others: [layers, n, width].

    Raises:
        InputError: if both have the same mean in every layer.
    """
    direction = np.asarray(about, np.float64).mean(1) - np.asarray(others, np.float64).mean(1)
    if not direction.any():
        raise errors.InputError(
            "questions about the target and others give the same mean states: no condition can separate them"
        )
    cosines = [_cosine(states, direction) for states in (about, others)]
    best = [_best(a, b) for a, b in zip(*cosines, strict=True)]
    return Condition(direction.astype(np.float32), np.array([t for t, _ in best]), np.array([f for _, f in best]))


def _cosine(states: np.ndarray, direction: np.ndarray) -> np.ndarray:
    states = np.asarray(states, np.float64)
    lengths = np.linalg.norm(states, axis=-1) * np.linalg.norm(direction, axis=-1)[:, None]
    cosine: np.ndarray = np.einsum("lnd,ld->ln", states, direction) / np.where(lengths > 0, lengths, 1)
    return cosine


def _best(about: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Returns the threshold with the best F1, halfway to the next cosine below it, and that F1."""
    cosine = np.concatenate([about, others])
    order = np.argsort(-cosine, kind="stable")
    ordered = cosine[order]
    right = np.cumsum(order < len(about))
    f1 = 2 * right / (np.arange(1, len(order) + 1) + len(about))
    ends = np.append(ordered[1:] < ordered[:-1], True)  # equal cosines pass together
    place = int(np.argmax(np.where(ends, f1, -1)))
    below = ordered[place + 1] if place + 1 < len(ordered) else -1.0
    return float((ordered[place] + below) / 2), float(f1[place])


def conditional(
    layer_directions: Directions,
    when: Condition,
    layer: int | None = None,
    positions: Positions = "all",
    strength: float = 1.0,
) -> Edit:
    """Returns an edit that adds a direction in one layer, where the condition holds.

    Args:
        layer_directions: of `directions`.
        when: of `fit_condition`.
        layer: edited layer; by default the one with the best F1.
        positions: edited tokens.
        strength: of the edit.
    """
    count = len(layer_directions.vector)
    share = layer_shares([int(np.argmax(when.f1)) if layer is None else layer], count)
    size = np.linalg.norm(layer_directions.vector, axis=-1)
    if not size[share > 0].all():
        raise errors.InputError(
            f"layer {int(np.argmax(share))}: both sides of the pairs are the same, so it has no direction"
        )
    unit = layer_directions.vector / np.where(size > 0, size, 1)[:, None]
    u, amount, layer_share, gate, threshold = (
        jnp.asarray(x, jnp.float32) for x in (unit, size, share, when.direction, when.threshold)
    )
    step = Step(u, amount, layer_share, gate, threshold, kind="add", cosine=True)
    return Edit(jnp.float32(strength), steps=(step,), positions=positions)
