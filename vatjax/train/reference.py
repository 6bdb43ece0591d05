"""Log-probabilities of every text under the reference, computed once before training and cached.

The cache key is a hash of the texts, the model and its dtype: a run with the same three reads the cache, and a run with
another text or weight does not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from vatjax import errors, store
from vatjax.models import Model, computation_key, fingerprint, sharding
from vatjax.runtime import processes
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.rows import Batch, Data, batch, rows_at_step

Array = jax.Array


def without_reference(data: Data) -> Data:
    """Returns the data with zeros as reference, for planning and compiling without training."""
    return dataclasses.replace(data, reference=np.zeros((len(data.examples), data.texts_per_example)))


def with_reference(
    model: Model,
    data: Data,
    cache: store.Path | None = None,
    memory: Memory | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    rows: Sequence[int] | None = None,
) -> Data:
    """Returns the data with the log-probability of each text under a model.

    Args:
        model: the reference.
        data: the rows.
        cache: a folder for results; cached ones are not computed again.
        memory: as in `step`.
        on_progress: is called with the number of rows that have just been finished.
        rows: the rows to compute, as from `rows_drawn`; all by default. The others stay NaN.

    Raises:
        InputError: if a log-probability is not finite.
    """
    identity = {
        "examples": [[example.prompt, *example.completions] for example in data.examples],
        "model": fingerprint(model.arrays),
        "computed": computation_key(model),
    }
    path = None if cache is None else store.path(cache) / f"{store.address(identity)}.npz"
    needed = list(range(len(data.rows)) if rows is None else rows)
    cached = None if path is None else _load_cached(path, (len(data.examples), data.texts_per_example))
    log_probs = np.full((len(data.examples), data.texts_per_example), np.nan) if cached is None else cached
    complete = {row: bool(np.isfinite(log_probs[list(data.rows[row])]).all()) for row in needed}
    if processes.global_all(all(complete.values())):
        missing = []
    else:  # all processes must compute the same rows
        missing = needed if jax.process_count() > 1 else [row for row in needed if not complete[row]]
    on_progress(len(needed) - len(missing))
    if not missing:
        return dataclasses.replace(data, reference=log_probs)
    run = functools.partial(_log_probs, memory=memory or Memory())
    for start in range(0, len(missing), data.shape.rows):
        chosen = missing[start : start + data.shape.rows]
        rows_batch = sharding.shard_batch(batch(dataclasses.replace(data, reference=None), chosen), model.arrays)
        computed = processes.fetch(run(model, rows_batch))
        for place, row in enumerate(chosen):
            for k, i in enumerate(data.rows[row]):
                log_probs[i] = computed[place, k * data.texts_per_example : (k + 1) * data.texts_per_example]
        on_progress(len(chosen))
    members = np.unique([i for row in needed for i in data.rows[row]])
    wrong = members[~np.isfinite(log_probs[members]).all(-1)]
    if len(wrong):
        example = data.examples[wrong[0]]
        raise errors.InputError(
            f"{example.source or f'example {wrong[0] + 1}'}: its log-probability is not finite under the reference model"
        )
    if path is not None:
        store.commit_npz(path, {"reference": log_probs})
    return dataclasses.replace(data, reference=log_probs)


def rows_drawn(data: Data, steps: int, seed: int = 0) -> list[int]:
    """Returns the sorted rows that a run draws; a short run does not draw all of them.

    Args:
        data: the rows.
        steps: number of steps of the run.
        seed: seed of the data order.
    """
    return sorted({row for step in range(min(steps, data.steps)) for row in rows_at_step(data, step, seed)})


def _load_cached(path: store.Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Loads the cached log-probabilities, NaN for rows not computed; returns None if the file is missing or damaged."""
    if not store.path(path).exists():
        return None
    try:
        cached = store.load_npz(path).get("reference")
    except ValueError:
        return None
    return None if cached is None or cached.shape != shape else np.array(cached)


@functools.partial(jax.jit, static_argnames="memory")
def _log_probs(model: Model, rows: Batch, memory: Memory) -> Array:
    return text_log_probs(model.arrays, model.config, rows, None, memory)
