"""Log-probabilities of the texts in rows, computing as few logits as possible.

The head is applied only at positions that predict a learned token, in chunks, and recomputed in the backward pass. So
neither [rows, time, vocabulary] nor [rows, learned, vocabulary] is ever materialised.
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
    """Rematerialisation settings of the backward pass; results change only by rounding.

    Attributes:
        remat: save everything ("none"), the products with weights of each layer ("products"), or only the inputs of
            each layer ("layers"). Where memory is slow, recomputing is also faster than loading.
        unroll: layers per step of the scan: more take longer to compile, and run faster on a CPU.
        places: about how many positions have their logits in memory at one time.
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
    """Computes the residual stream after the last layer at every token, [rows, time, width].

    Args:
        weights, config: of the model.
        tokens, positions: [rows, time].
        tree: the segment of each token, and which segments see which.
        edit: applied in the forward pass.
        memory: rematerialisation settings.
    """
    first, present = decoder.embed(weights, config, tokens), tree.segment > 0
    run = decoder.run_layers(
        weights,
        config,
        first,
        decoder.Layout(positions, present, tree=tree),
        edit=edit,
        unroll=memory.unroll,
        remat=memory.remat,
    )
    return run.hidden


def text_log_probs(
    weights: decoder.Weights, config: Config, batch: Batch, edit: Edit | None = None, memory: Memory = Memory()
) -> Array:
    """Computes the log-probability of each text given its prompt, [rows, texts] float32; 0 for padding."""
    tree = Tree(batch.segment, batch.sees)
    h = hidden(weights, config, batch.tokens, batch.positions, tree, edit, memory)
    h = jnp.take_along_axis(h, batch.places[:, :, None], axis=1)
    each = token_log_probs(weights, config, h, batch.targets, memory.places)
    whose = jax.nn.one_hot(batch.text, batch.length.shape[1], dtype=each.dtype)
    return jnp.einsum("rm,rmk->rk", each, whose, precision=jax.lax.Precision.HIGHEST)
