"""Second-order statistics: coupling of values over contexts, with noise floor, intervals and p.

How each interval and each p is computed:

    coupling      jackknife over clusters on Fisher's z; `band` holds all pairs at once, by the largest draw of the null
    vat           measured; floor and p from the null; `vat_together` corrects for all values by each draw's largest
    vat_debiased  root of the debiased mean square correlation, jackknife
    nvat          likewise: floor and p from the null, the interval is that of `debiased`
    gini          measured; floor and p from the null; no interval, since noise alone makes it larger than 0
    hub           debiased mean square correlation of a value minus that of the others, jackknife, p by Holm's method
    covariance    root mean square covariance off the diagonal, debiased, in rating points; jackknife
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from vatjax.metrics import corrections, coupling, intervals, null, pairs, ranks, resample, shifts
from vatjax.metrics.arrays import as_key, namespace, prepend_axes
from vatjax.metrics.intervals import LEVEL, Estimate

Array = jax.Array

# Power of 80 %: an effect this many standard errors above the critical value is found in four of five data sets.
POWER = 0.8416
# A cluster with more than this share of the contexts, and three times its fair share, dominates the null.
DOMINANT = 0.12


class Coupled(NamedTuple):
    """Coupling of values, with noise floor, intervals and p.

    Attributes:
        coupling: R, [values, values]; its interval is pointwise.
        band: R with the interval that holds for all pairs at once, [values, values].
        vat: value-level tax as measured, the mean absolute correlation, [values].
        vat_debiased: the debiased root mean square correlation of each value, [values].
        nvat: system-level tax, reading "rms", as measured; its interval is that of `debiased`, up to what was measured.
        debiased: nVAT with the noise variance subtracted from its square.
        gini: concentration of `vat`.
        floor, vat_floor, gini_floor: means over draws of independent values; scalar, [values], scalar.
        floor_high, vat_floor_high, gini_floor_high: the 95th percentiles of these draws.
        p, vat_p, gini_p: share of these draws that reach the measured nVAT, VAT and Gini.
        vat_together: `vat_p` corrected for all values, [values].
        hub: the debiased mean square correlation of each value minus that of the others, [values].
        hub_p: two-sided, corrected for all values, [values].
        detectable: the debiased nVAT that is distinguishable from noise in four of five data sets like this one.
        covariance: the root of the root mean square covariance off the diagonal, in rating points.
        expected: R expected under the null, [values, values]; subtracted before everything but `coupling`, `band` and
            `covariance`.
    """

    coupling: Estimate
    band: Estimate
    vat: Array
    vat_debiased: Estimate
    nvat: Estimate
    debiased: Estimate
    gini: Array
    floor: Array
    floor_high: Array
    vat_floor: Array
    vat_floor_high: Array
    gini_floor: Array
    gini_floor_high: Array
    p: Array
    vat_p: Array
    vat_together: Array
    gini_p: Array
    hub: Estimate
    hub_p: Array
    detectable: Array
    covariance: Estimate
    expected: Array


class Draws(NamedTuple):
    """Arrays computed from the contexts; every summary is computed from them alone.

    Attributes:
        compared: statistics of each pair of columns, and without each group of clusters.
        null: draws of independent values.
    """

    compared: pairs.Pairs
    null: null.Null


def draw_null(
    shift: Array,
    groups: pairs.Grouping,
    key: Array,
    resamples: int,
    missing: bool,
    deviation: Array,
    ipsatised: Array | bool = False,
    labels: Array | None = None,
    expected: Array | None = None,
) -> Draws:
    """Compares columns and draws from the null.

    Args:
        shift: [contexts, values].
        groups: of the contexts.
        key: PRNG key.
        resamples: draws of the null.
        missing: whether columns are compared pair by pair.
        deviation: shifts minus their mean, 0 where missing, [contexts, values].
        ipsatised: whether each context's mean has been subtracted.
        labels: of a `labelled` state, [contexts, values].
        expected: `E0[R]` of ipsatised shifts, `null.ipsatised_coupling`.
    """
    ranked = ranks.rank(shift)
    z = ranks.midranks(ranked, jnp.ones(len(shift), shift.dtype))
    if labels is not None:
        compared = pairs.compare_columns(shift, ranked, z, groups, missing)
        return Draws(compared, null.exchange_draws(shift, labels, groups.cluster[0], key, resamples))
    expected = jnp.zeros((shift.shape[1],) * 2, shift.dtype) if expected is None else jnp.where(ipsatised, expected, 0)
    compared = pairs.compare_columns(shift, ranked, z, groups, missing, expected)
    # The expectation's own noise is noise of R - E0[R].
    more = jnp.where(ipsatised, 1 + 1 / null.expected_draws(shift.shape), 1)
    scale, variance = compared.flip_scale * jnp.sqrt(more), compared.null_variance * more
    draws = null.sign_flip_draws(z, scale, variance, deviation, groups.cluster, expected, key, resamples)
    return Draws(compared, draws)


def summarise_coupling(compared: pairs.Pairs, draws: null.Null, groups: pairs.Grouping) -> tuple[Coupled, Array]:
    """Summarises a comparison of columns.

    Statistics of one kind share a call, since the compiler builds a program for each call.

    Args:
        compared: R, and R without each group.
        draws: of the null.
        groups: of the contexts.

    Returns:
        (the summary; the 95th percentile of `null.Null.largest_mean`).
    """
    xp = namespace(compared.r)
    r, without = (null.remove_expected(x, draws.expected) for x in (compared.r, compared.r_without))
    used, values = groups.used, len(r)
    freedom = satterthwaite_degrees(groups.sizes)
    stacked = xp.stack([compared.r_without, compared.covariance_without], 2)
    variance, variance_points = intervals.jackknife_variance(stacked, used)
    square, squares, sound = debiased_square(r, without, variance)
    points, points_without, _ = debiased_square(compared.covariance, compared.covariance_without, variance_points)
    row, rows = row_squares(r, without, variance, sound)
    hub, hub_without = hub_excess(row), hub_excess(rows)
    parts = xp.concatenate([squares[..., None], rows, points_without[..., None], hub_without], -1)
    error = xp.sqrt(intervals.jackknife_variance(parts, used))
    t = intervals.t_quantile(freedom, dtype=r.dtype)
    mean_squares = xp.concatenate([square[None], row, points[None]])
    most = xp.asarray([1.0] * (values + 1) + [np.inf], r.dtype)
    root = intervals.root_interval(mean_squares, error[: values + 2], t, most)
    debiased, vat_debiased = (Estimate(*(part[i] for part in root)) for i in (0, slice(1, values + 1)))
    hub_error = error[values + 2 :]
    vat, nvat = coupling.vat(r), coupling.nvat(r)
    gini = coupling.gini(vat)
    shown = xp.column_stack([draws.nvat, draws.gini, draws.largest, draws.largest_mean, draws.vat])
    measured = xp.concatenate([xp.stack([nvat, gini, xp.zeros_like(nvat), xp.zeros_like(nvat)]), vat])
    floor, high, p = xp.mean(shown, 0), null.quantiles(shown, LEVEL), null.p_value(measured, shown)
    unknown = has_dominant_cluster(pairs.group_clusters(groups.cluster, r.dtype, 1).sizes)
    p = xp.where(unknown, np.nan, p)
    wide = intervals.t_quantile(freedom, xp.maximum(high[2], intervals.Z), r.dtype)
    # Few clusters estimate the variance of one pair badly: the band has at least the pooled one, on Fisher's z.
    stretch = (1 - xp.clip(compared.r, -0.999999, 0.999999) ** 2) ** 2
    count = xp.sum(sound).astype(r.dtype)
    pooled = xp.sum(xp.where(sound, variance / stretch, 0)) / xp.where(count > 0, count, 1)
    spread = xp.stack([variance, xp.maximum(variance, pooled * stretch)])
    low, top = intervals.fisher_interval(compared.r, spread, xp.stack([t, wide])[:, None, None])
    result = Coupled(
        coupling=Estimate(compared.r, low[0], top[0]),
        band=Estimate(compared.r, low[1], top[1]),
        vat=vat,
        vat_debiased=vat_debiased,
        nvat=Estimate(nvat, debiased.low, xp.maximum(debiased.high, nvat)),
        debiased=debiased,
        gini=gini,
        floor=floor[0],
        floor_high=high[0],
        vat_floor=floor[4:],
        vat_floor_high=high[4:],
        gini_floor=floor[1],
        gini_floor_high=high[1],
        p=p[0],
        vat_p=p[4:],
        vat_together=xp.where(unknown, np.nan, _together(vat, draws.vat)),
        gini_p=p[1],
        hub=Estimate(hub, hub - t * hub_error, hub + t * hub_error),
        hub_p=corrections.holm(intervals.p_of_t(hub, hub_error, freedom)),
        detectable=_detectable(draws.nvat, high[0]),
        # The root mean square covariance is in points squared: its root has the unit of a shift.
        covariance=Estimate(*(xp.sqrt(part[-1]) for part in root)),
        expected=draws.expected,
    )
    return result, high[3]


def has_dominant_cluster(sizes: Array) -> Array:
    """Returns whether one cluster holds too many of the contexts for the sign-flip null, scalar.

    Centring spreads the effect of such a cluster over all others, by more than `1 / (1 - n_c / n)` corrects.

    Args:
        sizes: contexts in each group of the jackknife, [ways, groups].
    """
    xp = namespace(sizes)
    key_sizes = sizes[:2]
    share = xp.max(key_sizes, 1) / xp.maximum(xp.sum(key_sizes, 1), 1)
    typical = 1 / xp.maximum(xp.sum(key_sizes > 0, 1), 1)
    return xp.any((share > DOMINANT) & (share > xp.minimum(3 * typical, 0.6)))


def degrees_of_freedom(clusters: Any) -> float:
    """Returns the degrees of freedom of a mean over contexts in clusters, as `satterthwaite_degrees`.

    Args:
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys.
    """
    index = resample.clusters_of(clusters, len(np.asarray(clusters))).index
    return float(satterthwaite_degrees(pairs.group_clusters(np.asarray(index), float, 1).sizes))  # type: ignore[arg-type]


def satterthwaite_degrees(counts: Array) -> Array:
    """Returns Satterthwaite's degrees of freedom of a mean over clusters, `(sum n_c^2)^2 / sum n_c^4 - 1`, [...].

    This is the number of clusters minus 1 if their sizes are equal, and less if a few large ones dominate. Two crossed
    keys give the smaller number.

    Args:
        counts: number of contexts in each group, [ways, groups, ...].
    """
    xp = namespace(counts)
    bottom = xp.sum(counts**4, 1)[:2]
    freedom = xp.sum(counts**2, 1)[:2] ** 2 / xp.where(bottom > 0, bottom, 1) - 1
    return xp.min(freedom, 0)


def debiased_square(r: Array, without: Array, variance: Array) -> tuple[Array, Array, Array]:
    """Returns the debiased mean square correlation, `mean_off(r^2) - mean_off(jackknife variance of r)`.

    A pair with a column that varies in a single cluster only has an undefined variance, and is left out of both means.

    Args:
        r: [values, values].
        without: R without each group, [ways, groups, values, values].
        variance: of r, [values, values].

    Returns:
        (the debiased square; the mean square of each replicate, [ways, groups], for its error; the pairs in use,
        [values, values] bool).
    """
    xp = namespace(r)
    sound = coupling.off_diagonal(r) & ~xp.isnan(variance)
    count = xp.sum(sound).astype(r.dtype)

    def mean(x: Array) -> Array:
        return xp.sum(xp.where(sound, x, 0), (-2, -1)) / xp.where(count > 0, count, np.nan)

    return mean(r**2) - mean(variance), mean(without**2), sound


def row_squares(r: Array, without: Array, variance: Array, sound: Array) -> tuple[Array, Array]:
    """Returns the debiased mean square correlation of each value, [values], and its replicates, [ways, groups, values]."""
    xp = namespace(r)
    count = xp.sum(sound, -1).astype(r.dtype)
    count = xp.where(count > 0, count, np.nan)
    return (
        xp.sum(xp.where(sound, r**2 - variance, 0), -1) / count,
        xp.sum(xp.where(sound, without**2, 0), -1) / count[None, None],
    )


def hub_excess(row: Array) -> Array:
    """Returns each value's mean square correlation minus the mean of the others', [..., values]."""
    xp = namespace(row)
    present = ~xp.isnan(row)
    others = (xp.sum(present, -1, keepdims=True) - 1).astype(row.dtype)
    total = xp.sum(xp.where(present, row, 0), -1, keepdims=True)
    return xp.where(others > 0, row - (total - row) / xp.where(others > 0, others, 1), np.nan)


def _together(vat: Array, draws: Array) -> Array:
    """Returns p of each VAT corrected for all values: the share of draws whose largest standardised VAT reaches it.

    Paper: Westfall and Young 1993, "Resampling-based multiple testing".
    """
    xp = namespace(vat)
    mean, spread = xp.mean(draws, 0), xp.std(draws, 0)

    def standard(x: Array) -> Array:
        scale = prepend_axes(xp.where(spread > 0, spread, np.nan), x)
        return (x - prepend_axes(mean, x)) / scale

    measured = standard(vat)
    largest = xp.max(xp.nan_to_num(standard(draws), nan=-np.inf), 1, keepdims=True)
    return null.p_value(measured, xp.broadcast_to(largest, draws.shape))


def _detectable(draws: Array, high: Array) -> Array:
    """Returns the nVAT beyond noise that is found in four of five data sets, from the null's mean squares."""
    xp = namespace(draws)
    squares = draws**2
    return xp.sqrt(xp.maximum(high**2 + POWER * xp.std(squares) - xp.mean(squares), 0))


class DetectableEffects(NamedTuple):
    """Smallest effects that four of five studies of this size detect, if contexts are independent.

    Attributes:
        gain: in standard deviations of the target's shift.
        nvat: beyond noise.
    """

    gain: float
    nvat: float


def detectable_effects(contexts: int, values: int = 10) -> DetectableEffects:
    """Returns the smallest gain and nVAT that a study of independent contexts detects at 5 % with a power of 80 %.

    The mean square of M correlations of independent values is about `chi2(M) / (M (n - 1))`. For dependent contexts
    divide their number by the design effect.

    Args:
        contexts: n.
        values: V, with M = V (V - 1) / 2 pairs.
    """
    if contexts < 3 or values < 2:
        return DetectableEffects(float("nan"), float("nan"))
    pairs = values * (values - 1) / 2
    excess = special.chdtri(pairs, 1 - LEVEL) / pairs + POWER * np.sqrt(2 / pairs) - 1
    gain = (special.stdtrit(contexts - 1, (1 + LEVEL) / 2) + POWER) / np.sqrt(contexts)
    return DetectableEffects(float(gain), float(np.sqrt(excess / (contexts - 1))))


# The null alone -----------------------------------------------------------------------------------------------------


def noise_floor(
    shift: Array,
    clusters: Any,
    key: Array | int,
    resamples: int = 2000,
    ipsatised: bool = False,
    labels: Array | None = None,
    missing: bool | None = None,
) -> null.Null:
    """Draws nVAT, VAT and Gini of independent values; the mean of the draws is the floor.

    Args:
        shift: [contexts, values]; raw, also for `ipsatised`.
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys; None makes each context its own cluster.
        key: PRNG key or a seed.
        resamples: number of draws.
        ipsatised: subtract each context's mean first.
        labels: [contexts, values] of a `labelled` state, where the shift is agreement times label.
        missing: as in `spearman`.
    """
    shift = shifts.as_matrix(shift)
    groups = resample.clusters_of(clusters, shift.shape[0])
    missing = coupling.has_missing(shift) if missing is None else missing
    labels = None if labels is None else jnp.asarray(labels, shift.dtype)
    drawn: null.Null = _floor(shift, jnp.asarray(groups.index), as_key(key), labels, resamples, ipsatised, missing)
    return drawn


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _floor(
    shift: Array,
    cluster: Array,
    key: Array,
    labels: Array | None,
    resamples: int,
    ipsatised: bool,
    missing: bool,
) -> null.Null:
    groups = pairs.group_clusters(cluster, shift.dtype, shift.shape[-1])
    expected = null.ipsatised_coupling(shift, key) if ipsatised and labels is None else None
    if ipsatised:
        shift = shifts.ipsatise(shift)
        labels = None if labels is None else shifts.ipsatise(labels)
    return draw_null(shift, groups, key, resamples, missing, jnp.zeros_like(shift), ipsatised, labels, expected).null
