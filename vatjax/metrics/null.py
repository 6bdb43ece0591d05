"""The noise floor: what coupling independent values would show with as many contexts, clustered in the same way.

Two nulls. Where all clusters have the same size, whole clusters are permuted, independently for each value, with the
order inside a cluster kept. Otherwise blocks of different length can't change places, and the centred ranks of each
cluster change their sign together instead. (Permuting concatenated blocks of unequal size raised 34 to 64 % false alarms
at a level of 5 % in simulation.)

`labelled` states are made by one agreement a context times fixed labels, and the labels alone create coupling: there the
agreement shifts are exchanged and the labels are kept. Contexts without a label have no agreement to give away, and
missing ratings must stay where they are, since every pair of columns rests on the contexts that both have: signs are
flipped where there are any.

Ipsatised shifts are judged against columns that are independent once a common response style is taken away, each with the
spread that is its own, and ipsatised again: a style that moves all values alike, however strongly, is no coupling there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import coupling as cp
from vatjax.metrics import ranks as rk
from vatjax.metrics import resample as rs
from vatjax.metrics.shifts import as_floating, ipsatise

Array = jax.Array

# More clusters than this are exchanged in blocks of neighbours: a random order is drawn by sorting, which is slow.
_BLOCKS = 1024
_ORDERS = 256
_EXPECTED_DRAWS = 200

Exchange = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]


class Null(NamedTuple):
    """Draws from the null.

    Attributes:
        nvat: [resamples], the root mean square correlation of each draw.
        vat: [resamples, values].
        gini: [resamples].
        expected: [values, values], `E0[R]`: what ipsatising makes of independent columns, or labels of labelled ones; 0
            otherwise.
    """

    nvat: Array
    vat: Array
    gini: Array
    expected: Array


def floor(
    shift: Array,
    clusters: Any,
    key: Array,
    resamples: int = 2000,
    ipsatised: bool = False,
    labels: Array | None = None,
    missing: bool | None = None,
) -> Null:
    """What nVAT, VAT and Gini are where values are independent of each other.

    Statistics are of `R - E0[R]` where the null itself has a coupling: for ipsatised shifts, and for labelled ones. More
    than 1,024 clusters are exchanged in blocks of neighbours; clusters that fill no block stay where they are. Where
    ratings are missing, each pair is compared on the contexts that both have, by the ranks within the whole column; a
    statistic is NaN in the draws in which no pair is left.

    Args:
        shift: [contexts, values]; raw, also for `ipsatised`.
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key.
        resamples: how many draws.
        ipsatised: draw from the raw shift and ipsatise each draw.
        labels: [contexts, values] in {-1, 0, 1} of a `labelled` state, where the shift is agreement times label.
        missing: as in `spearman`.

    Returns:
        Draws of the statistics: their mean is the floor, and the p-value of a measured statistic is the share of draws
        that reach it.
    """
    shift = as_floating(shift)
    groups = rs.clusters_of(clusters, shift.shape[0])
    plan = rs.plan(shift, groups, missing)
    plan = dataclasses.replace(plan, flips=flips(groups, plan.missing, labels))
    drawn: Null = draws(shift, key, signs(labels, shift), plan, resamples, ipsatised)
    return drawn


def signs(labels: Array | None, shift: Array) -> Array | None:
    """Labels as numbers of the shift's kind."""
    return None if labels is None else jnp.asarray(labels, shift.dtype)


def flips(groups: rs.Clusters, missing: bool, labels: Array | None = None) -> bool:
    """Whether the null has to flip signs: clusters differ in size, or ratings or labels are missing."""
    if labels is None:
        return missing or not groups.equal
    if isinstance(labels, jax.core.Tracer):
        raise TypeError(
            "labels decide which null fits and must be concrete: close over them instead of passing them in"
        )
    if not np.isin(np.asarray(labels), (-1, 0, 1)).all():
        raise ValueError("labels are -1, 0 or 1")
    return missing or not groups.equal or not np.any(np.asarray(labels) != 0, axis=1).all()


@functools.partial(jax.jit, static_argnames=("plan", "resamples", "ipsatised"))
def draws(shift: Array, key: Array, labels: Array | None, plan: rs.Plan, resamples: int, ipsatised: bool) -> Null:
    """`floor` for a caller that knows whether ratings are missing and which null fits."""
    keys = jax.random.split(key, resamples)
    exchange = exchanger(plan.clusters, key, plan.flips)
    couple = _coupling_of if plan.missing else _complete_coupling_of
    if labels is None and not ipsatised:
        z = rk.midranks(rk.rank(shift), jnp.ones(shift.shape[0], shift.dtype))
        present = (~jnp.isnan(shift)).astype(shift.dtype)
        # The ranks of an exchanged column are the exchanged ranks: nothing is sorted again.
        return _statistics(lambda key: couple(*exchange(key, (z, present))), keys, shift.size, None)
    plain = ipsatise(shift)
    draw = _exchanged(own_spread(plain), exchange) if labels is None else _relabelled(shift, labels, exchange)
    rank = _ranking(plain if ipsatised else shift)

    def coupled(drawn: Array) -> Array:
        return couple(rank(drawn), (~jnp.isnan(drawn)).astype(drawn.dtype))

    def taken(key: Array) -> Array:
        drawn = draw(key)
        return ipsatise(drawn) if ipsatised else drawn

    if labels is None:
        # What ipsatising makes is taken off each draw as off the data: from its own spreads, with their error.
        own = _statistics(lambda key: _less_mechanical(taken(key), coupled), keys, shift.size, None)
        return own._replace(expected=mechanical_coupling(plain))
    others = jax.random.split(jax.random.fold_in(key, 1), _EXPECTED_DRAWS)
    expected = jnp.nanmean(rs.over(others, lambda key: coupled(taken(key)), shift.size), 0)
    return _statistics(lambda key: coupled(taken(key)), keys, shift.size, expected)


def _ranking(like: Array) -> Callable[[Array], Array]:
    """Centred midranks of draws that are like these shifts."""
    if len(like) <= rk.FEW_CONTEXTS:
        return rk.compared_midranks
    typical = rk.typical(like)
    return lambda drawn: rk.binned_midranks(drawn, *typical)


def _less_mechanical(drawn: Array, coupled: Callable[[Array], Array]) -> Array:
    return remove(coupled(drawn), mechanical_coupling(drawn))


def exchanger(groups: rs.Clusters, key: Array, flips: bool) -> Exchange:
    """A function that exchanges whole clusters of centred columns, independently for each column.

    It takes a key and arrays [contexts, values] that belong together: the first is permuted or changes its sign, the
    others (masks) are permuted along or stay.

    Args:
        groups: of the contexts.
        key: for the random orders. A draw takes, for each column, one of 256 of them at a random start: sorting anew for
            every column of every draw would be nearly all of the work.
        flips: change signs instead of places, as clusters of different sizes must.
    """
    if flips:

        def flip(key: Array, columns: tuple[Array, ...]) -> tuple[Array, ...]:
            first, *rest = columns
            sign = jax.random.rademacher(key, (groups.count, first.shape[1]), first.dtype)
            return first * sign[groups.index], *rest

        return flip
    by_cluster = np.argsort(groups.index, kind="stable")
    back = np.argsort(by_cluster)
    each = -(-groups.count // _BLOCKS)  # clusters to a block
    blocks = groups.count // each
    used = blocks * each * int(groups.sizes[0])  # what is left over stays where it is
    orders = jnp.argsort(jax.random.bits(jax.random.fold_in(key, 2), (_ORDERS, blocks)), axis=1)

    def permute(key: Array, columns: tuple[Array, ...]) -> tuple[Array, ...]:
        values = columns[0].shape[1]
        which, start = (
            jax.random.randint(k, (1, values), 0, m)
            for k, m in zip(jax.random.split(key), (_ORDERS, blocks), strict=True)
        )
        place = (jnp.arange(blocks, dtype=start.dtype)[:, None] + start) % blocks
        order = orders[which, place]

        def moved(x: Array) -> Array:
            grouped = x[by_cluster]
            cut = grouped[:used].reshape(blocks, used // blocks, values)
            cut = jnp.take_along_axis(cut, order[:, None, :], axis=0).reshape(used, values)
            return jnp.concatenate([cut, grouped[used:]])[back]

        return tuple(moved(x) for x in columns)

    return permute


def _complete_coupling_of(z: Array, present: Array) -> Array:
    """R from ranks of complete columns, centred anew, since flips move a column's mean; others are NaN, as measured."""
    r = rk.correlation(z - jnp.mean(z, 0, keepdims=True), jnp.ones(z.shape[0], z.dtype))
    return rk.among(r, jnp.all(present > 0, axis=0))


def _coupling_of(z: Array, present: Array) -> Array:
    """R from centred ranks, each pair over the contexts that both have."""

    def product(x: Array, y: Array) -> Array:
        return jnp.einsum("nv,nw->vw", x, y, precision=rk.EXACT)

    count = product(present, present)
    share = 1 / jnp.maximum(count, 1)
    mean, square = product(z, present) * share, product(z * z, present) * share
    covariance = product(z, z) * share - mean * mean.T
    variance = square - mean**2
    varies = (variance > rk.NO_VARIANCE) & (variance > 1e-5 * square)  # less is what rounding leaves of nothing
    sound = varies & varies.T
    scale = jnp.sqrt(jnp.where(sound, variance * variance.T, 1))
    r = jnp.where(sound, jnp.clip(covariance / scale, -1, 1), jnp.nan)
    return jnp.where(jnp.eye(r.shape[0], dtype=bool) & sound, 1, r)


def own_variance(plain: Array) -> tuple[Array, Array]:
    """The variance of each ipsatised column, and the one it had before a common part was taken from all, [1, values].

    Of independent columns with variances s_v^2, ipsatising leaves `s_v^2 (1 - 2 / V) + mean(s^2) / V`; this solves for s_v.
    """
    values = plain.shape[1]
    variance = jnp.nanvar(plain, axis=0, keepdims=True)
    if values < 3:
        return variance, variance
    mean = jnp.nansum(variance) / (values - 1)
    return variance, jnp.maximum((variance - mean / values) / (1 - 2 / values), 0)


def own_spread(plain: Array) -> Array:
    """Ipsatised columns, each stretched to the spread it had before a common part was taken from all."""
    variance, own = own_variance(plain)
    return plain * jnp.sqrt(own / jnp.where(variance > 0, variance, 1))


def mechanical_coupling(plain: Array) -> Array:
    """The coupling that ipsatising alone makes of independent columns with the spreads that these show.

        cov(v, w) = (mean(s^2) - s_v^2 - s_w^2) / V

    turned from Pearson's to Spearman's correlation as for normal columns, `6 / pi asin(r / 2)`; about -1 / (V - 1) where
    spreads are alike.

    Args:
        plain: ipsatised shifts, [contexts, values].
    """
    values = plain.shape[1]
    _, own = own_variance(plain)
    mean = jnp.nanmean(own)
    covariance = (mean - own - own.T) / values
    implied = jnp.maximum(own * (1 - 2 / values) + mean / values, 0)
    scale = jnp.sqrt(implied * implied.T)
    r = jnp.where(scale > 0, jnp.clip(covariance / jnp.where(scale > 0, scale, 1), -1, 1), 0)
    return 6 / np.pi * jnp.arcsin(r / 2)


def _exchanged(shift: Array, exchange: Exchange) -> Callable[[Array], Array]:
    """Draws shifts whose columns are exchanged around their medians."""
    shift = rk.opaque(shift)  # a median sorts
    centre = jnp.nanmedian(shift, axis=0, keepdims=True)
    return lambda key: exchange(key, (shift - centre,))[0] + centre


def _relabelled(shift: Array, labels: Array, exchange: Exchange) -> Callable[[Array], Array]:
    """Draws labelled shifts: the agreement of each context is exchanged around its mean, its labels stay."""
    used = (labels != 0) & ~jnp.isnan(shift)
    count = jnp.sum(used, axis=1, keepdims=True).astype(shift.dtype)
    agreement = jnp.sum(jnp.where(used, shift * labels, 0), axis=1, keepdims=True) / jnp.where(count > 0, count, 1)
    labelled = (count > 0).astype(shift.dtype)
    centre = jnp.sum(agreement) / jnp.maximum(jnp.sum(labelled), 1)
    centred = (agreement - centre) * labelled
    return lambda key: jnp.where(jnp.isnan(shift), jnp.nan, (exchange(key, (centred,))[0] + centre) * labels)


def _statistics(couple: Callable[[Array], Array], keys: Array, ratings: int, expected: Array | None) -> Null:
    """Statistics of each draw, a chunk at a time; no coupling matrix is kept."""

    def statistics(key: Array) -> tuple[Array, Array, Array]:
        r = couple(key) if expected is None else remove(couple(key), expected)
        tax = cp.vat(r)
        return cp.nvat(r), tax, cp.gini(tax)

    nvat, vat, gini = rs.over(keys, statistics, ratings)
    return Null(nvat, vat, gini, jnp.zeros((vat.shape[1],) * 2, vat.dtype) if expected is None else expected)


def remove(coupling: Array, expected: Array) -> Array:
    """`R - E0[R]` off the diagonal; the diagonal stays 1."""
    identity = jnp.eye(expected.shape[0], dtype=bool)
    return jnp.where(identity, coupling, coupling - jnp.where(identity, 0, expected))
