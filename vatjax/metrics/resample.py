"""Resampling whole scenes, without touching the data again: a resample is a vector of cluster weights.

    bootstrap       multinomial counts: C clusters drawn from C with replacement
    jackknife       1 everywhere but 0 for the clusters left out
    subsample       1 for a random share of clusters, 0 for the rest

Resamples run in chunks, so that memory beyond the kept statistics does not grow with their number.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import stats

from vatjax.metrics import coupling as cp
from vatjax.metrics import ranks as rk
from vatjax.metrics.shifts import as_floating

Array = jax.Array

# Columns with at most this many distinct ratings are resampled from counts of levels.
FEW_LEVELS = 64
# Delete-a-group jackknife beyond this many clusters: the variance estimate then has more than enough groups.
JACKKNIFE_GROUPS = 256
# A chunk of resamples holds about this many ratings at once; more makes a CPU wait for its memory.
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Which contexts belong together. Concrete, since the number of clusters decides shapes.

    Attributes:
        index: [contexts] int32, from 0 to count - 1.
        count: how many clusters there are.
    """

    index: np.ndarray
    count: int

    @property
    def sizes(self) -> np.ndarray:
        """How many contexts each cluster has, [clusters]."""
        return np.bincount(self.index, minlength=self.count)

    @property
    def equal(self) -> bool:
        """Whether all clusters have the same number of contexts, so that whole clusters can be exchanged."""
        return len(set(self.sizes.tolist())) == 1


def clusters_of(clusters: Any, contexts: int) -> Clusters:
    """Numbers clusters from 0; None makes each context its own cluster."""
    if clusters is None:
        return Clusters(np.arange(contexts, dtype=np.int32), contexts)
    if isinstance(clusters, Clusters):
        return clusters
    if isinstance(clusters, jax.core.Tracer):
        raise TypeError("clusters decide shapes and must be concrete: close over them instead of passing them in")
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    if index.shape != (contexts,):
        raise ValueError(f"one cluster for each of {contexts} contexts is needed, found the shape {index.shape}")
    return Clusters(index.astype(np.int32), len(labels))


# Weights ------------------------------------------------------------------------------------------------------------


def bootstrap_weights(key: Array, count: int, resamples: int, dtype: Any = float) -> Array:
    """How often each cluster is drawn, [resamples, clusters]."""

    def draw(key: Array) -> Array:
        return jnp.zeros(count, dtype).at[jax.random.randint(key, (count,), 0, count)].add(1)

    weights: Array = chunked(draw, jax.random.split(key, resamples), 64)
    return weights


def jackknife_weights(count: int, dtype: Any = float, groups: int = JACKKNIFE_GROUPS) -> Array:
    """Each row leaves out one cluster, or one group of clusters where there are many, [groups, clusters]."""
    groups = min(groups, count)
    member = np.arange(count) * groups // count
    return jnp.asarray(member[None, :] != np.arange(groups)[:, None], dtype)


def subsample_weights(key: Array, count: int, resamples: int, share: float = 0.8, dtype: Any = float) -> Array:
    """A random share of the clusters without replacement, [resamples, clusters]."""
    kept = max(1, round(share * count))

    def draw(key: Array) -> Array:
        return (jax.random.permutation(key, count) < kept).astype(dtype)

    weights: Array = chunked(draw, jax.random.split(key, resamples), 64)
    return weights


# Statistics under weights -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reweighter:
    """Columns prepared once, so that the coupling under any cluster weights is cheap.

    Attributes:
        cluster: [contexts] int32, each context's cluster.
        ranks: the order of each column.
        levels: counts of levels; None where a column has many distinct ratings.
        missing: whether columns are compared pair by pair.
    """

    cluster: Array
    ranks: rk.Ranks
    levels: rk.Levels | None
    missing: bool

    def coupling(self, weights: Array) -> Array:
        """Spearman R [values, values] under cluster weights [clusters]."""
        own = weights[self.cluster]
        if self.missing:
            return cp.pairwise(self.ranks, own)
        if self.levels is None:
            return cp.complete(self.ranks, own)
        return rk.correlation(rk.level_midranks(self.levels, weights), own)


def prepare(x: Array, clusters: Clusters, levels: int | None = None, missing: bool | None = None) -> Reweighter:
    """Sorts the columns of [contexts, values] and, where ratings are few, counts them by cluster.

    Args:
        x: [contexts, values].
        clusters: of the contexts.
        levels: the most distinct ratings of a column, where a compiled caller knows; looked up in a concrete array, and
            taken to be many in a traced one. 0 says many.
        missing: as in `spearman`.
    """
    x = as_floating(x)
    missing = cp.has_missing(x) if missing is None else missing
    if levels is None:
        levels = 0 if isinstance(x, jax.core.Tracer) or missing else cp.distinct(x)
    ranks = rk.rank(x)
    cluster = jnp.asarray(clusters.index)
    few = None
    if 0 < levels <= FEW_LEVELS and not missing:
        few = rk.level_counts(ranks, cluster, clusters.count, levels, x.dtype)
    return Reweighter(cluster, ranks, few, missing)


def over(weights: Array, statistic: Callable[[Array], Any], ratings: int) -> Any:
    """`statistic(weights[b])` for every resample b, stacked; a chunk at a time.

    Args:
        weights: [resamples, clusters].
        statistic: a function of cluster weights [clusters].
        ratings: contexts x values, which decides how many resamples run at once.
    """
    return chunked(statistic, weights, int(min(64, max(1, _CHUNK // max(1, ratings)))))


def chunked(function: Callable[[Any], Any], xs: Any, size: int) -> Any:
    """`function` of every entry of xs, `size` of them at a time.

    Unlike `lax.map(batch_size=)` it fills the last chunk up by repeating entries, so that only one body is compiled.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    size = min(size, count)
    index = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    mapped = lax.map(jax.vmap(function), jax.tree.map(lambda x: x[index], xs))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:count], mapped)


def couplings(x: Array, weights: Array, clusters: Any = None) -> Array:
    """Spearman R under each row of cluster weights, [resamples, values, values].

    Args:
        x: [contexts, values].
        weights: [resamples, clusters].
        clusters: [contexts] labels; None makes each context its own.
    """
    x = as_floating(x)
    missing = cp.has_missing(x)
    levels = 0 if missing or isinstance(x, jax.core.Tracer) else cp.distinct(x)
    plan = Plan(clusters_of(clusters, x.shape[0]).index.tobytes(), levels, missing)
    stacked: Array = _couplings(x, jnp.asarray(weights, x.dtype), plan)
    return stacked


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides shapes and branches; calls with an equal plan share one compilation.

    Attributes:
        index: each context's cluster, as bytes.
        levels: the most distinct ratings of a column; 0 where they are many.
        missing: whether columns are compared pair by pair.
    """

    index: bytes
    levels: int
    missing: bool

    @property
    def clusters(self) -> Clusters:
        """The clusters."""
        index = np.frombuffer(self.index, np.int32)
        return Clusters(index, int(index.max(initial=-1)) + 1)


@functools.partial(jax.jit, static_argnames="plan")
def _couplings(x: Array, weights: Array, plan: Plan) -> Array:
    prepared = prepare(x, plan.clusters, plan.levels, plan.missing)
    stacked: Array = over(weights, prepared.coupling, x.size)
    return stacked


def bootstrap(
    statistic: Callable[[Array, Array], Any], shift: Array, clusters: Any, key: Array, resamples: int = 2000
) -> Any:
    """Cluster bootstrap of any statistic that takes weights.

    Args:
        statistic: `(shift, weights) -> pytree`, for example `lambda d, w: metrics.gain(d, target, weights=w)`; weights
            are per context, [contexts].
        shift: [contexts, values].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key.
        resamples: how many.

    Returns:
        The statistic of every resample, stacked along a leading axis.
    """
    shift = as_floating(shift)
    groups = clusters_of(clusters, shift.shape[0])
    index = jnp.asarray(groups.index)
    weights = bootstrap_weights(key, groups.count, resamples, shift.dtype)
    return over(weights, lambda w: statistic(shift, w[index]), shift.size)


# Intervals ----------------------------------------------------------------------------------------------------------


def bca(estimate: Array, draws: Array, jackknife: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Bias-corrected and accelerated bootstrap interval, entry by entry.

    The bias term is the normal quantile of the share of draws below the estimate; where that share is 0 or 1 it is
    infinite and the interval is NaN. The tails are those of Student's t with the spread of a sample of G clusters, since
    resampling G clusters gives intervals that are too narrow by about `sqrt((G - 1) / G)`.

    Args:
        estimate: [...].
        draws: [resamples, ...].
        jackknife: [groups, ...], the statistic without each cluster.
        level: coverage.

    Returns:
        (low, high), each [...].
    """
    below = jnp.mean((draws < estimate[None]).astype(estimate.dtype), 0)
    below = below + jnp.mean((draws == estimate[None]).astype(estimate.dtype), 0) / 2
    bias = jax.scipy.special.ndtri(below)
    deviation = jnp.mean(jackknife, 0, keepdims=True) - jackknife
    square = jnp.sum(deviation**2, 0)
    skew = jnp.sum(deviation**3, 0) / jnp.where(square > 0, 6 * square**1.5, 1)
    groups = jackknife.shape[0]
    tail = np.sqrt(groups / (groups - 1)) * stats.t.ppf((1 + level) / 2, groups - 1) if groups > 1 else np.nan
    ends = []
    for end in (-tail, tail):
        z = bias + jnp.asarray(end, estimate.dtype)
        share = jax.scipy.special.ndtr(bias + z / (1 - skew * z))
        ends.append(quantile(draws, jnp.where(jnp.isfinite(bias), share, jnp.nan)))
    return ends[0], ends[1]


def quantile(draws: Array, share: Array) -> Array:
    """The quantile of each entry's draws at its own share, [...]; NaN where the share is."""
    ordered = jnp.sort(draws, axis=0)
    count = draws.shape[0]
    place = jnp.clip(jnp.where(jnp.isnan(share), 0, share) * (count - 1), 0, count - 1)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.minimum(low + 1, count - 1)
    first, second = (jnp.take_along_axis(ordered, i[None], axis=0)[0] for i in (low, high))
    value = first + (second - first) * (place - low.astype(draws.dtype))
    return jnp.where(jnp.isnan(share), jnp.nan, value)
