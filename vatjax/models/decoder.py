"""The decoder, from tokens to logits, for every family: read it from top to bottom.

    h = scale * embedding[token]
    for each layer:                      (scanned; an edit's layer and rope and window are scanned along)
        h = h + r * norm(attention(norm(h)))
        h = h + r * norm(mlp(norm(h)))   mlp(x) = (act(x gate) * x up) down
        h = edit(h)
    logits = cap(scale * norm(h) head)

`Config` says which norms a family has, and every other quirk. Functions are pure: weights, tokens and caches in,
arrays out.

Axes: batch b, time t, keys s, layers l, width d. Weights are [in, out] with a leading layer axis; see `weights.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from vatjax.models import attention as attention
from vatjax.models import edit as edit_module
from vatjax.models import rope, sharding
from vatjax.models import weights as weights_module
from vatjax.models.config import Config
from vatjax.models.edit import Edit, add_low_rank

T = TypeVar("T")
Remat = Literal["none", "products", "layers"]
Array = jax.Array
Weights = Mapping[str, Any]

PRODUCT = "product"  # the name under which products with weights are saved for the backward pass


class Cache(NamedTuple):
    """KV cache: keys and values of the tokens so far, in preallocated places.

    Attributes:
        key, value: [layers, batch, places, kv heads, head size].
        present: [batch, places] bool, which places hold a visible token.
        length: the number of filled places, the same for every text of the batch.
    """

    key: Array
    value: Array
    present: Array
    length: Array


class Layout(NamedTuple):
    """Layout of the tokens of a pass.

    Attributes:
        positions: [batch, time].
        present: [batch, time] bool, False for padding.
        kind: [batch, time], the role of each token in its prompt (`edit.PROMPT`, `LAST`, `WRITTEN`): needed by edits that do
            not touch every token.
        tree: for rows that hold several texts, which tokens see which; without a cache.
        gaps: static; whether there may be padding inside a text, in its cache.
    """

    positions: Array
    present: Array
    kind: Array | None = None
    tree: attention.Tree | None = None
    gaps: bool = False


class DecoderOutput(NamedTuple):
    """Output of a pass through the layers.

    Attributes:
        hidden: the residual stream after the last layer of the pass, [batch, time, width].
        cache: with the new keys and values; None if none was given.
    """

    hidden: Array
    cache: Cache | None


def empty_cache(config: Config, batch: int, places: int, dtype: Any) -> Cache:
    """Returns a cache with room for `places` tokens of each text."""
    shape = (config.layers, batch, places, config.kv_heads, config.head_size)
    return Cache(
        jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch, places), bool), jnp.zeros((), jnp.int32)
    )


def embed(weights: Weights, config: Config, tokens: Array) -> Array:
    """Computes the residual stream before the first layer, [batch, time, width]."""
    h = sharding.look_up_embeddings(weights["embedding"], tokens, config.mesh)
    h = constrain_rows(h.astype(stream_dtype(weights, config)), config)
    if config.embedding_scale_rounded:
        return h * jnp.asarray(config.embedding_scale, h.dtype)
    return scaled(h, config.embedding_scale)


def constrain_rows(h: Array, config: Config) -> Array:
    """Shards the rows of the residual stream over the mesh; each device holds the whole width of its rows."""
    return sharding.constrain(h, config.mesh, "text", None, None)


def stream_dtype(weights: Weights, config: Config) -> Any:
    """Returns the dtype of the residual stream: that of the weights, or float32 over weights of another dtype."""
    return jnp.float32 if config.float32_residual else weights["embedding"].dtype


def gather_head(weights: Weights, config: Config) -> Weights:
    """Returns the weights with the head's whole width on each device, so that a loop over chunks gathers it once."""
    if config.mesh is None:
        return weights
    name, axes = ("embedding", ("vocabulary", None)) if config.tied else ("head", (None, "vocabulary"))
    return {**weights, name: sharding.constrain(weights[name], config.mesh, *axes)}


def head(weights: Weights, config: Config, hidden: Array) -> Array:
    """Computes float32 logits, [..., vocabulary], from the residual stream after the last layer."""
    h = norm(hidden, weights["norm"], config)
    table = weights["embedding"].T if config.tied else weights["head"]
    logits = jnp.einsum("...d,dv->...v", h, table, preferred_element_type=jnp.float32, precision=attention.precision(h))
    logits = logits * config.logit_scale
    return config.logit_cap * jnp.tanh(logits / config.logit_cap) if config.logit_cap else logits


def run_layers(
    weights: Weights,
    config: Config,
    hidden: Array,
    layout: Layout,
    *,
    first: int = 0,
    last: int | None = None,
    cache: Cache | None = None,
    edit: Edit | None = None,
    unroll: int = 1,
    remat: Remat = "none",
) -> DecoderOutput:
    """Runs the layers from `first` to before `last`: those below an edit can be run once for many edits.

    Args:
        weights: of the whole model.
        config: of the model.
        hidden: [batch, time, width].
        layout: of the tokens.
        first, last: static.
        cache: of the preceding tokens; the new ones are appended.
        edit: a change of the computation; its arrays have all layers of the model.
        unroll: the number of layers in one step of the scan.
        remat: what the backward pass keeps: everything ("none"), each layer's products with weights, in the model's
            dtype ("products"), or only each layer's input ("layers"). It recomputes the rest.
    """
    last = config.layers if last is None else last
    touched, present = touched_tokens(edit, layout.kind), layout.present
    ropes = rope.cos_sin_tables(config.ropes, layout.positions)
    if layout.tree is not None:
        allowed, back = attention.tree_mask(layout.tree, layout.positions)
    elif cache is None:
        allowed, back = attention.causal_mask(present, hidden.shape[1])
    else:
        present = lax.dynamic_update_slice(cache.present, present, (0, cache.length))
        allowed, back = attention.causal_mask(present, hidden.shape[1], cache.length, layout.gaps)

    def step(carry: Any, along: Any) -> tuple[Any, None]:
        h, keys, values = carry
        layer_weights, which, window, index, layer_edit = along
        see = allowed & ((back < window) | (window == 0))
        turn = tuple(table[which] for table in ropes)

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, Any]:
            updated: Any = None, None
            if cache is not None:
                updated = tuple(_put(part, new, index, cache.length) for part, new in ((keys, key), (values, value)))
                key, value = (lax.dynamic_index_in_dim(part, index, keepdims=False) for part in updated)
            return attention.attend(
                query, key, value, see, config.attention_scale, config.attention_cap, needs_separate_axes(config)
            ), updated

        h, updated, _ = run_layer(layer_weights, config, h, turn, attend, layer_edit, touched)
        return (h, *updated), None

    carry: Any = (hidden, None, None) if cache is None else (hidden, cache.key, cache.value)
    body = _rematerialised(step, remat)
    along = scan_inputs(weights, config, edit, first, last)
    (hidden, keys, values), _ = lax.scan(body, carry, along, unroll=min(unroll, max(1, last - first)))
    if cache is not None:
        cache = Cache(keys, values, present, cache.length + hidden.shape[1])
    return DecoderOutput(hidden, cache)


def needs_separate_axes(config: Config) -> bool:
    """Returns True if attention keeps texts and heads on separate axes, as it must on a mesh, which cuts both."""
    return config.mesh is not None


def touched_tokens(edit: Edit | None, kind: Array | None) -> Array | None:
    """Returns which tokens an edit touches, [batch, time]; None for all."""
    if edit is None or edit.positions == "all":
        return None
    if kind is None:
        raise ValueError(f"an edit of {edit.positions} tokens needs to know what each token is to its prompt")
    return edit.touched(kind)


def _rematerialised(step: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    if remat == "none":
        return step
    # Saved by name, after rounding: a policy by operation would save a product of bfloat16 as the float32 it sums in.
    policy = jax.checkpoint_policies.save_only_these_names(PRODUCT) if remat == "products" else None
    checkpointed: Callable[..., Any] = jax.checkpoint(step, policy=policy)
    return checkpointed


def scan_inputs(weights: Weights, config: Config, edit: Edit | None, first: int, last: int) -> tuple[Any, ...]:
    """Returns each layer's inputs in a scan over layers: weights, kind of rope, window, number, and part of an edit."""
    layer_edits = None
    if edit is not None:
        weights_module.check_edit(edit, config)
        layer_edits = edit.slice_layers(first, last)
        layer_edits = dataclasses.replace(layer_edits, strength=jnp.broadcast_to(edit.strength, (last - first,)))
    return (
        jax.tree.map(lambda w: w[first:last], weights["layers"]),
        jnp.asarray(config.rope_of[first:last], jnp.int32),
        jnp.asarray(config.windows[first:last], jnp.int32),
        jnp.arange(first, last, dtype=jnp.int32),
        layer_edits,
    )


def _put(stored: Array, new: Array, layer: Array, start: Array) -> Array:
    """Writes a layer's new keys or values after the existing ones."""
    return lax.dynamic_update_slice(stored, new[None].astype(stored.dtype), (layer, 0, start, 0, 0))


def run_layer(
    weights: Weights,
    config: Config,
    h: Array,
    turn: tuple[Array, ...],
    attend: Callable[[Array, Array, Array], tuple[Array, T]],
    edit: Edit | None,
    touched: Array | None,
) -> tuple[Array, T, Array]:
    """Runs one layer: attention and MLP, each normed before or after or both, and added to the residual stream.

    Args:
        weights: of this layer.
        config: of the model.
        h: [batch, time, width].
        turn: cosines and sines of this layer's rotary positions.
        attend: maps queries, keys and values [batch, time, heads, head size] to (their mixture, the keys and values to
            store).
        edit: this layer's part of it.
        touched: [batch, time], which tokens it touches; None for all.

    Returns:
        (h, what `attend` stores, the MLP's inner activations [batch, time, hidden]).
    """
    dtype = weights["output"].dtype
    x = norm(h, weights["attention_norm"], config) if config.pre_norm else h.astype(dtype)
    mixed, stored = attend(*project_heads(weights, config, x, turn, edit, touched))
    x = project(weights, "output", mixed.reshape(*h.shape[:2], -1), edit, touched)
    x = norm(x, weights["attention_post_norm"], config) if config.post_norm else x
    h = constrain_rows(h + scaled(x, config.residual_scale).astype(h.dtype), config)
    x = norm(h, weights["mlp_norm"], config) if config.pre_norm else h.astype(dtype)
    inner = mlp_activations(weights, config, x, edit, touched)
    x = project(weights, "down", inner, edit, touched)
    x = norm(x, weights["mlp_post_norm"], config) if config.post_norm else x
    h = constrain_rows(h + scaled(x, config.residual_scale).astype(h.dtype), config)
    return (h if edit is None else edit_module.edit_residual(h, edit, touched)), stored, inner


def project_heads(
    weights: Weights, config: Config, x: Array, turn: tuple[Array, ...], edit: Edit | None, touched: Array | None
) -> tuple[Array, Array, Array]:
    """Computes queries, keys and values of every head, normed and rotated, [batch, time, heads, head size]."""
    parts = []
    for name, count in (("query", config.heads), ("key", config.kv_heads), ("value", config.kv_heads)):
        part = project(weights, name, x, edit, touched)
        if name != "value" and config.head_norm == "whole":
            part = norm(part, weights[f"{name}_norm"], config)
        part = part.reshape(*x.shape[:2], count, config.head_size)
        if name != "value":
            if config.head_norm == "each":
                part = norm(part, weights[f"{name}_norm"], config)
            part = rope.rotate(part, *turn)
        parts.append(sharding.constrain(part, config.mesh, "text", None, "heads", None))
    return parts[0], parts[1], parts[2]


def mlp_activations(
    weights: Weights, config: Config, x: Array, edit: Edit | None, touched: Array | None = None
) -> Array:
    """Computes the MLP's inner activations, `act(x gate) * x up`, with an edit's additions, [batch, time, hidden]."""
    gate, up = (project(weights, name, x, edit, touched) for name in ("gate", "up"))
    inner = sharding.constrain(activate(gate, config.activation) * up, config.mesh, "text", None, "hidden")
    return inner if edit is None else edit_module.edit_neurons(inner, edit, touched)


def project(weights: Weights, name: str, x: Array, edit: Edit | None, touched: Array | None = None) -> Array:
    """Applies one projection with its bias and its low-rank change, [batch, time, out].

    The product is one of plain matrices: on a CPU its gradient is twice as fast as that of a product with three axes.
    """
    flat = x.reshape(-1, x.shape[-1])
    product = jnp.matmul(flat, weights[name], preferred_element_type=jnp.float32, precision=attention.precision(x))
    product = checkpoint_name(product.astype(x.dtype), PRODUCT)  # type: ignore[no-untyped-call]
    product = product.reshape(*x.shape[:-1], -1)
    if edit is not None:
        product = add_low_rank(product, x, edit.lora.get(name), edit.strength, touched)
    bias = weights.get(f"{name}_bias")
    return product if bias is None else product + bias[None, None, :]


def norm(x: Array, weight: Array, config: Config) -> Array:
    """Applies a root-mean-square norm to the last axis: `x / sqrt(mean x^2 + eps) * (offset + w)`.

    The norm is computed in float32 and returned in the weight's dtype.
    """
    dtype = weight.dtype
    wide = x.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + config.norm_epsilon)
    weight = weight.reshape((1,) * (x.ndim - 1) + weight.shape)
    if config.norm_wide:
        return (wide * (config.norm_offset + weight.astype(jnp.float32))).astype(dtype)
    return wide.astype(dtype) * weight


def scaled(x: Array, factor: float) -> Array:
    """Multiplies by a number and rounds once: the number itself need not fit the dtype of x."""
    return x if factor == 1 else (x.astype(jnp.float32) * factor).astype(x.dtype)


def activate(x: Array, name: str) -> Array:
    """Applies the MLP's activation function."""
    if name == "silu":
        return jax.nn.silu(x)
    return jax.nn.gelu(x, approximate=name == "gelu_tanh")
