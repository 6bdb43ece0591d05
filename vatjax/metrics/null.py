"""The noise floor: the coupling that independent values show with as many contexts, clustered in the same way.

The null flips the sign of each cluster's centred ranks, independently for each value. A flip keeps the strength of a
cluster's reaction, so a mixture of reacting and inert scenes does not count as coupling. The order of rows does not
matter, and clusters may differ in size. Each pair of columns is scaled so that its draws have the variance of
independent columns under these clusters (`pairs.Pairs.null_variance`), over both keys if two crossed ones cluster the
contexts.

Ipsatised and labelled shifts have a nonzero coupling under independence, `E0[R]`, and statistics are computed from
`R - E0[R]`. For ipsatised shifts E0 is drawn: raw cells change their signs before they are ipsatised. A `labelled`
state is one agreement per context times fixed labels: the null exchanges the agreement shifts between contexts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax.metrics import coupling, ranks, resample
from vatjax.metrics.arrays import namespace, prepend_axes
from vatjax.metrics.shifts import ipsatise, largest_rating, round_to_ties

Array = jax.Array

_BITS = 32
# Draws that `ipsatised_coupling` averages: their noise adds a share of 1 / draws to the null's variance. Large tables have
# fewer, so that the work is bounded.
_MOST_EXPECTED, _LEAST_EXPECTED, _EXPECTED_WORK = 256, 64, 5_000_000


class Null(NamedTuple):
    """Draws from the null.

    Attributes:
        nvat: [resamples], the root mean square correlation of each draw.
        vat: [resamples, values].
        gini: [resamples].
        largest: [resamples], the largest correlation of each draw, each pair's in units of its standard error.
        largest_mean: [resamples], the largest mean of each draw, each value's in units of its standard error.
        expected: [values, values], `E0[R]`: the coupling that ipsatising or labels create; 0 otherwise.
    """

    nvat: Array
    vat: Array
    gini: Array
    largest: Array
    largest_mean: Array
    expected: Array


def sign_flip_draws(
    z: Array,
    scale: Array,
    variance: Array,
    deviation: Array,
    cluster: Array,
    expected: Array,
    key: Array,
    resamples: int,
) -> Null:
    """Draws the statistics of independent columns by sign flips of whole clusters.

    Deviations from the means are multiplied by one normal number for all values of a cluster: their sums are noise with
    the correlation between values that the data have.

    Args:
        z: centred midranks, 0 where a rating is missing, [contexts, values].
        scale: of `pairs.Pairs.flip_scale`; pairs with NaN have no correlation.
        variance: of `pairs.Pairs.null_variance`.
        deviation: shifts minus their mean, 0 where missing, [contexts, values].
        cluster: [ways, contexts] int32, numbered from 0.
        expected: `E0[R]`, which is subtracted from the measured R.
        key: PRNG key.
        resamples: how many draws.
    """
    contexts, values = z.shape
    ways = cluster[:2]
    error = jnp.sqrt(variance)
    sums = jnp.stack([jnp.zeros_like(deviation).at[way].add(deviation) for way in ways])
    square = jnp.sum(sums**2, (0, 1))
    sums = sums * jnp.where(square > 0, lax.rsqrt(jnp.where(square > 0, square, 1)), 0)[None, None]

    def drawn(key: Array) -> tuple[Array, ...]:
        bits = jax.random.bits(key, (len(ways), contexts, values), jnp.uint32)  # each bit is the sign of one draw

        def draw(bit: Array) -> tuple[Array, ...]:
            sign = ((bits >> bit) & 1).astype(z.dtype) * 2 - 1
            flipped = jnp.concatenate([z * way[index] for way, index in zip(sign, ways, strict=True)])
            r = scale * jnp.einsum("nv,nw->vw", flipped, flipped, precision=ranks.EXACT)
            return _statistics(r, error)

        # Normal multipliers for the means: signs of few large clusters have lighter tails than Student's t.
        normal = jax.random.normal(jax.random.fold_in(key, 1), (_BITS, len(ways), contexts), z.dtype)
        mean = jnp.einsum("bwn,wnv->bv", normal, sums, precision=ranks.EXACT)
        correlated = resample.map_in_chunks(draw, jnp.arange(_BITS, dtype=jnp.uint32), resample.chunk_size(4 * z.size))
        return *correlated, jnp.max(jnp.abs(mean), 1)

    parts = lax.map(drawn, jax.random.split(key, -(-resamples // _BITS)))
    nvat, vat, gini, largest, means = (part.reshape(-1, *part.shape[2:])[:resamples] for part in parts)
    return Null(nvat, vat, gini, largest, means, expected)


def _statistics(r: Array, error: Array) -> tuple[Array, Array, Array, Array]:
    tax = coupling.vat(r)
    off = coupling.off_diagonal(r)
    largest = jnp.max(jnp.where(off, jnp.abs(r) / jnp.where(error > 0, error, 1), 0))
    return coupling.nvat(r), tax, coupling.gini(tax), largest


def remove_expected(r: Array, expected: Array) -> Array:
    """Returns `R - E0[R]` off the diagonal; the diagonal stays 1."""
    xp = namespace(r)
    identity = xp.eye(expected.shape[0], dtype=bool)
    return xp.where(identity, r, r - prepend_axes(xp.where(identity, 0, expected), r))


# Ipsatised shifts ---------------------------------------------------------------------------------------------------


def expected_draws(shape: tuple[int, ...]) -> int:
    """Returns the number of draws that `ipsatised_coupling` averages for shifts of a shape, [contexts, values]."""
    return int(min(_MOST_EXPECTED, max(_LEAST_EXPECTED, _EXPECTED_WORK // max(1, shape[0] * shape[1]))))


def ipsatised_coupling(shift: Array, key: Array, draws: int = 0) -> Array:
    """Returns the coupling that ipsatising creates between independent columns with these distributions.

    Each context's median and then each column's median is subtracted, which removes a common style and mean shifts.
    Every cell changes its sign at random, which keeps the size of each value's and each context's movement; then the
    draw is ipsatised and ranked. The result is about -1 / (k - 1) for k columns of equal spread, and positive where
    most shifts are 0: there all values that did not move share the small mean that was subtracted.

    Args:
        shift: raw, NaN where missing, [contexts, values].
        key: PRNG key.
        draws: number of draws averaged; by default `expected_draws`.
    """
    draws = draws or expected_draws(shift.shape)
    apart = shift - jnp.nanmedian(ranks.hide_constant(shift), axis=1, keepdims=True)
    apart = apart - jnp.nanmedian(ranks.hide_constant(apart), axis=0, keepdims=True)

    scale_of_ties = largest_rating(shift)

    def draw(key: Array) -> Array:
        signed = apart * jax.random.rademacher(key, shift.shape, shift.dtype)
        plain = round_to_ties(ipsatise(signed), scale_of_ties)
        ranked = ranks.rank(plain)
        z = ranks.midranks(ranked, jnp.ones(len(shift), shift.dtype))
        present = ranked.present.astype(shift.dtype)
        product = jnp.einsum("nv,nw->vw", z, z, precision=ranks.EXACT)
        square = jnp.einsum("nv,nw->vw", z**2, present, precision=ranks.EXACT)
        scale = jnp.sqrt(square * square.T)
        return jnp.where(scale > 0, product / jnp.where(scale > 0, scale, 1), 0)

    return jnp.mean(resample.map_in_chunks(draw, jax.random.split(key, draws), resample.chunk_size(4 * shift.size)), 0)


def ipsatised_coupling_on_host(shift: np.ndarray, key: Array, draws: int = 0) -> np.ndarray:
    """Computes `ipsatised_coupling` from the same signs in NumPy: compiling one more sort takes a second.

    Args:
        shift, key, draws: as in `ipsatised_coupling`; concrete.
    """
    draws = draws or expected_draws(shift.shape)
    apart = shift - _median(shift, 1)
    apart = apart - _median(apart, 0)
    present = ~np.isnan(shift)
    count = np.maximum(present.sum(1, keepdims=True), 1).astype(shift.dtype)
    largest = np.max(np.abs(shift), initial=0, where=present)
    step = np.asarray(1e-6 * largest if largest > 0 else 1, shift.dtype)
    total = np.zeros((shift.shape[1],) * 2)
    for signs in np.asarray(_signs(key, draws, shift.shape)):
        signed = apart * signs.astype(shift.dtype)
        plain = (count * signed - np.where(present, signed, 0).sum(1, keepdims=True)) / count  # as `ipsatise`
        plain = np.round(plain / step) * step  # as `round_to_ties`
        z = _centred_midranks(plain, present)
        square = (z**2).T @ present
        scale = np.sqrt(square * square.T)
        total += np.where(scale > 0, z.T @ z / np.where(scale > 0, scale, 1), 0)
    return (total / draws).astype(shift.dtype)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _signs(key: Array, draws: int, shape: tuple[int, ...]) -> Array:
    """Draws the signs of `ipsatised_coupling`, [draws, ...] int8."""
    return jax.vmap(lambda draw_key: jax.random.rademacher(draw_key, shape, jnp.int8))(jax.random.split(key, draws))


def _median(x: np.ndarray, axis: int) -> np.ndarray:
    """Returns the median of the entries that are not NaN, 0 if all are."""
    ordered, count = np.sort(x, axis), (~np.isnan(x)).sum(axis, keepdims=True)
    low, high = (np.take_along_axis(ordered, np.maximum(place, 0), axis) for place in ((count - 1) // 2, count // 2))
    half = np.asarray(0.5, x.dtype)
    return np.where(count > 0, half * low + half * np.where(count > 0, high, 0), 0)


def _centred_midranks(x: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Computes midranks minus their mean, 0 where missing, [contexts, values] float64."""
    order = np.argsort(x, 0, kind="stable")  # NaN comes last
    ordered, place = np.take_along_axis(x, order, 0), np.arange(len(x))[:, None]
    new = np.ones(x.shape, bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(new, place, 0), 0)
    ends = np.vstack([new[1:], np.ones((1, x.shape[1]), bool)])
    last = np.minimum.accumulate(np.where(ends, place, len(x))[::-1], 0)[::-1]
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, (first + last) / 2, 0)
    return np.where(present, ranks - (present.sum(0) - 1) / 2, 0)


# Labelled states ----------------------------------------------------------------------------------------------------


def exchange_draws(shift: Array, labels: Array, cluster: Array, key: Array, resamples: int) -> Null:
    """Draws the statistics of labelled shifts whose agreement is independent of their labels.

    Clusters of equal size exchange their agreement shifts, in a random order within each; a cluster of unique size
    keeps them. E0[R] is the mean of the draws.

    Args:
        shift: agreement times label, NaN where missing, [contexts, values].
        labels: degree to which each context supports (+) or violates (-) each value, [contexts, values].
        cluster: [contexts] int32, numbered from 0.
        key: PRNG key.
        resamples: how many draws.
    """
    used = (labels != 0) & ~jnp.isnan(shift)
    weight = jnp.where(used, labels, 0)
    bottom = jnp.sum(weight**2, 1)
    # Labels are fixed, so that the least squares fit recovers the agreement exactly.
    agreement = jnp.sum(jnp.where(used, shift * weight, 0), 1) / jnp.where(bottom > 0, bottom, 1)
    present = ~jnp.isnan(shift)
    exchange = _exchange(cluster, bottom > 0)

    def couple(key: Array) -> Array:
        drawn = agreement[exchange(key)][:, None] * labels
        ranked = ranks.rank(jnp.where(present, drawn, jnp.nan))
        return coupling.spearman_complete(ranked, jnp.ones(len(drawn), drawn.dtype))

    keys = jax.random.split(key, resamples)
    expected = jnp.mean(resample.map_in_chunks(couple, keys, resample.chunk_size(4 * shift.size)), 0)

    def draw(key: Array) -> tuple[Array, ...]:
        r = remove_expected(couple(key), expected)
        return *_statistics(r, jnp.ones_like(r))[:3], jnp.where(coupling.off_diagonal(r), r, 0)

    nvat, vat, gini, r = resample.map_in_chunks(draw, keys, resample.chunk_size(4 * shift.size))
    # Columns with equal labels have the same correlation in every draw: they are no evidence, and rounding not a scale.
    error = jnp.sqrt(jnp.mean(r**2, 0))
    varies = error > 64 * float(np.finfo(r.dtype).eps)
    largest = jnp.max(jnp.where(varies[None], jnp.abs(r) / jnp.where(varies, error, 1)[None], 0), (1, 2))
    return Null(nvat, vat, gini, largest, jnp.full_like(largest, jnp.inf), expected)


def _exchange(cluster: Array, labelled: Array) -> Callable[[Array], Array]:
    """Returns a function from a key to the context whose agreement each context takes, [contexts]."""
    n = len(cluster)
    # Contexts without a label lack an agreement: they form a separate kind and are exchanged among themselves.
    size = jnp.zeros(n, jnp.int32).at[cluster].add(labelled.astype(jnp.int32))
    kind = jnp.where(labelled, size[cluster], 0)

    def exchange(key: Array) -> Array:
        first, second = jax.random.split(key)
        order = jax.random.uniform(first, (n,))[cluster]
        within = jax.random.uniform(second, (n,))
        # Sorted by size, then by a cluster's random place, then by a context's: row i of one order takes from
        # row i of the other.
        goes = jnp.lexsort((jnp.arange(n), cluster, kind))
        comes = jnp.lexsort((within, order, kind))
        return jnp.zeros(n, comes.dtype).at[goes].set(comes)

    return exchange


def quantiles(draws: Array, share: float) -> Array:
    """Returns the upper quantile of each statistic's draws, [...]; NaN if it has too many NaN draws."""
    xp = namespace(draws)
    ordered = xp.sort(draws, axis=0)
    return ordered[min(len(draws) - 1, int(np.ceil(share * len(draws))) - 1)]


def p_value(observed: Array, draws: Array) -> Array:
    """Returns the share of the null's draws that reach the observed statistic, `(1 + #) / (1 + draws)`.

    Args:
        observed: [...].
        draws: [resamples, ...]; a draw within rounding of the observed statistic reaches it.
    """
    xp = namespace(observed)
    close = 16 * float(xp.finfo(observed.dtype).eps)
    reached = xp.sum(draws >= (observed - close)[None], 0).astype(observed.dtype)
    missing = xp.isnan(observed) | xp.any(xp.isnan(draws), 0)
    return xp.where(missing, np.nan, (1 + reached) / (1 + len(draws)))
