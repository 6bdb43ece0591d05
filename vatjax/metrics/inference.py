"""The tax with what makes it readable: intervals, the noise floor, the debiased value, p; raw and ipsatised.

    result = metrics.infer(pre, post, target, clusters, key)
    result.gain.estimate, result.gain.low, result.gain.high
    result.raw.debiased                      # nVAT without the noise's share, and its interval
    result.raw.p, result.first.gain_p

How each interval and each p is made:

    gain, shift   cluster bootstrap, BCa (below ten clusters the jackknife's, t); p by sign flips of whole clusters
    gnd           Fieller: a ratio of two estimated means, with the clusters' covariance
    off target    delete-one-cluster jackknife, t; the low end allows for the floor; p by the same sign flips
    coupling      delete-one-cluster jackknife on Fisher's z
    vat           delete-one-cluster jackknife, t; the low end allows for the floor; floor and p from the null of coupling
    gini          delete-one-cluster jackknife, t, of the measured value; floor and p from the null of coupling
    debiased      that of the debiased square, `[0, high]` where it can't be told from 0; floor and p from that null

The jackknife leaves out groups of clusters where there are more than 256 of them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vatjax.metrics import coupling as cp
from vatjax.metrics import intervals as iv
from vatjax.metrics import null as nl
from vatjax.metrics import ranks as rk
from vatjax.metrics import resample as rs
from vatjax.metrics import shifts as sh
from vatjax.metrics.intervals import LEVEL, Estimate

Array = jax.Array

# With fewer clusters a bootstrap of a mean covers too rarely.
FEW_CLUSTERS = 10


class Moved(NamedTuple):
    """First order: how far values moved.

    Attributes:
        gain: scalar.
        gain_p: two-sided, against shifts that are as likely to be up as down in every cluster.
        resolved: whether the gain's interval is clear of 0; where it is not, every GND is NaN.
        shift: mean shift, [values].
        shift_p: as `gain_p`, [values].
        gnd: gain-normalised deviation, [values].
        off_target: mean absolute GND off target, scalar.
        off_target_floor: what it would be if only noise moved the other values: absolute values never average to 0.
        off_target_p: how often noise reaches the measured one.
    """

    gain: Estimate
    gain_p: Array
    resolved: Array
    shift: Estimate
    shift_p: Array
    gnd: Estimate
    off_target: Estimate
    off_target_floor: Array
    off_target_p: Array


class Coupled(NamedTuple):
    """How values move together.

    Attributes:
        coupling: R, [values, values].
        vat: value-level tax, [values].
        nvat: system-level tax, reading "rms", as measured; its interval is that of `debiased`, up to what was measured.
        debiased: nVAT after the noise's share is taken off its square.
        gini: concentration of `vat`.
        floor, vat_floor, gini_floor: what independent values would show; scalar, [values], scalar.
        floor_high, vat_floor_high, gini_floor_high: the 95th percentiles of that.
        p, vat_p, gini_p: how often independent values reach the measured nVAT, VAT and Gini.
        hub_share: the share of bootstrap resamples in which each value is among the three highest, [values].
        expected: what the null itself expects of R, [values, values]; taken off before everything but `coupling`.
    """

    coupling: Estimate
    vat: Estimate
    nvat: Estimate
    debiased: Estimate
    gini: Estimate
    floor: Array
    floor_high: Array
    vat_floor: Array
    vat_floor_high: Array
    gini_floor: Array
    gini_floor_high: Array
    p: Array
    vat_p: Array
    gini_p: Array
    hub_share: Array
    expected: Array


class Tax(NamedTuple):
    """Point estimates of everything.

    Attributes:
        gain: scalar.
        shift: mean shift, [values].
        gnd: gain-normalised deviation, [values].
        off_target: mean absolute GND off target, scalar.
        coupling: R, [values, values].
        vat: [values].
        nvat: scalar, reading "rms".
        gini: scalar.
    """

    gain: Array
    shift: Array
    gnd: Array
    off_target: Array
    coupling: Array
    vat: Array
    nvat: Array
    gini: Array


class Inference(NamedTuple):
    """The tax of one intervention.

    Attributes:
        contexts, clusters: what the numbers rest on.
        first: how far values moved; its parts are also at hand as `gain`, `resolved`, `shift`, `gnd` and `off_target`.
        ipsatised_first: the same after each context's mean is taken away.
        mechanical: the off-target GND that ipsatising alone makes; against the target's own shift.
        raw: coupling of the shifts as they are.
        ipsatised: coupling after each context's mean is taken away, judged against its own null.
    """

    contexts: int
    clusters: int
    first: Moved
    ipsatised_first: Moved
    mechanical: Array
    raw: Coupled
    ipsatised: Coupled

    @property
    def gain(self) -> Estimate:
        """How far the target moved in the wanted direction, scalar."""
        return self.first.gain

    @property
    def resolved(self) -> Array:
        """Whether the gain's interval is clear of 0."""
        return self.first.resolved

    @property
    def shift(self) -> Estimate:
        """Mean shift, [values]."""
        return self.first.shift

    @property
    def gnd(self) -> Estimate:
        """Gain-normalised deviation, [values]."""
        return self.first.gnd

    @property
    def off_target(self) -> Estimate:
        """Mean absolute GND off target, scalar."""
        return self.first.off_target


def tax(pre: Array, post: Array, target: Array | int, direction: int = 1, missing: bool | None = None) -> Tax:
    """Point estimates of the tax, in one call that composes with `jit`, `vmap` and `grad`.

    Args:
        pre, post: value states of the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        direction: +1 where the target was to be expressed, -1 where it was to be suppressed.
        missing: whether to couple columns pair by pair, as in `spearman`: traced data with missing ratings need True.
    """
    d = sh.shift(pre, post)
    mean = sh.mean_shift(d)
    gain = sh.gain_of(mean, target, direction)
    gnd = sh.gnd_of(mean, gain)
    r = cp.spearman(d, missing=missing)
    vat = cp.vat(r)
    return Tax(gain, mean, gnd, sh.off_target(gnd, target), r, vat, cp.nvat(r), cp.gini(vat))


def infer(
    pre: Array,
    post: Array,
    target: Array | int,
    clusters: Any,
    key: Array,
    direction: int = 1,
    resamples: int = 2000,
    labels: Array | None = None,
    missing: bool | None = None,
) -> Inference:
    """The tax with intervals, floor, debiased value and p, raw and ipsatised.

    Args:
        pre, post: value states of the same contexts, [contexts, values]; NaN is missing.
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels of scenes, concrete; None makes each context its own cluster.
        key: PRNG key.
        direction: +1 or -1.
        resamples: draws of the bootstrap and of the null.
        labels: [contexts, values] in {-1, 0, 1} for `labelled` states, whose labels alone create coupling; concrete.
        missing: whether to couple columns pair by pair, as in `spearman`: traced data with missing ratings need True.
    """
    d = sh.finite(sh.as_matrix(sh.shift(pre, post)))
    if resamples < 1:
        raise ValueError(f"at least one resample is needed, found {resamples}")
    groups = rs.clusters_of(clusters, d.shape[0])
    member, sign = sh.target_mask(target, d.shape[1]), jnp.asarray(sh.directed(direction), d.dtype)
    keys = jax.random.split(key, 4)
    weights = rs.bootstrap_weights(keys[0], groups.count, resamples, d.dtype)
    plan = rs.plan(d, groups, missing, weights)
    plan = dataclasses.replace(plan, flips=nl.flips(groups, plan.missing, labels))
    left_out = rs.jackknife_weights(groups.count, d.dtype)
    flips = jax.random.rademacher(keys[3], weights.shape, d.dtype)
    plain = sh.ipsatise(d)
    first, own_first = (first_order(x, member, sign, weights, left_out, flips, plan) for x in (d, plain))
    null, own_null = (
        nl.draws(d, key, nl.signs(labels, d), plan, resamples, ipsatised)
        for key, ipsatised in ((keys[1], False), (keys[2], True))
    )
    return Inference(
        contexts=d.shape[0],
        clusters=groups.count,
        first=first,
        ipsatised_first=own_first,
        mechanical=sh.mechanical(member, d.shape[1]).astype(d.dtype) * jnp.sign(sign * first.gain.estimate),
        raw=coupled(d, null, weights, left_out, plan),
        ipsatised=coupled(plain, own_null, weights, left_out, dataclasses.replace(plan, levels=0)),
    )


# First order --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="plan")
def first_order(
    d: Array, member: Array, sign: Array, weights: Array, left_out: Array, flips: Array, plan: rs.Plan
) -> Moved:
    """Gain, mean shifts and GND, each with its interval and its p.

    Means under cluster weights are ratios of two matrix products of cluster sums, so that a resample costs C x V.

    Args:
        d: [contexts, values].
        member: of the target, [values] bool.
        sign: the direction.
        weights, left_out: of the bootstrap and of the jackknife, [resamples, clusters].
        flips: +1 or -1 for each cluster, [resamples, clusters].
        plan: of the contexts' clusters.
    """
    groups = plan.clusters
    sums, counts = cluster_sums(d, groups)

    def means(top: Array, bottom: Array) -> Array:
        total = jnp.einsum("bc,cv->bv", bottom, counts, precision=rk.EXACT)
        moved = jnp.einsum("bc,cv->bv", top, sums, precision=rk.EXACT)
        return jnp.where(total > 0, moved / jnp.where(total > 0, total, 1), jnp.nan)

    def gains(mean: Array) -> Array:
        return jax.vmap(lambda x: sh.gain_of(x, member, sign))(mean)

    def sizes(mean: Array) -> Array:
        """The mean absolute shift off target."""
        return jax.vmap(lambda x: sh.off_target(x, member))(mean)

    ones = jnp.ones((1, groups.count), d.dtype)
    now, draws, without = means(ones, ones), means(weights, weights), means(left_out, left_out)
    noise = means(flips, jnp.ones_like(flips))
    top, size = gains(now)[0], sizes(now)[0]

    resting, resting_gain = rests_on(counts, left_out, member)
    t, t_gain = (iv.t_quantile(k - 1, left_out.shape[0] - 1, d.dtype) for k in (resting, resting_gain))
    # What was summed up, without signs: rounding is relative to it.
    spans = jnp.sum(jnp.abs(sums), 0) / jnp.maximum(jnp.sum(counts, 0), 1)
    span = jnp.max(jnp.where(member, spans, 0))

    mean = _mean_interval(now[0], draws, without, t, resting, spans)
    gain_without = gains(without)
    gain = _mean_interval(top, gains(draws), gain_without, t_gain, resting_gain, span)
    resolved = ((gain.low > 0) | (gain.high < 0)) & (top**2 > t_gain**2 * iv.jackknife_variance(gain_without))
    low, high = (
        jnp.where(resolved, end, jnp.nan) for end in iv.fieller(now[0], top, without, gain_without, jnp.fmax(t, t_gain))
    )
    bottom = jnp.where(resolved, jnp.abs(top), jnp.nan)
    errors = jnp.sqrt(iv.jackknife_variance(without))
    floor = sh.off_target(iv.noise_of(errors), member) / bottom
    off = iv.biased_interval(size / bottom, sizes(without) / jnp.abs(gain_without), t_gain, floor)
    return Moved(
        gain=gain,
        gain_p=p_value(jnp.abs(top), jnp.abs(gains(noise)), span),
        resolved=resolved,
        shift=mean,
        shift_p=p_value(jnp.abs(now[0]), jnp.abs(noise), spans),
        gnd=Estimate(sh.gnd_of(now[0], top, resolved), low, high),
        off_target=off,
        off_target_floor=floor,
        off_target_p=p_value(size, sizes(noise), jnp.max(spans)),
    )


def _mean_interval(estimate: Array, draws: Array, without: Array, t: Array, resting: Array, size: Array) -> Estimate:
    """BCa, and where an entry rests on few clusters the jackknife's: there resamples are too much alike."""
    low, high = iv.bca(estimate, draws, without, t, resting, size)
    plain = iv.jackknife_interval(estimate, without, t)
    few = resting < FEW_CLUSTERS
    return Estimate(estimate, jnp.where(few, plain.low, low), jnp.where(few, plain.high, high))


def rests_on(counts: Array, left_out: Array, member: Array) -> tuple[Array, Array]:
    """How many clusters (or groups of them) have ratings of each column, [values], and of any of the target's."""
    rated = jnp.einsum("gc,cv->gv", 1 - left_out, counts, precision=rk.EXACT) > 0
    return jnp.sum(rated, 0), jnp.sum(jnp.any(rated & member[None, :], 1))


def cluster_sums(d: Array, groups: rs.Clusters) -> tuple[Array, Array]:
    """The sum and the number of ratings in each cluster, each [clusters, values]."""
    present = ~jnp.isnan(d)
    index = jnp.asarray(groups.index)
    zeros = jnp.zeros((groups.count, d.shape[1]), d.dtype)
    return zeros.at[index].add(jnp.where(present, d, 0)), zeros.at[index].add(present.astype(d.dtype))


# Coupling -----------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="plan")
def coupled(d: Array, null: nl.Null, weights: Array, left_out: Array, plan: rs.Plan) -> Coupled:
    """Everything about R, from one pass over the jackknife and one over the bootstrap.

    Args:
        d: [contexts, values].
        null: draws for these shifts.
        weights, left_out: of the bootstrap and of the jackknife, [resamples, clusters].
        plan: how to prepare the columns.
    """
    prepared = rs.prepare(d, plan.clusters, plan.levels, plan.missing)

    def excess(r: Array) -> Array:
        return nl.remove(r, null.expected)

    r = prepared.coupling(jnp.ones(left_out.shape[1], left_out.dtype))
    without = rs.over(left_out, prepared.coupling, d.size)
    t = iv.t_quantile(left_out.shape[0] - 1, left_out.shape[0] - 1, r.dtype)
    variance = iv.jackknife_variance(without)
    square, squares, sound = debiased_square(excess(r), jax.vmap(excess)(without))
    debiased = iv.root_interval(square, jnp.sqrt(iv.jackknife_variance(squares)), t)
    vat, nvat = cp.vat(excess(r)), cp.nvat(excess(r))
    gini = cp.gini(vat)
    vats = jax.vmap(lambda one: cp.vat(jnp.where(sound, excess(one), jnp.nan)))(without)
    drawn = prepared.skipping(plan.kept)
    spread = iv.jackknife_interval(gini, jax.vmap(cp.gini)(vats), t)
    # What independent values show of nVAT, of Gini and of each VAT.
    shown = jnp.column_stack([null.nvat, null.gini, null.vat])
    floor, high = jnp.nanmean(shown, 0), jnp.nanquantile(shown, LEVEL, axis=0)
    p = p_value(jnp.concatenate([nvat[None], gini[None], vat]), shown, jnp.ones((), r.dtype))
    taken = rs.over(weights, lambda w: cp.hubs(cp.vat(excess(drawn.coupling(w)))), d.size)
    return Coupled(
        coupling=Estimate(r, *iv.fisher(r, variance, t)),
        vat=iv.biased_interval(vat, vats, t, floor[2:], most=1),
        nvat=Estimate(nvat, debiased.low, jnp.maximum(debiased.high, nvat)),
        debiased=debiased,
        gini=Estimate(gini, jnp.maximum(spread.low, 0), jnp.minimum(spread.high, 1)),
        floor=floor[0],
        floor_high=high[0],
        vat_floor=floor[2:],
        vat_floor_high=high[2:],
        gini_floor=floor[1],
        gini_floor_high=high[1],
        p=p[0],
        vat_p=p[2:],
        gini_p=p[1],
        hub_share=jnp.mean(taken.astype(r.dtype), 0),
        expected=null.expected,
    )


def debiased_square(r: Array, left_out: Array) -> tuple[Array, Array, Array]:
    """The mean square correlation without the noise's share, `mean_off(r^2) - mean_off(jackknife variance of r)`.

    A pair of columns of which one varies in a single cluster has no variance; it is left out of both means.

    Args:
        r: [values, values].
        left_out: [groups, values, values].

    Returns:
        (the debiased square; the mean square of each left-out R, [groups], for its error; the pairs in use,
        [values, values] bool).
    """
    variance = iv.jackknife_variance(left_out)
    sound = cp.off_diagonal(r) & ~jnp.isnan(variance)
    count = jnp.sum(sound).astype(r.dtype)

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(sound, x, 0)) / jnp.where(count > 0, count, jnp.nan)

    return mean(r**2) - mean(variance), jax.vmap(mean)(left_out**2), sound


def p_value(observed: Array, null: Array, size: Array) -> Array:
    """How often the null reaches what was observed, `(1 + #) / (1 + draws)`, over the draws that have a value.

    Args:
        observed: [...].
        null: [draws, ...].
        size: of the numbers that were summed up, [...] or scalar: draws within their rounding have reached it.
    """
    reached = null >= (observed - 16 * iv.rounding(size))[None]
    count = jnp.sum(~jnp.isnan(null), 0).astype(observed.dtype)
    p = (1 + jnp.sum(reached, 0).astype(observed.dtype)) / (1 + count)
    return jnp.where(jnp.isnan(observed) | (count == 0), jnp.nan, p)
