"""Runs the passes of a plan on a device: keys kept between them, and states read at the ends of prompts.

Only the answers' log-probabilities leave the device: their logits less the log-sum-exp of the vocabulary, a few places
at a time.
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

from vatjax.models import Edit, Model, decoder, sharding
from vatjax.prefix import packed_attention
from vatjax.prefix import packing as layout
from vatjax.prefix.plan import CHUNK, Plan
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts
from vatjax.prefix.tree import Tree, build_tree
from vatjax.runtime import processes
from vatjax.runtime.progress import OnProgress, ignore_progress

Array = jax.Array

_AHEAD = 2  # passes that may be dispatched before one is waited for, so that the device is never idle


class Part(NamedTuple):
    """Prompts that are computed together.

    Attributes:
        tokenized: their tokens.
        spellings: the ways to write an answer.
        plan: the passes that compute them.
    """

    tokenized: TokenizedPrompts
    spellings: Sequence[Spelling]
    plan: Plan


class PassProgress:
    """Progress of a shard: counts its complete passes without waiting for the one that was dispatched last.

    Args:
        tokens: of the shard.
        on_progress: is called with the completed fraction of the shard.
    """

    def __init__(self, tokens: int, on_progress: OnProgress) -> None:
        self.tokens, self.on_progress = tokens, on_progress
        self.pending: deque[tuple[Array, int]] = deque()
        self.computed = 0

    def add_pass(self, ended: Array, tokens: int) -> None:
        """Records a dispatched pass: an array that is ready when it ends, and its tokens."""
        if self.on_progress is ignore_progress:
            return
        self.pending.append((ended, tokens))
        if len(self.pending) > _AHEAD:
            last, tokens = self.pending.popleft()
            last.block_until_ready()
            self.computed += tokens
            self.on_progress(min(1.0, self.computed / max(1, self.tokens)))


class Run:
    """State shared by the shards of a plan: the model, the trunk's keys, the arrays that passes fill."""

    def __init__(self, model: Model, part: Part, edit: Edit | None, on_progress: OnProgress = ignore_progress) -> None:
        self.model, self.part, self.edit, self.on_progress = model, part, edit, on_progress
        answer_tokens = sorted({token for spelling in part.spellings for token in spelling.tokens})
        self.column = {token: i for i, token in enumerate(answer_tokens)}
        self.answer_tokens = np.array(answer_tokens, np.int32)
        self.buffers: Buffers | None = None

    def shard(self, number: int) -> np.ndarray:
        """Returns the log-probabilities of each spelling, [prompts, spellings]."""
        tree, read = self._computed(number)
        log_probs = processes.fetch(token_log_probs(self.model, read, self.answer_tokens)).reshape(
            -1, len(self.answer_tokens)
        )
        return self.spelling_log_probs(log_probs[layout.same_ends(tree)])

    def states(self, number: int, every: packed_attention.Every) -> np.ndarray:
        """Returns every layer's state at each prompt's last token, [layers, prompts, width]."""
        tree, read = self._computed(number, every)
        hidden: np.ndarray = processes.fetch(read[:, layout.same_ends(tree)[:, 0]])
        return hidden

    def _computed(self, number: int, every: packed_attention.Every | None = None) -> tuple[Tree, Array]:
        """Computes a shard; returns its tree and the states that were read at the ends of its prompts."""
        tokenized, plan = self.part.tokenized, self.part.plan
        shapes = plan.shapes
        if self.buffers is None:
            tokens, length = self.trunk()
            self.buffers = init_buffers(self.model, tokens, length, self.edit, shapes.store, shapes.answers, every)
        trunk, store, read = self.buffers
        self.buffers = None  # passes donate these; they are set again when all passes are dispatched
        tree = build_tree(tokenized, plan.shards[number], plan.trunk, self.part.spellings)
        progress = PassProgress(plan.shard_tokens[number], self.on_progress)
        for call in layout.make_passes(tree, shapes):
            rows, answers = sharding.shard_batch(call, self.model.arrays)
            store, read, ended = run_pass(self.model, trunk, store, read, rows, answers, self.edit, every)
            progress.add_pass(ended, rows.tokens.size)
        self.buffers = Buffers(trunk, store, read)
        return tree, read

    def trunk(self) -> tuple[np.ndarray, np.int32]:
        """Returns the tokens that all prompts begin with, padded, and how many they are."""
        plan = self.part.plan
        tokens = np.zeros(plan.shapes.trunk, np.int32)
        tokens[: plan.trunk] = self.part.tokenized.tokens(0)[: plan.trunk]
        return tokens, np.int32(plan.trunk)

    def spelling_log_probs(self, log_probs: np.ndarray) -> np.ndarray:
        """Returns the log-probability of each spelling: the sum over its tokens, each read at its place.

        Args:
            log_probs: [prompts, places, answer tokens].
        """
        at = {place: i for i, place in enumerate(self.part.plan.places)}
        ways = np.zeros((len(log_probs), len(self.part.spellings)))
        for i, spelling in enumerate(self.part.spellings):
            for k, token in enumerate(spelling.tokens):
                ways[:, i] += log_probs[:, at[spelling.tokens[:k]], self.column[token]]
        return ways


# On the device ------------------------------------------------------------------------------------------------------


class Buffers(NamedTuple):
    """The trunk's keys, and arrays to be filled: keys that later passes look at, and residual streams to be read."""

    trunk: packed_attention.Store
    store: packed_attention.Store
    read: Array


@functools.partial(jax.jit, static_argnames=("places", "answers", "every"))
def init_buffers(
    model: Model,
    tokens: Array,
    length: Array,
    edit: Edit | None,
    places: int,
    answers: int,
    every: packed_attention.Every | None = None,
) -> Buffers:
    """Computes the trunk's keys, and allocates the arrays that passes fill."""
    weights, config = model.arrays, model.config
    dtype = weights["embedding"].dtype
    width = config.hidden if every == "neurons" else config.width
    shape = (config.layers, answers, width) if every else (answers, width)
    trunk = packed_attention.compute_trunk(weights, config, tokens, length, edit)
    stream = dtype if every == "neurons" else decoder.stream_dtype(weights, config)
    return Buffers(trunk, packed_attention.empty_store(config, places, dtype), jnp.zeros(shape, stream))


@functools.partial(jax.jit, donate_argnames=("store", "read"), static_argnames="every")
def run_pass(
    model: Model,
    trunk: packed_attention.Store,
    store: packed_attention.Store,
    read: Array,
    rows: packed_attention.Rows,
    answers: Array,
    edit: Edit | None,
    every: packed_attention.Every | None = None,
) -> tuple[packed_attention.Store, Array, Array]:
    """Computes one pass.

    Returns:
        The store with the keys of the pass, the states at the places that are read, and a number that is ready when the
        pass ends.
    """
    passed = packed_attention.forward(model.arrays, model.config, trunk, store, rows, edit, every)
    streams = passed.hidden if passed.every is None else passed.every
    flat = streams.reshape(*read.shape[:-2], -1, read.shape[-1])
    return passed.store, read.at[..., answers.reshape(-1), :].set(flat, mode="drop"), passed.hidden[0, 0, 0]


@jax.jit
def token_log_probs(model: Model, read: Array, tokens: Array) -> Array:
    """Returns the log-probabilities of some tokens at each place, [chunks, chunk, tokens]."""

    def some(hidden: Array) -> Array:
        logits = decoder.head(model.arrays, model.config, hidden)
        return logits[:, tokens] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    log_probs: Array = lax.map(some, read.reshape(-1, CHUNK, read.shape[-1]))
    return log_probs
