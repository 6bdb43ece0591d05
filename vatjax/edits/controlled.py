"""Controlled value-vector activation: the smallest shift that brings a probe to a wanted probability.

    p = sigmoid(w . h + b)
    h <- h + 1[gate] max(0, (logit(P0) - b - w . h) / |w|) w / |w|

layer after layer: each layer's probe reads what the layers before it were given. Only layers take part whose probe tells
kept pairs apart with an accuracy above .9. The gate is a probe of its own, which tells states of the target from those of
other values, so that answers about them are left alone.
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

SOUND = 0.9


class Found(NamedTuple):
    """The edit, and what it rests on.

    Attributes:
        edit: whose strength 1 is the whole shift.
        accuracy: of each layer's probe on pairs that it has not seen, [layers].
        layers: which take part.
        gated: the accuracy of each layer's gate on the states that it was found from, [layers]; None without one.
    """

    edit: Edit
    accuracy: np.ndarray
    layers: list[int]
    gated: np.ndarray | None


def conva(
    pairs: Contrast,
    probability: float = 0.99,
    gate: tuple[np.ndarray, np.ndarray] | None = None,
    sound: float = SOUND,
    positions: Positions = "all",
    seed: int = 0,
) -> Found:
    """The edit from contrast pairs.

    Args:
        pairs: of `contrast`, positive ones for what is wanted.
        probability: P0, that the probe is brought to.
        gate: states that belong to the target, and states that don't, each [layers, n, width].
        sound: the accuracy above which a layer takes part.
        positions: at which tokens.
        seed: of the division that accuracies are judged on.

    Raises:
        InputError: for a probability outside 0 and 1, and where no layer's probe is sound.
    """
    if not 0 < probability < 1:
        raise errors.InputError(f"probability: expected a number between 0 and 1, found {probability}")
    first, second = pairs.halves(seed=seed)
    accuracy = logistic.fit(first.positive, first.negative).accuracy(second.positive, second.negative)
    layers = [int(layer) for layer in np.flatnonzero(accuracy > sound)]
    if not layers:
        raise errors.InputError(
            f"no layer's probe is right on more than {sound:.0%} of the kept pairs: the best, layer {int(accuracy.argmax())}, "
            f"is on {accuracy.max():.0%}"
        )
    probe = logistic.fit(pairs.positive, pairs.negative)
    length = np.linalg.norm(probe.weight, axis=-1)
    length = np.where(length > 0, length, 1)
    share = np.zeros(len(length))
    share[layers] = 1
    wanted = (np.log(probability) - np.log1p(-probability) - probe.bias) / length
    own = None if gate is None else logistic.fit(*gate)
    step = Step(
        jnp.asarray(probe.weight / length[:, None], jnp.float32),
        jnp.asarray(wanted, jnp.float32),
        jnp.asarray(share, jnp.float32),
        None if own is None else jnp.asarray(own.weight, jnp.float32),
        None if own is None else jnp.asarray(-own.bias, jnp.float32),
        kind="raise",
        cosine=False,
    )
    gated = None if own is None or gate is None else own.accuracy(*gate)
    return Found(Edit(jnp.float32(1), steps=(step,), positions=positions), accuracy, layers, gated)
