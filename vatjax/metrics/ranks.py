"""Midranks by re-weighting: a column is sorted once, and every resample is a vector of weights over its order.

With W(x) the weight of all contexts whose rating is below x and w(x) that of those equal to it, the midrank of a rating,
centred and divided by the total weight N, is

    z = (W(x) + w(x) / 2) / N - 1/2                        in [-1/2, 1/2]

so a resample needs only the cumulative weight at two places of the sorted column. There are two equivalent ways to get
it: from the weights in sorted order (any number of distinct ratings), or from counts of each level in each cluster (few
distinct ratings: Likert differences), as one matrix product.

Axes: contexts n, values V, clusters C, levels L.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# The default on a TPU is bfloat16 passes, which would cost three of the ranks' digits.
EXACT = lax.Precision.HIGHEST

# A centred midrank of a column with any two levels varies by more than this; rounding by less.
NO_VARIANCE = 1e-12

_BLOCK = 32


class Ranks(NamedTuple):
    """Sort order of each column.

    Attributes:
        order: [contexts, values] int32; the contexts in rising order of their rating, missing ones last.
        low: [contexts, values] int32; how many ratings are below this one.
        high: [contexts, values] int32; how many are below or equal. Both index a table of cumulative weights.
        present: [contexts, values] bool; False where the rating is missing.
    """

    order: Array
    low: Array
    high: Array
    present: Array


class Levels(NamedTuple):
    """Columns with few distinct ratings.

    Attributes:
        code: [contexts, values] int32; which of the column's levels a rating is.
        counts: [clusters, values, levels]; how often each level occurs in each cluster.
    """

    code: Array
    counts: Array


def rank(x: Array) -> Ranks:
    """Sorts each column of [contexts, values] once."""
    n = x.shape[0]
    x = hide_constant(x)
    order = jnp.argsort(x, axis=0)  # NaN goes last
    ordered = jnp.take_along_axis(x, order, axis=0)
    place = lax.broadcasted_iota(jnp.int32, x.shape, 0)
    starts = jnp.concatenate([jnp.ones_like(order[:1], bool), ordered[1:] != ordered[:-1]])
    ends = jnp.concatenate([starts[1:], jnp.ones_like(starts[:1])])
    low = lax.cummax(jnp.where(starts, place, 0), axis=0)
    high = lax.cummin(jnp.where(ends, place + 1, n), axis=0, reverse=True)
    back = jnp.zeros_like(place).at[order, lax.broadcasted_iota(jnp.int32, x.shape, 1)].set(place)
    return Ranks(
        order.astype(jnp.int32),
        jnp.take_along_axis(low, back, axis=0),
        jnp.take_along_axis(high, back, axis=0),
        ~jnp.isnan(x),
    )


def hide_constant(x: Array) -> Array:
    """Hides that an array is a constant: XLA would sort it at compile time, a hundred times slower than at run time."""
    hidden: Array = lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return hidden


def dense_codes(ranks: Ranks) -> Array:
    """Numbers the distinct ratings of each column from 0, [contexts, values] int32."""
    low = jnp.take_along_axis(ranks.low, ranks.order, axis=0)
    new = jnp.concatenate([jnp.zeros_like(low[:1]), (low[1:] != low[:-1]).astype(jnp.int32)])
    code = jnp.cumsum(new, axis=0)
    column = lax.broadcasted_iota(jnp.int32, code.shape, 1)
    return jnp.zeros_like(code).at[ranks.order, column].set(code)


def level_counts(x: Array, clusters: Array, count: int, levels: int) -> Levels:
    """Counts the levels of each column in each cluster; complete columns with at most `levels` levels."""
    code = level_codes(x, levels)
    counts = jnp.zeros((count, code.shape[1], levels), x.dtype)
    column = lax.broadcasted_iota(jnp.int32, code.shape, 1)
    return Levels(code, counts.at[clusters[:, None], column, code].add(1))


def level_codes(x: Array, levels: int) -> Array:
    """Numbers the distinct ratings of each column from 0, [contexts, values] int32, without sorting.

    Each step finds the next higher level: a pass over the data a level, which for a million contexts is 20 times faster
    than a sort.
    """

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        code, last = carry
        above = x > last
        level = jnp.min(jnp.where(above, x, jnp.inf), axis=0, keepdims=True)
        return (code + (x > level).astype(jnp.int32), level), None

    start = jnp.zeros(x.shape, jnp.int32), jnp.full((1, x.shape[1]), -jnp.inf, x.dtype)
    (code, _), _ = lax.scan(step, start, None, length=levels)
    return code


def midranks(ranks: Ranks, weights: Array) -> Array:
    """Computes centred weighted midranks z [contexts, values]; 0 where a rating is missing.

    Args:
        ranks: of the columns.
        weights: [contexts], or [contexts, values] if each column has its own.
    """
    z = midranks_at(ranks, weights, ranks.low, ranks.high)
    return jnp.where(ranks.present, z, 0)


def midranks_at(ranks: Ranks, weights: Array, low: Array, high: Array) -> Array:
    """Computes centred weighted midranks at rows of `ranks.low` and `ranks.high`, [rows, values]."""
    per_value = jnp.broadcast_to(weights[:, None], ranks.order.shape) if weights.ndim == 1 else weights
    weight = jnp.take_along_axis(jnp.where(ranks.present, per_value, 0), ranks.order, axis=0)
    table = jnp.concatenate([jnp.zeros_like(weight[:1]), blocked_cumsum(weight)])
    total = table[-1:]
    middle = jnp.take_along_axis(table, low, axis=0) + jnp.take_along_axis(table, high, axis=0)
    return middle / (2 * jnp.where(total > 0, total, 1)) - 0.5


def level_midranks(counts: Array, weights: Array, code: Array) -> Array:
    """Computes centred weighted midranks z [rows, values] from cluster weights [clusters].

    Args:
        counts: [clusters, values, levels], of all contexts.
        weights: [clusters].
        code: [rows, values], the level of each requested rating.
    """
    count = jnp.einsum("c,cvl->vl", weights, counts, precision=EXACT)
    total = jnp.sum(count, axis=-1, keepdims=True)
    middle = (jnp.cumsum(count, axis=-1) - count / 2) / jnp.where(total > 0, total, 1) - 0.5
    return jnp.take_along_axis(middle.T, code, axis=0)


def blocked_cumsum(x: Array) -> Array:
    """Computes the running sum over the first axis in blocks: a triangular product within, a short sum across."""
    n, columns = x.shape
    blocks = -(-n // _BLOCK)
    x = jnp.pad(x, ((0, blocks * _BLOCK - n), (0, 0))).reshape(blocks, _BLOCK, columns)
    within = jnp.einsum("st,btv->bsv", jnp.tri(_BLOCK, dtype=x.dtype), x, precision=EXACT)
    total = within[:, -1]
    before = jnp.cumsum(total, axis=0) - total
    return (within + before[:, None]).reshape(blocks * _BLOCK, columns)[:n]


def correlation(z: Array, weights: Array) -> Array:
    """Computes the weighted correlation of centred columns, [values, values]; NaN for a constant column.

    Args:
        z: [contexts, values], each column's weighted mean 0.
        weights: [contexts].
    """
    share = weights / jnp.maximum(jnp.sum(weights), 1e-30)
    product = jnp.einsum("n,nv,nw->vw", share, z, z, precision=EXACT)
    return normalise(product, jnp.diagonal(product))


def mask_incomplete(r: Array, whole: Array) -> Array:
    """Returns a coupling matrix with NaN for every column that is not whole."""
    return jnp.where(whole[:, None] & whole[None, :], r, jnp.nan)


def normalise(product: Array, variance: Array) -> Array:
    """Computes `product / sqrt(var_v var_w)` with an exact unit diagonal, NaN for columns without variance."""
    varies = variance > NO_VARIANCE
    scale = jnp.where(varies, 1 / jnp.sqrt(jnp.where(varies, variance, 1)), jnp.nan)
    r = jnp.clip(product * (scale[:, None] * scale[None, :]), -1, 1)
    identity = jnp.eye(r.shape[0], dtype=bool)
    return jnp.where(identity & varies[:, None], 1, r)
