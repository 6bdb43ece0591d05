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
from typing import Any

import jax
import jax.numpy as jnp

from vatjax import errors, names

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

    def check(self, layers: int, width: int, hidden: int, projections: Mapping[str, tuple[int, int]]) -> None:
        """Refuses an edit that does not fit a model.

        Args:
            layers, width, hidden: of the model.
            projections: [in, out] of each projection.

        Raises:
            InputError: with what was found, and what the model has.
        """
        wanted: list[tuple[str, Array, tuple[int, ...]]] = [("strength", self.strength, ())]
        wanted += [("residual", self.residual, (layers, width))] if self.residual is not None else []
        wanted += [("neurons", self.neurons, (layers, hidden))] if self.neurons is not None else []
        for name, factors in self.lora.items():
            if name not in projections:
                raise errors.InputError(f"lora: {names.unknown('projection', name, list(projections))}")
            rank = jnp.shape(factors.down)[-1] if jnp.ndim(factors.down) else 0
            before, behind = projections[name]
            wanted.append((f"lora of {name}: down", factors.down, (layers, before, rank)))
            wanted.append((f"lora of {name}: up", factors.up, (layers, rank, behind)))
        for what, found, shape in wanted:
            if jnp.shape(found) != shape:
                raise errors.InputError(
                    f"the edit does not fit the model: {what} has the shape {list(jnp.shape(found))}, expected {list(shape)}"
                )

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
    return unless_zero(strength, h, h + (strength * change).astype(h.dtype)[None, None, :])


@jax.custom_jvp
def unless_zero(strength: Array, unmoved: Array, moved: Array) -> Array:
    """`moved`, and bit for bit `unmoved` at strength 0; its derivative is that of `moved`, also there."""
    return jnp.where(strength == 0, unmoved, moved)


@unless_zero.defjvp
def _unless_zero_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return unless_zero(*primals), tangents[2]


def low_rank(product: Array, x: Array, change: LowRank | None, strength: Array) -> Array:
    """`product + strength * (x A) B`, and exactly the product at strength 0; one layer's A and B."""
    if change is None:
        return product
    exact = jax.lax.Precision.HIGHEST
    inner = jnp.einsum(
        "bti,ir->btr", x, change.down.astype(x.dtype), preferred_element_type=jnp.float32, precision=exact
    )
    outer = jnp.einsum("btr,ro->bto", inner, change.up.astype(jnp.float32), precision=exact)
    return unless_zero(strength, product, product + (strength * outer).astype(product.dtype))
