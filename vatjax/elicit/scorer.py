"""Log-probabilities of answers behind many prompts, each shared token computed once.

A tree of prompts is computed in passes of fixed shapes (`plan`), whose attention reaches into what earlier passes kept
(`models.packed`). Of the vocabulary only the answers' logits leave the device, with the log-sum-exp of the others, taken
a few places at a time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax import errors
from vatjax.elicit import plan as planning
from vatjax.elicit.pieces import Option, Pieces, log_shares
from vatjax.elicit.plan import Size
from vatjax.elicit.running import Part, Run
from vatjax.models import Edit, Model, hosts, packed, sharding
from vatjax.progress import OnProgress, silent

Array = jax.Array

_LONGER = "; load it with a larger context (--context) where it can read more"
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
    leaves = jax.tree.leaves(model.arrays)
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):  # an outline lies nowhere
        return 0
    devices = {device for leaf in leaves for device in leaf.devices()}
    free = []
    for device in devices:
        if device.process_index != jax.process_index():  # its own process looks at it
            continue
        stats = device.memory_stats() or {}
        free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else 0)
    return hosts.least(int(0.9 * max(0, min(free))))


def seconds_for(model: Model, tokens: float) -> float:
    """About how long so many computed tokens take: two operations a weight, at the speed of a product on this device."""
    speed = _speed(str(model.arrays["embedding"].dtype))
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
    devices = {device for leaf in jax.tree.leaves(model.arrays) for device in leaf.devices()}
    return float(2 * weights * tokens / (_SHARE * speed * len(devices)))


def plans(model: Model, asked: Sequence[tuple[Pieces, Sequence[Option]]], size: Size) -> list[Part]:
    """How several sets of prompts are computed, all in the same shapes.

    Args:
        model: the model.
        asked: of each set the prompts' tokens, and the ways to write an answer.
        size: how much is computed at one time.
    """
    made = planning.make(asked, model.config, size, sharding.shares(model.arrays))
    return [Part(found, options, plan) for (found, options), plan in zip(asked, made, strict=True)]


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
    part: Part | None = None,
    now: Size | None = None,
    halved: Callable[[Size], None] = lambda _: None,
    skip: Callable[[int], bool] = lambda _: False,
    on_progress: OnProgress = silent,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt}",
) -> Iterator[Shard]:
    """The answers of all prompts, shard by shard.

    Args:
        model: the model.
        found: tokens of the prompts.
        options: the ways to write an answer.
        edit: a change of the computation.
        size: how much is computed at one time; halved where a device runs out of memory.
        part: of `plans`, where it is made already.
        now: the size that an earlier run of the same prompts had come down to.
        halved: is told each smaller size.
        skip: shards by number that are not wanted, since their answers are there.
        on_progress: is called with the completed fraction of the shard that is computed.
        name: what a prompt is called in errors.

    Raises:
        InputError: for prompts that are longer than the model's context, for logits that are not finite, and where not even
            the smallest passes fit the device.
    """
    size = size or size_for(model)
    check(found, model, options, name)
    part = plans(model, [(found, options)], size)[0] if part is None else part
    fitting = _Fitting(model, part, edit, size, now or size, halved, on_progress)
    for number, prompts in enumerate(part.plan.shards):
        if skip(number):
            continue
        ways = fitting.shard(number)
        bad = np.flatnonzero(~np.isfinite(ways).all(-1))
        if len(bad):
            raise errors.InputError(f"{name(fitting.culprit(prompts[bad]))}: the model's logits are not finite")
        yield Shard(number, prompts, log_shares(tuple(options), ways))


def states(
    model: Model, found: Pieces, edit: Edit | None = None, size: Size | None = None, every: packed.Every = "residual"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a model holds at the last token of each prompt, where it is about to answer; each shared token computed once.

    Args:
        model: the model.
        found: tokens of the prompts.
        edit: a change of the computation.
        size: how much is computed at one time.
        every: of each layer the residual stream after it, or the MLP's inner activations.

    Yields:
        (which prompts [n]; what was asked for, [layers, n, width] or [layers, n, hidden]).
    """
    options = (Option((0,), 0),)  # nothing behind the prompts is read
    (part,) = plans(model, [(found, options)], size or size_for(model))
    run = Run(model, part, edit)
    for number, prompts in enumerate(part.plan.shards):
        yield prompts, run.states(number, every)


def check(
    found: Pieces,
    model: Model,
    options: Sequence[Option],
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt + 1}",
) -> None:
    """Refuses prompts that are longer than the model's context, and tokens that it has no embeddings for."""
    _unknown(found, model, name)
    lengths = found.lengths()
    longest = int(lengths.max()) + max(len(option.tokens) for option in options) - 1
    if longest > model.config.context:
        raise errors.InputError(
            f"{name(int(lengths.argmax()))}: a prompt of {longest:,} tokens is longer than the model's context of "
            f"{model.config.context:,}" + (_LONGER if model.config.family == "phi3" else "")
        )


def _unknown(found: Pieces, model: Model, name: Callable[[int], str]) -> None:
    """Refuses tokens that the model has no embeddings for."""
    for level, texts in enumerate(found.levels):
        beyond = [i for i, text in enumerate(texts) if max(text, default=0) >= model.config.vocabulary]
        if beyond:
            prompt = int(np.flatnonzero(np.isin(found.which[:, level], beyond))[0])
            token = max(texts[found.which[prompt, level]])
            raise errors.InputError(f"{name(prompt)}: the model has no embedding for the token {token}")


class _Fitting:
    """The shards of a part, in passes that fit a device: where one does not, they are halved from there on."""

    def __init__(
        self,
        model: Model,
        part: Part,
        edit: Edit | None,
        size: Size,
        now: Size,
        halved: Callable[[Size], None],
        on_progress: OnProgress,
    ) -> None:
        self.model, self.part, self.edit, self.on_progress = model, part, edit, on_progress
        self.size, self.halved = min(now, size, key=lambda one: one.tokens), halved
        self.run = Run(model, part, edit, on_progress) if self.size == size else self._smaller()

    def shard(self, number: int) -> np.ndarray:
        """A shard's answers, [prompts, ways]."""
        while True:
            try:
                return self._shard(number)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or hosts.several():  # the others go on with the larger ones
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

    def _smaller(self) -> Run:
        """The same shards, each cut into smaller ones."""
        found, options, shards = self.part.found, self.part.options, self.part.plan.shards
        (plan,) = planning.make(
            [(found, options)], self.model.config, self.size, sharding.shares(self.model.arrays), shards
        )
        return Run(self.model, self.part._replace(plan=plan), self.edit, self.on_progress)

    def culprit(self, bad: np.ndarray) -> int:
        """The first of some prompts that is not finite also alone: in a row, what is not finite spreads to its neighbours."""
        own = Pieces(self.part.found.levels, self.part.found.which[bad])
        alone = [np.array([i]) for i in range(len(bad))]
        (plan,) = planning.make(
            [(own, self.part.options)], self.model.config, self.size, sharding.shares(self.model.arrays), alone
        )
        run = Run(self.model, Part(own, self.part.options, plan), self.edit)
        return int(next((bad[i] for i in range(len(bad)) if not np.isfinite(run.shard(i)).all()), bad[0]))
