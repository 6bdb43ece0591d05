"""First-order statistics with their uncertainty: mean shifts, gain and GND, from sums over clusters.

How each interval and each p is computed:

    gain, shift       jackknife over clusters, Student's t
    shift band        all values at once: the largest studentised mean under normal multipliers of whole clusters
    gnd               Fieller: a ratio of two estimated means, with the clusters' covariance
    off target        root of the debiased mean square shift off target, jackknife
    off-target p      the smallest of the other values' p, by Holm's method
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from vatjax.metrics import corrections, intervals, pairs, shifts
from vatjax.metrics.arrays import namespace, prepend_axes, special_functions
from vatjax.metrics.coupled import POWER, satterthwaite_degrees
from vatjax.metrics.intervals import LEVEL, Estimate

Array = jax.Array


class Moved(NamedTuple):
    """First-order statistics of the shifts, with intervals and p.

    Attributes:
        gain: scalar.
        gain_p: two-sided.
        resolved: whether the gain's interval excludes 0; if not, every GND is NaN.
        shift: mean shift, [values]; its interval is pointwise.
        shift_p: two-sided, [values].
        shift_holm: `shift_p` of the values off target, corrected for all of them, [values]; NaN for the target.
        band: mean shift with the interval that holds for all values at once, [values].
        gnd: gain-normalised deviation, [values].
        off_target: the debiased root mean square GND off target, scalar.
        off_target_shift: the debiased root mean square shift off target, in points, scalar.
        off_target_p: p of the hypothesis that every shift off target is 0.
        bound: simultaneous 95 % upper bound of the absolute shifts off target.
        detectable: the gain that is distinguishable from 0 in four of five data sets like this one.
        design_effect: variance of each mean over its variance if contexts were independent, [values].
    """

    gain: Estimate
    gain_p: Array
    resolved: Array
    shift: Estimate
    shift_p: Array
    shift_holm: Array
    band: Estimate
    gnd: Estimate
    off_target: Estimate
    off_target_shift: Estimate
    off_target_p: Array
    bound: Array
    detectable: Array
    design_effect: Array


def summarise_shifts(d: Array, member: Array, sign: Array, groups: pairs.Grouping, largest: Array) -> Moved:
    """Computes gain, mean shifts and GND with their uncertainty.

    Args:
        d: shifts, [contexts, values].
        member: of the target, [values] bool.
        sign: the direction.
        groups: of the contexts.
        largest: the 95th percentile of `null.Null.largest_mean`, for the band.
    """
    xp = namespace(d)
    used = groups.used
    present = ~xp.isnan(d)
    count = present.astype(d.dtype)
    number, counts = xp.sum(count, 0), groups.sums(count)
    mean, without = pairs.means(d, groups)
    resting, resting_gain = _freedom(counts, member)
    t, t_gain = (intervals.t_quantile(freedom, dtype=d.dtype) for freedom in (resting, resting_gain))
    # Mean absolute shift: rounding is relative to it.
    span = xp.sum(xp.where(present, xp.abs(d), 0), 0) / xp.where(number > 0, number, 1)
    gain, gain_without = (sign * pairs.mean_over(x, member & ~xp.isnan(mean)) for x in (mean, without))
    # All means and the gain at once: each call is compiled anew.
    spans = xp.append(span, xp.max(xp.where(member, span, 0)))
    both = xp.concatenate([without, gain_without[..., None]], -1)
    # The standard error is never below the rounding error of equal numbers.
    rated = counts > 0
    rated = xp.concatenate([rated, xp.any(rated & prepend_axes(member, rated), -1, keepdims=True)], -1)
    errors = xp.sqrt(intervals.jackknife_variance(both, rated) + (4 * intervals.rounding_error(spans)) ** 2)
    error, gain_error = errors[:-1], errors[-1]
    p = intervals.p_of_t(xp.append(mean, gain), errors, xp.append(resting, resting_gain))
    resolved = xp.abs(gain) > t_gain * gain_error
    low, high = intervals.fieller_interval(mean, gain, without, gain_without, used, xp.fmax(t, t_gain))
    holm = corrections.holm(xp.where(member, np.nan, p[:-1]))
    wide = intervals.t_quantile(resting, _band_z(number, used, largest), d.dtype) * error
    off, off_gain = _off_target(mean, without, gain, gain_without, member, used, t_gain)
    spread = xp.sum(xp.where(present, d - mean[None], 0) ** 2, 0) / xp.where(number > 1, number * (number - 1), np.nan)
    return Moved(
        gain=Estimate(gain, gain - t_gain * gain_error, gain + t_gain * gain_error),
        gain_p=p[-1],
        resolved=resolved,
        shift=Estimate(mean, mean - t * error, mean + t * error),
        shift_p=p[:-1],
        shift_holm=holm,
        band=Estimate(mean, mean - wide, mean + wide),
        gnd=Estimate(shifts.gnd_of(mean, gain, resolved), *(xp.where(resolved, end, np.nan) for end in (low, high))),
        off_target=Estimate(*(xp.where(resolved, part, np.nan) for part in off_gain)),
        off_target_shift=off,
        off_target_p=_least(holm),
        bound=_largest(xp.where(member, np.nan, xp.abs(mean) + wide)),
        detectable=(t_gain + POWER) * gain_error,
        design_effect=xp.where(spread > 0, error**2 / xp.where(spread > 0, spread, 1), np.nan),
    )


def _freedom(counts: Array, member: Array) -> tuple[Array, Array]:
    """Returns the degrees of freedom of each column, [values], and of the gain, from the clusters that rate it."""
    xp = namespace(counts)
    rated = xp.where(prepend_axes(member, counts), counts, 0)
    return satterthwaite_degrees(counts), satterthwaite_degrees(xp.max(rated, 2))


def _off_target(
    mean: Array, without: Array, gain: Array, gain_without: Array, member: Array, used: Array, t: Array
) -> tuple[Estimate, Estimate]:
    """Returns the debiased root mean square shift off target, in points and per point of gain."""
    xp = namespace(mean)
    off = ~member & ~xp.isnan(mean)
    square = pairs.mean_over(mean**2 - intervals.jackknife_variance(without, used), off)
    squares = pairs.mean_over(without**2, off)
    sound = (gain**2 > 0) & xp.all((gain_without**2 > 0) | ~used)
    bottom, bottoms = (xp.where(sound, x**2, 1) for x in (gain, gain_without))
    error = xp.sqrt(intervals.jackknife_variance(xp.stack([squares, squares / bottoms], -1), used))
    both = intervals.root_interval(xp.stack([square, square / bottom]), error, t)
    points, ratio = (Estimate(*(part[i] for part in both)) for i in range(2))
    return points, Estimate(*(xp.where(sound, part, np.nan) for part in ratio))


def _band_z(number: Array, used: Array, largest: Array) -> Array:
    """Returns the normal quantile that holds for all means at once.

    It is that of the largest studentised mean under one normal multiplier per cluster for all values. With fewer than
    `FEW_CLUSTERS` clusters Bonferroni's quantile is used.
    """
    xp = namespace(number)
    count = xp.maximum(xp.sum(number > 0), 1).astype(number.dtype)
    bonferroni = -special_functions(xp).ndtri((1 - LEVEL) / (2 * count))
    few = xp.min(xp.sum(used, 1)[:2]) < intervals.FEW_CLUSTERS
    return xp.where(few, bonferroni, xp.minimum(largest, bonferroni))


def _least(x: Array) -> Array:
    """Returns the smallest number; NaN if all are NaN."""
    xp = namespace(x)
    least = xp.min(xp.where(xp.isnan(x), np.inf, x))
    return xp.where(xp.isinf(least), np.nan, least)


def _largest(x: Array) -> Array:
    return -_least(-x)
