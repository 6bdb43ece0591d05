"""What is trained: everything, some layers, or low-rank changes beside weights that stay as they are.

Trained arrays are float32 whatever the model's dtype is, and are rounded to it where they are used: a small step is not
lost in the digits that a bfloat16 weight does not have.

    LoRA      W x + (alpha / rank) (x A) B         A drawn from +- 1 / sqrt(in), B zero: at first, nothing
    rsLoRA    W x + (alpha / sqrt(rank)) (x A) B   Kalajdzievski (2023): high ranks learn as fast as low ones
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vatjax import errors, names
from vatjax.models import Config, Edit, LowRank, Model
from vatjax.models import weights as wt
from vatjax.models.edit import PROJECTIONS

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank changes of projections (Hu et al. 2021)."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = PROJECTIONS
    """Which projections."""
    layers: tuple[int, ...] = ()
    """Which layers; none named is all."""
    stabilised: bool = False
    """alpha / sqrt(rank) in place of alpha / rank: rsLoRA."""

    @property
    def scale(self) -> float:
        """The factor on every change."""
        return self.alpha / (self.rank**0.5 if self.stabilised else self.rank)


@dataclasses.dataclass(frozen=True)
class Whole:
    """The weights themselves."""

    layers: tuple[int, ...] = ()
    """Which layers; none named is all of them, with the embedding, the head and the last norm."""


What = Lora | Whole


def begin(model: Model, what: What, key: Array) -> Any:
    """The trained arrays before the first step: they change nothing yet.

    Raises:
        InputError: for projections and layers that there are not.
    """
    config = model.config
    chosen = _layers(what.layers, config.layers)
    if isinstance(what, Whole):
        arrays = model.arrays
        own = {"layers": jax.tree.map(lambda w: _wide(w[jnp.asarray(chosen)]), arrays["layers"])}
        if not what.layers:
            own |= {name: _wide(w) for name, w in arrays.items() if name != "layers"}
        return own
    if what.rank < 1 or what.alpha <= 0:
        raise errors.InputError(f"LoRA: expected a rank and an alpha above 0, found {what.rank} and {what.alpha}")
    if not what.targets:
        raise errors.InputError(f"LoRA: no projection is named; there are {', '.join(PROJECTIONS)}")
    shapes = {p.name: p.shape for p in wt.parameters(config) if p.name in PROJECTIONS}
    made = {}
    for name in what.targets:
        if name not in shapes:
            raise errors.InputError(f"LoRA: {names.unknown('projection', name, list(shapes))}")
        into, out = shapes[name]
        drawn = jax.random.fold_in(key, PROJECTIONS.index(name))
        bound = into**-0.5
        down = jax.random.uniform(drawn, (len(chosen), into, what.rank), jnp.float32, -bound, bound)
        made[name] = LowRank(down, jnp.zeros((len(chosen), what.rank, out), jnp.float32))
    return made


def _wide(weight: Array) -> Array:
    """A float32 copy: the trained one is given away by a step, and the model's must not be."""
    return jnp.array(weight, jnp.float32, copy=True)


def _layers(named: tuple[int, ...], count: int) -> list[int]:
    wrong = [layer for layer in named if not 0 <= layer < count]
    if wrong:
        raise errors.InputError(f"layer {wrong[0]}: the model has layers 0 to {count - 1}")
    if len(set(named)) < len(named):
        raise errors.InputError(f"layers: one is named twice: {', '.join(map(str, named))}")
    return sorted(named) or list(range(count))


def applied(base: Mapping[str, Any], config: Config, what: What, trained: Any) -> tuple[Mapping[str, Any], Edit | None]:
    """The weights and the edit that the decoder takes.

    Args:
        base: the model's arrays.
        config: of the model.
        what: what is trained.
        trained: the arrays of `begin`, trained or not.
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
    """Trained factors as an edit of strength 1, with the factor alpha / rank in B."""
    chosen = jnp.asarray(_layers(what.layers, config.layers))

    def everywhere(x: Array) -> Array:
        return jnp.zeros((config.layers, *x.shape[1:]), x.dtype).at[chosen].set(x) if what.layers else x

    lora = {name: LowRank(everywhere(own.down), everywhere(own.up * what.scale)) for name, own in trained.items()}
    return Edit(jnp.ones(()), lora=lora)
