"""Log-probabilities of given tokens, without ever holding the logits of a whole batch.

    log p(token | before) = logit[token] - log sum exp logits

The head is computed in chunks of places, and anew in the backward pass, so that [batch, time, vocabulary] never exists.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vatjax import errors
from vatjax.models import decoder, sharding
from vatjax.models.config import Config
from vatjax.models.edit import Edit
from vatjax.models.model import Model, positions_of, token_kinds, validate_tokens

Array = jax.Array

# Places whose logits exist at one time on one device: 256 of them and 150,000 tokens are 150 MB.
_CHUNK = 256


def log_probs(
    model: Model,
    tokens: Any,
    mask: Any = None,
    edit: Edit | None = None,
    last: int | None = None,
    written: Any = None,
) -> Array:
    """Computes the log-probability of each token given those before it, [batch, time] float32.

    A continuation's is the sum over its places. The first token of a text has nothing before it: it and padding are 0.

    Args:
        model: the model.
        tokens: [batch, time] int32, padded left or right.
        mask: [batch, time], 0 for padding; by default nothing is.
        edit: a change of the computation.
        last: return only that many last places, [batch, last]: if prompts are padded on the left to where their
            continuations begin, no logits of the prompts are computed.
        written: [batch, time], 1 for continuations: for edits that treat them differently; by default all is prompt.
    """
    tokens, present = validate_tokens(model.config, tokens, mask)
    count = tokens.shape[1] if last is None else last
    if not 0 <= count <= tokens.shape[1]:
        raise errors.InputError(f"last: expected 0 to {tokens.shape[1]}, the number of tokens; found {last}")
    rows, kind = tokens.shape[0], token_kinds(present, written)
    tokens, present, kind = sharding.pad_and_shard_batch((tokens, present, kind), model.config.mesh)
    values: Array = _log_probs(model, tokens, present, edit, kind, count)
    return values if len(values) == rows else values[:rows]


@functools.partial(jax.jit, static_argnames="count")
def _log_probs(model: Model, tokens: Array, present: Array, edit: Edit | None, kind: Array, count: int) -> Array:
    weights, config = model.arrays, model.config
    hidden = decoder.embed(weights, config, tokens)
    layout = decoder.Layout(positions_of(present), present, kind)
    hidden = decoder.run_layers(weights, config, hidden, layout, edit=edit).hidden
    first = max(1, tokens.shape[1] - count)
    values = token_log_probs(weights, config, hidden[:, first - 1 : -1], tokens[:, first:])
    known = present[:, first:] & present[:, first - 1 : -1]
    values = jnp.where(known, values, 0)
    return jnp.pad(values, ((0, 0), (count - values.shape[1], 0)))


def token_log_probs(
    weights: decoder.Weights, config: Config, hidden: Array, targets: Array, chunk: int = _CHUNK
) -> Array:
    """Computes log-probabilities of tokens under the residual streams that predict them, [batch, time] float32.

    Chunks are cut along time, so that a batch stays where a mesh has put it.

    Args:
        weights: of the whole model.
        config: of the model.
        hidden: [batch, time, width], after the last layer.
        targets: [batch, time] int32.
        chunk: about how many places' logits exist at one time on one device.
    """
    batch, time = targets.shape
    if not targets.size:
        return jnp.zeros((batch, time), jnp.float32)
    width = min(time, max(1, chunk * sharding.row_shares(config.mesh, batch) // batch))
    weights = decoder.gather_head(weights, config)
    fill = -time % width

    def chunks(x: Array) -> Array:
        """Splits an array along time, [chunks, batch, width, ...]."""
        padded = jnp.pad(x, ((0, 0), (0, fill), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(padded.reshape(batch, -1, width, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def score_chunk(part: tuple[Array, Array]) -> Array:
        h, token = part
        logits = decoder.head(weights, config, h)
        if config.mesh is None:
            target_logits = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
        else:  # a sum over a sharded vocabulary needs none of its rows elsewhere
            is_target = jnp.arange(config.vocabulary)[None, None] == token[..., None]
            target_logits = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
        return target_logits - jax.nn.logsumexp(logits, axis=-1)

    values: Array = lax.map(score_chunk, (chunks(hidden), chunks(targets)))
    return jnp.moveaxis(values, 0, 1).reshape(batch, -1)[:, :time]
