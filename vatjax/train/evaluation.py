"""A loss and what is logged with it over examples that are not trained on: summed over batches, and divided once."""

from __future__ import annotations

import functools

import jax

from vatjax.models import sharding
from vatjax.train import trained
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.losses import Loss
from vatjax.train.rows import Batch, Data, batch
from vatjax.train.steps import KEEP, State, check, reference_of
from vatjax.train.sums import Sums, means, summed_up

Array = jax.Array


def evaluate(state: State, data: Data, loss: Loss, memory: Memory = KEEP) -> dict[str, float]:
    """The loss over all examples, and what else a step logs.

    A text's drift, where the loss has one, is that of its own batch.
    """
    found: tuple[Array, Sums] | None = None
    for first in range(0, len(data.rows), data.shape.rows):
        rows = batch(data, range(first, min(first + data.shape.rows, len(data.rows))))
        own = measure(state, sharding.shared(rows, state.base.arrays), loss, memory)
        found = own if found is None else jax.tree.map(jax.numpy.add, found, own)
    assert found is not None  # there are no data without an example
    return {name: float(x) for name, x in means(*found).items()}


def measure(state: State, rows: Batch, loss: Loss, memory: Memory = KEEP) -> tuple[Array, Sums]:
    """(the sum of a loss over a batch, what it is to be divided by and what is logged), without a step."""
    check(state, rows, loss)
    found: tuple[Array, Sums] = _measure(state, rows, loss, memory)
    return found


@functools.partial(jax.jit, static_argnames=("loss", "memory"))
def _measure(state: State, rows: Batch, loss: Loss, memory: Memory) -> tuple[Array, Sums]:
    arrays, config = state.base.arrays, state.base.config
    weights, edit = trained.applied(arrays, config, state.what, state.progress.trained)
    policy = text_log_probs(weights, config, rows, edit, memory)
    return summed_up(loss, policy, reference_of(loss, state.base, rows, memory), rows, None)
