"""What the reference says of every text, computed once before training and kept.

The log-probabilities are kept under a name made of the texts, the model and its dtype: another run with the same three
reads them, one with another text or another weight does not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from vatjax import errors, store
from vatjax.models import Model, fingerprint, hosts, sharding
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.rows import Batch, Data, batch

Array = jax.Array


def without_reference(data: Data) -> Data:
    """The same data with zeros in the reference's place, for what is planned or compiled and never trained."""
    return dataclasses.replace(data, reference=np.zeros((len(data.examples), data.each)))


def with_reference(
    model: Model,
    data: Data,
    keep: store.Path | None = None,
    memory: Memory | None = None,
    done: Callable[[int], None] = lambda _: None,
) -> Data:
    """The same data with the log-probability of each text under a model.

    Args:
        model: the reference.
        data: the rows.
        keep: a folder for results; those that are there are not computed again.
        memory: as for a step.
        done: is told how many rows more are done.

    Raises:
        InputError: where the model gives a text no probability.
    """
    named = {
        "examples": [[one.prompt, *one.behind] for one in data.examples],
        "model": fingerprint(model.arrays),
        "dtype": str(model.arrays["embedding"].dtype),
    }
    where = None if keep is None else store.path(keep) / f"{store.address(named)}.npz"
    kept = None if where is None else _kept(where)
    if hosts.everywhere(kept is not None):
        done(len(data.rows))
        return dataclasses.replace(data, reference=kept)
    found = np.full((len(data.examples), data.each), np.nan)
    run = functools.partial(_log_probs, memory=memory or Memory())
    for start in range(0, len(data.rows), data.shape.rows):
        chosen = range(start, min(start + data.shape.rows, len(data.rows)))
        rows = sharding.shared(batch(dataclasses.replace(data, reference=None), chosen), model.arrays)
        read = hosts.fetch(run(model, rows))
        for place, row in enumerate(chosen):
            for k, i in enumerate(data.rows[row]):
                found[i] = read[place, k * data.each : (k + 1) * data.each]
        done(len(chosen))
    wrong = np.flatnonzero(~np.isfinite(found).all(-1))
    if len(wrong):
        one = data.examples[wrong[0]]
        raise errors.InputError(
            f"{one.where or f'example {wrong[0] + 1}'}: the reference gives it no probability; its weights may be broken"
        )
    if where is not None:
        store.commit_npz(where, {"reference": found})
    return dataclasses.replace(data, reference=found)


def _kept(where: store.Path) -> np.ndarray | None:
    """What was kept under this name; None where that is nothing, or damaged."""
    if not store.path(where).exists():
        return None
    try:
        return store.load_npz(where).get("reference")
    except ValueError:
        return None


@functools.partial(jax.jit, static_argnames="memory")
def _log_probs(model: Model, rows: Batch, memory: Memory) -> Array:
    return text_log_probs(model.arrays, model.config, rows, None, memory)
