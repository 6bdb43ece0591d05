"""Differentiable tax for training: Spearman's coupling with a gradient, without sorting.

A rating that a model gives as probabilities of the scale's options is a soft one-hot over levels. Then the expected count
of each level in a column is a sum of probabilities, the expected midrank of a level follows from cumulative counts, and a
context's soft midrank is its own expectation,

    count_l = sum_s p_l[s]      F_l = (sum_{m < l} count_m + count_l / 2) / n      z[s] = sum_l p_l[s] F_l - 1/2

As the probabilities become one-hot this is the midrank of the argmax rating exactly. For a shift the levels are those of
the difference of two ratings, and its probabilities the products of theirs (`shift_levels`).

Gradients carry information as long as options other than the likeliest have some probability: at a softmax temperature
that leaves the likeliest option above .999 they are smaller by about that factor, and the coupling moves in jumps that
gradients do not see.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vatjax.metrics import ranks

Array = jax.Array

# Smallest divisor for variances of centred midranks (at most 1/12). Below it, where less than one rating in 250,000
# differs from the others, a coupling shrinks towards 0 with finite gradients, instead of 0 / 0.
VARIANCE_FLOOR = 1e-6


def soft_midranks(probabilities: Array, weights: Array | None = None) -> Array:
    """Computes centred soft midranks z [contexts, values] of ratings given as probabilities of levels.

    Args:
        probabilities: [contexts, values, levels], each context's distribution over the levels in rising order.
        weights: frequency weight of each context, [contexts].
    """
    weight = _weights(weights, probabilities)
    count = jnp.einsum("n,nvl->vl", weight, probabilities, precision=ranks.EXACT)
    total = jnp.maximum(jnp.sum(weight), 1e-30)
    place = (jnp.cumsum(count, axis=-1) - count / 2) / total
    return jnp.einsum("nvl,vl->nv", probabilities, place, precision=ranks.EXACT) - 0.5


def soft_spearman(probabilities: Array, weights: Array | None = None) -> Array:
    """Computes the soft Spearman coupling [values, values]: finite, with finite gradients, for all probabilities.

    Contexts without a rating must not be NaN here: give them any probabilities and the weight 0.

    Args:
        probabilities: [contexts, values, levels].
        weights: [contexts].
    """
    z = soft_midranks(probabilities, weights)
    weight = _weights(weights, z)
    share = weight / jnp.maximum(jnp.sum(weight), 1e-30)
    z = z - jnp.sum(share[:, None] * z, 0, keepdims=True)
    product = jnp.einsum("n,nv,nw->vw", share, z, z, precision=ranks.EXACT)
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(product), VARIANCE_FLOOR))
    return product * scale[:, None] * scale[None, :]


def _weights(weights: Array | None, like: Array) -> Array:
    return jnp.ones(like.shape[0], like.dtype) if weights is None else jnp.asarray(weights, like.dtype)


def soft_nvat(coupling: Array) -> Array:
    """Computes the root mean square of a soft coupling off the diagonal; .001 with a finite gradient at 0."""
    values = coupling.shape[0]
    off = jnp.where(jnp.eye(values, dtype=bool), 0, coupling)
    return jnp.sqrt(jnp.sum(off**2) / max(1, values * (values - 1)) + VARIANCE_FLOOR)


def shift_levels(pre: Array, post: Array) -> Array:
    """Computes probabilities of the levels of `post - pre` from both ratings': [..., levels] -> [..., 2 levels - 1].

    Args:
        pre, post: probabilities of the same options in rising order; the two ratings are assumed independent given the
            context.
    """
    levels = pre.shape[-1]
    place = jnp.arange(levels)
    difference = place[None, :] - place[:, None] + levels - 1  # [pre level, post level]
    onto = (difference[:, :, None] == jnp.arange(2 * levels - 1)[None, None, :]).astype(pre.dtype)
    return jnp.einsum("...i,...j,ijk->...k", pre, post, onto, precision=ranks.EXACT)
