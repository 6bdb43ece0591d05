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
from vatjax.elicit import passes as layout
from vatjax.elicit import plan as planning
from vatjax.elicit.pieces import Option, Pieces, log_shares
from vatjax.elicit.plan import CHUNK, Plan, Size
from vatjax.elicit.tree import Tree, grow
from vatjax.models import Edit, Model, decoder, packed, sharding

Array = jax.Array

_SHARE = 0.6  # of a plain product's speed that passes reach, measured on a CPU
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


def size_for(model: Model, tokens: int = 0, shard: int = 0, memory: int = 0) -> Size:
    """How much is computed at one time where nothing is said: more on an accelerator, and no more than it has room for."""
    if tokens < 0 or shard < 0:
        raise errors.InputError(f"tokens: expected a number above 0, found {min(tokens, shard)}")
    fast = jax.default_backend() != "cpu"
    return Size(tokens or (16_384 if fast else 2048), shard or (1 << 18 if fast else 1 << 16), memory or _room(model))


def _room(model: Model) -> int:
    """Bytes that a device still has, where it tells, but for a tenth; 0 where it does not."""
    devices = {device for leaf in jax.tree.leaves(model.arrays) for device in leaf.devices()}
    free = []
    for device in devices:
        stats = device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return 0
        free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return max(1, int(0.9 * min(free)))


def _shared(model: Model) -> int:
    """How many devices share the rows of a pass."""
    mesh = sharding.mesh_of(model.arrays)
    return 1 if mesh is None else int(mesh.shape["data"] * mesh.shape["fsdp"])


def seconds_for(model: Model, tokens: float) -> float:
    """About how long so many computed tokens take: two operations a weight, at the speed of a product on this device."""
    speed = _speed(str(model.arrays["embedding"].dtype))
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
    devices = {device for leaf in jax.tree.leaves(model.arrays) for device in leaf.devices()}
    return float(2 * weights * tokens / (_SHARE * speed * len(devices)))


class Part(NamedTuple):
    """Prompts that are computed together: they take the same rotary positions.

    Attributes:
        prompts: [n] which.
        found: their tokens.
        options: the ways to write an answer.
        plan: how they are computed.
    """

    prompts: np.ndarray
    found: Pieces
    options: Sequence[Option]
    plan: Plan


def plans(model: Model, asked: Sequence[tuple[Pieces, Sequence[Option]]], size: Size) -> list[list[Part]]:
    """How several sets of prompts are computed, for each set its parts; all in the same shapes.

    Args:
        model: the model.
        asked: of each set the prompts' tokens, and the ways to write an answer.
        size: how much is computed at one time.
    """
    cut = [
        (number, part, Pieces(found.levels, found.which[part]), options)
        for number, (found, options) in enumerate(asked)
        for part in by_reach(found, model)
    ]
    made = planning.make([(own, options) for _, _, own, options in cut], model.config, size, _shared(model))
    sets: list[list[Part]] = [[] for _ in asked]
    for (number, part, own, options), plan in zip(cut, made, strict=True):
        sets[number].append(Part(part, own, options, plan))
    return sets


@functools.cache
def _speed(dtype: str) -> float:
    """Operations a second of a plain product."""
    side = 1024
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: jnp.einsum("ij,jk->ik", x, x, preferred_element_type=jnp.float32))
    product(x).block_until_ready()
    start = time.perf_counter()
    product(x).block_until_ready()
    return 2 * side**3 / (time.perf_counter() - start)


def score(
    model: Model,
    found: Pieces,
    options: Sequence[Option],
    edit: Edit | None = None,
    size: Size | None = None,
    *,
    parts: Sequence[Part] | None = None,
    now: Size | None = None,
    halved: Callable[[Size], None] = lambda _: None,
    skip: Callable[[int], bool] = lambda _: False,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt}",
) -> Iterator[Shard]:
    """The answers of all prompts, shard by shard.

    Args:
        model: the model.
        found: tokens of the prompts.
        options: the ways to write an answer.
        edit: a change of the computation.
        size: how much is computed at one time; halved where a device runs out of memory.
        parts: of `plans`, where they are made already.
        now: the size that an earlier run of the same prompts had come down to.
        halved: is told each smaller size.
        skip: shards by number that are not wanted, since their answers are there.
        name: what a prompt is called in errors.

    Raises:
        InputError: for prompts that are longer than the model's context, for logits that are not finite, and where not even
            the smallest passes fit the device.
    """
    size = size or size_for(model)
    _check(found, model, options, name)
    _unknown(found, model, name)
    before = 0
    for part in parts or plans(model, [(found, options)], size)[0]:
        fitting = _Fitting(model, part, edit, size, now or size, halved)
        for number, prompts in enumerate(part.plan.shards, before):
            if skip(number):
                continue
            ways = fitting.shard(number - before)
            bad = np.flatnonzero(~np.isfinite(ways).all(-1))
            if len(bad):
                raise errors.InputError(
                    f"{name(int(part.prompts[fitting.culprit(prompts[bad])]))}: the model's logits are not finite"
                )
            yield Shard(number, part.prompts[prompts], log_shares(tuple(options), ways))
        now = fitting.size
        before += len(part.plan.shards)


def residuals(
    model: Model, found: Pieces, edit: Edit | None = None, size: Size | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a model holds at the last token of each prompt, where it is about to answer; each shared token computed once.

    Args:
        model: the model.
        found: tokens of the prompts.
        edit: a change of the computation.
        size: how much is computed at one time.

    Yields:
        (which prompts [n]; the residual stream after each layer, [layers, n, width]).
    """
    options = (Option((0,), 0),)  # nothing behind the prompts is read
    for part in plans(model, [(found, options)], size or size_for(model))[0]:
        run = _Run(model, part, edit)
        for number, prompts in enumerate(part.plan.shards):
            yield part.prompts[prompts], run.residuals(number)


def _check(found: Pieces, model: Model, options: Sequence[Option], name: Callable[[int], str]) -> None:
    lengths = found.lengths()
    longest = int(lengths.max()) + max(len(option.tokens) for option in options) - 1
    if longest > model.config.context:
        raise errors.InputError(
            f"{name(int(lengths.argmax()))}: a prompt of {longest:,} tokens is longer than the model's context of "
            f"{model.config.context:,}"
        )


def _unknown(found: Pieces, model: Model, name: Callable[[int], str]) -> None:
    """Refuses tokens that the model has no embeddings for."""
    for level, texts in enumerate(found.levels):
        beyond = [i for i, text in enumerate(texts) if max(text, default=0) >= model.config.vocabulary]
        if beyond:
            prompt = int(np.flatnonzero(np.isin(found.which[:, level], beyond))[0])
            token = max(texts[found.which[prompt, level]])
            raise errors.InputError(f"{name(prompt)}: the model has no embedding for the token {token}")


def by_reach(found: Pieces, model: Model, behind: int = 0) -> list[np.ndarray]:
    """Prompts that take the same rotary positions: a model may have others for long texts, which share no keys.

    Args:
        found: their tokens.
        model: the model.
        behind: how many tokens are read behind each.
    """
    original = max((rope.original for rope in model.config.ropes if rope.long is not None), default=0)
    beyond = found.lengths() + behind > original if original else np.zeros(len(found.which), bool)
    return [np.flatnonzero(part) for part in (~beyond, beyond) if part.any()]


class _Run:
    """What stays the same over the shards of a plan: the model, the trunk's keys, the arrays that passes fill."""

    def __init__(self, model: Model, part: Part, edit: Edit | None) -> None:
        self.model, self.part, self.edit = model, part, edit
        self.mesh = sharding.mesh_of(model.arrays)
        self.reach = np.int32(part.plan.reach)
        wanted = sorted({token for option in part.options for token in option.tokens})
        self.column = {token: i for i, token in enumerate(wanted)}
        self.wanted = np.array(wanted, np.int32)
        self.begun: _Begun | None = None

    def shard(self, number: int) -> np.ndarray:
        """Log-probabilities of each way to write an answer, [prompts, ways]."""
        tree, read = self._computed(number)
        shares = np.asarray(_answers(self.model, read, self.wanted)).reshape(-1, len(self.wanted))
        return self._ways(shares[layout.same_ends(tree)])

    def residuals(self, number: int) -> np.ndarray:
        """The residual stream after each layer at each prompt's last token, [layers, prompts, width]."""
        tree, read = self._computed(number, every=True)
        return np.asarray(read[:, layout.same_ends(tree)[:, 0]])

    def _computed(self, number: int, every: bool = False) -> tuple[Tree, Array]:
        """A shard's tree, and what was read at the ends of its prompts."""
        found, plan = self.part.found, self.part.plan
        shapes = plan.shapes
        if self.begun is None:
            tokens = np.zeros(shapes.trunk, np.int32)
            tokens[: plan.trunk] = found.tokens(0)[: plan.trunk]
            length = np.int32(plan.trunk)
            self.begun = _begin(self.model, tokens, length, self.reach, self.edit, shapes.store, shapes.answers, every)
        trunk, store, read = self.begun
        self.begun = None  # what passes fill is given away; it comes back when all of them are done
        tree = grow(found, plan.shards[number], plan.trunk, self.part.options)
        for one in layout.passes(tree, shapes):
            rows, answers = self._placed(one)
            store, read = _pass(self.model, trunk, store, read, rows, answers, self.reach, self.edit)
        self.begun = _Begun(trunk, store, read)
        return tree, read

    def _ways(self, shares: np.ndarray) -> np.ndarray:
        """The product over an option's tokens, each read at its own place; shares is [prompts, places, wanted]."""
        at = {place: i for i, place in enumerate(self.part.plan.places)}
        ways = np.zeros((len(shares), len(self.part.options)))
        for i, option in enumerate(self.part.options):
            for k, token in enumerate(option.tokens):
                ways[:, i] += shares[:, at[option.tokens[:k]], self.column[token]]
        return ways

    def _placed(self, one: layout.Pass) -> Any:
        if self.mesh is None:
            return one
        where = sharding.texts(self.mesh)
        return jax.tree.map(lambda x: jax.device_put(x, where), one)


class _Fitting:
    """The shards of a part, in passes that fit a device: where one does not, they are halved from there on."""

    def __init__(
        self, model: Model, part: Part, edit: Edit | None, size: Size, now: Size, halved: Callable[[Size], None]
    ) -> None:
        self.model, self.part, self.edit = model, part, edit
        self.size, self.halved = min(now, size, key=lambda one: one.tokens), halved
        self.run = _Run(model, part, edit) if self.size == size else self._smaller()

    def shard(self, number: int) -> np.ndarray:
        """A shard's answers, [prompts, ways]."""
        while True:
            try:
                return self._shard(number)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if self.size.tokens < _LEAST:
                    raise errors.InputError(
                        f"the device has no memory for passes of {self.size.tokens * 2} tokens; spread the model over more "
                        "devices, or load it as bfloat16"
                    ) from None
            self.size = self.size.halved()
            self.halved(self.size)
            self.run = self._smaller()

    def _shard(self, number: int) -> np.ndarray:
        if self.run.part is self.part:
            return self.run.shard(number)
        prompts, plan = self.part.plan.shards[number], self.run.part.plan
        ways = np.empty((len(prompts), len(self.part.options)))
        for i in np.flatnonzero(np.array(plan.inside) == number).tolist():
            ways[np.searchsorted(prompts, plan.shards[i])] = self.run.shard(i)
        return ways

    def _smaller(self) -> _Run:
        """The same shards, each cut into smaller ones."""
        found, options, shards = self.part.found, self.part.options, self.part.plan.shards
        (plan,) = planning.make([(found, options)], self.model.config, self.size, _shared(self.model), shards)
        return _Run(self.model, self.part._replace(plan=plan), self.edit)

    def culprit(self, bad: np.ndarray) -> int:
        """The first of some prompts that is not finite also alone: in a row, what is not finite spreads to its neighbours."""
        own = Pieces(self.part.found.levels, self.part.found.which[bad])
        alone = [np.array([i]) for i in range(len(bad))]
        (plan,) = planning.make([(own, self.part.options)], self.model.config, self.size, _shared(self.model), alone)
        run = _Run(self.model, Part(bad, own, self.part.options, plan), self.edit)
        return int(next((bad[i] for i in range(len(bad)) if not np.isfinite(run.shard(i)).all()), bad[0]))


# On the device ------------------------------------------------------------------------------------------------------


class _Begun(NamedTuple):
    """The trunk's keys, and arrays to be filled: keys that later passes look at, and residual streams to be read."""

    trunk: packed.Store
    store: packed.Store
    read: Array


@functools.partial(jax.jit, static_argnames=("places", "answers", "every"))
def _begin(
    model: Model,
    tokens: Array,
    length: Array,
    reach: Array,
    edit: Edit | None,
    places: int,
    answers: int,
    every: bool = False,
) -> _Begun:
    weights, config = model.arrays, model.config
    dtype = weights["embedding"].dtype
    shape = (config.layers, answers, config.width) if every else (answers, config.width)
    trunk = packed.trunk(weights, config, tokens, length, reach, edit)
    return _Begun(trunk, packed.empty_store(config, places, dtype), jnp.zeros(shape, dtype))


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
    every = read.ndim == 3
    passed = packed.forward(model.arrays, model.config, trunk, store, rows, reach, edit, every)
    found = passed.hidden if passed.residuals is None else passed.residuals
    flat = found.reshape(*read.shape[:-2], -1, read.shape[-1])
    return passed.store, read.at[..., answers.reshape(-1), :].set(flat, mode="drop")


@jax.jit
def _answers(model: Model, read: Array, wanted: Array) -> Array:
    """Log-probabilities of some tokens at each place, [chunks, chunk, wanted]."""

    def some(hidden: Array) -> Array:
        logits = decoder.head(model.arrays, model.config, hidden)
        return logits[:, wanted] - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    found: Array = lax.map(some, read.reshape(-1, CHUNK, read.shape[-1]))
    return found
