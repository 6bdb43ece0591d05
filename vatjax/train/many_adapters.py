"""Many adapters on one frozen model, trained in one compiled step: targets, directions and seeds in parallel.

    states = [train.init(model, train.Lora(rank=8), train.Adam(rate=rate), 100, key=seed) for ...]
    state = train.stack(states)
    state, logs = train.step_many(state, train.stack_batches([next(stream) for stream in streams]), train.sft())
    edits = [train.export(adapter) for adapter in train.unstack(state)]

Each adapter has its own batches, rate, schedule length and key. The model's weights are then multiplied with one large
matrix instead of many small ones.
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
from vatjax.models import sharding
from vatjax.runtime import processes
from vatjax.train import steps
from vatjax.train.forward import Memory
from vatjax.train.loss_sums import Logs
from vatjax.train.losses import Loss
from vatjax.train.parameters import Lora
from vatjax.train.rows import Batch, Data, Shape
from vatjax.train.steps import DEFAULT_MEMORY, Penalty, State

Array = jax.Array

# Approximate number of tokens for one pass on a CPU. More no longer fit its caches: a step gets slower, and takes more
# memory.
CPU_TOKENS = 640


def stack(states: Sequence[State]) -> State:
    """Stacks states of one model into one, whose progress has a leading axis of adapters.

    Raises:
        InputError: if they have different models, or differ in more than rates, schedule lengths and keys.
    """
    if not states:
        raise errors.InputError("stack: expected at least one state, found none")
    first = states[0]
    for number, state in enumerate(states[1:], 1):
        if state.base is not first.base:
            raise errors.InputError(f"state {number}: its model is not that of state 0; adapters share one model")
        for name in ("what", "adam"):
            if getattr(state, name) != getattr(first, name):
                raise errors.InputError(
                    f"state {number}: {name}: expected {getattr(first, name)} of state 0, found {getattr(state, name)}"
                )
    if not isinstance(first.what, Lora):
        raise errors.InputError("only LoRA adapters can share a model; full fine-tuning needs a model for each state")
    progress = jax.tree.map(lambda *x: jnp.stack(x), *(state.progress for state in states))
    return dataclasses.replace(first, progress=_place(progress, first))


def unstack(state: State) -> list[State]:
    """Splits a stacked state into its adapters' states."""
    count = state.progress.step.shape[0]
    return [
        dataclasses.replace(state, progress=jax.tree.map(lambda x, i=i: x[i], state.progress)) for i in range(count)
    ]


def pad_to_common_shape(data: Sequence[Data]) -> list[Data]:
    """Gives all data the largest of their shapes, so that their batches can be stacked."""
    shape = Shape(*(max(sizes) for sizes in zip(*(item.shape for item in data), strict=True)))
    if any(item.kind != data[0].kind for item in data):
        kinds = " and ".join(sorted({item.kind for item in data}))
        raise errors.InputError(f"cannot train on {kinds} in one step")
    if any(item.shape.rows != shape.rows for item in data):
        raise errors.InputError("all adapters need the same number of rows in a batch")
    return [dataclasses.replace(item, shape=shape) for item in data]


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """Stacks batches of one shape along a leading axis of adapters."""
    stacked: Batch = jax.tree.map(lambda *x: np.stack(x), *batches)
    return stacked


def step_many(
    state: State,
    batch: Batch,
    loss: Loss,
    penalty: Penalty | None = None,
    parts: int = 1,
    memory: Memory = DEFAULT_MEMORY,
    donate: bool = False,
    at_once: int | None = None,
) -> tuple[State, Logs]:
    """Takes one step of each adapter. Arguments are those of `step`; arrays and logs have a leading axis of adapters.

    Args:
        at_once: number of adapters in one pass through the model. Default: all; on a CPU without a mesh the largest
            even share with at most about 640 tokens in a part.
    """
    steps.check_step(state, batch, loss, parts, many=True)
    adapters, rows, time = batch.tokens.shape
    if adapters != state.progress.step.shape[0]:
        raise errors.InputError(f"expected batches of {state.progress.step.shape[0]} adapters, found {adapters}")
    if at_once is None:
        single_cpu = jax.default_backend() == "cpu" and sharding.mesh_of(state.base.arrays) is None
        capacity = CPU_TOKENS * parts // (rows * time) if single_cpu else adapters
        at_once = max(k for k in range(1, adapters + 1) if adapters % k == 0 and k <= max(1, capacity))
    run = _donating if donate else _pure
    progress, logs = run(
        state.base,
        state.progress,
        _place(batch, state),
        penalty,
        loss=loss,
        what=state.what,
        adam=state.adam,
        parts=parts,
        memory=memory,
        at_once=at_once,
    )
    return dataclasses.replace(state, progress=progress), logs


def _place(stacked: Any, state: State) -> Any:
    """Places arrays on the mesh: adapters are split over the devices if they divide evenly, else replicated."""
    mesh = sharding.mesh_of(state.base.arrays)
    if mesh is None:
        return stacked
    count = jax.tree.leaves(stacked)[0].shape[0]
    even = count % sharding.count_batch_shards(state.base.arrays) == 0
    return processes.put(stacked, sharding.batch_sharding(mesh) if even else NamedSharding(mesh, sharding.partition()))


def _step_adapters(
    base: Any,
    progress: Any,
    batch: Batch,
    penalty: Penalty | None,
    *,
    at_once: int,
    **static: Any,
) -> tuple[Any, Logs]:
    def step_adapter(inputs: Any) -> tuple[Any, Logs]:
        adapter_progress, rows, extra = inputs
        return steps.uncompiled_step(base, adapter_progress, rows, penalty=extra, **static)

    count = batch.tokens.shape[0]
    inputs = (progress, batch, penalty)
    stepped: tuple[Any, Logs] = (
        jax.vmap(step_adapter)(inputs)
        if at_once >= count
        else jax.lax.map(step_adapter, inputs, batch_size=at_once if at_once > 1 else None)
    )
    return stepped


_STATIC = ("loss", "what", "adam", "parts", "memory", "at_once")
_pure = functools.partial(jax.jit, static_argnames=_STATIC)(_step_adapters)
_donating = functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("progress",))(_step_adapters)
