"""Answers under many edits at one time.

The layers below the first that any of the edits changes are computed once for all of them, those above it for each: the
edits are one more axis of the same products. Which layer that is may differ from call to call without a new compilation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax import errors
from vatjax.elicit import passes as layout
from vatjax.elicit import running, scorer
from vatjax.elicit.pieces import Option, Pieces, log_shares
from vatjax.elicit.plan import Size
from vatjax.elicit.running import Part, Run
from vatjax.elicit.tree import grow
from vatjax.models import Edit, Model, decoder, packed, sharding

Array = jax.Array

AT_ONCE = 16
_ROOM = 1 << 30  # bytes of keys and values for all edits together, where a device does not say what it has


def stacked(edits: Sequence[Edit]) -> Edit:
    """Edits of one form as one, with the edits as its leading axis.

    Raises:
        InputError: where they are not of one form.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    kinds = {str(jax.tree.structure(edit)) + str([leaf.shape for leaf in jax.tree.leaves(edit)]) for edit in edits}
    if len(kinds) > 1:
        raise errors.InputError("the edits have different parts: only edits of one form are computed together")
    together: Edit = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *edits)
    return together


def lowest(edit: Edit) -> int:
    """The first layer that an edit changes; the number of layers where it changes none."""
    found = [edit.depth]
    parts = (edit.residual, edit.neurons, edit.gains, [change.up for change in edit.lora.values()])
    for leaf in [*jax.tree.leaves(parts), *(step.share for step in edit.steps)]:
        changed = np.asarray(leaf).reshape(edit.depth, -1).any(1)
        found.append(int(np.argmax(changed)) if changed.any() else edit.depth)
    return min(found) if float(edit.strength) != 0 else edit.depth


def score(
    model: Model,
    found: Pieces,
    options: Sequence[Option],
    edits: Sequence[Edit],
    size: Size | None = None,
    at_once: int = 0,
    parts: Sequence[Part] | None = None,
) -> np.ndarray:
    """Log-probabilities of all prompts' answers under each of several edits, [edits, prompts, answers].

    Args:
        model: the model.
        found: tokens of the prompts.
        options: the ways to write an answer.
        edits: of one form.
        size: how much is computed at one time.
        at_once: how many edits are computed together; by default 16, or as many as there is room for.
        parts: of `scorer.plans`, where they are made already.
    """
    stacked(edits)  # refuses what does not go together before anything is computed
    scorer.check(found, model, options)
    size = size or scorer.size_for(model)
    parts = scorer.plans(model, [(found, options)], size)[0] if parts is None else parts
    count = min(at_once or _fitting(model, parts, size), len(edits))
    while True:
        try:
            return _scored(model, found, options, edits, parts, count)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if count == 1:
                raise errors.InputError(
                    f"the device has no memory for passes of {size.tokens} tokens under an edit; give a smaller size"
                ) from None
        count //= 2


def _scored(
    model: Model, found: Pieces, options: Sequence[Option], edits: Sequence[Edit], parts: Sequence[Part], count: int
) -> np.ndarray:
    """`score`, so many edits together."""
    low = [lowest(edit) for edit in edits]
    order = np.argsort(low, kind="stable")  # edits of the same layers share most of what is below them
    logs: np.ndarray | None = None
    for start in range(0, len(edits), count):
        chosen = order[start : start + count].tolist()
        padded = [*chosen, *[chosen[-1]] * (count - len(chosen))]  # the same shapes for the last few
        together, first = stacked([edits[i] for i in padded]), min(low[i] for i in chosen)
        for part in parts:
            run = Together(model, part, together, first)
            for number, prompts in enumerate(part.plan.shards):
                shares = [log_shares(tuple(options), ways) for ways in run.ways(number)[: len(chosen)]]
                if logs is None:
                    logs = np.full((len(edits), len(found.which), shares[0].shape[1]), np.nan)
                logs[np.ix_(chosen, part.prompts[prompts])] = shares
    assert logs is not None
    wrong = np.argwhere(~np.isfinite(logs).all(-1))
    if len(wrong):
        raise errors.InputError(f"the model's logits are not finite under edit {wrong[0, 0]}, prompt {wrong[0, 1] + 1}")
    return logs


def _fitting(model: Model, parts: Sequence[Part], size: Size) -> int:
    """How many edits' keys and values there is room for."""
    config = model.config
    places = max(part.plan.shapes.store + part.plan.shapes.trunk for part in parts)
    each = 2 * config.layers * places * config.kv_heads * config.head_size * model.arrays["embedding"].dtype.itemsize
    return max(1, min(AT_ONCE, int((size.memory // 2 or _ROOM) // max(1, each))))


class Together(Run):
    """The passes of a plan under several edits."""

    def __init__(self, model: Model, part: Part, edits: Edit, first: int) -> None:
        super().__init__(model, part, edits)
        self.first = np.int32(first)
        self.kept: Any = None

    def ways(self, number: int) -> list[np.ndarray]:
        """Of each edit the log-probabilities of each way to write an answer, [prompts, ways]."""
        plan, shapes = self.part.plan, self.part.plan.shapes
        if self.kept is None:
            tokens, length = self.trunk()
            self.kept = _begin(
                self.model, tokens, length, self.reach, self.edit, self.first, shapes.store, shapes.answers
            )
        trunks, stores, read = self.kept
        self.kept = None  # what passes fill is given away; it comes back when all of them are done
        tree = grow(self.part.found, plan.shards[number], plan.trunk, self.part.options)
        for one in layout.passes(tree, shapes):
            rows, places = sharding.shared(one, self.model.arrays)
            stores, read = _advance(self.model, trunks, stores, read, rows, places, self.reach, self.edit, self.first)
        self.kept = trunks, stores, read
        shares = np.asarray(_answers(self.model, read, self.wanted)).reshape(len(read), -1, len(self.wanted))
        ends = layout.same_ends(tree)
        return [self.written(one[ends]) for one in shares]


# On the device ------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("places", "answers"))
def _begin(
    model: Model, tokens: Array, length: Array, reach: Array, edits: Edit, first: Array, places: int, answers: int
) -> Any:
    """The trunk's keys below and above the first edit, room for the rows', and for the states that are read."""
    weights, config = model.arrays, model.config
    dtype, count = weights["embedding"].dtype, len(edits.strength)
    store = packed.empty_store(config, places, dtype)
    each = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), store)
    read = jnp.zeros((count, answers, config.width), dtype)
    if not tokens.shape[0]:
        none = packed.empty_store(config, 0, dtype)
        above = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), none)
        return (none, above), (store, each), read
    rows = packed.alone(tokens, length)
    nothing, empty = packed.empty_store(config, 0, dtype), packed.empty_store(config, tokens.shape[0], dtype)
    hidden = decoder.embed(weights, config, rows.tokens)
    hidden, below = packed.through(weights, config, hidden, nothing, empty, rows, reach, None, 0, first)
    # What is below is in both, so that the two need not be told apart.
    _, above = jax.vmap(
        lambda edit: packed.through(weights, config, hidden, nothing, below, rows, reach, edit, first, config.layers)
    )(edits)
    return (below, above), (store, each), read


@functools.partial(jax.jit, donate_argnames=("stores", "read"))
def _advance(
    model: Model,
    trunks: tuple[packed.Store, packed.Store],
    stores: tuple[packed.Store, packed.Store],
    read: Array,
    rows: packed.Rows,
    places: Array,
    reach: Array,
    edits: Edit,
    first: Array,
) -> Any:
    weights, config = model.arrays, model.config
    hidden = decoder.embed(weights, config, rows.tokens)
    hidden, below = packed.through(weights, config, hidden, trunks[0], stores[0], rows, reach, None, 0, first)

    def above(edit: Edit, trunk: packed.Store, store: packed.Store, read: Array) -> tuple[packed.Store, Array]:
        found, store = packed.through(weights, config, hidden, trunk, store, rows, reach, edit, first, config.layers)
        flat = found.reshape(-1, read.shape[-1])
        return store, read.at[places.reshape(-1)].set(flat, mode="drop")

    each, read = jax.vmap(above)(edits, trunks[1], stores[1], read)
    return (below, each), read


@jax.jit
def _answers(model: Model, read: Array, wanted: Array) -> Array:
    """Log-probabilities of some tokens at each place under each edit, [edits, chunks, chunk, wanted]."""
    found: Array = lax.map(lambda one: running.answers(model, one, wanted), read)
    return found
