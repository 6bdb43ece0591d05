"""What an edit of a model's computation is, and how one layer takes it.

A linear layer computes `W h + b`; an intervention makes it `(W + dW) h + (b + db)`: a steering vector is a `db`, LoRA a
low-rank `dW`. So an edit is data: a pytree whose arrays have a leading layer axis, scanned along with the layers, and a
strength. Strength 0 goes through `where`, and so is bit for bit the unedited model.

    residual    h <- h + s v                       after a layer, on the residual stream
    neurons     a <- a + s n                       inside the MLP, before its down projection
    lora        W x <- W x + s (x A) B             in any projection
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array

# The projections that a low-rank change can be added to.
PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """A low-rank change of one projection in every layer: `x A B`, with LoRA's `alpha / rank` already in B.

    Attributes:
        down: A, [layers, in, rank].
        up: B, [layers, rank, out].
    """

    down: Array
    up: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of a model's computation; parts that are None do nothing.

    Attributes:
        strength: scalar; 0 is exactly the unedited model.
        residual: [layers, width], added to the residual stream after each layer.
        neurons: [layers, hidden], added to the MLP's inner activations.
        lora: low-rank changes by the name of the projection.
    """

    strength: Array
    residual: Array | None = None
    neurons: Array | None = None
    lora: Mapping[str, LowRank] = dataclasses.field(default_factory=dict)

    def __mul__(self, factor: float | Array) -> Edit:
        """The same edit at another strength."""
        return dataclasses.replace(self, strength=self.strength * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Edit:
        return self * -1.0

    def layers(self, first: int, last: int) -> Edit:
        """What the layers from `first` to before `last` take."""
        parts = (self.residual, self.neurons, self.lora)
        residual, neurons, lora = jax.tree.map(lambda x: x[first:last], parts)
        return dataclasses.replace(self, residual=residual, neurons=neurons, lora=lora)


def added(h: Array, change: Array | None, strength: Array) -> Array:
    """`h + strength * change`, and exactly h at strength 0.

    Args:
        h: [batch, time, width].
        change: one layer's [width]; None is no change.
        strength: scalar.
    """
    if change is None:
        return h
    moved = h + (strength * change).astype(h.dtype)[None, None, :]
    return jnp.where(strength == 0, h, moved)


def low_rank(product: Array, x: Array, change: LowRank | None, strength: Array) -> Array:
    """`product + strength * (x A) B`, and exactly the product at strength 0; one layer's A and B."""
    if change is None:
        return product
    inner = jnp.einsum("bti,ir->btr", x, change.down.astype(x.dtype), preferred_element_type=jnp.float32)
    outer = jnp.einsum("btr,ro->bto", inner, change.up.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return jnp.where(strength == 0, product, product + (strength * outer).astype(product.dtype))
