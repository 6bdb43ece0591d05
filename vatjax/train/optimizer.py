"""AdamW with a schedule, in float32, as an optax chain; the rate is data, so that many runs of one step differ in it.

u = clip(g)      m, v of Adam      w <- w - rate x schedule(step) x (m / (sqrt(v) + eps) + decay w)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from vatjax import errors

Array = jax.Array
Decline = Literal["constant", "linear", "cosine"]


@dataclasses.dataclass(frozen=True)
class Adam:
    """How gradients become steps (Loshchilov and Hutter 2017)."""

    rate: float = 1e-4
    """The highest learning rate."""
    decline: Decline = "linear"
    """How the rate goes down to 0 after the warm-up; "constant" stays."""
    warmup: float = 0.1
    """The share of all steps in which the rate rises from 0."""
    decay: float = 0.0
    """Of weights, per step and rate; norms and biases are left alone."""
    clip: float = 1.0
    """The greatest norm of a gradient; 0 does not clip."""
    first: float = 0.9
    """Adam's beta 1."""
    second: float = 0.999
    """Adam's beta 2."""
    epsilon: float = 1e-8

    def check(self) -> None:
        """Refuses numbers that no training can go by."""
        for name, fits, expected in (
            ("rate", self.rate > 0, "more than 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share from 0 to 1"),
            ("decay", self.decay >= 0, "0 or more"),
            ("clip", self.clip >= 0, "0 or more"),
            ("first", 0 <= self.first < 1, "0 to below 1"),
            ("second", 0 <= self.second < 1, "0 to below 1"),
            ("epsilon", self.epsilon > 0, "more than 0"),
        ):
            if not fits:
                raise errors.InputError(f"{name}: expected {expected}, found {getattr(self, name)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pace:
    """A schedule as data.

    Attributes:
        rate: scalar, the highest.
        steps: scalar, how many there will be.
    """

    rate: Array
    steps: Array


def chain(adam: Adam) -> Any:
    """The optax chain up to the learning rate."""
    parts = [optax.clip_by_global_norm(adam.clip)] if adam.clip else []
    parts.append(optax.scale_by_adam(adam.first, adam.second, adam.epsilon))
    if adam.decay:
        parts.append(optax.add_decayed_weights(adam.decay, mask=decayed))
    return optax.chain(*parts)


def decayed(trained: Any) -> Any:
    """Which arrays decay: matrices, and not norms and biases; those of layers have a layer axis in front."""

    def matrix(path: Any, x: Array) -> bool:
        stacked = any(getattr(part, "key", None) == "layers" for part in path) or hasattr(path[-1], "name")
        return jnp.ndim(x) - stacked >= 2

    return jax.tree_util.tree_map_with_path(matrix, trained)


def rate(adam: Adam, pace: Pace, step: Array) -> Array:
    """The learning rate of a step, counted from 0."""
    steps = pace.steps.astype(jnp.float32)
    now = step.astype(jnp.float32)
    warm = jnp.ceil(adam.warmup * steps)
    rising = (now + 1) / jnp.maximum(warm, 1)
    left = jnp.clip((steps - now) / jnp.maximum(steps - warm, 1), 0, 1)
    falling = {"constant": jnp.ones(()), "linear": left, "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * left)}[adam.decline]
    return pace.rate * jnp.where(now < warm, rising, falling)


def start(adam: Adam, trained: Any) -> Any:
    """The optimizer's state before the first step."""
    with jax.numpy_dtype_promotion("standard"):
        return chain(adam).init(trained)


def change(adam: Adam, gradient: Any, state: Any, trained: Any, rate: Array) -> tuple[Any, Any]:
    """(the arrays after a step, the optimizer's state); optax mixes float32 with its integer counts."""
    with jax.numpy_dtype_promotion("standard"):
        moves, state = chain(adam).update(gradient, state, trained)
    return jax.tree.map(lambda w, u: w - rate * u, trained, moves), state
