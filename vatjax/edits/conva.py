"""Controlled value-vector activation: the smallest shift that brings a probe to a given probability.

    p = sigmoid(w . h + b)
    h <- h + 1[gate] max(0, (logit(P0) - b - w . h) / |w|) w / |w|

Layers are edited in order, so each probe reads states that earlier layers' edits have changed. Only layers whose probe
separates held-out pairs with an accuracy above .9 are edited. The gate is a second probe. It separates states of the
target from those of other values, so that answers about other values stay unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vatjax import errors
from vatjax.edits import logistic
from vatjax.edits.pairs import Contrast
from vatjax.models import Edit, Step
from vatjax.models.edit import Positions

MIN_ACCURACY = 0.9


class ConvaResult(NamedTuple):
    """The edit and the accuracies of its probes.

    Attributes:
        edit: at strength 1, the whole shift.
        accuracy: of each layer's probe on held-out pairs, [layers].
        layers: edited layers.
        gate_accuracy: of each layer's gate on the states that it was fitted to, [layers]; None without a gate.
    """

    edit: Edit
    accuracy: np.ndarray
    layers: list[int]
    gate_accuracy: np.ndarray | None


def conva(
    pairs: Contrast,
    probability: float = 0.99,
    gate: tuple[np.ndarray, np.ndarray] | None = None,
    min_accuracy: float = MIN_ACCURACY,
    positions: Positions = "all",
    seed: int = 0,
) -> ConvaResult:
    """Returns the edit from contrast pairs.

    Args:
        pairs: of `contrast`; the positive states are those to reach.
        probability: P0, the probe's target probability.
        gate: states of the target, and states of other values, each [layers, n, width].
        min_accuracy: above which a layer is edited.
        positions: edited tokens.
        seed: of the held-out scenes.

    Raises:
        InputError: if the probability is not between 0 and 1, or no layer's probe is accurate enough.
    """
    if not 0 < probability < 1:
        raise errors.InputError(f"probability: expected a number between 0 and 1, found {probability}")
    first, second = pairs.split_by_scene(seed=seed)
    accuracy = logistic.fit(first.positive, first.negative).accuracy(second.positive, second.negative)
    layers = [int(layer) for layer in np.flatnonzero(accuracy > min_accuracy)]
    if not layers:
        raise errors.InputError(
            f"no layer's probe is right on more than {min_accuracy:.0%} of the held-out pairs: the best, layer {int(accuracy.argmax())}, "
            f"is on {accuracy.max():.0%}"
        )
    probe = logistic.fit(pairs.positive, pairs.negative)
    length = np.linalg.norm(probe.weight, axis=-1)
    length = np.where(length > 0, length, 1)
    share = np.zeros(len(length))
    share[layers] = 1
    threshold = (np.log(probability) - np.log1p(-probability) - probe.bias) / length
    gate_probe = None if gate is None else logistic.fit(*gate)
    step = Step(
        jnp.asarray(probe.weight / length[:, None], jnp.float32),
        jnp.asarray(threshold, jnp.float32),
        jnp.asarray(share, jnp.float32),
        None if gate_probe is None else jnp.asarray(gate_probe.weight, jnp.float32),
        None if gate_probe is None else jnp.asarray(-gate_probe.bias, jnp.float32),
        kind="raise",
        cosine=False,
    )
    gate_accuracy = None if gate_probe is None or gate is None else gate_probe.accuracy(*gate)
    return ConvaResult(Edit(jnp.float32(1), steps=(step,), positions=positions), accuracy, layers, gate_accuracy)
