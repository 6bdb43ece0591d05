"""Validation: a loss and its logs over held-out examples, summed over batches and divided once."""

from __future__ import annotations

import functools

import jax

from vatjax.models import sharding
from vatjax.train import parameters
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.loss_sums import Sums, mean_logs, sum_losses
from vatjax.train.losses import Loss
from vatjax.train.rows import Batch, Data, batch
from vatjax.train.steps import DEFAULT_MEMORY, State, check_step, reference_of

Array = jax.Array


def evaluate(state: State, data: Data, loss: Loss, memory: Memory = DEFAULT_MEMORY) -> dict[str, float]:
    """Computes the loss over all examples, and the other values that a step logs.

    A loss that uses the drift takes it from each batch.
    """
    totals: tuple[Array, Sums] | None = None
    for first in range(0, len(data.rows), data.shape.rows):
        rows = batch(data, range(first, min(first + data.shape.rows, len(data.rows))))
        batch_totals = evaluate_batch(state, sharding.shard_batch(rows, state.base.arrays), loss, memory)
        totals = batch_totals if totals is None else jax.tree.map(jax.numpy.add, totals, batch_totals)
    assert totals is not None  # `Data` has at least one example
    return {name: float(x) for name, x in mean_logs(*totals).items()}


def evaluate_batch(state: State, rows: Batch, loss: Loss, memory: Memory = DEFAULT_MEMORY) -> tuple[Array, Sums]:
    """Computes (the summed loss of a batch, its `Sums` with the denominator and the logs), without a step."""
    check_step(state, rows, loss)
    totals: tuple[Array, Sums] = _measure(state, rows, loss, memory)
    return totals


@functools.partial(jax.jit, static_argnames=("loss", "memory"))
def _measure(state: State, rows: Batch, loss: Loss, memory: Memory) -> tuple[Array, Sums]:
    arrays, config = state.base.arrays, state.base.config
    weights, edit = parameters.apply(arrays, config, state.what, state.progress.trained)
    policy = text_log_probs(weights, config, rows, edit, memory)
    return sum_losses(loss, policy, reference_of(loss, state.base, rows, memory), rows, None)
