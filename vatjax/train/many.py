"""Many adapters on one frozen model, trained in one compiled step: targets, directions, seeds side by side.

    states = [train.begin(model, train.Lora(rank=8), train.Adam(rate=rate), 100, key=seed) for ...]
    state = train.stack(states)
    state, logs = train.step_many(state, train.beside([next(own) for own in streams]), train.sft())
    edits = [train.result(own) for own in train.unstack(state)]

Each has its own batches, rate, length of schedule and key. What the weights of the model are multiplied with is then one
large matrix, where it would be many small ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from vatjax import errors
from vatjax.models import hosts, sharding
from vatjax.train import steps
from vatjax.train.forward import Memory
from vatjax.train.losses import Loss
from vatjax.train.rows import Batch, Data, Shape
from vatjax.train.steps import KEEP, Penalty, State
from vatjax.train.sums import Logs
from vatjax.train.trained import Lora

Array = jax.Array

# About how many tokens suit one pass on a CPU: with more of them a step is slower, since they leave its caches, and takes
# more memory.
CPU_TOKENS = 640


def stack(states: Sequence[State]) -> State:
    """States of one model as one, whose progress has a leading axis of adapters.

    Raises:
        InputError: where they are of different models, or differ in more than rates, lengths and keys.
    """
    if not states:
        raise errors.InputError("there is no state to stack")
    first = states[0]
    for number, one in enumerate(states[1:], 1):
        if one.base is not first.base:
            raise errors.InputError(f"state {number}: it is of another model than state 0; adapters share one")
        for name in ("what", "adam"):
            if getattr(one, name) != getattr(first, name):
                raise errors.InputError(
                    f"state {number}: its {name} is {getattr(one, name)}, that of state 0 {getattr(first, name)}"
                )
    if not isinstance(first.what, Lora):
        raise errors.InputError("only low-rank changes can share a model; whole weights are a model each")
    progress = jax.tree.map(lambda *x: jnp.stack(x), *(one.progress for one in states))
    return dataclasses.replace(first, progress=_placed(progress, first))


def unstack(state: State) -> list[State]:
    """The states that `stack` put together."""
    count = state.progress.step.shape[0]
    return [
        dataclasses.replace(state, progress=jax.tree.map(lambda x, i=i: x[i], state.progress)) for i in range(count)
    ]


def alike(data: Sequence[Data]) -> list[Data]:
    """The same data with one shape for all, which their batches share."""
    shape = Shape(*(max(sizes) for sizes in zip(*(one.shape for one in data), strict=True)))
    if any(one.kind != data[0].kind for one in data):
        kinds = " and ".join(sorted({one.kind for one in data}))
        raise errors.InputError(f"{kinds} can't be trained on side by side")
    if any(one.shape.rows != shape.rows for one in data):
        raise errors.InputError("all adapters take batches of as many rows")
    return [dataclasses.replace(one, shape=shape) for one in data]


def beside(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape as one with a leading axis of adapters."""
    made: Batch = jax.tree.map(lambda *x: np.stack(x), *batches)
    return made


def step_many(
    state: State,
    batch: Batch,
    loss: Loss,
    penalty: Penalty | None = None,
    parts: int = 1,
    memory: Memory = KEEP,
    donate: bool = False,
    at_once: int | None = None,
) -> tuple[State, Logs]:
    """One step of each adapter; logs have an axis of adapters. Arguments as in `step`, arrays with a leading axis.

    Args:
        at_once: how many adapters go through the model together; by default all of them, and on a CPU as many as have
            about
            640 tokens in a part, an even share of them.
    """
    steps.check(state, batch, loss, parts, many=True)
    adapters, rows, time = batch.tokens.shape
    if adapters != state.progress.step.shape[0]:
        raise errors.InputError(f"expected batches of {state.progress.step.shape[0]} adapters, found {adapters}")
    if at_once is None:
        alone = jax.default_backend() == "cpu" and sharding.mesh_of(state.base.arrays) is None
        fits = CPU_TOKENS * parts // (rows * time) if alone else adapters
        at_once = max(k for k in range(1, adapters + 1) if adapters % k == 0 and k <= max(1, fits))
    run = _donating if donate else _pure
    progress, logs = run(
        state.base,
        state.progress,
        _placed(batch, state),
        penalty,
        loss=loss,
        what=state.what,
        adam=state.adam,
        parts=parts,
        memory=memory,
        at_once=at_once,
    )
    return dataclasses.replace(state, progress=progress), logs


def _placed(stacked: Any, state: State) -> Any:
    """On a mesh each device has its share of the adapters, where they can be shared out evenly."""
    mesh = sharding.mesh_of(state.base.arrays)
    if mesh is None:
        return stacked
    count = jax.tree.leaves(stacked)[0].shape[0]
    even = count % sharding.shares(state.base.arrays) == 0
    return hosts.put(stacked, sharding.texts(mesh) if even else NamedSharding(mesh, sharding.partition()))


def _many(
    base: Any,
    progress: Any,
    batch: Batch,
    penalty: Penalty | None,
    *,
    at_once: int,
    **how: Any,
) -> tuple[Any, Logs]:
    def one(along: Any) -> tuple[Any, Logs]:
        own, rows, extra = along
        return steps.taken(base, own, rows, penalty=extra, **how)

    count = batch.tokens.shape[0]
    along = (progress, batch, penalty)
    found: tuple[Any, Logs] = (
        jax.vmap(one)(along)
        if at_once >= count
        else jax.lax.map(one, along, batch_size=at_once if at_once > 1 else None)
    )
    return found


_STATIC = ("loss", "what", "adam", "parts", "memory", "at_once")
_pure = functools.partial(jax.jit, static_argnames=_STATIC)(_many)
_donating = functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("progress",))(_many)
