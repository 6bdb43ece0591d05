"""Resampling of whole clusters by re-weighting: a resample is a vector of cluster weights, and data are ranked once.

    bootstrap       multinomial counts: C clusters drawn from C with replacement
    jackknife       1 everywhere but 0 for the clusters left out
    subsample       1 for a random share of clusters, 0 for the rest

Resamples run in chunks, so that memory, apart from their weights and statistics, does not grow with their number.
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

from vatjax.metrics import coupling, ranks
from vatjax.metrics.arrays import as_key
from vatjax.metrics.ranks import Levels, Ranks
from vatjax.metrics.shifts import as_matrix, is_concrete

Array = jax.Array

# Columns with few distinct ratings are resampled from counts of levels, in tables of one of these sizes: the
# first are those of shifts of one 1..5 rating, of half the difference of two, and of the same on 1..7 and 1..9.
LEVEL_COUNTS = (9, 17, 25, 33, 48, 64)
# Delete-a-group jackknife beyond this many clusters: the variance estimate then has more than enough groups.
JACKKNIFE_GROUPS = 256
LEAST_JACKKNIFE_GROUPS = 32
# A chunk of resamples holds about this many ratings at once; more is bound by memory bandwidth on a CPU.
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of contexts, by one key or by two crossed ones.

    Attributes:
        index: [ways, contexts] int32, numbered from 0. One way, or three: each key and the intersection of both.
    """

    index: np.ndarray

    @property
    def counts(self) -> tuple[int, ...]:
        """Returns the number of clusters under each way of clustering."""
        return tuple(int(way.max(initial=-1)) + 1 for way in self.index)

    @property
    def count(self) -> int:
        """Returns the number of independent clusters; for two crossed keys the smaller number."""
        return min(self.counts[:2])


def clusters_of(clusters: Any, contexts: int) -> Clusters:
    """Numbers clusters from 0, in order of appearance.

    Args:
        clusters: [contexts] labels; [contexts, 2] labels of two crossed keys; None makes each context its own cluster.
        contexts: number of contexts.
    """
    if contexts == 0:
        raise ValueError("expected at least one context, found no contexts")
    if clusters is None:
        return Clusters(np.arange(contexts, dtype=np.int32)[None])
    if isinstance(clusters, Clusters):
        labels = clusters.index
        if labels.shape[1] != contexts:
            raise ValueError(f"expected a cluster for each of {contexts} contexts, found {labels.shape[1]}")
        return clusters
    if not is_concrete(clusters):
        raise TypeError("cluster labels must be concrete: close over them instead of passing them in")
    labels = np.asarray(clusters)
    if labels.shape not in ((contexts,), (contexts, 2)):
        raise ValueError(
            f"expected a cluster label for each of {contexts} contexts, [{contexts}], or labels of two crossed keys, "
            f"[{contexts}, 2]; found the shape {labels.shape}"
        )
    keys = [_numbered(column) for column in labels.reshape(contexts, -1).T]
    if len(keys) == 2:
        keys.append(_numbered(keys[0].astype(np.int64) * contexts + keys[1]))
        nested = [way.max() == keys[2].max() for way in keys[:2]]
        if any(nested):  # each cluster of one key lies within one of the other: the coarser key alone decides
            keys = [keys[1] if nested[0] else keys[0]]
    return Clusters(np.stack(keys))


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Numbers labels in order of appearance, so that their names do not matter."""
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[index].astype(np.int32)


# Weights ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def bootstrap_weights(key: Array, count: int, resamples: int, dtype: Any = float) -> Array:
    """Returns how often each cluster is drawn, [resamples, clusters]."""

    def draw(key: Array) -> Array:
        return jnp.zeros(count, dtype).at[jax.random.randint(key, (count,), 0, count)].add(1)

    weights: Array = map_in_chunks(draw, jax.random.split(key, resamples), 64)
    return weights


def jackknife_weights(count: int, dtype: Any = float, groups: int = JACKKNIFE_GROUPS) -> Array:
    """Returns rows that each leave out one cluster, or one group of clusters where there are many, [groups, clusters]."""
    groups = min(groups, count)
    member = np.arange(count) * groups // count
    return jnp.asarray(member[None, :] != np.arange(groups)[:, None], dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def subsample_weights(key: Array, count: int, resamples: int, share: float = 0.8, dtype: Any = float) -> Array:
    """Returns a random share of the clusters without replacement, [resamples, clusters]."""
    size = max(1, round(share * count))

    def draw(key: Array) -> Array:
        return (jax.random.permutation(key, count) < size).astype(dtype)

    weights: Array = map_in_chunks(draw, jax.random.split(key, resamples), 64)
    return weights


# Statistics under weights -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reweighter:
    """Columns ranked once, so that the coupling under any cluster weights is cheap.

    Attributes:
        index: the cluster of each context, [contexts].
        ranks: the order of each column.
        levels: counts of levels; None where a column has many distinct ratings.
        missing: whether columns are compared pair by pair.
    """

    index: Array
    ranks: Ranks
    levels: Levels | None
    missing: bool

    def coupling(self, weights: Array) -> Array:
        """Returns Spearman R [values, values] under cluster weights [clusters]."""
        per_context = weights[self.index]
        if self.missing:
            r: Array = coupling.spearman_pairwise(self.ranks, per_context)
            return r
        if self.levels is None:
            return coupling.spearman_complete(self.ranks, per_context)
        z = ranks.level_midranks(self.levels.counts, weights, self.levels.code)
        return ranks.mask_incomplete(ranks.correlation(z, per_context), jnp.all(self.ranks.present, axis=0))


def prepare(x: Array, index: Array, count: int, levels: int | None = None, missing: bool = False) -> Reweighter:
    """Ranks the columns of [contexts, values] and, where ratings are few, counts them by cluster.

    Args:
        x: [contexts, values].
        index: the cluster of each context, [contexts].
        count: number of clusters.
        levels: an upper bound on the distinct ratings of a column; None for many.
        missing: as in `spearman`.
    """
    few = None
    if levels is not None and not missing:
        few = ranks.level_counts(x, index, count, levels)  # then the compiler leaves the sorting out
    return Reweighter(index, ranks.rank(x), few, missing)


def level_count(x: Array) -> int | None:
    """Returns the maximum number of distinct ratings per column, rounded up to a shared size; None if many or unknown."""
    if not is_concrete(x):
        return None
    most = coupling.max_distinct(x)
    return next((size for size in LEVEL_COUNTS if most <= size), None)


def map_resamples(weights: Array, statistic: Callable[[Array], Any], ratings: int) -> Any:
    """Computes `statistic(weights[b])` for every resample b, stacked; a chunk at a time.

    Args:
        weights: [resamples, clusters].
        statistic: a function of cluster weights [clusters].
        ratings: contexts x values, which sets the number of resamples that run at once.
    """
    return map_in_chunks(statistic, weights, chunk_size(ratings))


def chunk_size(ratings: int) -> int:
    """Returns the number of resamples that run at once, each with this many ratings."""
    return int(min(64, max(1, _CHUNK // max(1, ratings))))


def map_in_chunks(function: Callable[[Any], Any], xs: Any, size: int) -> Any:
    """Maps `function` over every entry of xs, `size` of them at a time.

    Unlike `lax.map(batch_size=)` it pads the last chunk by repeating entries, so that only one body is compiled.
    """
    count = jax.tree.leaves(xs)[0].shape[0]
    size = min(size, count)
    index = np.minimum(np.arange(-(-count // size) * size), count - 1).reshape(-1, size)
    mapped = lax.map(jax.vmap(function), jax.tree.map(lambda x: x[index], xs))
    return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:])[:count], mapped)


def couplings(x: Array, weights: Array, clusters: Any = None, missing: bool | None = None) -> Array:
    """Computes Spearman R under each row of cluster weights, [resamples, values, values].

    Args:
        x: [contexts, values].
        weights: [resamples, clusters].
        clusters: [contexts] labels; None makes each context its own.
        missing: as in `spearman`.
    """
    x = as_matrix(x)
    groups = clusters_of(clusters, x.shape[0])
    weights = jnp.asarray(weights, x.dtype)
    if weights.ndim != 2 or weights.shape[1] != groups.count:
        raise ValueError(f"expected weights of [resamples, {groups.count} clusters], found the shape {weights.shape}")
    missing = coupling.has_missing(x) if missing is None else missing
    levels = None if missing else level_count(x)
    stacked: Array = _couplings(x, weights, jnp.asarray(groups.index[0]), levels, missing)
    return stacked


@functools.partial(jax.jit, static_argnums=(3, 4))
def _couplings(x: Array, weights: Array, index: Array, levels: int | None, missing: bool) -> Array:
    prepared = prepare(x, index, weights.shape[1], levels, missing)
    stacked: Array = map_resamples(weights, prepared.coupling, x.size)
    return stacked


def bootstrap(
    statistic: Callable[[Array, Array], Any], shift: Array, clusters: Any, key: Array | int, resamples: int = 2000
) -> Any:
    """Computes the cluster bootstrap of any statistic that takes weights.

    `bootstrap(spearman, ...)` ranks the columns once for all resamples. Another statistic is compiled at every call;
    under `jit` once.

    Args:
        statistic: `(shift, weights) -> pytree`, for example `lambda d, w: metrics.gain(d, target, weights=w)`; weights
            are per context, [contexts].
        shift: [contexts, values].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key or a seed.
        resamples: number of resamples.

    Returns:
        The statistic of every resample, stacked along a leading axis.
    """
    shift = as_matrix(shift)
    groups = clusters_of(clusters, shift.shape[0])
    if len(groups.index) > 1:
        raise ValueError("a bootstrap resamples the clusters of one key; choose one of the crossed keys")
    weights = bootstrap_weights(as_key(key), groups.count, resamples, shift.dtype)
    if statistic is coupling.spearman:
        return couplings(shift, weights, groups)
    index = jnp.asarray(groups.index[0])
    return map_resamples(weights, lambda w: statistic(shift, w[index]), shift.size)
