"""Answers under many edits at one time.

The layers that no edit changes are computed once for all edits, those above for each: the edits are one more axis of
the same products. The number of shared layers may differ from call to call without a new compilation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax import errors
from vatjax.models import Edit, Model, decoder, sharding
from vatjax.prefix import execute, packed_attention, scorer
from vatjax.prefix import packing as layout
from vatjax.prefix.execute import Part, PassProgress, Run
from vatjax.prefix.plan import Size
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts, answer_log_probs
from vatjax.prefix.tree import build_tree
from vatjax.runtime import processes
from vatjax.runtime.memory import is_out_of_memory
from vatjax.runtime.progress import OnProgress, ignore_progress, stage_progress

Array = jax.Array

MAX_EDITS = 16
_ROOM = 1 << 30  # bytes of keys and values for all edits together, where a device does not report its memory


def edit_structure(edit: Edit) -> str:
    """Returns the parts of an edit and their shapes as text: edits that are computed together must have the same."""
    return str(jax.tree.structure(edit)) + str([leaf.shape for leaf in jax.tree.leaves(edit)])


def stack_edits(edits: Sequence[Edit]) -> Edit:
    """Stacks edits of one form along a new leading axis.

    Raises:
        InputError: if they differ in form.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    if len(set(map(edit_structure, edits))) > 1:
        raise errors.InputError("the edits have different parts: only edits of one form are computed together")
    together: Edit = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *edits)
    return together


def unedited_layers(edit: Edit) -> int:
    """Returns the number of leading layers that the edit leaves unchanged.

    A residual edit is applied after its layer, so that layer still counts.
    """
    if float(edit.strength) == 0:
        return edit.depth

    def first(parts: Any) -> int:
        """Returns the first layer with a value other than 0; the number of layers if all are 0."""
        masks = [np.asarray(leaf).reshape(edit.depth, -1).any(1) for leaf in jax.tree.leaves(parts)]
        return min((int(np.argmax(mask)) for mask in masks if mask.any()), default=edit.depth)

    inside = first((edit.neurons, edit.gains, [change.up for change in edit.lora.values()]))
    after = first((edit.residual, [step.share for step in edit.steps]))
    return min(inside, after + 1, edit.depth)


def score_edits(
    model: Model,
    tokenized: TokenizedPrompts,
    spellings: Sequence[Spelling],
    edits: Sequence[Edit],
    size: Size | None = None,
    at_once: int = 0,
    part: Part | None = None,
    on_progress: OnProgress = ignore_progress,
) -> np.ndarray:
    """Returns the log-probabilities of all prompts' answers under each edit, [edits, prompts, answers].

    Args:
        model: the model.
        tokenized: tokens of the prompts.
        spellings: the ways to write an answer.
        edits: of one form.
        size: how much is computed at one time.
        at_once: how many edits are computed together; by default 16, or as many as fit the memory.
        part: of `scorer.plan_prompts`, if they are planned already.
        on_progress: is called with the completed fraction.
    """
    stack_edits(edits)  # refuses edits of different forms before anything is computed
    scorer.check_prompts(tokenized, model, spellings)
    size = size or scorer.size_for(model)
    part = scorer.plan_prompts(model, [(tokenized, spellings)], size)[0] if part is None else part
    count = min(at_once or _fitting(model, part, size), len(edits))
    while True:
        try:
            return _scored(model, tokenized, spellings, edits, part, count, size, on_progress)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error) or processes.is_multiprocess():
                raise
            if count == 1:
                raise errors.InputError(
                    f"out of memory: the device cannot hold passes of {size.tokens} tokens under an edit; give a "
                    "smaller size"
                ) from None
        count //= 2


def _scored(
    model: Model,
    tokenized: TokenizedPrompts,
    spellings: Sequence[Spelling],
    edits: Sequence[Edit],
    part: Part,
    count: int,
    size: Size,
    on_progress: OnProgress,
) -> np.ndarray:
    """Computes `score_edits` for `count` edits at a time."""
    whole, computed = -(-len(edits) // count) * sum(part.plan.shard_tokens), 0
    low = [unedited_layers(edit) for edit in edits]
    order = np.argsort(low, kind="stable")  # edits of the same layers share most of the layers below
    logs: np.ndarray | None = None
    for start in range(0, len(edits), count):
        chosen = order[start : start + count].tolist()
        padded = [*chosen, *[chosen[-1]] * (count - len(chosen))]  # the same shapes for the last few
        together, first = stack_edits([edits[i] for i in padded]), min(low[i] for i in chosen)
        run = MultiEditRun(model, part, together, first, size.tokens)
        for number, prompts in enumerate(part.plan.shards):
            tokens = part.plan.shard_tokens[number]
            run.on_progress = stage_progress(on_progress, computed / whole, (computed + tokens) / whole)
            computed += tokens
            shares = [answer_log_probs(tuple(spellings), ways) for ways in run.shard_by_edit(number)[: len(chosen)]]
            if logs is None:
                logs = np.full((len(edits), len(tokenized.which), shares[0].shape[1]), np.nan)
            logs[np.ix_(chosen, prompts)] = shares
    assert logs is not None
    wrong = np.argwhere(~np.isfinite(logs).all(-1))
    if len(wrong):
        raise errors.InputError(f"the model's logits are not finite under edit {wrong[0, 0]}, prompt {wrong[0, 1] + 1}")
    return logs


def _fitting(model: Model, part: Part, size: Size) -> int:
    """Returns how many edits' keys and values fit the memory."""
    config = model.config
    places = part.plan.shapes.store + part.plan.shapes.trunk
    each = 2 * config.layers * places * config.kv_heads * config.head_size * model.arrays["embedding"].dtype.itemsize
    return max(1, min(MAX_EDITS, int((size.memory // 2 or _ROOM) // max(1, each))))


class MultiEditRun(Run):
    """The passes of a plan under several edits.

    Above the layers that no edit changes a pass has its tokens once for each edit. As many edits go through together as
    make up about the tokens of a pass, and the others after them.
    """

    def __init__(self, model: Model, part: Part, edits: Edit, first: int, tokens: int) -> None:
        super().__init__(model, part, edits)
        self.first = np.int32(first)
        count, shapes = len(edits.strength), part.plan.shapes
        whole = max(shapes.many, shapes.few) * shapes.time
        even = [k for k in range(1, count + 1) if count % k == 0]
        edits_per_pass = min(even, key=lambda k: abs(math.log(k * whole / tokens)))
        self.edits = [
            jax.tree.map(lambda x, i=i: x[i : i + edits_per_pass], edits) for i in range(0, count, edits_per_pass)
        ]
        self.layer_buffers: tuple[SharedLayers, list[PerEditLayers]] | None = None

    def shard_by_edit(self, number: int) -> list[np.ndarray]:
        """Returns for each edit the log-probabilities of each spelling, [prompts, spellings]."""
        plan, shapes = self.part.plan, self.part.plan.shapes
        below, above = self.layer_buffers or self._begun()
        self.layer_buffers = None  # passes donate these; they are set again when all passes are dispatched
        tree = build_tree(self.part.tokenized, plan.shards[number], plan.trunk, self.part.spellings)
        progress = PassProgress(plan.shard_tokens[number], self.on_progress)
        for call in layout.make_passes(tree, shapes):
            rows, places = sharding.shard_batch(call, self.model.arrays)
            hidden, below = _below(self.model, below, rows, self.first)
            done = [
                _above(self.model, hidden, group, rows, places, edits, self.first)
                for group, edits in zip(above, self.edits, strict=True)
            ]
            above = [group for group, _ in done]
            progress.add_pass(done[-1][1], rows.tokens.size)
        self.layer_buffers = below, above
        shares = [processes.fetch(_answers(self.model, group.read, self.answer_tokens)) for group in above]
        ends = layout.same_ends(tree)
        return [
            self.spelling_log_probs(log_probs.reshape(-1, len(self.answer_tokens))[ends])
            for group in shares
            for log_probs in group
        ]

    def _begun(self) -> tuple[SharedLayers, list[PerEditLayers]]:
        shapes = self.part.plan.shapes
        tokens, length = self.trunk()
        hidden, below = _begin_below(self.model, tokens, length, self.first, shapes.store)
        begin = functools.partial(_begin_above, places=shapes.store, answers=shapes.answers)
        return below, [
            begin(self.model, hidden, below.trunk, tokens, length, edits, self.first) for edits in self.edits
        ]


class SharedLayers(NamedTuple):
    """Keys and values of the layers that no edit changes: of the trunk, and of the stems that passes keep."""

    trunk: packed_attention.Store
    store: packed_attention.Store


class PerEditLayers(NamedTuple):
    """Keys and values of the layers above, [edits, ...], and states at the ends of prompts, [edits, places, width]."""

    trunk: packed_attention.Store
    store: packed_attention.Store
    read: Array


# On the device ------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="places")
def _begin_below(model: Model, tokens: Array, length: Array, first: Array, places: int) -> tuple[Array, SharedLayers]:
    """Computes the trunk's residual stream and keys up to the first edited layer, and allocates the rows' store."""
    weights, config = model.arrays, model.config
    dtype, time = weights["embedding"].dtype, tokens.shape[0]
    store, trunk = (
        packed_attention.empty_store(config, places, dtype),
        packed_attention.empty_store(config, time, dtype),
    )
    if not time:
        return jnp.zeros((1, 0, config.width), decoder.stream_dtype(weights, config)), SharedLayers(trunk, store)
    rows, nothing = packed_attention.as_row(tokens, length), packed_attention.empty_store(config, 0, dtype)
    hidden = decoder.embed(weights, config, rows.tokens)
    hidden, trunk = packed_attention.run_layers(weights, config, hidden, nothing, trunk, rows, None, 0, first)
    return hidden, SharedLayers(trunk, store)


@functools.partial(jax.jit, static_argnames=("places", "answers"))
def _begin_above(
    model: Model,
    hidden: Array,
    below: packed_attention.Store,
    tokens: Array,
    length: Array,
    edits: Edit,
    first: Array,
    places: int,
    answers: int,
) -> PerEditLayers:
    """Computes the trunk under each edit; it includes the shared layers, so that passes need not separate the two."""
    weights, config = model.arrays, model.config
    dtype, count = weights["embedding"].dtype, len(edits.strength)

    def many(store: packed_attention.Store) -> packed_attention.Store:
        tiled: packed_attention.Store = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), store)
        return tiled

    store = many(packed_attention.empty_store(config, places, dtype))
    read = jnp.zeros((count, answers, config.width), decoder.stream_dtype(weights, config))
    if not tokens.shape[0]:
        return PerEditLayers(many(below), store, read)
    rows, nothing = packed_attention.as_row(tokens, length), packed_attention.empty_store(config, 0, dtype)

    def trunk_under_edit(edit: Edit) -> packed_attention.Store:
        h = packed_attention.apply_edit_before(hidden, edit, rows, first)
        return packed_attention.run_layers(weights, config, h, nothing, below, rows, edit, first, config.layers)[1]

    return PerEditLayers(jax.vmap(trunk_under_edit)(edits), store, read)


@functools.partial(jax.jit, donate_argnames="below")
def _below(model: Model, below: SharedLayers, rows: packed_attention.Rows, first: Array) -> tuple[Array, SharedLayers]:
    """Computes a pass up to the first edited layer; returns the residual stream there, and the keys."""
    weights, config = model.arrays, model.config
    hidden = decoder.embed(weights, config, rows.tokens)
    hidden, store = packed_attention.run_layers(weights, config, hidden, *below, rows, None, 0, first)
    return hidden, SharedLayers(below.trunk, store)


@functools.partial(jax.jit, donate_argnames="above")
def _above(
    model: Model,
    hidden: Array,
    above: PerEditLayers,
    rows: packed_attention.Rows,
    places: Array,
    edits: Edit,
    first: Array,
) -> tuple[PerEditLayers, Array]:
    """Computes the same pass from there on under each edit; returns also a number that is ready when it ends."""
    weights, config = model.arrays, model.config

    def pass_under_edit(edit: Edit, layers: PerEditLayers) -> tuple[PerEditLayers, Array]:
        h = packed_attention.apply_edit_before(hidden, edit, rows, first)
        streams, store = packed_attention.run_layers(
            weights, config, h, layers.trunk, layers.store, rows, edit, first, config.layers
        )
        flat = streams.reshape(-1, config.width)
        return PerEditLayers(layers.trunk, store, layers.read.at[places.reshape(-1)].set(flat, mode="drop")), streams[
            0, 0, 0
        ]

    passed: tuple[PerEditLayers, Array] = jax.vmap(pass_under_edit)(edits, above)
    return passed


@jax.jit
def _answers(model: Model, read: Array, tokens: Array) -> Array:
    """Returns the log-probabilities of some tokens at each place under each edit, [edits, chunks, chunk, tokens]."""
    log_probs: Array = lax.map(lambda streams: execute.token_log_probs(model, streams, tokens), read)
    return log_probs
