"""Log-probabilities of answers after many prompts, with each shared token computed once.

A tree of prompts is computed in passes of fixed shapes (`plan`), whose attention reaches the keys of earlier passes
(`packed_attention`). Only the answers' log-probabilities leave the device: their logits less the log-sum-exp of the
vocabulary, a few places at a time.
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
from vatjax.models import Edit, Model, sharding
from vatjax.prefix import packed_attention
from vatjax.prefix import plan as planning
from vatjax.prefix.execute import Part, Run
from vatjax.prefix.plan import Size
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts, answer_log_probs
from vatjax.runtime import processes
from vatjax.runtime.memory import is_out_of_memory
from vatjax.runtime.progress import OnProgress, ignore_progress

Array = jax.Array

_LONGER = "; load it with a larger context (--context) where it can read more"
_SHARE = 0.6  # part of a plain matrix product's speed that passes reach, measured on a CPU
_LEAST = 64  # tokens of a pass that is not halved again


class Shard(NamedTuple):
    """The answers of some prompts.

    Attributes:
        number: of the shard.
        prompts: [n], their indices.
        log_probs: [n, answers] float64, of each answer; the rest of the probability went to other tokens.
    """

    number: int
    prompts: np.ndarray
    log_probs: np.ndarray


def size_for(model: Model, tokens: int = 0, shard: int = 0, memory: int = 0) -> Size:
    """Returns the default amounts computed at one time: more on an accelerator, and no more than it has room for."""
    if tokens < 0 or shard < 0:
        raise errors.InputError(f"tokens: expected a number above 0, found {min(tokens, shard)}")
    fast = jax.default_backend() != "cpu"
    return Size(tokens or (16_384 if fast else 2048), shard or (1 << 18 if fast else 1 << 16), memory or _room(model))


def _room(model: Model) -> int:
    """Returns the bytes that a device still has free, less a tenth; 0 if it does not report them."""
    leaves = jax.tree.leaves(model.arrays)
    if not all(isinstance(leaf, jax.Array) for leaf in leaves):  # an abstract model has no device
        return 0
    devices = {device for leaf in leaves for device in leaf.devices()}
    free = []
    for device in devices:
        if device.process_index != jax.process_index():  # its own process looks at it
            continue
        stats = device.memory_stats() or {}
        free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else 0)
    return processes.global_min(int(0.9 * max(0, min(free))))


def seconds_for(model: Model, tokens: float) -> float:
    """Returns about how many seconds it takes to compute `tokens` tokens.

    It counts two operations a weight, at the speed of a matrix product on this device.
    """
    speed = _speed(str(model.arrays["embedding"].dtype))
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
    devices = {device for leaf in jax.tree.leaves(model.arrays) for device in leaf.devices()}
    return float(2 * weights * tokens / (_SHARE * speed * len(devices)))


def plan_prompts(
    model: Model, prompt_sets: Sequence[tuple[TokenizedPrompts, Sequence[Spelling]]], size: Size
) -> list[Part]:
    """Plans several sets of prompts, all in the same shapes.

    Args:
        model: the model.
        prompt_sets: of each set the prompts' tokens, and the ways to write an answer.
        size: how much is computed at one time.
    """
    planned = planning.make_plans(prompt_sets, model.config, size, sharding.count_batch_shards(model.arrays))
    return [Part(tokenized, spellings, plan) for (tokenized, spellings), plan in zip(prompt_sets, planned, strict=True)]


@functools.cache
def _speed(dtype: str) -> float:
    """Measures the operations a second of a plain matrix product."""
    side = 1024
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: jnp.einsum("ij,jk->ik", x, x, preferred_element_type=jnp.float32))
    product(x).block_until_ready()
    start = time.perf_counter()
    product(x).block_until_ready()
    return 2 * side**3 / (time.perf_counter() - start)


def score(
    model: Model,
    tokenized: TokenizedPrompts,
    spellings: Sequence[Spelling],
    edit: Edit | None = None,
    size: Size | None = None,
    *,
    part: Part | None = None,
    now: Size | None = None,
    on_halved: Callable[[Size], None] = lambda _: None,
    skip: Callable[[int], bool] = lambda _: False,
    on_progress: OnProgress = ignore_progress,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt}",
) -> Iterator[Shard]:
    """Yields the answers of all prompts, shard by shard.

    Args:
        model: the model.
        tokenized: tokens of the prompts.
        spellings: the ways to write an answer.
        edit: a change of the computation.
        size: how much is computed at one time; halved where a device runs out of memory.
        part: of `plan_prompts`, if they are planned already.
        now: the size to which an earlier run of the same prompts was reduced.
        on_halved: is called with each smaller size.
        skip: whether a shard, by its number, is left out, since its answers are cached.
        on_progress: is called with the completed fraction of the shard that is computed.
        name: what a prompt is called in errors.

    Raises:
        InputError: for prompts that are longer than the model's context, for logits that are not finite, and where not even
            the smallest passes fit the device.
    """
    size = size or size_for(model)
    check_prompts(tokenized, model, spellings, name)
    part = plan_prompts(model, [(tokenized, spellings)], size)[0] if part is None else part
    fitting = _Fitting(model, part, edit, size, now or size, on_halved, on_progress)
    for number, prompts in enumerate(part.plan.shards):
        if skip(number):
            continue
        ways = fitting.shard(number)
        bad = np.flatnonzero(~np.isfinite(ways).all(-1))
        if len(bad):
            raise errors.InputError(f"{name(fitting.culprit(prompts[bad]))}: the model's logits are not finite")
        yield Shard(number, prompts, answer_log_probs(tuple(spellings), ways))


def last_token_states(
    model: Model,
    tokenized: TokenizedPrompts,
    edit: Edit | None = None,
    size: Size | None = None,
    every: packed_attention.Every = "residual",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields every layer's state at the last token of each prompt, where the model is about to answer.

    Each shared token is computed once.

    Args:
        model: the model.
        tokenized: tokens of the prompts.
        edit: a change of the computation.
        size: how much is computed at one time.
        every: of each layer the residual stream after it, or the MLP's inner activations.

    Yields:
        (indices of the prompts [n]; their states, [layers, n, width] or [layers, n, hidden]).
    """
    spellings = (Spelling((0,), 0),)  # no token after the prompts is read
    (part,) = plan_prompts(model, [(tokenized, spellings)], size or size_for(model))
    run = Run(model, part, edit)
    for number, prompts in enumerate(part.plan.shards):
        yield prompts, run.states(number, every)


def check_prompts(
    tokenized: TokenizedPrompts,
    model: Model,
    spellings: Sequence[Spelling],
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt + 1}",
) -> None:
    """Refuses prompts that are longer than the model's context, and tokens that it has no embeddings for."""
    _unknown(tokenized, model, name)
    lengths = tokenized.lengths()
    longest = int(lengths.max()) + max(len(spelling.tokens) for spelling in spellings) - 1
    if longest > model.config.context:
        raise errors.InputError(
            f"{name(int(lengths.argmax()))}: a prompt of {longest:,} tokens is longer than the model's context of "
            f"{model.config.context:,}" + (_LONGER if model.config.family == "phi3" else "")
        )


def _unknown(tokenized: TokenizedPrompts, model: Model, name: Callable[[int], str]) -> None:
    """Refuses tokens that the model has no embeddings for."""
    for level, texts in enumerate(tokenized.levels):
        beyond = [i for i, text in enumerate(texts) if max(text, default=0) >= model.config.vocabulary]
        if beyond:
            prompt = int(np.flatnonzero(np.isin(tokenized.which[:, level], beyond))[0])
            token = max(texts[tokenized.which[prompt, level]])
            raise errors.InputError(f"{name(prompt)}: the model has no embedding for the token {token}")


class _Fitting:
    """The shards of a part, in passes that fit a device: if one does not, they are halved from there on."""

    def __init__(
        self,
        model: Model,
        part: Part,
        edit: Edit | None,
        size: Size,
        now: Size,
        on_halved: Callable[[Size], None],
        on_progress: OnProgress,
    ) -> None:
        self.model, self.part, self.edit, self.on_progress = model, part, edit, on_progress
        self.size, self.on_halved = min(now, size, key=lambda candidate: candidate.tokens), on_halved
        self.run = Run(model, part, edit, on_progress) if self.size == size else self._smaller()

    def shard(self, number: int) -> np.ndarray:
        """Returns the log-probabilities of a shard's answers, [prompts, spellings]."""
        while True:
            try:
                return self._shard(number)
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error) or processes.is_multiprocess():  # the others go on with the larger ones
                    raise
                if self.size.tokens < _LEAST:
                    raise errors.InputError(
                        f"out of memory: the device cannot hold passes of {self.size.tokens * 2} tokens; spread the "
                        "model over more devices, or load it as bfloat16"
                    ) from None
            self.size = self.size.halved()
            self.on_halved(self.size)
            self.run = self._smaller()

    def _shard(self, number: int) -> np.ndarray:
        if self.run.part is self.part:
            return self.run.shard(number)
        prompts, plan = self.part.plan.shards[number], self.run.part.plan
        ways = np.empty((len(prompts), len(self.part.spellings)))
        for i in np.flatnonzero(np.array(plan.inside) == number).tolist():
            ways[np.searchsorted(prompts, plan.shards[i])] = self.run.shard(i)
        return ways

    def _smaller(self) -> Run:
        """Plans the same shards again, each cut into smaller ones."""
        tokenized, spellings, shards = self.part.tokenized, self.part.spellings, self.part.plan.shards
        (plan,) = planning.make_plans(
            [(tokenized, spellings)],
            self.model.config,
            self.size,
            sharding.count_batch_shards(self.model.arrays),
            shards,
        )
        return Run(self.model, self.part._replace(plan=plan), self.edit, self.on_progress)

    def culprit(self, bad: np.ndarray) -> int:
        """Returns the first of some prompts that is not finite when computed alone.

        In a row, values that are not finite spread to the neighbours.
        """
        tokenized = TokenizedPrompts(self.part.tokenized.levels, self.part.tokenized.which[bad])
        alone = [np.array([i]) for i in range(len(bad))]
        (plan,) = planning.make_plans(
            [(tokenized, self.part.spellings)],
            self.model.config,
            self.size,
            sharding.count_batch_shards(self.model.arrays),
            alone,
        )
        run = Run(self.model, Part(tokenized, self.part.spellings, plan), self.edit)
        return int(next((bad[i] for i in range(len(bad)) if not np.isfinite(run.shard(i)).all()), bad[0]))
