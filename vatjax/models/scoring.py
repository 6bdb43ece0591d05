"""How likely a text is: log-probabilities of given tokens, without ever holding the logits of a whole batch.

    log p(token | before) = logit[token] - log sum exp logits

The head is taken in chunks of places, and anew in the backward pass, so that [batch, time, vocabulary] never exists.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vatjax.models import decoder
from vatjax.models.config import Config
from vatjax.models.edit import Edit
from vatjax.models.model import Model, positions_of, present_of

Array = jax.Array

# Places whose logits exist at one time: 256 of them and 150,000 tokens are 150 MB.
_CHUNK = 256


@functools.partial(jax.jit, static_argnames="last")
def log_probs(
    model: Model,
    tokens: Array,
    mask: Array | None = None,
    edit: Edit | None = None,
    last: int | None = None,
) -> Array:
    """The log-probability of each token given those before it, [batch, time] float32.

    A continuation's is the sum over its places. The first token of a text has nothing before it: it and padding are 0.

    Args:
        model: the model.
        tokens: [batch, time] int32, padded left or right.
        mask: [batch, time], 0 for padding; by default nothing is.
        edit: a change of the computation.
        last: only the last so many places, [batch, last]: where prompts are padded on the left to where their
            continuations begin, no logits of the prompts are computed.
    """
    weights, config = model.arrays, model.config
    tokens = jnp.asarray(tokens, jnp.int32)
    present = present_of(tokens, mask)
    hidden = decoder.embed(weights, config, tokens)
    hidden = decoder.layers(weights, config, hidden, positions_of(present), present, edit=edit).hidden
    wanted = tokens.shape[1] if last is None else last
    first = max(1, tokens.shape[1] - wanted)
    found = token_log_probs(weights, config, hidden[:, first - 1 : -1], tokens[:, first:])
    known = present[:, first:] & present[:, first - 1 : -1]
    found = jnp.where(known, found, 0)
    return jnp.pad(found, ((0, 0), (wanted - found.shape[1], 0)))


def token_log_probs(
    weights: decoder.Weights, config: Config, hidden: Array, targets: Array, chunk: int = _CHUNK
) -> Array:
    """Log-probabilities of tokens under the residual streams that should predict them, [...] float32.

    Args:
        weights: of the whole model.
        config: of the model.
        hidden: [..., width], after the last layer.
        targets: [...] int32.
        chunk: how many places' logits exist at one time.
    """
    count = targets.size
    chunk = max(1, min(chunk, count))
    fill = -count % chunk
    rows = jnp.pad(hidden.reshape(count, -1), ((0, fill), (0, 0))).reshape(-1, chunk, hidden.shape[-1])
    ids = jnp.pad(targets.reshape(count), (0, fill)).reshape(-1, chunk)

    @jax.checkpoint
    def some(part: tuple[Array, Array]) -> Array:
        h, token = part
        logits = decoder.head(weights, config, h)
        own = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        return own - jax.nn.logsumexp(logits, axis=-1)

    found: Array = lax.map(some, (rows, ids))
    return found.reshape(-1)[:count].reshape(targets.shape)
