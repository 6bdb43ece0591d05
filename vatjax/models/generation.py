"""Text generation: one pass over the prompts, then one token at a time from a preallocated KV cache.

The whole generation is one compiled program; the cache lives inside its loop. Prompts are padded on the left, so that
all of them end at the same place. A text that has met a stop token is padded from there on; the loop ends when all
have.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax import errors
from vatjax.models import decoder, sharding
from vatjax.models.checkpoint import Checkpoint
from vatjax.models.config import Config
from vatjax.models.edit import PROMPT, WRITTEN, Edit
from vatjax.models.model import Model, positions_of, token_kinds, validate_tokens

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings for choosing the next token.

    Attributes:
        tokens: the most tokens to write.
        temperature: 0 takes the likeliest token; else logits are divided by it and a token is drawn.
        top_p: draw from the likeliest tokens that together reach this probability.
        stop: tokens that end a text; they are written too. None for those that the model names, () for none at all.
        pad: the token that follows a stop.
    """

    tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[int, ...] | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        if self.stop is not None:
            object.__setattr__(self, "stop", tuple(int(token) for token in self.stop))
        if not math.isfinite(self.temperature) or self.pad < 0:
            raise errors.InputError(f"expected a finite temperature and a token as pad, found {self}")
        if self.tokens < 1:
            raise errors.InputError(f"tokens: at least 1 is needed, found {self.tokens}")
        if self.temperature < 0:
            raise errors.InputError(f"temperature: 0 or more is needed, found {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise errors.InputError(f"top_p: a probability above 0 is needed, found {self.top_p}")


class Completions(NamedTuple):
    """Completions of a batch of prompts.

    Attributes:
        tokens: [batch, tokens] int32, padded after a stop.
        log_probs: [batch, tokens], of each token under the model at temperature 1; 0 for padding.
        lengths: [batch], how many tokens of each text count, its stop included.
    """

    tokens: Array
    log_probs: Array
    lengths: Array


def generate(
    model: Model,
    tokens: Any,
    mask: Any = None,
    sampling: Sampling | None = None,
    key: Array | None = None,
    edit: Edit | None = None,
    trunk: Any = None,
) -> Completions:
    """Continues each prompt.

    Args:
        model: the model.
        tokens: [batch, time] int32, padded on the left.
        mask: [batch, time], 0 for padding; by default nothing is.
        sampling: settings; by default 64 tokens, each the likeliest.
        key: PRNG key, needed for drawing tokens; or one for each prompt, [batch], so that its draws do not depend on
            the rest of the batch.
        edit: a change of the computation, for the prompt and for the completion.
        trunk: the shared prefix of all prompts, [time] int32, computed once for all of them; `tokens` follow it.
            Negative tokens at its beginning are padding: trunks of one length share a compilation.

    Raises:
        InputError: if the prompt and its completion do not fit the model's context, and for prompts that are padded on
            the right.
    """
    sampling = Sampling() if sampling is None else sampling
    if sampling.stop is None:
        sampling = dataclasses.replace(sampling, stop=stop_tokens(model))
    tokens, present = validate_tokens(model.config, tokens, mask)
    trunk = np.asarray([] if trunk is None else trunk, np.int32)
    begun = int((trunk >= 0).sum())
    check_context_length(model.config, begun + tokens.shape[1], sampling.tokens)
    if not isinstance(present, jax.core.Tracer) and not bool(present[:, -1].all()):
        raise errors.InputError("prompts must be padded on the left, so that each ends at the last place")
    if sampling.temperature > 0 and key is None:
        raise errors.InputError("drawing tokens needs a PRNG key; temperature 0 takes the likeliest")
    key = jax.random.key(0) if key is None else key
    rows, mesh = tokens.shape[0], model.config.mesh
    if key.ndim:
        tokens, present, key = sharding.pad_and_shard_batch((tokens, present, key), mesh)
    elif sampling.temperature == 0 or sharding.row_shares(mesh, rows) > 1:  # else more rows would change the draws
        tokens, present = sharding.pad_and_shard_batch((tokens, present), mesh)
    written: Completions = _generate(model, tokens, present, token_kinds(present), key, edit, trunk, sampling)
    return written if len(tokens) == rows else jax.tree.map(lambda x: x[:rows], written)


def check_context_length(config: Config, prompt: int, written: int) -> None:
    """Raises InputError if a prompt leaves no room for its completion."""
    if prompt + written > config.context:
        raise errors.InputError(
            f"a prompt of {prompt:,} tokens and {written:,} more are beyond the model's context of {config.context:,}"
        )


@functools.partial(jax.jit, static_argnames="sampling")
def _generate(
    model: Model,
    tokens: Array,
    present: Array,
    kind: Array,
    key: Array,
    edit: Edit | None,
    trunk: Array,
    sampling: Sampling,
) -> Completions:
    """Generates completions; the compiled part of `generate`."""
    weights, config = model.arrays, model.config
    batch, time = tokens.shape
    places = trunk.shape[0] + time + sampling.tokens - 1  # the last token written is not read
    positions = jnp.sum(trunk >= 0) + positions_of(present)
    cache = _start_cache(model, trunk, batch, places, edit)
    gaps = bool(trunk.shape[0])  # prompts of several lengths follow a trunk of one length

    def advance(
        cache: decoder.Cache, tokens: Array, positions: Array, present: Array, kind: Array
    ) -> tuple[decoder.Cache, Array]:
        hidden = decoder.embed(weights, config, tokens)
        run = decoder.run_layers(
            weights, config, hidden, decoder.Layout(positions, present, kind, gaps=gaps), cache=cache, edit=edit
        )
        assert run.cache is not None
        return run.cache, decoder.head(weights, config, run.hidden[:, -1])

    last = positions[:, -1] + 1
    cache, logits = advance(cache, tokens, positions, present, kind)
    stops = jnp.asarray(sampling.stop, jnp.int32)

    def take(step: Array, done: Array, logits: Array, text: Completions) -> tuple[Array, Array, Completions]:
        """Appends the next token of each text; a finished text gets padding."""
        fold = jax.vmap(jax.random.fold_in, (0, None)) if key.ndim else jax.random.fold_in
        chosen = choose_tokens(logits, fold(key, step), sampling)
        share = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), chosen[:, None], -1)[:, 0]
        text = Completions(
            text.tokens.at[:, step].set(jnp.where(done, sampling.pad, chosen)),
            text.log_probs.at[:, step].set(jnp.where(done, 0, share)),
            text.lengths + (~done).astype(text.lengths.dtype),
        )
        return chosen, done | jnp.any(chosen[:, None] == stops[None, :], axis=-1), text

    def going(state: Any) -> Any:
        step, done, *_ = state
        return (step < sampling.tokens) & ~jnp.all(done)

    def write(state: Any) -> Any:
        step, done, chosen, cache, text = state
        cache, logits = advance(
            cache,
            chosen[:, None],
            (last + step - 1)[:, None],
            jnp.ones((batch, 1), bool),
            jnp.full((batch, 1), WRITTEN),
        )
        chosen, done, text = take(step, done, logits, text)
        return step + 1, done, chosen, cache, text

    empty = Completions(
        jnp.full((batch, sampling.tokens), sampling.pad, jnp.int32),
        jnp.zeros((batch, sampling.tokens), jnp.float32),
        jnp.zeros(batch, jnp.int32),
    )
    chosen, done, text = take(jnp.zeros((), jnp.int32), jnp.zeros(batch, bool), logits, empty)
    *_, text = lax.while_loop(going, write, (jnp.ones((), jnp.int32), done, chosen, cache, text))
    return text


def _start_cache(model: Model, trunk: Array, batch: int, places: int, edit: Edit | None) -> decoder.Cache:
    """Returns a cache that holds the trunk, computed once, for every text of a batch."""
    weights, config = model.arrays, model.config
    dtype, length = weights["embedding"].dtype, trunk.shape[0]
    if not length:
        return _constrain_cache(decoder.empty_cache(config, batch, places, dtype), config)
    present = (trunk >= 0)[None]
    hidden = decoder.embed(weights, config, jnp.maximum(trunk, 0)[None])
    trunk_cache = decoder.empty_cache(config, 1, length, dtype)
    kind = jnp.full((1, length), PROMPT)
    run = decoder.run_layers(
        weights, config, hidden, decoder.Layout(positions_of(present), present, kind), cache=trunk_cache, edit=edit
    )
    assert run.cache is not None

    def spread(x: Array, axis: int) -> Array:
        room = [(0, 0)] * x.ndim
        room[axis + 1] = (0, places - length)
        return jnp.pad(jnp.repeat(x, batch, axis), room)

    key, value, visible, filled = run.cache
    return _constrain_cache(decoder.Cache(spread(key, 1), spread(value, 1), spread(visible, 0), filled), config)


def _constrain_cache(cache: decoder.Cache, config: Config) -> decoder.Cache:
    """Shards the texts and heads of a cache over the mesh."""
    key, value = (
        sharding.constrain(x, config.mesh, None, "text", None, "heads", None) for x in (cache.key, cache.value)
    )
    return cache._replace(key=key, value=value)


def choose_tokens(logits: Array, key: Array, sampling: Sampling) -> Array:
    """Chooses the next token of each text, [batch] int32.

    Args:
        logits: [batch, vocabulary].
        key: PRNG key, or one for each text.
        sampling: settings.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        ordered = -jnp.sort(-logits, axis=-1)
        share = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(share, axis=-1) - share  # the likeliest token is always kept
        least = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    draw = jax.vmap(jax.random.categorical) if key.ndim else jax.random.categorical
    return draw(key, logits).astype(jnp.int32)


def stop_tokens(model: Model | Checkpoint) -> tuple[int, ...]:
    """Returns the tokens that end a text: those that a model's configurations name, and its tokenizer's.

    Raises:
        InputError: if a configuration names anything but tokens.
    """
    ids: list[int] = []
    for file, text in (("config.json", model.source), ("generation_config.json", model.generation)):
        ends = json.loads(text).get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(isinstance(end, int) and not isinstance(end, bool) and 0 <= end < 2**31 for end in ends):
            raise errors.InputError(f"{model.name}: {file}: eos_token_id: expected tokens by number, found {ends!r}")
        ids += ends
    tokenizer_stop = getattr(model.tokenizer, "eos_token_id", None)
    return tuple(dict.fromkeys([*ids, *([] if tokenizer_stop is None else [tokenizer_stop])]))
