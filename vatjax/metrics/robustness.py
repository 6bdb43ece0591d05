"""Robustness checks: cross-validated amplification, rank agreement, scene subsampling, split halves, reliability of scores."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import coupling, intervals, ranks, resample, shifts
from vatjax.metrics.arrays import Arrayish, as_key, namespace, prepend_axes
from vatjax.metrics.intervals import Estimate

Array = jax.Array

# The order of value-level taxes is stable while it correlates this much with the order on all scenes (Epskamp et al. 2018).
STABLE = 0.7
_DROPPED = tuple(round(0.05 * step, 2) for step in range(1, 16))


class Amplification(NamedTuple):
    """Movement of values per unit of the target's movement, compared between more and less coupled values.

    Attributes:
        ratio: `sum_s abs(d[s, w]) / sum_s abs(d[s, t])`, [values]; with means in place of sums, which is equal if
            nothing is missing.
        high, low: the mean ratio of the half of the other values with the higher and with the lower VAT.
        difference: high minus low, with its jackknife interval, given the groups.
    """

    ratio: Array
    high: Array
    low: Array
    difference: Estimate


def amplification(
    shift: Array, target: Array | int, clusters: Any, key: Array | int, splits: int = 50, missing: bool | None = None
) -> Amplification:
    """Computes cross-validated amplification: groups are chosen on one half of the scenes and compared on the other.

    Choosing and comparing on the same contexts would select on noise. The difference is the mean over
    `splits` random halvings, each used both ways.

    Args:
        shift: [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete.
        key: PRNG key or a seed.
        splits: number of random halvings.
        missing: as in `spearman`.
    """
    shift, index, count, levels, missing = _prepared(shift, clusters, missing)
    member = shifts.target_mask(target, shift.shape[1])
    measured: Amplification = _amplification(shift, member, index, as_key(key), count, levels, missing, splits)
    return measured


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def _amplification(
    shift: Array, member: Array, index: Array, key: Array, count: int, levels: int | None, missing: bool, splits: int
) -> Amplification:
    prepared = resample.prepare(shift, index, count, levels, missing)
    present = ~jnp.isnan(shift)
    zeros = jnp.zeros((count, shift.shape[1]), shift.dtype)
    sums = zeros.at[index].add(jnp.where(present, jnp.abs(shift), 0))
    counts = zeros.at[index].add(present.astype(shift.dtype))
    halves = resample.subsample_weights(key, count, splits, 0.5, shift.dtype)

    def ratios(w: Array) -> Array:
        number = jnp.einsum("c,cv->v", w, counts, precision=ranks.EXACT)
        total = jnp.einsum("c,cv->v", w, sums, precision=ranks.EXACT)
        size = total / jnp.where(number > 0, number, jnp.nan)
        bottom = _mean(size, member)
        return size / jnp.where(bottom > 0, bottom, jnp.nan)

    def chosen(half: Array) -> tuple[Array, Array]:
        """Returns the more and the less coupled half of the values off target that have a coupling."""
        tax = jnp.where(member, jnp.nan, coupling.vat(prepared.coupling(half)))
        middle = jnp.nanmedian(tax)
        return tax > middle, tax <= middle

    high, low = resample.map_resamples(jnp.concatenate([halves, 1 - halves]), chosen, shift.size)
    others = jnp.concatenate([1 - halves, halves])

    def compared(w: Array) -> tuple[Array, Array]:
        def compare_half(high: Array, low: Array, other: Array) -> tuple[Array, Array]:
            ratio = ratios(w * other)
            return _mean(ratio, high), _mean(ratio, low)

        top, bottom = jax.vmap(compare_half)(high, low, others)
        return jnp.nanmean(top), jnp.nanmean(bottom)

    ones = jnp.ones(count, shift.dtype)
    top, bottom = compared(ones)
    left_out = resample.jackknife_weights(count, shift.dtype)
    without = resample.map_resamples(left_out, lambda w: jnp.subtract(*compared(w)), shift.shape[1] * splits * 8)
    t = intervals.t_quantile(len(left_out) - 1, dtype=shift.dtype)
    used = jnp.ones((1, len(left_out)), bool)
    return Amplification(ratios(ones), top, bottom, intervals.jackknife_interval(top - bottom, without[None], used, t))


def _mean(x: Array, where: Array) -> Array:
    sound = where & ~jnp.isnan(x)
    count = jnp.sum(sound).astype(x.dtype)
    return jnp.sum(jnp.where(sound, x, 0)) / jnp.where(count > 0, count, jnp.nan)


def _prepared(shift: Array, clusters: Any, missing: bool | None) -> tuple[Array, Array, int, int | None, bool]:
    """Returns columns, their clusters, the numbers of clusters and of levels, and whether ratings are missing."""
    shift = shifts.as_matrix(shift)
    groups = resample.clusters_of(clusters, shift.shape[0])
    if len(groups.index) > 1:
        raise ValueError("scenes are drawn by one key; choose one of the crossed keys")
    missing = coupling.has_missing(shift) if missing is None else missing
    levels = None if missing else resample.level_count(shift)
    return shift, jnp.asarray(groups.index[0]), groups.count, levels, missing


# Agreement ----------------------------------------------------------------------------------------------------------


@jax.jit
def rank_agreement(x: Array, y: Array) -> Array:
    """Computes Spearman's correlation of two rankings, such as VAT by Spearman and by Kendall, [values].

    Entries that are NaN in either are left out.
    """
    return coupling.spearman(jnp.stack([x, y], axis=1), missing=True)[0, 1]


def types_against_values(vat_types: Array, vat_values: Array, type_of: np.ndarray) -> Array:
    """Computes the rank agreement of the types' own VAT with the mean VAT of their member values.

    Args:
        vat_types: [types], from the analysis of types.
        vat_values: [values], from the analysis of values.
        type_of: [values], each value's type, concrete.
    """
    if not shifts.is_concrete(type_of):
        raise TypeError("types decide shapes and must be concrete: close over them instead of passing them in")
    member = jnp.asarray(np.asarray(type_of)[None, :] == np.arange(vat_types.shape[0])[:, None])
    means = jax.vmap(lambda mask: _mean(vat_values, mask))(member)
    agreed: Array = rank_agreement(vat_types, means)
    return agreed


# Subsamples of scenes -----------------------------------------------------------------------------------------------


class Robustness(NamedTuple):
    """Coupling repeated on random subsamples of the scenes.

    Attributes:
        nvat: on all scenes, and the range that holds 95 % of the subsamples. The range does not estimate a confidence
            interval: subsamples of 80 % vary half as much as samples do.
        nvat_sd: the standard deviation over subsamples, as published.
        agreement: the mean rank agreement of value-level taxes with those on all scenes.
        least: the 5th percentile of that agreement.
    """

    nvat: Estimate
    nvat_sd: Array
    agreement: Array
    least: Array


def robustness(
    shift: Array, clusters: Any, key: Array | int, share: float = 0.8, draws: int = 200, missing: bool | None = None
) -> Robustness:
    """Repeats the coupling on random shares of the scenes, without replacement.

    Args:
        shift: [contexts, values].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key or a seed.
        share: of the clusters that is kept.
        draws: how many subsamples.
        missing: as in `spearman`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, found {share}")
    shift, index, count, levels, missing = _prepared(shift, clusters, missing)
    repeated: Robustness = _robustness(shift, index, as_key(key), count, levels, missing, share, draws)
    return repeated


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _robustness(
    shift: Array, index: Array, key: Array, count: int, levels: int | None, missing: bool, share: float, draws: int
) -> Robustness:
    prepared = resample.prepare(shift, index, count, levels, missing)
    whole = prepared.coupling(jnp.ones(count, shift.dtype))
    tax = coupling.vat(whole)

    def subsampled(w: Array) -> tuple[Array, Array]:
        r = prepared.coupling(w)
        return coupling.nvat(r), rank_agreement(tax, coupling.vat(r))

    weights = resample.subsample_weights(key, count, draws, share, shift.dtype)
    nvat, agreed = resample.map_resamples(weights, subsampled, shift.size)
    low, high = jnp.nanquantile(nvat, jnp.asarray([0.025, 0.975], nvat.dtype))
    return Robustness(
        Estimate(coupling.nvat(whole), low, high), jnp.nanstd(nvat), jnp.nanmean(agreed), jnp.nanquantile(agreed, 0.05)
    )


class Stability(NamedTuple):
    """Stability of the coupling across scenes.

    Attributes:
        split_half: correlation of R from one half of the scenes with R from the other, over pairs of values, stepped up to all
            scenes by Spearman and Brown's formula.
        dropped: the largest share of scenes that can be left out so that in 95 % of subsamples the order of VAT still
            correlates .7 with that on all scenes (the CS coefficient, at most .75); 0 where not even 5 % can.
    """

    split_half: Array
    dropped: Array


def stability(
    shift: Array, clusters: Any, key: Array | int, draws: int = 100, missing: bool | None = None
) -> Stability:
    """Computes the split-half reliability of R, and the share of scenes that can be dropped with the same order of VAT.

    Args:
        shift: [contexts, values].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key or a seed.
        draws: number of subsamples of each share, and of halvings.
        missing: as in `spearman`.

    Paper: Epskamp, Borsboom and Fried 2018, "Estimating psychological networks and their accuracy".
    """
    shift, index, count, levels, missing = _prepared(shift, clusters, missing)
    measured: Stability = _stability(shift, index, as_key(key), count, levels, missing, draws)
    return measured


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _stability(
    shift: Array, index: Array, key: Array, count: int, levels: int | None, missing: bool, draws: int
) -> Stability:
    prepared = resample.prepare(shift, index, count, levels, missing)
    tax = coupling.vat(prepared.coupling(jnp.ones(count, shift.dtype)))
    sizes = jnp.asarray([max(2, round((1 - share) * count)) for share in (*_DROPPED, 0.5)])
    places = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key, draws))
    weights = (places[None] < sizes[:, None, None]).astype(shift.dtype)  # [shares, draws, clusters]

    def agrees(w: Array) -> Array:
        return rank_agreement(tax, coupling.vat(prepared.coupling(w)))

    agreed = resample.map_resamples(weights[:-1].reshape(-1, count), agrees, shift.size).reshape(len(_DROPPED), draws)
    stable = jnp.mean((agreed >= STABLE).astype(shift.dtype), 1) >= 0.95
    shares = jnp.asarray(_DROPPED, shift.dtype)
    dropped = jnp.max(jnp.where(jnp.cumprod(stable.astype(jnp.int32)) > 0, shares, 0), initial=0)

    def halves(w: Array) -> Array:
        first, second = prepared.coupling(w), prepared.coupling(1 - w)
        sound = coupling.off_diagonal(first) & coupling.off_diagonal(second)
        return pearson(first, second, sound)

    half = jnp.nanmean(resample.map_resamples(weights[-1], halves, shift.size))
    return Stability(spearman_brown(half), dropped)


def pearson(x: Array, y: Array, where: Array) -> Array:
    """Computes Pearson's correlation of two arrays over the chosen entries, scalar."""
    x, y = (jnp.where(where, part - _mean(part, where), 0) for part in (x, y))
    bottom = jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2))
    return jnp.where(bottom > 0, jnp.sum(x * y) / jnp.where(bottom > 0, bottom, 1), jnp.nan)


def spearman_brown(half: Array, times: float = 2) -> Array:
    """Returns the reliability of a test `times` as long, `k r / (1 + (k - 1) r)`."""
    return times * half / (1 + (times - 1) * half)


# Reliability of scores ----------------------------------------------------------------------------------------------


def reliability(replicates: Arrayish) -> Array:
    """Computes Cronbach's alpha of the mean of replicates, for each value, over contexts, [values].

        alpha = k / (k - 1) * (1 - sum_k var(x_k) / var(sum_k x_k))

    Replicates are scores that should agree: wordings, halves of the items, or the member values of a type. Contexts that
    lack one are left out. At most 1; negative where replicates contradict each other.

    Args:
        replicates: [replicates, contexts, values].
    """
    xp = namespace(replicates)
    x = replicates
    if x.ndim != 3 or x.shape[0] < 2:
        raise ValueError(f"expected [2 or more replicates, contexts, values], found the shape {x.shape}")
    present = xp.all(~xp.isnan(x), 0)
    count = xp.sum(present, 0).astype(x.dtype)

    def variance(y: Array) -> Array:
        """Computes the variance over contexts, [..., values]."""
        where = prepend_axes(present, y)
        number = prepend_axes(xp.maximum(count, 1)[None], y)
        mean = xp.sum(xp.where(where, y, 0), -2, keepdims=True) / number
        square = xp.sum(xp.where(where, y - mean, 0) ** 2, -2)
        return square / prepend_axes(xp.maximum(count - 1, 1), square)

    total, parts = variance(xp.sum(x, 0)), xp.sum(variance(x), 0)
    k = x.shape[0]
    sound = (total > 0) & (count > 1)
    return xp.where(sound, k / (k - 1) * (1 - parts / xp.where(sound, total, 1)), np.nan)


def disattenuate(r: Arrayish, reliability: Arrayish) -> Array:
    """Returns R without the attenuation by noise in both scores, `R_vw / sqrt(rel_v rel_w)`, within [-1, 1].

    NaN where a reliability is not above 0. Noise that both scores share is not removed.

    Args:
        r: [values, values].
        reliability: [values].
    """
    xp = namespace(r, reliability)
    sound = reliability > 0
    scale = xp.sqrt(xp.where(sound, reliability, 1))
    clean = xp.clip(r / (scale[:, None] * scale[None, :]), -1, 1)
    identity = xp.eye(len(r), dtype=bool)
    return xp.where(sound[:, None] & sound[None, :], xp.where(identity, r, clean), np.nan)
