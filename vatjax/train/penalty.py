"""A price on the tax: what is added to the loss so that values that are not the target stay where they are.

l2         mean over scenes and types off the target of (x_post - x_pre)^2
drift      mean over types off the target of (mean over scenes of x_post - x_pre)^2
coupling   soft nVAT of the shifts of all types: how far they move together
kl         mean over all anchors of KL(answers before || answers now), the common way to keep a model where it was
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from vatjax import errors, metrics, names
from vatjax.models import Config, Edit
from vatjax.train.anchors import Anchors, answered, shares, state
from vatjax.train.forward import Memory
from vatjax.values import Taxonomy

Array = jax.Array
Variant = Literal["l2", "drift", "coupling", "kl"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaxPenalty:
    """`weight` times one of the variants, on a chunk of anchors that is drawn in each step.

    Attributes:
        anchors: what is rated.
        off: [types] bool, which are not the target.
        weight: scalar, lambda.
        variant: which; static.
    """

    anchors: Anchors
    off: Array
    weight: Array
    variant: Variant = dataclasses.field(default="l2", metadata={"static": True})

    def __call__(
        self, weights: Mapping[str, Any], config: Config, edit: Edit | None, key: Array, memory: Memory
    ) -> tuple[Array, dict[str, Array]]:
        """The price, and the movement on and off the target that it was found at."""
        own = self.anchors
        chunk = jax.random.randint(key, (), 0, own.tokens.shape[0])
        now, before = answered(own, chunk, weights, config, edit, memory), own.before[chunk]
        moved = state(own, now) - state(own, before)
        told = {
            "tax/target": _over(~self.off, jnp.mean(moved, 0)),
            "tax/off": _over(self.off, jnp.abs(jnp.mean(moved, 0))),
        }
        return self.weight * self._value(moved, before, now), jax.lax.stop_gradient(told)

    def _value(self, moved: Array, before: Array, now: Array) -> Array:
        if self.variant == "l2":
            return _over(self.off, jnp.mean(moved**2, 0))
        if self.variant == "drift":
            return _over(self.off, jnp.mean(moved, 0) ** 2)
        if self.variant == "kl":
            ratio = jnp.log(jnp.maximum(before, 1e-9)) - jnp.log(jnp.maximum(now, 1e-9))
            return jnp.mean(jnp.sum(before * ratio, -1))
        up, down = (metrics.shift_levels(shares(before)[:, :, side], shares(now)[:, :, side]) for side in (0, 1))
        return metrics.soft_nvat(metrics.soft_spearman(metrics.shift_levels(down, up)))


def _over(which: Array, x: Array) -> Array:
    """The mean over some types."""
    weight = which.astype(x.dtype)
    return jnp.sum(weight * x) / jnp.maximum(jnp.sum(weight), 1)


def tax_penalty(
    anchors: Anchors, taxonomy: Taxonomy, target: str, weight: float, variant: Variant = "l2"
) -> TaxPenalty:
    """A penalty for a target.

    Args:
        anchors: what is rated.
        taxonomy: of the items.
        target: a value, type or group; the types that it has a part in may move.
        weight: lambda, 0 or more.
        variant: what is priced.
    """
    if variant not in VARIANTS:
        raise errors.InputError(names.unknown("penalty", variant, VARIANTS))
    if not weight >= 0 or weight == float("inf"):
        raise errors.InputError(f"the weight of a penalty: expected 0 or more, found {weight}")
    off = ~taxonomy.columns(target)
    if not off.any():
        raise errors.InputError(f"{target}: every type has a part in it, so that there is nothing off the target")
    return TaxPenalty(anchors, jnp.asarray(off), jnp.float32(weight), variant)
