"""Attention of grouped query heads over keys that a mask allows, in float32 where it matters.

softmax(cap(scale * q k) + mask) v               cap(x) = c tanh(x / c)
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array

# Finite, so that a token that may see nothing gets no NaN.
_LOWEST = -2.3819763e38


def attend(query: Array, key: Array, value: Array, allowed: Array, scale: float, cap: float = 0.0) -> Array:
    """One layer's attention, [batch, time, heads, head size].

    Args:
        query: [batch, time, heads, head size].
        key, value: [batch, keys, kv heads, head size].
        allowed: [batch, time, keys] bool. A token that may see nothing (padding) gets some finite mixture.
        scale: of the products.
        cap: of the scaled products, 0 for none: `jax.nn.dot_product_attention` knows no cap, so that the products are
            written out then.
    """
    if not cap:
        with jax.numpy_dtype_promotion("standard"):  # it multiplies halves by a float32 scale
            return jax.nn.dot_product_attention(
                query, key, value, mask=allowed[:, None], scale=scale, implementation=backend(query, key)
            )
    batch, time, heads, size = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, time, kv_heads, heads // kv_heads, size)
    score = jnp.einsum(
        "btghd,bsgd->bghts", grouped, key, preferred_element_type=jnp.float32, precision=precision(query)
    )
    score = cap * jnp.tanh(score * (scale / cap))
    score = jnp.where(allowed[:, None, None], score, _LOWEST)
    share = jax.nn.softmax(score, axis=-1).astype(value.dtype)
    mixed = jnp.einsum(
        "bghts,bsgd->btghd", share, value, preferred_element_type=jnp.float32, precision=precision(query)
    )
    return mixed.reshape(batch, time, heads, size).astype(query.dtype)


def backend(query: Array, key: Array) -> Literal["xla", "cudnn"]:
    """cuDNN's fused attention on a GPU, for what it takes: halves, heads of up to 128, even lengths. Else XLA's."""
    time, size = query.shape[1], query.shape[3]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    even = time % 2 == 0 and key.shape[1] % 2 == 0
    fused = jax.default_backend() == "gpu" and half and even and size % 8 == 0 and size <= 128
    return "cudnn" if fused else "xla"


def precision(x: Array) -> jax.lax.Precision | None:
    """float32 products in full, which a TPU would make of bfloat16 passes; others as they are."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def allowed(present: Array, time: int, start: Array | int = 0) -> tuple[Array, Array]:
    """Which keys each of the last tokens may see: those before it that are no padding.

    Args:
        present: [batch, keys] bool, False for padding and for places not yet filled.
        time: how many query tokens there are.
        start: the place of the first of them among the keys.

    Returns:
        (allowed [batch, time, keys] bool; how far back each key lies [time, keys], for windows).
    """
    back = (start + jnp.arange(time))[:, None] - jnp.arange(present.shape[1])[None, :]
    return present[:, None, :] & (back >= 0)[None], back
