"""The decoder, from tokens to logits, for every family: read it from top to bottom.

    h = scale * embedding[token]
    for each layer:                      (scanned; an edit's layer and rope and window are scanned along)
        h = h + r * norm(attention(norm(h)))
        h = h + r * norm(mlp(norm(h)))   mlp(x) = (act(x gate) * x up) down
        h = edit(h)
    logits = cap(scale * norm(h) head)

Which norms there are, and every other quirk, stands in the `Config`. Functions are pure: weights, tokens and caches in,
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

from vatjax.models import attention as at
from vatjax.models import edit as ed
from vatjax.models import rope, sharding
from vatjax.models import weights as wt
from vatjax.models.config import Config
from vatjax.models.edit import Edit, low_rank

T = TypeVar("T")
Remat = Literal["none", "products", "layers"]
Array = jax.Array
Weights = Mapping[str, Any]

PRODUCT = "product"  # the name under which products with weights are kept for the backward pass


class Cache(NamedTuple):
    """Keys and values of the tokens so far, in places that were set aside for them.

    Attributes:
        key, value: [layers, batch, places, kv heads, head size].
        present: [batch, places] bool, which places hold a token that may be seen.
        length: how many places are filled, the same for every text of the batch.
    """

    key: Array
    value: Array
    present: Array
    length: Array


class Run(NamedTuple):
    """What a pass through the layers gives.

    Attributes:
        hidden: the residual stream after the last layer of the pass, [batch, time, width].
        cache: with the new keys and values; None where there was none.
    """

    hidden: Array
    cache: Cache | None


def empty_cache(config: Config, batch: int, places: int, dtype: Any) -> Cache:
    """A cache with room for so many tokens of each text."""
    shape = (config.layers, batch, places, config.kv_heads, config.head_size)
    return Cache(
        jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch, places), bool), jnp.zeros((), jnp.int32)
    )


def embed(weights: Weights, config: Config, tokens: Array) -> Array:
    """The residual stream before the first layer, [batch, time, width]."""
    h = sharding.rows_of_table(weights["embedding"], tokens, config.mesh)
    h = cut_rows(h.astype(stream_dtype(weights, config)), config)
    if config.embedding_scale_rounded:
        return h * jnp.asarray(config.embedding_scale, h.dtype)
    return scaled(h, config.embedding_scale)


def cut_rows(h: Array, config: Config) -> Array:
    """The residual stream, whose rows a mesh shares out; each device holds the whole width of its own."""
    return sharding.constrain(h, config.mesh, "text", None, None)


def stream_dtype(weights: Weights, config: Config) -> Any:
    """The dtype of the residual stream: that of the weights, or float32 over weights of another one."""
    return jnp.float32 if config.float32_residual else weights["embedding"].dtype


def gathered_head(weights: Weights, config: Config) -> Weights:
    """The weights with the whole width of the head on each device, so that a loop over chunks of it gathers it once."""
    if config.mesh is None:
        return weights
    name, axes = ("embedding", ("vocabulary", None)) if config.tied else ("head", (None, "vocabulary"))
    return {**weights, name: sharding.constrain(weights[name], config.mesh, *axes)}


def head(weights: Weights, config: Config, hidden: Array) -> Array:
    """Logits in float32, [..., vocabulary], of the residual stream after the last layer."""
    h = norm(hidden, weights["norm"], config)
    table = weights["embedding"].T if config.tied else weights["head"]
    logits = jnp.einsum("...d,dv->...v", h, table, preferred_element_type=jnp.float32, precision=at.precision(h))
    logits = logits * config.logit_scale
    return config.logit_cap * jnp.tanh(logits / config.logit_cap) if config.logit_cap else logits


def layers(
    weights: Weights,
    config: Config,
    hidden: Array,
    positions: Array,
    present: Array,
    *,
    first: int = 0,
    last: int | None = None,
    cache: Cache | None = None,
    edit: Edit | None = None,
    kind: Array | None = None,
    tree: at.Tree | None = None,
    unroll: int = 1,
    remat: Remat = "none",
    gaps: bool = False,
) -> Run:
    """Runs the layers from `first` to before `last`: what is below an edit can be run once for many edits.

    Args:
        weights: of the whole model.
        config: of the model.
        hidden: [batch, time, width].
        positions: [batch, time].
        present: [batch, time] bool, False for padding.
        first, last: static.
        cache: what came before; the new tokens are written behind it.
        edit: a change of the computation; its arrays have all layers of the model.
        kind: [batch, time], what each token is to its prompt (`edit.PROMPT`, `LAST`, `WRITTEN`): needed by edits that do
            not touch every token.
        tree: where a row holds several texts, which of its tokens see which; without a cache.
        unroll: how many layers one step of the scan holds.
        remat: what the backward pass finds kept and what it computes anew: all is kept ("none"), of each layer its
            products with weights, in the model's dtype ("products"), or only what goes into it ("layers").
        gaps: whether there may be padding inside of a text, in its cache.
    """
    last = config.layers if last is None else last
    touched = touched_by(edit, kind)
    ropes = rope.tables(config.ropes, positions)
    if tree is not None:
        allowed, back = at.within(tree, positions)
    elif cache is None:
        allowed, back = at.allowed(present, hidden.shape[1])
    else:
        present = lax.dynamic_update_slice(cache.present, present, (0, cache.length))
        allowed, back = at.allowed(present, hidden.shape[1], cache.length, gaps)

    def step(carry: Any, along: Any) -> tuple[Any, None]:
        h, keys, values = carry
        own, which, window, index, own_edit = along
        see = allowed & ((back < window) | (window == 0))
        turn = tuple(table[which] for table in ropes)

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, Any]:
            kept: Any = None, None
            if cache is not None:
                kept = tuple(_put(part, new, index, cache.length) for part, new in ((keys, key), (values, value)))
                key, value = (lax.dynamic_index_in_dim(part, index, keepdims=False) for part in kept)
            return at.attend(query, key, value, see, config.attention_scale, config.attention_cap, apart(config)), kept

        h, kept, _ = layer(own, config, h, turn, attend, own_edit, touched)
        return (h, *kept), None

    carry: Any = (hidden, None, None) if cache is None else (hidden, cache.key, cache.value)
    body = _rematerialised(step, remat)
    along = scanned(weights, config, edit, first, last)
    (hidden, keys, values), _ = lax.scan(body, carry, along, unroll=min(unroll, max(1, last - first)))
    if cache is not None:
        cache = Cache(keys, values, present, cache.length + hidden.shape[1])
    return Run(hidden, cache)


def apart(config: Config) -> bool:
    """Returns whether attention keeps texts and heads on axes of their own: a mesh cuts both."""
    return config.mesh is not None


def touched_by(edit: Edit | None, kind: Array | None) -> Array | None:
    """Which tokens an edit touches, [batch, time]; None is all."""
    if edit is None or edit.positions == "all":
        return None
    if kind is None:
        raise ValueError(f"an edit of {edit.positions} tokens needs to know what each token is to its prompt")
    return edit.touched(kind)


def _rematerialised(step: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    if remat == "none":
        return step
    # By name, behind the rounding: by the kind of operation a product of bfloat16 would be kept as the float32 that it sums in.
    kept = jax.checkpoint_policies.save_only_these_names(PRODUCT) if remat == "products" else None
    checkpointed: Callable[..., Any] = jax.checkpoint(step, policy=kept)
    return checkpointed


def scanned(weights: Weights, config: Config, edit: Edit | None, first: int, last: int) -> tuple[Any, ...]:
    """What a scan over layers takes along: each layer's weights, kind of rope, window, number, and part of an edit."""
    own_edit = None
    if edit is not None:
        wt.check_edit(edit, config)
        own_edit = edit.layers(first, last)
        own_edit = dataclasses.replace(own_edit, strength=jnp.broadcast_to(edit.strength, (last - first,)))
    return (
        jax.tree.map(lambda w: w[first:last], weights["layers"]),
        jnp.asarray(config.rope_of[first:last], jnp.int32),
        jnp.asarray(config.windows[first:last], jnp.int32),
        jnp.arange(first, last, dtype=jnp.int32),
        own_edit,
    )


def _put(kept: Array, new: Array, layer: Array, start: Array) -> Array:
    """A layer's new keys or values, written behind those that are there."""
    return lax.dynamic_update_slice(kept, new[None].astype(kept.dtype), (layer, 0, start, 0, 0))


def layer(
    weights: Weights,
    config: Config,
    h: Array,
    turn: tuple[Array, ...],
    attend: Callable[[Array, Array, Array], tuple[Array, T]],
    edit: Edit | None,
    touched: Array | None,
) -> tuple[Array, T, Array]:
    """One layer: attention and MLP, each normed before or after or both, and added to the residual stream.

    Args:
        weights: of this layer.
        config: of the model.
        h: [batch, time, width].
        turn: cosines and sines of this layer's rotary positions.
        attend: from queries, keys and values [batch, time, heads, head size] to what they mix to, and what is to be kept
            of them.
        edit: this layer's part of it.
        touched: [batch, time], which tokens it touches; None is all.

    Returns:
        (h, what `attend` kept, the MLP's inner activations [batch, time, hidden]).
    """
    dtype = weights["output"].dtype
    x = norm(h, weights["attention_norm"], config) if config.pre_norm else h.astype(dtype)
    mixed, kept = attend(*heads(weights, config, x, turn, edit, touched))
    x = project(weights, "output", mixed.reshape(*h.shape[:2], -1), edit, touched)
    x = norm(x, weights["attention_post_norm"], config) if config.post_norm else x
    h = cut_rows(h + scaled(x, config.residual_scale).astype(h.dtype), config)
    x = norm(h, weights["mlp_norm"], config) if config.pre_norm else h.astype(dtype)
    inner = neurons(weights, config, x, edit, touched)
    x = project(weights, "down", inner, edit, touched)
    x = norm(x, weights["mlp_post_norm"], config) if config.post_norm else x
    h = cut_rows(h + scaled(x, config.residual_scale).astype(h.dtype), config)
    return (h if edit is None else ed.moved(h, edit, touched)), kept, inner


def heads(
    weights: Weights, config: Config, x: Array, turn: tuple[Array, ...], edit: Edit | None, touched: Array | None
) -> tuple[Array, Array, Array]:
    """Queries, keys and values of every head, normed and rotated, [batch, time, heads, head size]."""
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


def neurons(weights: Weights, config: Config, x: Array, edit: Edit | None, touched: Array | None = None) -> Array:
    """The MLP's inner activations, `act(x gate) * x up`, with what an edit adds to them, [batch, time, hidden]."""
    gate, up = (project(weights, name, x, edit, touched) for name in ("gate", "up"))
    inner = sharding.constrain(activate(gate, config.activation) * up, config.mesh, "text", None, "hidden")
    return inner if edit is None else ed.inner(inner, edit, touched)


def project(weights: Weights, name: str, x: Array, edit: Edit | None, touched: Array | None = None) -> Array:
    """One projection with its bias and its low-rank change, [batch, time, out].

    The product is one of plain matrices: on a CPU its gradient is twice as fast as that of a product with three axes.
    """
    flat = x.reshape(-1, x.shape[-1])
    product = jnp.matmul(flat, weights[name], preferred_element_type=jnp.float32, precision=at.precision(x))
    product = checkpoint_name(product.astype(x.dtype), PRODUCT)  # type: ignore[no-untyped-call]
    product = product.reshape(*x.shape[:-1], -1)
    if edit is not None:
        product = low_rank(product, x, edit.lora.get(name), edit.strength, touched)
    bias = weights.get(f"{name}_bias")
    return product if bias is None else product + bias[None, None, :]


def norm(x: Array, weight: Array, config: Config) -> Array:
    """Root-mean-square norm over the last axis, in float32, in the weight's dtype: `x / sqrt(mean x^2 + eps) * (offset + w)`."""
    dtype = weight.dtype
    wide = x.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + config.norm_epsilon)
    weight = weight.reshape((1,) * (x.ndim - 1) + weight.shape)
    if config.norm_wide:
        return (wide * (config.norm_offset + weight.astype(jnp.float32))).astype(dtype)
    return wide.astype(dtype) * weight


def scaled(x: Array, factor: float) -> Array:
    """A product with a number, rounded once: the number itself need not fit the dtype of x."""
    return x if factor == 1 else (x.astype(jnp.float32) * factor).astype(x.dtype)


def activate(x: Array, name: str) -> Array:
    """The MLP's activation."""
    if name == "silu":
        return jax.nn.silu(x)
    return jax.nn.gelu(x, approximate=name == "gelu_tanh")
