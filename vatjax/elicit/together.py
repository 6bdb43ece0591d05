"""Answers under many edits at one time.

The layers that none of the edits changes are computed once for all of them, those above for each: the edits are one more
axis of the same products. How many layers that is may differ from call to call without a new compilation.
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
from vatjax.elicit import passes as layout
from vatjax.elicit import running, scorer
from vatjax.elicit.pieces import Option, Pieces, log_shares
from vatjax.elicit.plan import Size
from vatjax.elicit.running import Part, Passes, Run
from vatjax.elicit.tree import grow
from vatjax.models import Edit, Model, decoder, hosts, packed, sharding
from vatjax.progress import OnProgress, silent, within

Array = jax.Array

AT_ONCE = 16
_ROOM = 1 << 30  # bytes of keys and values for all edits together, where a device does not say what it has


def form(edit: Edit) -> str:
    """What edits must have in common to be computed together: their parts, and the shapes of these."""
    return str(jax.tree.structure(edit)) + str([leaf.shape for leaf in jax.tree.leaves(edit)])


def stacked(edits: Sequence[Edit]) -> Edit:
    """Edits of one form as one, with the edits as its leading axis.

    Raises:
        InputError: where they are not of one form.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    if len(set(map(form, edits))) > 1:
        raise errors.InputError("the edits have different parts: only edits of one form are computed together")
    together: Edit = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *edits)
    return together


def untouched(edit: Edit) -> int:
    """How many layers are the same under an edit: what it does behind a layer leaves that layer itself as it is."""
    if float(edit.strength) == 0:
        return edit.depth

    def first(parts: Any) -> int:
        """The first layer that has something of it; the number of layers where there is none."""
        found = [np.asarray(leaf).reshape(edit.depth, -1).any(1) for leaf in jax.tree.leaves(parts)]
        return min((int(np.argmax(own)) for own in found if own.any()), default=edit.depth)

    inside = first((edit.neurons, edit.gains, [change.up for change in edit.lora.values()]))
    behind = first((edit.residual, [step.share for step in edit.steps]))
    return min(inside, behind + 1, edit.depth)


def score(
    model: Model,
    found: Pieces,
    options: Sequence[Option],
    edits: Sequence[Edit],
    size: Size | None = None,
    at_once: int = 0,
    part: Part | None = None,
    on_progress: OnProgress = silent,
) -> np.ndarray:
    """Log-probabilities of all prompts' answers under each of several edits, [edits, prompts, answers].

    Args:
        model: the model.
        found: tokens of the prompts.
        options: the ways to write an answer.
        edits: of one form.
        size: how much is computed at one time.
        at_once: how many edits are computed together; by default 16, or as many as there is room for.
        part: of `scorer.plans`, where it is made already.
        on_progress: is called with the completed fraction.
    """
    stacked(edits)  # refuses what does not go together before anything is computed
    scorer.check(found, model, options)
    size = size or scorer.size_for(model)
    part = scorer.plans(model, [(found, options)], size)[0] if part is None else part
    count = min(at_once or _fitting(model, part, size), len(edits))
    while True:
        try:
            return _scored(model, found, options, edits, part, count, size, on_progress)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or hosts.several():
                raise
            if count == 1:
                raise errors.InputError(
                    f"the device has no memory for passes of {size.tokens} tokens under an edit; give a smaller size"
                ) from None
        count //= 2


def _scored(
    model: Model,
    found: Pieces,
    options: Sequence[Option],
    edits: Sequence[Edit],
    part: Part,
    count: int,
    size: Size,
    on_progress: OnProgress,
) -> np.ndarray:
    """`score`, so many edits together."""
    whole, computed = -(-len(edits) // count) * sum(part.plan.shard_tokens), 0
    low = [untouched(edit) for edit in edits]
    order = np.argsort(low, kind="stable")  # edits of the same layers share most of what is below them
    logs: np.ndarray | None = None
    for start in range(0, len(edits), count):
        chosen = order[start : start + count].tolist()
        padded = [*chosen, *[chosen[-1]] * (count - len(chosen))]  # the same shapes for the last few
        together, first = stacked([edits[i] for i in padded]), min(low[i] for i in chosen)
        run = Together(model, part, together, first, size.tokens)
        for number, prompts in enumerate(part.plan.shards):
            tokens = part.plan.shard_tokens[number]
            run.on_progress = within(on_progress, computed / whole, (computed + tokens) / whole)
            computed += tokens
            shares = [log_shares(tuple(options), ways) for ways in run.ways(number)[: len(chosen)]]
            if logs is None:
                logs = np.full((len(edits), len(found.which), shares[0].shape[1]), np.nan)
            logs[np.ix_(chosen, prompts)] = shares
    assert logs is not None
    wrong = np.argwhere(~np.isfinite(logs).all(-1))
    if len(wrong):
        raise errors.InputError(f"the model's logits are not finite under edit {wrong[0, 0]}, prompt {wrong[0, 1] + 1}")
    return logs


def _fitting(model: Model, part: Part, size: Size) -> int:
    """How many edits' keys and values there is room for."""
    config = model.config
    places = part.plan.shapes.store + part.plan.shapes.trunk
    each = 2 * config.layers * places * config.kv_heads * config.head_size * model.arrays["embedding"].dtype.itemsize
    return max(1, min(AT_ONCE, int((size.memory // 2 or _ROOM) // max(1, each))))


class Together(Run):
    """The passes of a plan under several edits.

    Above the layers that no edit changes a pass has its tokens once for each edit: as many edits go through together as make up
    about the tokens of a pass, and the others after them.
    """

    def __init__(self, model: Model, part: Part, edits: Edit, first: int, tokens: int) -> None:
        super().__init__(model, part, edits)
        self.first = np.int32(first)
        count, shapes = len(edits.strength), part.plan.shapes
        whole = max(shapes.many, shapes.few) * shapes.time
        even = [k for k in range(1, count + 1) if count % k == 0]
        beside = min(even, key=lambda k: abs(math.log(k * whole / tokens)))
        self.edits = [jax.tree.map(lambda x, i=i: x[i : i + beside], edits) for i in range(0, count, beside)]
        self.kept: tuple[Below, list[Above]] | None = None

    def ways(self, number: int) -> list[np.ndarray]:
        """Of each edit the log-probabilities of each way to write an answer, [prompts, ways]."""
        plan, shapes = self.part.plan, self.part.plan.shapes
        below, above = self.kept or self._begun()
        self.kept = None  # what passes fill is given away; it comes back when all of them are done
        tree = grow(self.part.found, plan.shards[number], plan.trunk, self.part.options)
        progress = Passes(plan.shard_tokens[number], self.on_progress)
        for one in layout.passes(tree, shapes):
            rows, places = sharding.shared(one, self.model.arrays)
            hidden, below = _below(self.model, below, rows, self.first)
            done = [
                _above(self.model, hidden, own, rows, places, edits, self.first)
                for own, edits in zip(above, self.edits, strict=True)
            ]
            above = [own for own, _ in done]
            progress.dispatched(done[-1][1], rows.tokens.size)
        self.kept = below, above
        shares = [hosts.fetch(_answers(self.model, own.read, self.wanted)) for own in above]
        ends = layout.same_ends(tree)
        return [self.written(one.reshape(-1, len(self.wanted))[ends]) for own in shares for one in own]

    def _begun(self) -> tuple[Below, list[Above]]:
        shapes = self.part.plan.shapes
        tokens, length = self.trunk()
        hidden, below = _begin_below(self.model, tokens, length, self.first, shapes.store)
        begin = functools.partial(_begin_above, places=shapes.store, answers=shapes.answers)
        return below, [
            begin(self.model, hidden, below.trunk, tokens, length, edits, self.first) for edits in self.edits
        ]


class Below(NamedTuple):
    """Keys and values of the layers that no edit changes: what all prompts begin with, and what passes keep."""

    trunk: packed.Store
    store: packed.Store


class Above(NamedTuple):
    """The same of the layers above, [edits, ...], and what was read at the ends of prompts, [edits, places, width]."""

    trunk: packed.Store
    store: packed.Store
    read: Array


# On the device ------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="places")
def _begin_below(model: Model, tokens: Array, length: Array, first: Array, places: int) -> tuple[Array, Below]:
    """The residual stream of the trunk where edits begin, its keys up to there, and room for the rows'."""
    weights, config = model.arrays, model.config
    dtype, time = weights["embedding"].dtype, tokens.shape[0]
    store, trunk = packed.empty_store(config, places, dtype), packed.empty_store(config, time, dtype)
    if not time:
        return jnp.zeros((1, 0, config.width), decoder.stream_dtype(weights, config)), Below(trunk, store)
    rows, nothing = packed.alone(tokens, length), packed.empty_store(config, 0, dtype)
    hidden = decoder.embed(weights, config, rows.tokens)
    hidden, trunk = packed.through(weights, config, hidden, nothing, trunk, rows, None, 0, first)
    return hidden, Below(trunk, store)


@functools.partial(jax.jit, static_argnames=("places", "answers"))
def _begin_above(
    model: Model,
    hidden: Array,
    below: packed.Store,
    tokens: Array,
    length: Array,
    edits: Edit,
    first: Array,
    places: int,
    answers: int,
) -> Above:
    """The trunk under each edit; what is below is in it too, so that the two need not be told apart."""
    weights, config = model.arrays, model.config
    dtype, count = weights["embedding"].dtype, len(edits.strength)

    def many(store: packed.Store) -> packed.Store:
        made: packed.Store = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), store)
        return made

    store = many(packed.empty_store(config, places, dtype))
    read = jnp.zeros((count, answers, config.width), decoder.stream_dtype(weights, config))
    if not tokens.shape[0]:
        return Above(many(below), store, read)
    rows, nothing = packed.alone(tokens, length), packed.empty_store(config, 0, dtype)

    def one(edit: Edit) -> packed.Store:
        h = packed.entered(hidden, edit, rows, first)
        return packed.through(weights, config, h, nothing, below, rows, edit, first, config.layers)[1]

    return Above(jax.vmap(one)(edits), store, read)


@functools.partial(jax.jit, donate_argnames="below")
def _below(model: Model, below: Below, rows: packed.Rows, first: Array) -> tuple[Array, Below]:
    """A pass up to where edits begin: the residual stream there, and what is kept."""
    weights, config = model.arrays, model.config
    hidden = decoder.embed(weights, config, rows.tokens)
    hidden, store = packed.through(weights, config, hidden, *below, rows, None, 0, first)
    return hidden, Below(below.trunk, store)


@functools.partial(jax.jit, donate_argnames="above")
def _above(
    model: Model,
    hidden: Array,
    above: Above,
    rows: packed.Rows,
    places: Array,
    edits: Edit,
    first: Array,
) -> tuple[Above, Array]:
    """The same pass from there on under each edit, and a number that tells when it ends."""
    weights, config = model.arrays, model.config

    def one(edit: Edit, own: Above) -> tuple[Above, Array]:
        h = packed.entered(hidden, edit, rows, first)
        found, store = packed.through(weights, config, h, own.trunk, own.store, rows, edit, first, config.layers)
        flat = found.reshape(-1, config.width)
        return Above(own.trunk, store, own.read.at[places.reshape(-1)].set(flat, mode="drop")), found[0, 0, 0]

    made: tuple[Above, Array] = jax.vmap(one)(edits, above)
    return made


@jax.jit
def _answers(model: Model, read: Array, wanted: Array) -> Array:
    """Log-probabilities of some tokens at each place under each edit, [edits, chunks, chunk, wanted]."""
    found: Array = lax.map(lambda one: running.answers(model, one, wanted), read)
    return found
