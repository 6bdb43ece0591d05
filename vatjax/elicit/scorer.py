"""Log-probabilities of answers behind many prompts, each shared token computed once.

A tree of prompts is computed in passes of fixed shapes (`plan`), whose attention reaches into what earlier passes kept
(`models.packed`). Of the vocabulary only the answers' logits leave the device, with the log-sum-exp of the others, taken
a few places at a time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax import errors
from vatjax.elicit import plan as planning
from vatjax.elicit.pieces import Option, Pieces, log_shares
from vatjax.elicit.plan import CHUNK, Plan, Size
from vatjax.elicit.tree import grow
from vatjax.models import Edit, Model, decoder, packed, sharding

Array = jax.Array

_SHARE = 0.6  # of a plain product's speed that passes reach, measured on a CPU
_ASKED = 32  # prompts that are computed alone to find the one that is not finite
_LEAST = 64  # tokens of a pass that is not halved again


class Shard(NamedTuple):
    """The answers of some prompts.

    Attributes:
        number: of the shard.
        prompts: [n] which.
        log_probs: [n, answers] float64, of each answer; what is missing to 1 went elsewhere.
    """

    number: int
    prompts: np.ndarray
    log_probs: np.ndarray


def size_for(model: Model, tokens: int = 0, shard: int = 0) -> Size:
    """How much is computed at one time where nothing is said: more on an accelerator, and a share for every device."""
    mesh = sharding.mesh_of(model.arrays)
    rows = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    fast = jax.default_backend() != "cpu"
    return Size(tokens or (16_384 if fast else 2048), shard or (1 << 18 if fast else 1 << 16), rows)


def seconds_for(model: Model, tokens: float) -> float:
    """About how long so many computed tokens take: two operations a weight, at the speed of a product on this device."""
    side = 1024
    x = jnp.ones((side, side), model.arrays["embedding"].dtype)
    product = jax.jit(lambda x: jnp.einsum("ij,jk->ik", x, x, preferred_element_type=jnp.float32))
    product(x).block_until_ready()
    start = time.perf_counter()
    product(x).block_until_ready()
    speed = 2 * side**3 / (time.perf_counter() - start)
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
    devices = {device for leaf in jax.tree.leaves(model.arrays) for device in leaf.devices()}
    return float(2 * weights * tokens / (_SHARE * speed * len(devices)))


def score(
    model: Model,
    found: Pieces,
    options: Sequence[Option],
    edit: Edit | None = None,
    size: Size | None = None,
    skip: Callable[[int], bool] = lambda _: False,
    told: Callable[[Plan, np.ndarray, int], None] = lambda *_: None,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt}",
) -> Iterator[Shard]:
    """The answers of all prompts, shard by shard.

    Args:
        model: the model.
        found: tokens of the prompts.
        options: the ways to write an answer.
        edit: a change of the computation.
        size: how much is computed at one time; halved where a device runs out of memory.
        skip: shards by number that are not wanted, since their answers are there.
        told: is told each plan before it is carried out, its prompts, and the number of its first shard.
        name: what a prompt is called in errors.

    Raises:
        InputError: for prompts that are longer than the model's context, and for logits that are not finite.
    """
    size = size or size_for(model)
    _check(found, model, options, name)
    _unknown(found, model, name)
    before = 0
    for part in _by_reach(found, model):
        own = Pieces(found.levels, found.which[part])
        plan = planning.make(own, options, model.config, size)
        told(plan, part, before)
        run, sizes = _Run(model, own, options, edit, plan), [size]
        for number, prompts in enumerate(plan.shards, before):
            if skip(number):
                continue
            ways = _fitting(run, number - before, sizes)
            bad = np.flatnonzero(~np.isfinite(ways).all(-1))
            if len(bad):
                where = name(int(part[_culprit(run, prompts[bad], size)]))
                raise errors.InputError(
                    f"{where}: the model's logits are not finite ({len(bad)} of {len(ways)} prompts)"
                )
            yield Shard(number, part[prompts], log_shares(tuple(options), ways))
        before += len(plan.shards)


def _check(found: Pieces, model: Model, options: Sequence[Option], name: Callable[[int], str]) -> None:
    lengths = found.lengths()
    longest = int(lengths.max()) + max(len(option.tokens) for option in options) - 1
    if longest > model.config.context:
        raise errors.InputError(
            f"{name(int(lengths.argmax()))}: a prompt of {longest:,} tokens is longer than the model's context of "
            f"{model.config.context:,}; take fewer shots"
        )


def _unknown(found: Pieces, model: Model, name: Callable[[int], str]) -> None:
    """Refuses tokens that the model has no embeddings for."""
    for level, texts in enumerate(found.levels):
        beyond = [i for i, text in enumerate(texts) if max(text, default=0) >= model.config.vocabulary]
        if beyond:
            prompt = int(np.flatnonzero(np.isin(found.which[:, level], beyond))[0])
            token = max(texts[found.which[prompt, level]])
            raise errors.InputError(f"{name(prompt)}: the model has no embedding for the token {token}")


def _by_reach(found: Pieces, model: Model) -> list[np.ndarray]:
    """Prompts that take the same rotary positions: a model may have others for long texts, which share no keys."""
    original = max((rope.original for rope in model.config.ropes if rope.long is not None), default=0)
    beyond = found.lengths() > original if original else np.zeros(len(found.which), bool)
    return [np.flatnonzero(part) for part in (~beyond, beyond) if part.any()]


class _Run:
    """What stays the same over the shards of a plan: the model, the trunk's keys, the arrays that passes fill."""

    def __init__(self, model: Model, found: Pieces, options: Sequence[Option], edit: Edit | None, plan: Plan) -> None:
        self.model, self.found, self.options, self.edit, self.plan = model, found, options, edit, plan
        self.mesh = sharding.mesh_of(model.arrays)
        self.reach = np.int32(plan.shapes.reach)
        wanted = sorted({token for option in options for token in option.tokens})
        self.column = {token: i for i, token in enumerate(wanted)}
        self.wanted = np.array(wanted, np.int32)
        self.begun: _Begun | None = None

    def shard(self, number: int) -> np.ndarray:
        """Log-probabilities of each way to write an answer, [prompts, ways]."""
        shapes = self.plan.shapes
        if self.begun is None:
            tokens = np.array(self.found.tokens(0)[: shapes.trunk], np.int32)
            self.begun = _begin(self.model, tokens, self.reach, self.edit, shapes.store, shapes.answers)
        trunk, store, read = self.begun
        self.begun = None  # what passes fill is given away; it comes back when all of them are done
        tree = grow(self.found, self.plan.shards[number], shapes.trunk, self.options)
        for one in planning.passes(tree, shapes):
            rows, answers = self._placed(one)
            store, read = _pass(self.model, trunk, store, read, rows, answers, self.reach, self.edit)
        shares = np.asarray(_answers(self.model, read, self.wanted)).reshape(-1, len(self.wanted))
        self.begun = _Begun(trunk, store, read)
        return self._ways(shares[planning.same_ends(tree)])

    def _ways(self, shares: np.ndarray) -> np.ndarray:
        """The product over an option's tokens, each read at its own place; shares is [prompts, places, wanted]."""
        at = {place: i for i, place in enumerate(self.plan.places)}
        ways = np.zeros((len(shares), len(self.options)))
        for i, option in enumerate(self.options):
            for k, token in enumerate(option.tokens):
                ways[:, i] += shares[:, at[option.tokens[:k]], self.column[token]]
        return ways

    def _placed(self, one: planning.Pass) -> Any:
        if self.mesh is None:
            return one
        where = sharding.texts(self.mesh)
        return jax.tree.map(lambda x: jax.device_put(x, where), one)


def _fitting(run: _Run, number: int, sizes: list[Size]) -> np.ndarray:
    """A shard's answers; each time a device runs out of memory, passes are halved, for this shard and those to come."""
    while True:
        try:
            return run.shard(number) if len(sizes) == 1 else _in_parts(run, number, sizes[-1])
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or sizes[-1].tokens < _LEAST:
                raise
            sizes.append(sizes[-1].halved())


def _in_parts(run: _Run, number: int, size: Size) -> np.ndarray:
    prompts = run.plan.shards[number]
    own = Pieces(run.found.levels, run.found.which[prompts])
    smaller = _Run(run.model, own, run.options, run.edit, planning.make(own, run.options, run.model.config, size))
    ways = np.empty((len(prompts), len(run.options)))
    for i, part in enumerate(smaller.plan.shards):
        ways[part] = smaller.shard(i)
    return ways


def _culprit(run: _Run, bad: np.ndarray, size: Size) -> int:
    """The first of some prompts that is not finite also alone: in a row, what is not finite spreads to its neighbours."""
    for prompt in bad[:_ASKED].tolist():
        own = Pieces(run.found.levels, run.found.which[[prompt]])
        alone = _Run(run.model, own, run.options, run.edit, planning.make(own, run.options, run.model.config, size))
        if not np.isfinite(alone.shard(0)).all():
            return int(prompt)
    return int(bad[0])


# On the device ------------------------------------------------------------------------------------------------------


class _Begun(NamedTuple):
    """The trunk's keys, and arrays to be filled: keys that later passes look at, and residual streams to be read."""

    trunk: packed.Store
    store: packed.Store
    read: Array


@functools.partial(jax.jit, static_argnames=("places", "answers"))
def _begin(model: Model, tokens: Array, reach: Array, edit: Edit | None, places: int, answers: int) -> _Begun:
    weights, config = model.arrays, model.config
    dtype = weights["embedding"].dtype
    trunk = packed.trunk(weights, config, tokens, reach, edit)
    return _Begun(trunk, packed.empty_store(config, places, dtype), jnp.zeros((answers, config.width), dtype))


@functools.partial(jax.jit, donate_argnames=("store", "read"))
def _pass(
    model: Model,
    trunk: packed.Store,
    store: packed.Store,
    read: Array,
    rows: packed.Rows,
    answers: Array,
    reach: Array,
    edit: Edit | None,
) -> tuple[packed.Store, Array]:
    hidden, store = packed.forward(model.arrays, model.config, trunk, store, rows, reach, edit)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return store, read.at[answers.reshape(-1)].set(flat, mode="drop")


@jax.jit
def _answers(model: Model, read: Array, wanted: Array) -> Array:
    """Log-probabilities of some tokens at each place, [chunks, chunk, wanted]."""

    def some(hidden: Array) -> Array:
        logits = decoder.head(model.arrays, model.config, hidden)
        return logits[:, wanted] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    found: Array = lax.map(some, read.reshape(-1, CHUNK, read.shape[-1]))
    return found
