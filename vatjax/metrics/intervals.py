"""How an interval is made from resamples: BCa, the delete-one-cluster jackknife, Fieller's ratio, roots of squares.

Every function works entry by entry. The bootstrap leaves out resamples without a value, the jackknife gives NaN where one
has none; the caller says how many clusters each entry rests on, which decides its degrees of freedom.

Axes: resamples B, groups G of the jackknife (each row without one cluster or one group of clusters).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

Array = jax.Array

LEVEL = 0.95


class Estimate(NamedTuple):
    """An estimate and its 95 % interval."""

    estimate: Array
    low: Array
    high: Array


# Student's t --------------------------------------------------------------------------------------------------------


def t_quantile(freedom: Array | int, most: int, dtype: Any = float) -> Array:
    """The 97.5 % quantile of Student's t at degrees of freedom that may be traced, up to `most`; NaN below 1.

    SciPy makes the table: XLA has no inverse of the incomplete beta function.
    """
    table = np.full(max(most, 0) + 1, np.nan)
    table[1:] = stats.t.ppf((1 + LEVEL) / 2, np.arange(1, len(table)))
    return jnp.asarray(table, dtype)[jnp.clip(jnp.asarray(freedom, jnp.int32), 0, len(table) - 1)]


def t_tail(t: Array, freedom: Array | int) -> Array:
    """The upper tail of Student's t: half the regularised incomplete beta function at `v / (v + t^2)`."""
    v = jnp.maximum(jnp.asarray(freedom, t.dtype), 1)
    share = jax.scipy.special.betainc(v / 2, jnp.asarray(0.5, t.dtype), v / (v + t**2))
    return jnp.where(jnp.isnan(t), jnp.nan, share / 2)


def rounding(x: Array) -> Array:
    """How far two equal numbers may come to lie apart by one rounding."""
    eps = float(jnp.finfo(x.dtype).eps)  # type: ignore[no-untyped-call]
    return jnp.abs(x) * eps


# The bootstrap ------------------------------------------------------------------------------------------------------


def bca(
    estimate: Array, draws: Array, left_out: Array, t: Array, groups: Array | int, size: Array | None = None
) -> tuple[Array, Array]:
    """Bias-corrected and accelerated bootstrap interval, entry by entry.

    The bias term is the normal quantile of the share of draws below the estimate; where that share is 0 or 1 it is
    infinite and the interval is NaN. The tails are those of Student's t with the spread of a sample of G clusters, since
    resampling G clusters gives intervals that are too narrow by about `sqrt((G - 1) / G)`.

    Args:
        estimate: [...].
        draws: [resamples, ...].
        left_out: [groups, ...], the statistic without each cluster.
        t: Student's quantile at `groups - 1` degrees of freedom, [...] or scalar.
        groups: how many groups the estimate rests on, [...] or scalar.
        size: of the numbers that were summed up to the estimate, [...], whose rounding makes equal draws differ; by
            default the estimate's own.

    Returns:
        (low, high), each [...].
    """
    present = ~jnp.isnan(draws)
    # A mean of equal numbers differs by rounding from resample to resample; that is no spread.
    same = jnp.abs(draws - estimate[None]) <= 16 * rounding(estimate if size is None else size)[None]
    below = jnp.where(same, 0.5, (draws < estimate[None]).astype(estimate.dtype))
    count = jnp.sum(present, 0).astype(estimate.dtype)
    bias = jax.scipy.special.ndtri(jnp.sum(jnp.where(present, below, 0), 0) / jnp.where(count > 0, count, jnp.nan))
    deviation = jnp.where(jnp.isnan(left_out), 0, jnp.nanmean(left_out, 0, keepdims=True) - left_out)
    square = jnp.sum(deviation**2, 0)
    spread = jnp.any(~same & present, 0) & (square > 0)
    skew = jnp.where(spread, jnp.sum(deviation**3, 0) / jnp.where(square > 0, 6 * square**1.5, 1), 0)
    groups = jnp.asarray(groups, estimate.dtype)
    tail = t * jnp.sqrt(groups / jnp.maximum(groups - 1, 1))
    ordered = jnp.sort(draws, axis=0)  # NaN goes last
    ends = []
    for end in (-tail, tail):
        z = bias + end
        share = jax.scipy.special.ndtr(bias + z / (1 - skew * z))
        ends.append(quantile(ordered, jnp.where(jnp.isfinite(bias), share, jnp.nan), count))
    return ends[0], ends[1]


def quantile(ordered: Array, share: Array, count: Array) -> Array:
    """The quantile of each entry's draws at its own share, [...]; NaN where the share is.

    Args:
        ordered: [resamples, ...], each entry's draws in rising order, missing ones last.
        share: [...].
        count: how many draws each entry has, [...].
    """
    last = jnp.maximum(count - 1, 0)
    place = jnp.clip(jnp.where(jnp.isnan(share), 0, share) * last, 0, last)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, last.astype(jnp.int32))
    first, second = (jnp.take_along_axis(ordered, i[None], axis=0)[0] for i in (low, high))
    value = first + (second - first) * (place - low.astype(ordered.dtype))
    return jnp.where(jnp.isnan(share), jnp.nan, value)


# The jackknife ------------------------------------------------------------------------------------------------------


def jackknife_variance(left_out: Array) -> Array:
    """`(G - 1) / G * sum_g (x_g - mean)^2` over the leading axis; NaN where any x_g is."""
    groups = left_out.shape[0]
    return (groups - 1) * jnp.mean((left_out - jnp.mean(left_out, 0, keepdims=True)) ** 2, 0)


def jackknife_covariance(left_out: Array, other: Array) -> Array:
    """The same for the covariance of [groups, values] with [groups], [values]."""
    deviation = left_out - jnp.mean(left_out, 0, keepdims=True)
    return (left_out.shape[0] - 1) * jnp.mean(deviation * (other - jnp.mean(other))[:, None], 0)


def jackknife_interval(estimate: Array, left_out: Array, t: Array) -> Estimate:
    """`estimate +- t * error` of the delete-one-cluster jackknife."""
    half = t * jnp.sqrt(jackknife_variance(left_out))
    return Estimate(estimate, estimate - half, estimate + half)


def biased_interval(estimate: Array, left_out: Array, t: Array, noise: Array, most: float = np.inf) -> Estimate:
    """The interval of a mean of absolute values, which noise alone makes larger than 0.

    The noise's share of the measured value lies between nothing (all parts are clear of 0) and `noise` (none is), so
    that the low end allows for all of it and the high end for nothing.
    """
    half = t * jnp.sqrt(jackknife_variance(left_out))
    return Estimate(estimate, jnp.maximum(estimate - noise - half, 0), jnp.minimum(estimate + half, most))


def noise_of(error: Array) -> Array:
    """The mean absolute value of noise with a standard error: `sqrt(2 / pi)` of it."""
    return float(np.sqrt(2 / np.pi)) * error


def fisher(r: Array, variance: Array, t: Array) -> tuple[Array, Array]:
    """Intervals of correlations on Fisher's z scale, where their spread does not depend on their size."""
    inside = jnp.clip(r, -0.999999, 0.999999)
    half = t * jnp.sqrt(variance) / (1 - inside**2)
    z = jnp.arctanh(inside)
    identity = jnp.eye(r.shape[0], dtype=bool)
    low, high = (jnp.where(identity, r, jnp.tanh(end)) for end in (z - half, z + half))
    return jnp.minimum(low, r), jnp.maximum(high, r)


def root_interval(square: Array, error: Array, t: Array) -> Estimate:
    """The root of a debiased mean square correlation, which may be negative, and its interval within [0, 1].

    Where the square can't be told from 0 the interval is `[0, sqrt(max(square, 0) + t error)]`. Where it can, the interval is
    symmetric about the root, whose error is `error / (2 root)`: on that scale it is nearest to normal (planted data
    were covered .93 to .96 so, and .92 to .96 by the interval of the square).
    """
    root = jnp.sqrt(jnp.maximum(square, 0))
    resolved = square - t * error > 0  # False for NaN, which then stays NaN below
    half = t * error / (2 * jnp.where(resolved, root, 1))
    low = jnp.where(resolved, jnp.maximum(root - half, 0), jnp.where(jnp.isnan(square), jnp.nan, 0))
    high = jnp.where(resolved, root + half, jnp.sqrt(jnp.maximum(square, 0) + t * error))
    return Estimate(root, low, jnp.minimum(high, 1))


# Ratios -------------------------------------------------------------------------------------------------------------


def fieller(top: Array, bottom: Array, top_left_out: Array, bottom_left_out: Array, t: Array) -> tuple[Array, Array]:
    """Fieller's interval of `top / abs(bottom)`; NaN where the bottom can't be told from 0.

    It is the set of ratios q for which `top - q bottom` can't be told from 0,

        (top - q bottom)^2 <= t^2 var(top - q bottom)

    written around the estimate q0 = top / bottom, whose `u = top - q0 bottom` has a variance without cancellation.

    Args:
        top: [values].
        bottom: scalar.
        top_left_out, bottom_left_out: the same without each cluster, [groups, values] and [groups].
        t: quantile, [values] or scalar.
    """
    sign = jnp.where(bottom < 0, -1, 1).astype(top.dtype)
    bottom, bottom_left_out = jnp.abs(bottom), bottom_left_out * sign
    variance = jackknife_variance(bottom_left_out)
    a = bottom**2 - t**2 * variance
    sound = a > 0
    q = top / jnp.where(sound, bottom, 1)
    u = top_left_out - q[None, :] * bottom_left_out[:, None]
    own, shared = jackknife_variance(u), jackknife_covariance(u, bottom_left_out)
    middle = top * bottom - t**2 * (shared + q * variance)
    root = t * jnp.sqrt(jnp.maximum(bottom**2 * own - t**2 * (own * variance - shared**2), 0))
    scale = jnp.where(sound, a, 1)
    return jnp.where(sound, (middle - root) / scale, jnp.nan), jnp.where(sound, (middle + root) / scale, jnp.nan)
