"""First order with its uncertainty: how far values moved, from sums over clusters.

How each interval and each p is made:

    gain, shift       jackknife over clusters, Student's t
    shift band        all values at once: the largest studentised mean over sign flips of the clusters' deviations
    gnd               Fieller: a ratio of two estimated means, with the clusters' covariance
    off target        root of the debiased mean square shift off target, jackknife
    off-target p      the smallest of the other values' p, by Holm's method
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from vatjax.metrics import corrections, intervals, pairs, shifts
from vatjax.metrics.arrays import lift, namespace, special_functions
from vatjax.metrics.coupled import POWER, freedom_of
from vatjax.metrics.intervals import LEVEL, Estimate

Array = jax.Array


class Moved(NamedTuple):
    """How far values moved.

    Attributes:
        gain: scalar.
        gain_p: two-sided.
        resolved: whether the gain's interval is clear of 0; where it is not, every GND is NaN.
        shift: mean shift, [values]; its interval is pointwise.
        shift_p: two-sided, [values].
        shift_holm: `shift_p` of the values off target, corrected for all of them, [values]; NaN for the target.
        band: mean shift with the interval that holds for all values at once, [values].
        gnd: gain-normalised deviation, [values].
        off_target: the root mean square GND off target without the noise's share, scalar.
        off_target_shift: the root mean square shift off target without the noise's share, in points, scalar.
        off_target_p: of no shift off target at all.
        bound: no value off target moved by more than this, 95 %, all together.
        detectable: the gain that is told from 0 in four of five data sets like this one.
        design_effect: how many times the variance of each mean is what it would be if no two contexts were alike, [values].
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


def moved(d: Array, member: Array, sign: Array, groups: pairs.Grouping, largest: Array) -> Moved:
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
    # What was summed up, without signs: rounding is relative to it.
    span = xp.sum(xp.where(present, xp.abs(d), 0), 0) / xp.where(number > 0, number, 1)
    gain, gain_without = (sign * pairs.mean_over(x, member & ~xp.isnan(mean)) for x in (mean, without))
    # All means and the gain at once: each call is compiled anew.
    spans = xp.append(span, xp.max(xp.where(member, span, 0)))
    both = xp.concatenate([without, gain_without[..., None]], -1)
    # The standard error is never below what rounding makes of equal numbers.
    rated = counts > 0
    rated = xp.concatenate([rated, xp.any(rated & lift(member, rated), -1, keepdims=True)], -1)
    errors = xp.sqrt(intervals.jackknife_variance(both, rated) + (4 * intervals.rounding(spans)) ** 2)
    error, gain_error = errors[:-1], errors[-1]
    p = intervals.p_of_t(xp.append(mean, gain), errors, xp.append(resting, resting_gain))
    resolved = xp.abs(gain) > t_gain * gain_error
    low, high = intervals.fieller(mean, gain, without, gain_without, used, xp.fmax(t, t_gain))
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
    """Degrees of freedom of each column, [values], and of the gain: those of the clusters that rate it."""
    xp = namespace(counts)
    rated = xp.where(lift(member, counts), counts, 0)
    return freedom_of(counts), freedom_of(xp.max(rated, 2))


def _off_target(
    mean: Array, without: Array, gain: Array, gain_without: Array, member: Array, used: Array, t: Array
) -> tuple[Estimate, Estimate]:
    """The root mean square shift off target, in points and for each point of gain, both without the noise's share."""
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
    """The normal quantile that holds for all means at once.

    It is that of the largest studentised mean when clusters change their sign together for all values. Few clusters have too
    few sign patterns: there Bonferroni's quantile stands.
    """
    xp = namespace(number)
    count = xp.maximum(xp.sum(number > 0), 1).astype(number.dtype)
    bonferroni = -special_functions(xp).ndtri((1 - LEVEL) / (2 * count))
    few = xp.min(xp.sum(used, 1)[:2]) < intervals.FEW_CLUSTERS
    return xp.where(few, bonferroni, xp.minimum(largest, bonferroni))


def _least(x: Array) -> Array:
    """The smallest number; NaN where there is none."""
    xp = namespace(x)
    least = xp.min(xp.where(xp.isnan(x), np.inf, x))
    return xp.where(xp.isinf(least), np.nan, least)


def _largest(x: Array) -> Array:
    return -_least(-x)
