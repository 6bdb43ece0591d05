"""Grouped-query attention over the keys that a mask allows, in float32 where it matters.

softmax(cap(scale * q k) + mask) v               cap(x) = c tanh(x / c)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Finite, so that a token without a visible key does not get NaN.
_LOWEST = -2.3819763e38


def attend(
    query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float = 0.0, separate_axes: bool = False
) -> Array:
    """Computes one layer's attention, [batch, time, heads, head size].

    Rows without a visible key (padding) are arbitrary but finite. Where a device has a fused kernel, the computation is
    `jax.nn.dot_product_attention`. Elsewhere the formula is written out: JAX's own form has no cap, multiplies float32
    in less than float32, and sums halves in halves.

    Args:
        query: [batch, time, heads, head size].
        key, value: [batch, keys, kv heads, head size].
        allowed: [batch, time, keys] bool.
        scale: of the products.
        cap: of the scaled products, 0 for none.
        separate_axes: keep texts and heads on separate axes, as in `partial_attention`.
    """
    if backend(query, key, cap) == "cudnn":
        with jax.numpy_dtype_promotion("standard"):  # it multiplies halves by a float32 scale
            return jax.nn.dot_product_attention(
                query, key, value, mask=allowed[:, None], scale=scale, implementation="cudnn"
            )
    return merge_partials([partial_attention(query, key, value, allowed, scale, cap, separate_axes)]).astype(
        query.dtype
    )


class Partial(NamedTuple):
    """Attention over one of several sets of keys, not yet normalised.

    Attributes:
        top: the highest score, [batch, kv heads, group, time].
        total: the sum of `e^(score - top)`, of the same shape.
        mixed: the sum of `e^(score - top) v`, [batch, kv heads, group, time, head size] float32.
    """

    top: Array
    total: Array
    mixed: Array


def partial_attention(
    query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float = 0.0, separate_axes: bool = False
) -> Partial:
    """Computes attention over one set of keys, for `merge_partials`.

    Texts and heads that share keys are rows of one matrix product: on a CPU that is twice as fast as a product over the
    original axes. On a mesh the axes stay separate: an axis merged from texts and heads can't be cut by both.

    Args:
        query: [batch, time, heads, head size].
        key, value: [batch or 1, keys, kv heads, head size]; 1 is a set that the whole batch shares.
        allowed: [batch, time, keys] bool.
        scale, cap: as in `attend`.
        separate_axes: keep texts and heads on separate axes.
    """
    if separate_axes:
        return _partial_separate(query, key, value, allowed, scale, cap)
    batch, time, heads, size = query.shape
    shared, keys, groups = key.shape[:3]
    # [batch, groups, each, time, size], or with the batch after the groups if it shares the keys
    front = (2, 0, 3, 1, 4) if shared == 1 else (0, 2, 3, 1, 4)
    rows = query.reshape(batch, time, groups, heads // groups, size).transpose(front)
    shape, products = rows.shape[:-1], shared * groups
    key, value = (x.swapaxes(1, 2).reshape(products, keys, size) for x in (key, value))
    allowed = allowed[None, :, None] if shared == 1 else allowed[:, None, None]
    wide: dict[str, Any] = {"preferred_element_type": jnp.float32, "precision": precision(query)}
    score = jnp.einsum("nmd,nsd->nms", rows.reshape(products, -1, size), key, **wide) * scale
    score = cap * jnp.tanh(score / cap) if cap else score
    score = jnp.where(allowed, score.reshape(*shape, keys), _LOWEST)
    top = lax.stop_gradient(jnp.max(score, axis=-1))
    share = jnp.exp(score - top[..., None])
    mixed = jnp.einsum("nms,nsd->nmd", share.astype(value.dtype).reshape(products, -1, keys), value, **wide)
    sums = Partial(top, jnp.sum(share, axis=-1), mixed.reshape(*shape, size))
    return Partial(*(x.swapaxes(0, 1) for x in sums)) if shared == 1 else sums


def _partial_separate(query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float) -> Partial:
    """Computes `partial_attention` with separate axes of texts b and key heads g: [b, t, g, u, d] by [b, s, g, d]."""
    batch, time, heads, size = query.shape
    groups = key.shape[2]
    rows = query.reshape(batch, time, groups, heads // groups, size)
    keys = "sgd" if key.shape[0] == 1 else "bsgd"
    key, value = (x[0] if x.shape[0] == 1 else x for x in (key, value))
    wide: dict[str, Any] = {"preferred_element_type": jnp.float32, "precision": precision(query)}
    score = jnp.einsum(f"btgud,{keys}->bguts", rows, key, **wide) * scale
    score = cap * jnp.tanh(score / cap) if cap else score
    score = jnp.where(allowed[:, None, None], score, _LOWEST)
    top = lax.stop_gradient(jnp.max(score, axis=-1))
    share = jnp.exp(score - top[..., None])
    mixed = jnp.einsum(f"bguts,{keys}->bgutd", share.astype(value.dtype), value, **wide)
    return Partial(top, jnp.sum(share, axis=-1), mixed)


def merge_partials(parts: Sequence[Partial]) -> Array:
    """Merges attention over all sets, [batch, time, heads, head size] float32; arbitrary where no key is visible."""
    top = functools.reduce(jnp.maximum, [part.top for part in parts])
    weight = [jnp.exp(part.top - top) for part in parts]
    total = functools.reduce(jnp.add, [w * part.total for w, part in zip(weight, parts, strict=True)])
    mixed = functools.reduce(jnp.add, [w[..., None] * part.mixed for w, part in zip(weight, parts, strict=True)])
    out = mixed / total[..., None]
    batch, groups, each, time, size = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, time, groups * each, size)


def backend(query: Array, key: Array, cap: float = 0.0) -> Literal["xla", "cudnn"]:
    """Selects cuDNN's fused attention on a GPU where it applies: halves, no cap, heads of up to 128, even lengths."""
    time, size = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    even = time % 2 == 0 and key.shape[1] % 2 == 0
    fused = jax.default_backend() == "gpu" and half and even and not cap and size % 8 == 0 and size <= 128
    return "cudnn" if fused else "xla"


def precision(x: Array) -> jax.lax.Precision | None:
    """Returns full precision for float32 products, which a TPU would compute in bfloat16 passes; else the default."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def causal_mask(present: Array, time: int, start: Array | int = 0, gaps: bool = False) -> tuple[Array, Array]:
    """Computes which keys each of the last tokens may see: those before it that are not padding.

    Args:
        present: [batch, keys] bool, False for padding and for places not yet filled.
        time: the number of query tokens.
        start: the place of the first of them among the keys.
        gaps: whether there may be padding inside a text; padding does not count as a step back.

    Returns:
        (allowed [batch, time, keys] bool; how far back each key lies, for windows, [1, time, keys], or with gaps
        [batch, time, keys]).
    """
    if gaps:
        order = jnp.cumsum(present.astype(jnp.int32), axis=1)
        asking = lax.dynamic_slice_in_dim(order, start, time, axis=1)
        before = start + jnp.arange(time)[:, None] >= jnp.arange(present.shape[1])[None, :]
        return present[:, None, :] & before[None], asking[:, :, None] - order[:, None, :]
    back = (start + jnp.arange(time))[:, None] - jnp.arange(present.shape[1])[None, :]
    return present[:, None, :] & (back >= 0)[None], back[None]


class Tree(NamedTuple):
    """Texts that lie next to one another in a row, or share a beginning: each token belongs to a segment.

    Attributes:
        segment: [batch, time] int, the segment of each token; 0 is padding.
        sees: [batch, segments, segments] bool: whether tokens of the first segment may see preceding tokens of the
            second. A text sees itself and what it continues; segment 0 sees nothing and is not seen.
    """

    segment: Array
    sees: Array


def tree_mask(tree: Tree, positions: Array) -> tuple[Array, Array]:
    """Computes which keys each token of a tree may see, and how far back each lies, both [batch, time, keys].

    Args:
        tree: of a row.
        positions: [batch, time], of each token in its own text.
    """
    one_hot = jax.nn.one_hot(tree.segment, tree.sees.shape[1], dtype=jnp.float32)
    seen = jnp.einsum("bti,bij,bsj->bts", one_hot, tree.sees.astype(jnp.float32), one_hot) > 0.5
    places = jnp.arange(tree.segment.shape[1])
    return seen & (places[:, None] >= places[None, :])[None], positions[:, :, None] - positions[:, None, :]
