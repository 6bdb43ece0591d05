"""The passes of a plan on a device: what is kept between them, and what is read at the ends of prompts.

Of the vocabulary only the answers' logits leave the device, with the log-sum-exp of the others, taken a few places at a
time.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax.elicit import passes as layout
from vatjax.elicit.pieces import Option, Pieces
from vatjax.elicit.plan import CHUNK, Plan
from vatjax.elicit.tree import Tree, grow
from vatjax.models import Edit, Model, decoder, hosts, packed, sharding
from vatjax.progress import OnProgress, silent

Array = jax.Array

_AHEAD = 2  # passes that may be dispatched before one is waited for, so that the device is never idle


class Part(NamedTuple):
    """Prompts that are computed together.

    Attributes:
        found: their tokens.
        options: the ways to write an answer.
        plan: how they are computed.
    """

    found: Pieces
    options: Sequence[Option]
    plan: Plan


class Passes:
    """Reports how many passes of a shard are complete, without waiting for the one that was dispatched last.

    Args:
        tokens: of the shard.
        on_progress: is called with the completed fraction of the shard.
    """

    def __init__(self, tokens: int, on_progress: OnProgress) -> None:
        self.tokens, self.on_progress = tokens, on_progress
        self.pending: deque[tuple[Array, int]] = deque()
        self.computed = 0

    def dispatched(self, ended: Array, tokens: int) -> None:
        """Takes a pass that was dispatched: a number that it gives when it ends, and its tokens."""
        if self.on_progress is silent:
            return
        self.pending.append((ended, tokens))
        if len(self.pending) > _AHEAD:
            last, tokens = self.pending.popleft()
            last.block_until_ready()
            self.computed += tokens
            self.on_progress(min(1.0, self.computed / max(1, self.tokens)))


class Run:
    """What stays the same over the shards of a plan: the model, the trunk's keys, the arrays that passes fill."""

    def __init__(self, model: Model, part: Part, edit: Edit | None, on_progress: OnProgress = silent) -> None:
        self.model, self.part, self.edit, self.on_progress = model, part, edit, on_progress
        wanted = sorted({token for option in part.options for token in option.tokens})
        self.column = {token: i for i, token in enumerate(wanted)}
        self.wanted = np.array(wanted, np.int32)
        self.begun: Begun | None = None

    def shard(self, number: int) -> np.ndarray:
        """Log-probabilities of each way to write an answer, [prompts, ways]."""
        tree, read = self._computed(number)
        shares = hosts.fetch(answers(self.model, read, self.wanted)).reshape(-1, len(self.wanted))
        return self.written(shares[layout.same_ends(tree)])

    def states(self, number: int, every: packed.Every) -> np.ndarray:
        """What every layer holds at each prompt's last token, [layers, prompts, width]."""
        tree, read = self._computed(number, every)
        found: np.ndarray = hosts.fetch(read[:, layout.same_ends(tree)[:, 0]])
        return found

    def _computed(self, number: int, every: packed.Every | None = None) -> tuple[Tree, Array]:
        """A shard's tree, and what was read at the ends of its prompts."""
        found, plan = self.part.found, self.part.plan
        shapes = plan.shapes
        if self.begun is None:
            tokens, length = self.trunk()
            self.begun = begin(self.model, tokens, length, self.edit, shapes.store, shapes.answers, every)
        trunk, store, read = self.begun
        self.begun = None  # what passes fill is given away; it comes back when all of them are done
        tree = grow(found, plan.shards[number], plan.trunk, self.part.options)
        progress = Passes(plan.shard_tokens[number], self.on_progress)
        for one in layout.passes(tree, shapes):
            rows, answers = sharding.shared(one, self.model.arrays)
            store, read, ended = advance(self.model, trunk, store, read, rows, answers, self.edit, every)
            progress.dispatched(ended, rows.tokens.size)
        self.begun = Begun(trunk, store, read)
        return tree, read

    def trunk(self) -> tuple[np.ndarray, np.int32]:
        """What all prompts begin with, filled up, and how long it is."""
        plan = self.part.plan
        tokens = np.zeros(plan.shapes.trunk, np.int32)
        tokens[: plan.trunk] = self.part.found.tokens(0)[: plan.trunk]
        return tokens, np.int32(plan.trunk)

    def written(self, shares: np.ndarray) -> np.ndarray:
        """The product over an option's tokens, each read at its own place; shares is [prompts, places, wanted]."""
        at = {place: i for i, place in enumerate(self.part.plan.places)}
        ways = np.zeros((len(shares), len(self.part.options)))
        for i, option in enumerate(self.part.options):
            for k, token in enumerate(option.tokens):
                ways[:, i] += shares[:, at[option.tokens[:k]], self.column[token]]
        return ways


# On the device ------------------------------------------------------------------------------------------------------


class Begun(NamedTuple):
    """The trunk's keys, and arrays to be filled: keys that later passes look at, and residual streams to be read."""

    trunk: packed.Store
    store: packed.Store
    read: Array


@functools.partial(jax.jit, static_argnames=("places", "answers", "every"))
def begin(
    model: Model,
    tokens: Array,
    length: Array,
    edit: Edit | None,
    places: int,
    answers: int,
    every: packed.Every | None = None,
) -> Begun:
    """The trunk's keys, and room for what passes fill."""
    weights, config = model.arrays, model.config
    dtype = weights["embedding"].dtype
    width = config.hidden if every == "neurons" else config.width
    shape = (config.layers, answers, width) if every else (answers, width)
    trunk = packed.trunk(weights, config, tokens, length, edit)
    stream = dtype if every == "neurons" else decoder.stream_dtype(weights, config)
    return Begun(trunk, packed.empty_store(config, places, dtype), jnp.zeros(shape, stream))


@functools.partial(jax.jit, donate_argnames=("store", "read"), static_argnames="every")
def advance(
    model: Model,
    trunk: packed.Store,
    store: packed.Store,
    read: Array,
    rows: packed.Rows,
    answers: Array,
    edit: Edit | None,
    every: packed.Every | None = None,
) -> tuple[packed.Store, Array, Array]:
    """One pass: the store with its keys, the states at the places that are read, and a number that tells when it ends."""
    passed = packed.forward(model.arrays, model.config, trunk, store, rows, edit, every)
    found = passed.hidden if passed.every is None else passed.every
    flat = found.reshape(*read.shape[:-2], -1, read.shape[-1])
    return passed.store, read.at[..., answers.reshape(-1), :].set(flat, mode="drop"), passed.hidden[0, 0, 0]


@jax.jit
def answers(model: Model, read: Array, wanted: Array) -> Array:
    """Log-probabilities of some tokens at each place, [chunks, chunk, wanted]."""

    def some(hidden: Array) -> Array:
        logits = decoder.head(model.arrays, model.config, hidden)
        return logits[:, wanted] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    found: Array = lax.map(some, read.reshape(-1, CHUNK, read.shape[-1]))
    return found
