"""AdamW with a schedule, in float32, as an optax chain; the rate is an array, so runs that differ in it share a step.

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
    """AdamW settings (Loshchilov and Hutter 2017)."""

    rate: float = 1e-4
    """The highest learning rate."""
    decline: Decline = "linear"
    """Decay of the rate to 0 after the warm-up; "constant" does not decay."""
    warmup: float = 0.1
    """Share of all steps in which the rate rises from 0."""
    decay: float = 0.0
    """Weight decay per step and rate; not applied to norms and biases."""
    clip: float = 1.0
    """Maximum norm of a gradient; 0 does not clip."""
    first: float = 0.9
    """Adam's beta 1."""
    second: float = 0.999
    """Adam's beta 2."""
    epsilon: float = 1e-8

    def check(self) -> None:
        """Raises InputError if a setting is out of range."""
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
    """A learning-rate schedule as arrays.

    Attributes:
        rate: scalar, the highest learning rate.
        steps: scalar, the total number of steps.
    """

    rate: Array
    steps: Array


def chain(adam: Adam) -> Any:
    """Builds the optax chain up to the learning rate."""
    parts = [optax.clip_by_global_norm(adam.clip)] if adam.clip else []
    parts.append(optax.scale_by_adam(adam.first, adam.second, adam.epsilon))
    if adam.decay:
        parts.append(optax.add_decayed_weights(adam.decay, mask=decay_mask))
    return optax.chain(*parts)


def decay_mask(trained: Any) -> Any:
    """Builds the weight decay mask: True for matrices, not norms and biases. Layer arrays start with a layer axis."""

    def matrix(path: Any, x: Array) -> bool:
        stacked = any(getattr(part, "key", None) == "layers" for part in path) or hasattr(path[-1], "name")
        return jnp.ndim(x) - stacked >= 2

    return jax.tree_util.tree_map_with_path(matrix, trained)


def learning_rate(adam: Adam, pace: Pace, step: Array) -> Array:
    """Computes the learning rate of a step, counted from 0."""
    steps = pace.steps.astype(jnp.float32)
    now = step.astype(jnp.float32)
    warm = jnp.ceil(adam.warmup * steps)
    rising = (now + 1) / jnp.maximum(warm, 1)
    left = jnp.clip((steps - now) / jnp.maximum(steps - warm, 1), 0, 1)
    falling = {"constant": jnp.ones(()), "linear": left, "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * left)}[adam.decline]
    return pace.rate * jnp.where(now < warm, rising, falling)


def init(adam: Adam, trained: Any) -> Any:
    """Initialises the optimizer's state."""
    with jax.numpy_dtype_promotion("standard"):
        return chain(adam).init(trained)


def update(adam: Adam, gradient: Any, state: Any, trained: Any, rate: Array) -> tuple[Any, Any]:
    """Returns (the updated arrays, the optimizer's state). Promotes dtypes: optax mixes float32 with integer counts."""
    with jax.numpy_dtype_promotion("standard"):
        updates, state = chain(adam).update(gradient, state, trained)
    return jax.tree.map(lambda w, u: w - rate * u, trained, updates), state
