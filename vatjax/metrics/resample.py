"""Resampling whole scenes, without touching the data again: a resample is a vector of cluster weights.

    bootstrap       multinomial counts: C clusters drawn from C with replacement
    jackknife       1 everywhere but 0 for the clusters left out
    subsample       1 for a random share of clusters, 0 for the rest

Resamples run in chunks, so that memory beyond their weights and the kept statistics does not grow with their number.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax.metrics import coupling as cp
from vatjax.metrics import ranks as rk
from vatjax.metrics.shifts import as_floating

Array = jax.Array

# Columns with at most so many distinct ratings are resampled from counts of levels, in tables of one of these sizes: the
# first are those of shifts of one 1..5 rating, of half the difference of two, and of the same on 1..7 and 1..9.
LEVEL_COUNTS = (9, 17, 25, 33, 48, 64)
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

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The contexts of each cluster, [clusters, longest], filled up with the first; and where one is."""
        sizes = self.sizes
        order = np.argsort(self.index, kind="stable")
        place = np.arange(sizes.max())[None, :]
        inside = place < sizes[:, None]
        first = np.cumsum(sizes) - sizes
        return order[first[:, None] + np.where(inside, place, 0)], inside


def clusters_of(clusters: Any, contexts: int) -> Clusters:
    """Numbers clusters from 0; None makes each context its own cluster."""
    if contexts == 0:
        raise ValueError("there are no contexts")
    if clusters is None:
        return Clusters(np.arange(contexts, dtype=np.int32), contexts)
    if isinstance(clusters, Clusters):
        if clusters.index.shape != (contexts,):
            raise ValueError(f"one cluster for each of {contexts} contexts is needed, found {len(clusters.index)}")
        return clusters
    if isinstance(clusters, jax.core.Tracer):
        raise TypeError("clusters decide shapes and must be concrete: close over them instead of passing them in")
    labels, first, index = np.unique(np.asarray(clusters), return_index=True, return_inverse=True)
    index = np.argsort(np.argsort(first))[index]  # numbered as they come: the names of clusters change nothing
    if index.shape != (contexts,):
        raise ValueError(f"one cluster for each of {contexts} contexts is needed, found the shape {index.shape}")
    return Clusters(index.astype(np.int32), len(labels))


# Weights ------------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
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


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
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
        groups: the contexts' clusters.
        ranks: the order of each column.
        levels: counts of levels; None where a column has many distinct ratings.
        missing: whether columns are compared pair by pair.
        blocks: for weights that leave clusters out.
    """

    groups: Clusters
    ranks: rk.Ranks
    levels: rk.Levels | None
    missing: bool
    blocks: Blocks | None = None

    def coupling(self, weights: Array) -> Array:
        """Spearman R [values, values] under cluster weights [clusters]."""
        own = weights[jnp.asarray(self.groups.index)]
        if self.missing:
            r: Array = cp.pairwise(self.ranks, own)
            return r
        if self.blocks is not None:
            return self._whole(self._of_blocks(self.blocks, weights, own))
        if self.levels is None:
            return cp.complete(self.ranks, own)
        return self._whole(rk.correlation(rk.level_midranks(self.levels.counts, weights, self.levels.code), own))

    def _whole(self, r: Array) -> Array:
        """Columns with a missing rating have no correlation where they are not compared pair by pair."""
        return rk.among(r, jnp.all(self.ranks.present, axis=0))

    def skipping(self, kept: int) -> Reweighter:
        """The same for weights that leave clusters out: only the `kept` others are looked up and multiplied.

        A bootstrap leaves out 37 % of all clusters, so that this saves more than a third of the time. Clusters that
        differ much in size are not worth it, since all become as long as the largest.
        """
        count, longest = self.groups.count, int(self.groups.sizes.max(initial=1))
        n = len(self.groups.index)
        if self.missing or not 0 < kept < count or kept * longest > 0.9 * n:
            return self
        rows, inside = self.groups.table()
        looked_up = (self.ranks.low, self.ranks.high) if self.levels is None else (self.levels.code,)
        return dataclasses.replace(self, blocks=Blocks(kept, jnp.asarray(inside), tuple(x[rows] for x in looked_up)))

    def _of_blocks(self, blocks: Blocks, weights: Array, own: Array) -> Array:
        count = self.groups.count
        chosen = jnp.nonzero(weights, size=blocks.kept, fill_value=count)[0]
        weight = jnp.pad(weights, (0, 1))[chosen][:, None] * jnp.pad(blocks.inside, ((0, 1), (0, 0)))[chosen].astype(
            weights.dtype
        )
        place = jnp.minimum(chosen, count - 1)
        parts = [x[place].reshape(-1, x.shape[-1]) for x in blocks.parts]
        if self.levels is not None:
            return rk.correlation(rk.level_midranks(self.levels.counts, weights, parts[0]), weight.reshape(-1))
        return rk.correlation(rk.midranks_at(self.ranks, own, *parts), weight.reshape(-1))


class Blocks(NamedTuple):
    """What a resample looks up, cluster by cluster, so that clusters can be skipped.

    Attributes:
        kept: how many clusters have a weight, at most.
        inside: [clusters, longest] bool, False for the filling of a shorter cluster.
        parts: each [clusters, longest, values]: codes of levels, or places in the order.
    """

    kept: int
    inside: Array
    parts: tuple[Array, ...]


def prepare(x: Array, clusters: Clusters, levels: int | None = None, missing: bool | None = None) -> Reweighter:
    """Sorts the columns of [contexts, values] and, where ratings are few, counts them by cluster.

    Args:
        x: [contexts, values].
        clusters: of the contexts.
        levels: an upper bound on the distinct ratings of a column, where a compiled caller knows one; looked up in a
            concrete array, and taken to be many in a traced one. 0 says many.
        missing: as in `spearman`.
    """
    x = as_floating(x)
    missing = cp.has_missing(x) if missing is None else missing
    if levels is None:
        levels = 0 if missing else level_count(x)
    ranks = rk.rank(x)
    few = None
    if levels and not missing:
        # Then nothing needs the sorted order, and a compiler leaves the sorting out.
        few = rk.level_counts(x, jnp.asarray(clusters.index), clusters.count, levels)
    return Reweighter(clusters, ranks, few, missing)


def level_count(x: Array) -> int:
    """The most distinct ratings of a column, rounded up, so that calls share compilations; 0 says many, or unknown."""
    if isinstance(x, jax.core.Tracer):
        return 0
    found = cp.distinct(x)
    return next((most for most in LEVEL_COUNTS if found <= most), 0)


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


def couplings(x: Array, weights: Array, clusters: Any = None, missing: bool | None = None) -> Array:
    """Spearman R under each row of cluster weights, [resamples, values, values].

    Args:
        x: [contexts, values].
        weights: [resamples, clusters].
        clusters: [contexts] labels; None makes each context its own.
        missing: as in `spearman`.
    """
    x = as_floating(x)
    weights = jnp.asarray(weights, x.dtype)
    stacked: Array = _couplings(x, weights, plan(x, clusters_of(clusters, x.shape[0]), missing, weights=weights))
    return stacked


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides shapes and branches; calls with an equal plan share one compilation.

    Attributes:
        index: each context's cluster, as bytes.
        levels: the most distinct ratings of a column; 0 where they are many.
        missing: whether columns are compared pair by pair.
        flips: whether the null flips signs instead of exchanging clusters.
        kept: how many clusters a resample has, at most; 0 says all.
    """

    index: bytes
    levels: int
    missing: bool
    flips: bool
    kept: int

    @property
    def clusters(self) -> Clusters:
        """The clusters."""
        index = np.frombuffer(self.index, np.int32)
        return Clusters(index, int(index.max(initial=-1)) + 1)


def plan(x: Array, groups: Clusters, missing: bool | None = None, weights: Array | None = None) -> Plan:
    """Looks at columns and weights once: what they are made of decides which compiled form fits them.

    Few contexts are taken to have many levels: counting these would save milliseconds, and raw and ipsatised shifts, which
    have many, then share one compiled form.
    """
    missing = cp.has_missing(x) if missing is None else missing
    kept = 0 if weights is None else most_kept(weights)
    levels = 0 if missing or len(x) <= rk.FEW_CONTEXTS else level_count(x)
    return Plan(groups.index.tobytes(), levels, missing, not groups.equal, kept)


def most_kept(weights: Array) -> int:
    """How many clusters a row of [resamples, clusters] keeps, at most, where that is few; 0 says all.

    One bound and not the exact number, so that calls share a compilation whatever their key: a bootstrap of c clusters
    draws (1 - 1/e) c of them, give or take .31 sqrt(c), and 5 times that is allowed for.
    """
    if isinstance(weights, jax.core.Tracer):
        return 0
    count = weights.shape[1]
    bound = math.ceil(0.6322 * count + 1.56 * count**0.5)
    if bound >= count:
        return 0
    found = int(np.count_nonzero(np.asarray(weights), axis=1).max(initial=0))
    return bound if found <= bound else 0


@functools.partial(jax.jit, static_argnames="plan")
def _couplings(x: Array, weights: Array, plan: Plan) -> Array:
    prepared = prepare(x, plan.clusters, plan.levels, plan.missing).skipping(plan.kept)
    stacked: Array = over(weights, prepared.coupling, x.size)
    return stacked


def bootstrap(
    statistic: Callable[[Array, Array], Any], shift: Array, clusters: Any, key: Array, resamples: int = 2000
) -> Any:
    """Cluster bootstrap of any statistic that takes weights. Under `jit` it is compiled once; called alone, every time.

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
