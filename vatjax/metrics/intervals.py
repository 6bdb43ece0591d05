"""Intervals and tests from the delete-one-cluster jackknife: Student's t, Fisher's z, roots of debiased squares, Fieller.

Axes: ways W (1 where contexts are clustered by one key; 3 where two keys cross: each key and their intersection), groups
G of the jackknife (each replicate leaves out one cluster, or one group of clusters where there are many).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import special

from vatjax.metrics.arrays import namespace, prepend_axes, special_functions

Array = jax.Array

LEVEL = 0.95
# The normal quantile of a two-sided 95 % interval.
Z = float(special.ndtri((1 + LEVEL) / 2))
# Below this many clusters sign flips of whole clusters take too few values to give a quantile in the tail.
FEW_CLUSTERS = 12
# Degrees of freedom beyond this are as good as infinite; the jackknife has at most 256 groups.
_FREEDOM = 256
_Z_GRID = np.sort(np.concatenate([np.linspace(0, 4, 41), np.linspace(4.25, 8, 16), [Z]]))
# Quarters of a degree up to 8, where quantiles change fast; whole ones above.
_FREEDOM_GRID = np.concatenate([np.arange(1, 8, 0.25), np.arange(8, _FREEDOM + 1)])


class Estimate(NamedTuple):
    """An estimate and its 95 % interval."""

    estimate: Array
    low: Array
    high: Array


def clustered_mean(x: np.ndarray, cluster: np.ndarray) -> Estimate:
    """Computes a mean on the host, with Student's t on the delete-one-cluster jackknife.

    Args:
        x: [n]; NaN is left out.
        cluster: label of each entry, [n]; with fewer than two clusters everything is NaN.
    """
    present = ~np.isnan(x)
    _, group = np.unique(cluster[present], return_inverse=True)
    sums, counts = np.bincount(group, x[present]), np.bincount(group)
    clusters = len(counts)
    if clusters < 2:
        return Estimate(*np.full(3, np.nan))
    mean = sums.sum() / counts.sum()
    without = (sums.sum() - sums) / (counts.sum() - counts)
    error = np.sqrt((clusters - 1) / clusters * ((without - without.mean()) ** 2).sum())
    half = special.stdtrit(clusters - 1, (1 + LEVEL) / 2) * error
    interval: list[Any] = [mean, mean - half, mean + half]
    return Estimate(*interval)


# Student's t --------------------------------------------------------------------------------------------------------


@functools.cache
def _student_table() -> np.ndarray:
    """Returns `log(1 + quantile)` of Student's t at the tail of each normal quantile, [freedom, grid]."""
    quantile = -special.stdtrit(_FREEDOM_GRID[:, None], special.ndtr(-_Z_GRID)[None, :])
    return np.log1p(np.maximum(quantile, 0))


def t_quantile(freedom: Array | int, z: Array | float = Z, dtype: Any = float) -> Array:
    """Returns the quantile of Student's t that has the same tail as the normal quantile `z`; NaN below 1 degree.

    XLA has no inverse of the incomplete beta function: traced values are interpolated in a table that SciPy fills (to .001
    of the quantile from 2 degrees on, .01 below).

    Args:
        freedom: degrees of freedom; 256 stand for more.
        z: at least 0, scalar; 1.96 for a pointwise 95 % interval, more for a simultaneous one.
        dtype: of the result.
    """
    xp = namespace(freedom, z)
    freedom = xp.asarray(freedom, dtype=dtype)
    if xp is np:
        exact = -special.stdtrit(np.maximum(freedom, 1).astype(float), special.ndtr(-np.float64(z)))
        return np.where(freedom >= 1, exact, np.nan).astype(dtype)  # type: ignore[return-value]
    table, grid = jnp.asarray(_student_table(), dtype), jnp.asarray(_Z_GRID, dtype)
    z = jnp.clip(jnp.asarray(z, dtype), grid[0], grid[-1])
    right = jnp.clip(jnp.sum(grid <= z), 1, len(_Z_GRID) - 1)
    share = (z - grid[right - 1]) / (grid[right] - grid[right - 1])
    column = table[:, right - 1] * (1 - share) + table[:, right] * share
    row = jnp.clip(freedom, 1, _FREEDOM)
    place = jnp.where(row < 8, (row - 1) * 4, row + 20)
    low = jnp.clip(place.astype(jnp.int32), 0, len(_FREEDOM_GRID) - 2)
    degrees = jnp.asarray(_FREEDOM_GRID, dtype)
    first, second = 1 / degrees[low], 1 / degrees[low + 1]
    part = (first - 1 / row) / (first - second)  # quantiles are smooth in 1 / freedom
    return jnp.where(freedom >= 1, jnp.expm1(column[low] * (1 - part) + column[low + 1] * part), jnp.nan)


def t_tail(t: Array, freedom: Array | int) -> Array:
    """Returns the upper tail of Student's t at `t >= 0`: half the regularised incomplete beta function at `v / (v + t^2)`."""
    xp = namespace(t, freedom)
    v = xp.maximum(xp.asarray(freedom, dtype=t.dtype), 1)
    if xp is jnp:
        v = lax.stop_gradient(v)  # betainc has no gradient there
    share = special_functions(xp).betainc(v / 2, xp.asarray(0.5, dtype=t.dtype), v / (v + t**2))
    return xp.where(xp.isnan(t), np.nan, share / 2)


def p_of_t(estimate: Array, error: Array, freedom: Array) -> Array:
    """Returns the two-sided p of `estimate / error` under Student's t.

    If the error is 0, p is 1 for an estimate of 0 and 0 for any other.
    """
    xp = namespace(estimate, error, freedom)
    t = xp.abs(estimate) / xp.where(error > 0, error, 1)
    certain = xp.where(estimate == 0, 1, 0).astype(t.dtype)
    p = xp.where(error > 0, 2 * t_tail(t, freedom), certain)
    return xp.where(xp.isnan(estimate) | xp.isnan(error) | (xp.asarray(freedom) < 1), np.nan, p)


def rounding_error(x: Array) -> Array:
    """Returns the largest difference of two equal numbers of this size after one rounding."""
    return abs(x) * float(np.finfo(x.dtype).eps)


# The jackknife ------------------------------------------------------------------------------------------------------


def way_variances(left_out: Array, used: Array) -> Array:
    """Returns `(G - 1) / G * sum_g (x_g - mean)^2` under each way of clustering, [ways, ...].

    Args:
        left_out: the statistic without each group, [ways, groups, ...].
        used: groups that exist, [ways, groups] or as `left_out`, bool: arrays are padded to one shape.
    """
    xp = namespace(left_out)
    used = used.reshape(*used.shape, *(1,) * (left_out.ndim - used.ndim))
    count = xp.maximum(xp.sum(used, 1), 1).astype(left_out.dtype)
    mean = xp.sum(xp.where(used, left_out, 0), 1) / count
    deviation = xp.where(used, left_out - mean[:, None], 0)
    return (count - 1) / count * xp.sum(deviation**2, 1)


def combine_ways(variances: Array) -> Array:
    """Returns the variance under crossed keys, `V(a) + V(b) - V(a and b)`, from [ways, ...]; never below V(a) or V(b).

    Paper: Cameron, Gelbach and Miller 2011, "Robust inference with multiway clustering".
    """
    xp = namespace(variances)
    if variances.shape[0] == 1:
        return variances[0]
    first, second, both = variances
    return xp.maximum(first + second - both, xp.maximum(first, second))


def jackknife_variance(left_out: Array, used: Array) -> Array:
    """Returns the cluster-robust variance of a statistic from its replicates, [...]; NaN where any replicate is.

    Args:
        left_out: [ways, groups, ...].
        used: [ways, groups] bool.
    """
    return combine_ways(way_variances(left_out, used))


def jackknife_interval(estimate: Array, left_out: Array, used: Array, t: Array) -> Estimate:
    """Returns `estimate +- t * error` of the jackknife."""
    xp = namespace(left_out)
    half = t * xp.sqrt(jackknife_variance(left_out, used))
    return Estimate(estimate, estimate - half, estimate + half)


def clip_interval(estimate: Estimate, low: float, high: float) -> Estimate:
    """Clips the interval of an estimate to the range of the quantity, such as [0, 1] for a share."""
    xp = namespace(estimate.low)
    return Estimate(estimate.estimate, *(xp.clip(end, low, high) for end in (estimate.low, estimate.high)))


def fisher_interval(r: Array, variance: Array, t: Array) -> tuple[Array, Array]:
    """Returns intervals of correlations on Fisher's z scale, on which their spread does not depend on their size."""
    xp = namespace(r)
    inside = xp.clip(r, -0.999999, 0.999999)
    half = t * xp.sqrt(variance)
    half = half / prepend_axes(1 - inside**2, half)
    z = prepend_axes(xp.arctanh(inside), half)
    identity = xp.eye(r.shape[-1], dtype=bool)
    low, high = (xp.where(identity, r, xp.tanh(end)) for end in (z - half, z + half))
    return xp.minimum(low, prepend_axes(r, low)), xp.maximum(high, prepend_axes(r, high))


def root_interval(square: Array, error: Array, t: Array, most: Array | float = np.inf) -> Estimate:
    """Returns the root of a debiased mean square, which may be negative, and its interval within [0, most].

    Where the square cannot be distinguished from 0 the interval is `[0, sqrt(max(square, 0) + t error)]`. Elsewhere it is
    symmetric about the root, whose error is `error / (2 root)`: on that scale it is nearest to normal.
    """
    xp = namespace(square, error)
    root = xp.sqrt(xp.maximum(square, 0))
    resolved = square - t * error > 0  # False for NaN, which then stays NaN below
    half = t * error / (2 * xp.where(resolved, root, 1))
    low = xp.where(resolved, xp.maximum(root - half, 0), xp.where(xp.isnan(square), np.nan, 0))
    high = xp.where(resolved, root + half, xp.sqrt(xp.maximum(square, 0) + t * error))
    return Estimate(root, low, xp.minimum(high, most))


# Ratios -------------------------------------------------------------------------------------------------------------


def fieller_interval(
    top: Array, bottom: Array, top_left_out: Array, bottom_left_out: Array, used: Array, t: Array
) -> tuple[Array, Array]:
    """Returns Fieller's interval of `top / abs(bottom)`; NaN where the bottom cannot be distinguished from 0.

    The interval is the set of ratios q for which `top - q bottom` cannot be distinguished from 0,

        (top - q bottom)^2 <= t^2 var(top - q bottom)

    written around the estimate q0 = top / bottom, whose `u = top - q0 bottom` has a variance without cancellation.

    Args:
        top: [values].
        bottom: scalar.
        top_left_out, bottom_left_out: replicates, [ways, groups, values] and [ways, groups].
        used: [ways, groups] bool.
        t: quantile, [values] or scalar.
    """
    xp = namespace(top_left_out)
    sign = xp.where(bottom < 0, -1, 1).astype(top.dtype)
    bottom, bottom_left_out = xp.abs(bottom), bottom_left_out * sign
    q = top / xp.where(bottom == 0, 1, bottom)
    u = top_left_out - q[None, None] * bottom_left_out[..., None]
    below = xp.broadcast_to(bottom_left_out[..., None], u.shape)
    u_variance, variance, sums, gaps = jackknife_variance(xp.stack([u, below, u + below, u - below], 2), used)
    shared = (sums - gaps) / 4
    a = bottom**2 - t**2 * variance
    sound = a > 0
    middle = top * bottom - t**2 * (shared + q * variance)
    inside = xp.maximum(bottom**2 * u_variance - t**2 * (u_variance * variance - shared**2), 0)
    # A root whose gradient at 0 is 0: the target's own ratio is 1 without any error.
    root = t * xp.where(inside > 0, xp.sqrt(xp.where(inside > 0, inside, 1)), 0)
    scale = xp.where(sound, a, 1)
    return xp.where(sound, (middle - root) / scale, np.nan), xp.where(sound, (middle + root) / scale, np.nan)


# Differences of roots -----------------------------------------------------------------------------------------------


def root_difference(
    first: tuple[Array, Array], second: tuple[Array, Array], used: Array, t: Array
) -> tuple[Estimate, Array]:
    """Returns the difference of two roots of debiased squares on shared clusters, and the error of that of the squares.

    If both squares can be distinguished from 0 the error is that of `a^2 / 2 a - b^2 / 2 b`; else the roots differ by
    no more than the root of the squares' error.

    Args:
        first, second: a debiased square, [...], and its replicates, [ways, groups, ...].
        used: [ways, groups] bool.
        t: quantile.
    """
    xp = namespace(*first)
    (square, squares), (other, others) = first, second
    roots = [xp.sqrt(xp.maximum(x, 0)) for x in (square, other)]
    clear = [
        x > t * xp.sqrt(jackknife_variance(replicates, used)) for x, replicates in ((square, squares), (other, others))
    ]
    a, b = (xp.where(sure, root, 1) for sure, root in zip(clear, roots, strict=True))
    along = xp.sqrt(
        jackknife_variance(squares / prepend_axes(2 * a, squares) - others / prepend_axes(2 * b, others), used)
    )
    error = xp.sqrt(jackknife_variance(squares - others, used))
    bottom = xp.maximum(roots[0] + roots[1], xp.sqrt(error))
    half = t * xp.where(clear[0] & clear[1], along, error / xp.where(bottom > 0, bottom, 1))
    gap = roots[0] - roots[1]
    return Estimate(gap, gap - half, gap + half), error
