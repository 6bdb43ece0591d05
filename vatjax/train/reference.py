"""What the reference says of every text, computed once before training and kept.

The log-probabilities are kept under a name made of the texts, the model and its dtype: another run with the same three
reads them, one with another text or another weight does not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from vatjax import errors, store
from vatjax.models import Model, computed_as, fingerprint, hosts, sharding
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.rows import Batch, Data, at, batch

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
    rows: Sequence[int] | None = None,
) -> Data:
    """The same data with the log-probability of each text under a model.

    Args:
        model: the reference.
        data: the rows.
        keep: a folder for results; those that are there are not computed again.
        memory: as for a step.
        done: is told how many rows more are done.
        rows: that are needed, as `rows_drawn` gives them; all by default. The others stay NaN.

    Raises:
        InputError: where the model gives a text no probability.
    """
    named = {
        "examples": [[one.prompt, *one.behind] for one in data.examples],
        "model": fingerprint(model.arrays),
        "computed": computed_as(model),
    }
    where = None if keep is None else store.path(keep) / f"{store.address(named)}.npz"
    needed = list(range(len(data.rows)) if rows is None else rows)
    kept = None if where is None else _kept(where, (len(data.examples), data.each))
    found = np.full((len(data.examples), data.each), np.nan) if kept is None else kept
    seen = {row: bool(np.isfinite(found[list(data.rows[row])]).all()) for row in needed}
    if hosts.everywhere(all(seen.values())):
        left = []
    else:  # several processes must not differ in what they compute
        left = needed if jax.process_count() > 1 else [row for row in needed if not seen[row]]
    done(len(needed) - len(left))
    if not left:
        return dataclasses.replace(data, reference=found)
    run = functools.partial(_log_probs, memory=memory or Memory())
    for start in range(0, len(left), data.shape.rows):
        chosen = left[start : start + data.shape.rows]
        laid = sharding.shared(batch(dataclasses.replace(data, reference=None), chosen), model.arrays)
        read = hosts.fetch(run(model, laid))
        for place, row in enumerate(chosen):
            for k, i in enumerate(data.rows[row]):
                found[i] = read[place, k * data.each : (k + 1) * data.each]
        done(len(chosen))
    own = np.unique([i for row in needed for i in data.rows[row]])
    wrong = own[~np.isfinite(found[own]).all(-1)]
    if len(wrong):
        one = data.examples[wrong[0]]
        raise errors.InputError(
            f"{one.where or f'example {wrong[0] + 1}'}: the reference gives it no probability; its weights may be broken"
        )
    if where is not None:
        store.commit_npz(where, {"reference": found})
    return dataclasses.replace(data, reference=found)


def rows_drawn(data: Data, steps: int, seed: int = 0) -> list[int]:
    """Returns the rows that a run draws, in order: a short run sees few of them.

    Args:
        data: the rows.
        steps: of the run.
        seed: of its order.
    """
    return sorted({row for step in range(min(steps, data.steps)) for row in at(data, step, seed)})


def _kept(where: store.Path, shape: tuple[int, int]) -> np.ndarray | None:
    """What was kept under this name, NaN for what was not needed; None where that is nothing, or damaged."""
    if not store.path(where).exists():
        return None
    try:
        kept = store.load_npz(where).get("reference")
    except ValueError:
        return None
    return None if kept is None or kept.shape != shape else np.array(kept)


@functools.partial(jax.jit, static_argnames="memory")
def _log_probs(model: Model, rows: Batch, memory: Memory) -> Array:
    return text_log_probs(model.arrays, model.config, rows, None, memory)
