"""Attention of grouped query heads over keys that a mask allows, in float32 where it matters.

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

# Finite, so that a token that may see nothing gets no NaN.
_LOWEST = -2.3819763e38


def attend(
    query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float = 0.0, apart: bool = False
) -> Array:
    """One layer's attention, [batch, time, heads, head size]; some mixture for a token that may see nothing: padding.

    Where a device has a fused kernel for it, that is `jax.nn.dot_product_attention`. Elsewhere the formula is written
    out: JAX's own form knows no cap, multiplies float32 in less than float32, and sums halves in halves.

    Args:
        query: [batch, time, heads, head size].
        key, value: [batch, keys, kv heads, head size].
        allowed: [batch, time, keys] bool.
        scale: of the products.
        cap: of the scaled products, 0 for none.
        apart: keep texts and heads on axes of their own, as in `partial`.
    """
    if backend(query, key, cap) == "cudnn":
        with jax.numpy_dtype_promotion("standard"):  # it multiplies halves by a float32 scale
            return jax.nn.dot_product_attention(
                query, key, value, mask=allowed[:, None], scale=scale, implementation="cudnn"
            )
    return merge([partial(query, key, value, allowed, scale, cap, apart)]).astype(query.dtype)


class Partial(NamedTuple):
    """Attention over one of several sets of keys, not yet divided.

    Attributes:
        top: the highest score, [batch, kv heads, group, time].
        total: the sum of `e^(score - top)`, of the same shape.
        mixed: the sum of `e^(score - top) v`, [batch, kv heads, group, time, head size] float32.
    """

    top: Array
    total: Array
    mixed: Array


def partial(
    query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float = 0.0, apart: bool = False
) -> Partial:
    """Attention over one set of keys, for `merge`.

    Heads that share keys, and texts that share them, are rows of one plain product: on a CPU that is twice as fast as a
    product with the axes where they are. On a mesh the axes stay apart: one that is merged from texts and heads can't be cut
    by both.

    Args:
        query: [batch, time, heads, head size].
        key, value: [batch or 1, keys, kv heads, head size]; 1 is a set that the whole batch shares.
        allowed: [batch, time, keys] bool.
        scale, cap: as in `attend`.
        apart: keep texts and heads on axes of their own.
    """
    if apart:
        return _partial_apart(query, key, value, allowed, scale, cap)
    batch, time, heads, size = query.shape
    shared, keys, groups = key.shape[:3]
    # [batch, groups, each, time, size], or with the batch behind the groups where it shares the keys
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
    found = Partial(top, jnp.sum(share, axis=-1), mixed.reshape(*shape, size))
    return Partial(*(x.swapaxes(0, 1) for x in found)) if shared == 1 else found


def _partial_apart(query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float) -> Partial:
    """`partial` with texts b and key heads g on axes of their own: products of [b, t, g, u, d] and [b, s, g, d]."""
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


def merge(parts: Sequence[Partial]) -> Array:
    """Attention over all sets together, [batch, time, heads, head size] float32; a token that sees nothing gets some mixture."""
    top = functools.reduce(jnp.maximum, [part.top for part in parts])
    weight = [jnp.exp(part.top - top) for part in parts]
    total = functools.reduce(jnp.add, [w * part.total for w, part in zip(weight, parts, strict=True)])
    mixed = functools.reduce(jnp.add, [w[..., None] * part.mixed for w, part in zip(weight, parts, strict=True)])
    out = mixed / total[..., None]
    batch, groups, each, time, size = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, time, groups * each, size)


def backend(query: Array, key: Array, cap: float = 0.0) -> Literal["xla", "cudnn"]:
    """cuDNN's fused attention on a GPU, for what it takes: halves, no cap, heads of up to 128, even lengths."""
    time, size = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    even = time % 2 == 0 and key.shape[1] % 2 == 0
    fused = jax.default_backend() == "gpu" and half and even and not cap and size % 8 == 0 and size <= 128
    return "cudnn" if fused else "xla"


def precision(x: Array) -> jax.lax.Precision | None:
    """float32 products in full, which a TPU would make of bfloat16 passes; others as they are."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def allowed(present: Array, time: int, start: Array | int = 0, gaps: bool = False) -> tuple[Array, Array]:
    """Which keys each of the last tokens may see: those before it that are no padding.

    Args:
        present: [batch, keys] bool, False for padding and for places not yet filled.
        time: how many query tokens there are.
        start: the place of the first of them among the keys.
        gaps: whether there may be padding inside of a text; a place of padding is no step back.

    Returns:
        (allowed [batch, time, keys] bool; how far back each key lies, for windows, [1, time, keys], or with gaps [batch,
        time, keys]).
    """
    if gaps:
        order = jnp.cumsum(present.astype(jnp.int32), axis=1)
        asking = lax.dynamic_slice_in_dim(order, start, time, axis=1)
        before = start + jnp.arange(time)[:, None] >= jnp.arange(present.shape[1])[None, :]
        return present[:, None, :] & before[None], asking[:, :, None] - order[:, None, :]
    back = (start + jnp.arange(time))[:, None] - jnp.arange(present.shape[1])[None, :]
    return present[:, None, :] & (back >= 0)[None], back[None]


class Tree(NamedTuple):
    """Texts that lie beside one another in a row, or share a beginning: each token belongs to a segment.

    Attributes:
        segment: [batch, time] int, the segment of each token; 0 is padding.
        sees: [batch, segments, segments] bool: whether tokens of the first may see those of the second that stand before
            them. A text sees itself and what it continues; segment 0 sees nothing and is not seen.
    """

    segment: Array
    sees: Array


def within(tree: Tree, positions: Array) -> tuple[Array, Array]:
    """Which keys each token of a tree may see, [batch, time, keys] bool, and how far back each lies, of the same shape.

    Args:
        tree: of a row.
        positions: [batch, time], of each token in its own text.
    """
    own = jax.nn.one_hot(tree.segment, tree.sees.shape[1], dtype=jnp.float32)
    seen = jnp.einsum("bti,bij,bsj->bts", own, tree.sees.astype(jnp.float32), own) > 0.5
    places = jnp.arange(tree.segment.shape[1])
    return seen & (places[:, None] >= places[None, :])[None], positions[:, :, None] - positions[:, None, :]
