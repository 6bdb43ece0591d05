"""How firm a reading is: amplification with its safeguard, agreement between analyses, hubs at equal membership,
subsamples of the scenes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import coupling as cp
from vatjax.metrics import inference as inf
from vatjax.metrics import intervals as iv
from vatjax.metrics import ranks as rk
from vatjax.metrics import resample as rs
from vatjax.metrics import shifts as sh
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Amplification(NamedTuple):
    """How far values move for each unit of the target's movement, and whether coupled values move farther.

    Attributes:
        ratio: `sum_s abs(d[s, w]) / sum_s abs(d[s, t])`, [values]; means in place of sums, which is the same where
            nothing is missing.
        high, low: the mean ratio of the half of the other values with the higher and with the lower VAT.
        difference: high minus low, with its interval.
    """

    ratio: Array
    high: Array
    low: Array
    difference: Estimate


def amplification(
    shift: Array,
    target: Array | int,
    clusters: Any,
    key: Array,
    splits: int = 50,
    resamples: int = 500,
    missing: bool | None = None,
) -> Amplification:
    """Amplification with its safeguard: groups are chosen on one half of the scenes and compared on the other.

    Choosing and comparing on the same contexts would let noise choose the winners. The difference is the mean over
    `splits` random halvings, each used both ways; its interval is a cluster bootstrap's, given the groups.

    Args:
        shift: [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete.
        key: PRNG key.
        splits: random halvings.
        resamples: draws of the bootstrap.
        missing: as in `spearman`.
    """
    shift = sh.as_floating(shift)
    plan = rs.plan(shift, rs.clusters_of(clusters, shift.shape[0]), missing)
    member = sh.target_mask(target, shift.shape[1])
    measured: Amplification = _amplification(shift, member, key, plan, splits, resamples)
    return measured


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _amplification(
    shift: Array, member: Array, key: Array, plan: rs.Plan, splits: int, resamples: int
) -> Amplification:
    groups = plan.clusters
    prepared = rs.prepare(shift, groups, plan.levels, plan.missing)
    sums, counts = inf.cluster_sums(jnp.abs(shift), groups)
    halves = rs.subsample_weights(key, groups.count, splits, 0.5, shift.dtype)

    def ratios(w: Array) -> Array:
        count = jnp.einsum("c,cv->v", w, counts, precision=rk.EXACT)
        total = jnp.einsum("c,cv->v", w, sums, precision=rk.EXACT)
        size = total / jnp.where(count > 0, count, jnp.nan)
        bottom = _mean(size, member)
        return size / jnp.where(bottom > 0, bottom, jnp.nan)

    def chosen(half: Array) -> tuple[Array, Array]:
        """The more and the less coupled half of the values that are not the target and have a coupling at all."""
        tax = jnp.where(member, jnp.nan, cp.vat(prepared.coupling(half)))
        middle = jnp.nanmedian(tax)
        return tax > middle, tax <= middle

    high, low = rs.over(jnp.concatenate([halves, 1 - halves]), chosen, shift.size)
    others = jnp.concatenate([1 - halves, halves])

    def compared(w: Array) -> tuple[Array, Array]:
        def one(high: Array, low: Array, other: Array) -> tuple[Array, Array]:
            ratio = ratios(w * other)
            return _mean(ratio, high), _mean(ratio, low)

        top, bottom = jax.vmap(one)(high, low, others)
        return jnp.nanmean(top), jnp.nanmean(bottom)

    ones = jnp.ones(groups.count, shift.dtype)
    top, bottom = compared(ones)
    weights = rs.bootstrap_weights(jax.random.fold_in(key, 1), groups.count, resamples, shift.dtype)
    draws = rs.over(weights, lambda w: jnp.subtract(*compared(w)), shift.shape[1] * splits * 8)
    left_out = rs.over(
        rs.jackknife_weights(groups.count, shift.dtype),
        lambda w: jnp.subtract(*compared(w)),
        shift.shape[1] * splits * 8,
    )
    freedom = left_out.shape[0] - 1
    t = iv.t_quantile(freedom, freedom, shift.dtype)
    gap = Estimate(top - bottom, *iv.bca(top - bottom, draws, left_out, t, freedom + 1))
    return Amplification(ratios(ones), top, bottom, gap)


def _mean(x: Array, where: Array) -> Array:
    sound = where & ~jnp.isnan(x)
    count = jnp.sum(sound).astype(x.dtype)
    return jnp.sum(jnp.where(sound, x, 0)) / jnp.where(count > 0, count, jnp.nan)


# Agreement ----------------------------------------------------------------------------------------------------------


@jax.jit
def agreement(x: Array, y: Array) -> Array:
    """Spearman's correlation of two rankings of the same things, such as VAT by Spearman and by Kendall, [values].

    Entries that either lacks are left out.
    """
    return cp.spearman(jnp.stack([x, y], axis=1), missing=True)[0, 1]


def types_against_values(vat_types: Array, vat_values: Array, type_of: np.ndarray) -> Array:
    """How well the ranking of types by their own VAT agrees with that by the mean VAT of their member values.

    Args:
        vat_types: [types], from the analysis of types.
        vat_values: [values], from the analysis of values.
        type_of: [values], each value's type.
    """
    member = jnp.asarray(np.asarray(type_of)[None, :] == np.arange(vat_types.shape[0])[:, None])
    means = jax.vmap(lambda mask: _mean(vat_values, mask))(member)
    agreed: Array = agreement(vat_types, means)
    return agreed


def equal_membership_hubs(
    shift: Array, type_of: np.ndarray, key: Array, draws: int = 200, members: int | None = None, top: int = 3
) -> Array:
    """How often each type is among the `top` hubs where every type is made of equally many values, [types].

    The mean of many values is less noisy than that of few, so that large types look more coupled. Each draw takes as
    many values of each type as the smallest type has.

    Args:
        shift: [contexts, values].
        type_of: [values], each value's type, concrete.
        key: PRNG key.
        draws: how many.
        members: values a type; by default those of the smallest type.
        top: how many types count as hubs.
    """
    shift = sh.as_floating(shift)
    type_of = np.asarray(type_of)
    sizes = np.bincount(type_of)
    each = int(sizes.min()) if members is None else members
    if not 1 <= each <= sizes.min():
        raise ValueError(f"between 1 and {sizes.min()} members can be drawn of every type, found {each}")
    taken: Array = _equal_membership(shift, key, tuple(type_of.tolist()), draws, each, top, cp.has_missing(shift))
    return taken


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _equal_membership(
    shift: Array, key: Array, type_of: tuple[int, ...], draws: int, each: int, top: int, missing: bool
) -> Array:
    groups = [np.flatnonzero(np.asarray(type_of) == i) for i in range(max(type_of) + 1)]

    def one(key: Array) -> Array:
        keys = jax.random.split(key, len(groups))
        picked = [jax.random.permutation(k, jnp.asarray(group))[:each] for k, group in zip(keys, groups, strict=True)]
        columns = jnp.stack([jnp.nanmean(shift[:, columns], axis=1) for columns in picked], axis=1)
        return cp.hubs(cp.vat(cp.spearman(columns, missing=missing)), top)

    taken = rs.chunked(one, jax.random.split(key, draws), 8)
    return jnp.mean(taken.astype(shift.dtype), 0)


class Robustness(NamedTuple):
    """What is left of a result when a fifth of the scenes is left out.

    Attributes:
        nvat: on all scenes, and between which values 95 % of the subsamples lie.
        agreement: the mean rank agreement of value-level taxes with those on all scenes.
        least: the 5th percentile of that agreement.
    """

    nvat: Estimate
    agreement: Array
    least: Array


def robustness(
    shift: Array, clusters: Any, key: Array, share: float = 0.8, draws: int = 200, missing: bool | None = None
) -> Robustness:
    """Repeats the coupling on random shares of the scenes, without replacement.

    Args:
        shift: [contexts, values].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key.
        share: of the clusters that is kept.
        draws: how many subsamples.
        missing: as in `spearman`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is above 0 and at most 1, found {share}")
    shift = sh.as_floating(shift)
    plan = rs.plan(shift, rs.clusters_of(clusters, shift.shape[0]), missing)
    repeated: Robustness = _robustness(shift, key, plan, share, draws)
    return repeated


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _robustness(shift: Array, key: Array, plan: rs.Plan, share: float, draws: int) -> Robustness:
    groups = plan.clusters
    prepared = rs.prepare(shift, groups, plan.levels, plan.missing)
    whole = prepared.coupling(jnp.ones(groups.count, shift.dtype))
    tax = cp.vat(whole)

    def one(w: Array) -> tuple[Array, Array]:
        r = prepared.coupling(w)
        return cp.nvat(r), agreement(tax, cp.vat(r))

    weights = rs.subsample_weights(key, groups.count, draws, share, shift.dtype)
    nvat, agreed = rs.over(weights, one, shift.size)
    low, high = jnp.nanquantile(nvat, jnp.asarray([0.025, 0.975], nvat.dtype))
    return Robustness(Estimate(cp.nvat(whole), low, high), jnp.nanmean(agreed), jnp.nanquantile(agreed, 0.05))
