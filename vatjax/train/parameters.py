"""Trainable parameters: all weights, those of some layers, or low-rank adapters on frozen weights.

Trained arrays are float32 for every model dtype, and are rounded to it where they are used: a bfloat16 weight would
lose small updates.

    LoRA      W x + (alpha / rank) (x A) B         A drawn from +- 1 / sqrt(in), B zero: initially no change
    rsLoRA    W x + (alpha / sqrt(rank)) (x A) B   Kalajdzievski (2023): high ranks learn as fast as low ones
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vatjax import errors, names
from vatjax.models import Config, Edit, LowRank, Model, weights
from vatjax.models.edit import PROJECTIONS

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters of projections (Hu et al. 2021)."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = PROJECTIONS
    """Projections that get an adapter."""
    layers: tuple[int, ...] = ()
    """Layers that get adapters; empty for all."""
    stabilised: bool = False
    """alpha / sqrt(rank) in place of alpha / rank: rsLoRA."""

    @property
    def scale(self) -> float:
        """Returns the factor on every adapter."""
        return self.alpha / (self.rank**0.5 if self.stabilised else self.rank)


@dataclasses.dataclass(frozen=True)
class FullFinetune:
    """All weights, or all weights of some layers."""

    layers: tuple[int, ...] = ()
    """Layers to train; empty for all of them with the embedding, the head and the last norm."""


Trainable = Lora | FullFinetune


def init(model: Model, what: Trainable, key: Array) -> Any:
    """Initialises the trained arrays, which leave the model unchanged.

    Raises:
        InputError: for unknown projections and layers.
    """
    config = model.config
    chosen = _layers(what.layers, config.layers)
    if isinstance(what, FullFinetune):
        arrays = model.arrays
        trained = {"layers": jax.tree.map(lambda w: _float32_copy(w[jnp.asarray(chosen)]), arrays["layers"])}
        if not what.layers:
            trained |= {name: _float32_copy(w) for name, w in arrays.items() if name != "layers"}
        return trained
    if what.rank < 1 or what.alpha <= 0:
        raise errors.InputError(f"LoRA: expected a rank and an alpha above 0, found {what.rank} and {what.alpha}")
    if not what.targets:
        raise errors.InputError(f"LoRA: targets: expected at least one of {', '.join(PROJECTIONS)}, found none")
    shapes = {p.name: p.shape for p in weights.parameters(config) if p.name in PROJECTIONS}
    factors = {}
    for name in what.targets:
        if name not in shapes:
            raise errors.InputError(f"LoRA: {names.unknown_name('projection', name, list(shapes))}")
        into, out = shapes[name]
        drawn = jax.random.fold_in(key, PROJECTIONS.index(name))
        bound = into**-0.5
        down = jax.random.uniform(drawn, (len(chosen), into, what.rank), jnp.float32, -bound, bound)
        factors[name] = LowRank(down, jnp.zeros((len(chosen), what.rank, out), jnp.float32))
    return factors


def _float32_copy(weight: Array) -> Array:
    """Copies to float32: a step donates the trained array, and must not donate the model's."""
    return jnp.array(weight, jnp.float32, copy=True)


def _layers(named: tuple[int, ...], count: int) -> list[int]:
    wrong = [layer for layer in named if not 0 <= layer < count]
    if wrong:
        raise errors.InputError(f"layer {wrong[0]}: the model has layers 0 to {count - 1}")
    if len(set(named)) < len(named):
        raise errors.InputError(f"layers: duplicates: {', '.join(map(str, named))}")
    return sorted(named) or list(range(count))


def apply(
    base: Mapping[str, Any], config: Config, what: Trainable, trained: Any
) -> tuple[Mapping[str, Any], Edit | None]:
    """Returns the weights and the edit for the decoder.

    Args:
        base: the model's arrays.
        config: of the model.
        what: the trainable parameters.
        trained: the arrays from `init`, trained or not.
    """
    chosen = _layers(what.layers, config.layers)
    if isinstance(what, Lora):
        return base, lora_edit(config, what, trained)
    whole = len(chosen) == config.layers
    rounded = jax.tree.map(
        lambda w, new: new.astype(w.dtype) if whole else w.at[jnp.asarray(chosen)].set(new.astype(w.dtype)),
        dict(base["layers"]),
        dict(trained["layers"]),
    )
    rest = {name: trained.get(name, w).astype(w.dtype) for name, w in base.items() if name != "layers"}
    return {**rest, "layers": rounded}, None


def lora_edit(config: Config, what: Lora, trained: Mapping[str, LowRank]) -> Edit:
    """Builds an edit of strength 1 from trained factors, with the factor alpha / rank in B."""
    chosen = jnp.asarray(_layers(what.layers, config.layers))

    def in_all_layers(x: Array) -> Array:
        return jnp.zeros((config.layers, *x.shape[1:]), x.dtype).at[chosen].set(x) if what.layers else x

    lora = {
        name: LowRank(in_all_layers(factors.down), in_all_layers(factors.up * what.scale))
        for name, factors in trained.items()
    }
    return Edit(jnp.ones(()), lora=lora)
