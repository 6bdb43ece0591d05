"""A penalty on the tax, added to the loss so that values other than the target do not move.

l2         mean over scenes and types off the target of (x_post - x_pre)^2
drift      mean over types off the target of (mean over scenes of x_post - x_pre)^2
coupling   soft nVAT of the shifts of all types: how far they move together
kl         mean over all anchors of KL(answers before || answers now), the usual regulariser
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from vatjax import errors, metrics, names
from vatjax.models import Config, Edit
from vatjax.train.anchors import Anchors, answer_probs, option_probs, value_state
from vatjax.train.forward import Memory
from vatjax.values import Taxonomy

Array = jax.Array
Variant = Literal["l2", "drift", "coupling", "kl"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaxPenalty:
    """`weight` times one of the variants, on one chunk of anchors drawn at random in each step.

    Attributes:
        anchors: the judgements that are rated.
        off: [types] bool, True for types off the target.
        weight: scalar, lambda.
        variant: name of the variant; static.
    """

    anchors: Anchors
    off: Array
    weight: Array
    variant: Variant = dataclasses.field(default="l2", metadata={"static": True})

    def __call__(
        self, weights: Mapping[str, Any], config: Config, edit: Edit | None, key: Array, memory: Memory
    ) -> tuple[Array, dict[str, Array]]:
        """Computes the weighted penalty, and for the log the movement on and off the target."""
        anchors = self.anchors
        chunk = jax.random.randint(key, (), 0, anchors.tokens.shape[0])
        now, before = answer_probs(anchors, chunk, weights, config, edit, memory), anchors.before[chunk]
        moved = value_state(anchors, now) - value_state(anchors, before)
        logs = {
            "tax/target": _masked_mean(~self.off, jnp.mean(moved, 0)),
            "tax/off": _masked_mean(self.off, jnp.abs(jnp.mean(moved, 0))),
        }
        return self.weight * self._value(moved, before, now), jax.lax.stop_gradient(logs)

    def _value(self, moved: Array, before: Array, now: Array) -> Array:
        if self.variant == "l2":
            return _masked_mean(self.off, jnp.mean(moved**2, 0))
        if self.variant == "drift":
            return _masked_mean(self.off, jnp.mean(moved, 0) ** 2)
        if self.variant == "kl":
            ratio = jnp.log(jnp.maximum(before, 1e-9)) - jnp.log(jnp.maximum(now, 1e-9))
            return jnp.mean(jnp.sum(before * ratio, -1))
        up, down = (
            metrics.shift_levels(option_probs(before)[:, :, side], option_probs(now)[:, :, side]) for side in (0, 1)
        )
        return metrics.soft_nvat(metrics.soft_spearman(metrics.shift_levels(down, up)))


def _masked_mean(mask: Array, x: Array) -> Array:
    """Computes the mean over the types in a mask."""
    weight = mask.astype(x.dtype)
    return jnp.sum(weight * x) / jnp.maximum(jnp.sum(weight), 1)


def tax_penalty(
    anchors: Anchors, taxonomy: Taxonomy, target: str, weight: float, variant: Variant = "l2"
) -> TaxPenalty:
    """Builds the penalty for a target.

    Args:
        anchors: the judgements to rate.
        taxonomy: of the items.
        target: a value, type or group; types that overlap with it may move.
        weight: lambda, 0 or more.
        variant: name of the penalty.
    """
    if variant not in VARIANTS:
        raise errors.InputError(names.unknown_name("penalty", variant, VARIANTS))
    if not weight >= 0 or weight == float("inf"):
        raise errors.InputError(f"the weight of a penalty: expected 0 or more, found {weight}")
    off = ~taxonomy.column_mask(target)
    if not off.any():
        raise errors.InputError(f"{target}: covers every type, so no type is left to penalise")
    return TaxPenalty(anchors, jnp.asarray(off), jnp.float32(weight), variant)
