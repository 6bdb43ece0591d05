"""Log-probabilities of the texts in rows, with as little of the head as they need.

The head is taken at the places that predict a learned token alone, in chunks, and anew in the backward pass: neither
[rows, time, vocabulary] nor [rows, learned, vocabulary] ever exists.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from vatjax.models import decoder
from vatjax.models.attention import Tree
from vatjax.models.config import Config
from vatjax.models.decoder import Remat
from vatjax.models.edit import Edit
from vatjax.models.scoring import token_log_probs
from vatjax.train.rows import Batch

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Memory:
    """What the backward pass keeps, and what it computes anew; changes no result beyond rounding.

    Attributes:
        remat: keep everything ("none"), of each layer its products with weights ("products"), or what goes into it
            ("layers"). Where memory is slow, to compute anew is also faster than to fetch.
        unroll: how many layers one step of the scan holds: more take longer to compile, and on a CPU less to run.
        places: about how many places' logits exist at one time.
    """

    remat: Remat = "products"
    unroll: int = 1
    places: int = 256


def hidden(
    weights: decoder.Weights,
    config: Config,
    tokens: Array,
    positions: Array,
    tree: Tree,
    edit: Edit | None,
    memory: Memory,
) -> Array:
    """The residual stream after the last layer at every token, [rows, time, width].

    Args:
        weights, config: of the model.
        tokens, positions: [rows, time].
        tree: which text each token is of, and which texts see which.
        edit: on the way.
        memory: what the backward pass keeps.
    """
    first, present = decoder.embed(weights, config, tokens), tree.segment > 0
    run = decoder.layers(
        weights,
        config,
        first,
        positions,
        present,
        edit=edit,
        tree=tree,
        unroll=memory.unroll,
        remat=memory.remat,
    )
    return run.hidden


def text_log_probs(
    weights: decoder.Weights, config: Config, batch: Batch, edit: Edit | None = None, memory: Memory = Memory()
) -> Array:
    """The log-probability of each text behind its prompt, [rows, texts] float32; 0 where there is no text."""
    tree = Tree(batch.segment, batch.sees)
    h = hidden(weights, config, batch.tokens, batch.positions, tree, edit, memory)
    h = jnp.take_along_axis(h, batch.places[:, :, None], axis=1)
    each = token_log_probs(weights, config, h, batch.targets, memory.places)
    whose = jax.nn.one_hot(batch.text, batch.length.shape[1], dtype=each.dtype)
    return jnp.einsum("rm,rmk->rk", each, whose, precision=jax.lax.Precision.HIGHEST)
