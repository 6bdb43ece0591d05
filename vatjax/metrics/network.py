"""Comparison of the correlation structure of the states before and after an intervention.

R of the shift measures whether values move together. This compares R of the states before with R of the states after,
as the Network Comparison Test does for two groups: the largest change of a pair, the change of global strength
`sum |R|`, and each pair with a correction for all of them. The null exchanges the states before and after within
whole clusters.

Paper: van Borkulo et al. 2022, "Comparing network structures on three aspects: a permutation test".
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vatjax.metrics import coupling, null, resample, shifts
from vatjax.metrics.arrays import as_key

Array = jax.Array


class NetworkComparison(NamedTuple):
    """Correlation structure after an intervention compared with that before.

    Attributes:
        pre, post: R of the states, [values, values].
        largest: the largest absolute change of a pair.
        largest_p: p of the hypothesis that no pair changed.
        strength: change of the sum of absolute correlations over pairs, after minus before.
        strength_p: two-sided.
        change_p: of each pair, corrected for all pairs, [values, values]; NaN on the diagonal.
    """

    pre: Array
    post: Array
    largest: Array
    largest_p: Array
    strength: Array
    strength_p: Array
    change_p: Array


def compare_networks(
    pre: Array, post: Array, clusters: Any, key: Array | int, resamples: int = 2000, missing: bool | None = None
) -> NetworkComparison:
    """Tests whether the correlation structure of the states changed.

    Args:
        pre, post: value states of the same contexts, [contexts, values].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        key: PRNG key or a seed.
        resamples: number of exchanges.
        missing: as in `spearman`.
    """
    pre, post = (shifts.as_matrix(x) for x in (pre, post))
    if pre.shape != post.shape:
        raise ValueError(f"pre and post must have one shape, found {pre.shape} and {post.shape}")
    groups = resample.clusters_of(clusters, pre.shape[0])
    if len(groups.index) > 1:
        raise ValueError("states are exchanged within clusters of one key; choose one of the crossed keys")
    # An exchange mixes rows of both states: a shifted mean must not look like a changed structure.
    pre, post = _standardised(pre), _standardised(post)
    missing = coupling.has_missing(pre) or coupling.has_missing(post) if missing is None else missing
    both = jnp.concatenate([pre, post])
    levels = None if missing else resample.level_count(both)
    index = jnp.asarray(groups.index[0])
    compared: NetworkComparison = _compare(both, index, as_key(key), groups.counts[0], levels, missing, resamples)
    return compared


def _standardised(x: Array) -> Array:
    """Scales columns to mean 0 and standard deviation 1, which keeps their order."""
    spread = jnp.nanstd(x, 0, keepdims=True)
    return (x - jnp.nanmean(x, 0, keepdims=True)) / jnp.where(spread > 0, spread, 1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _compare(
    both: Array, index: Array, key: Array, count: int, levels: int | None, missing: bool, resamples: int
) -> NetworkComparison:
    # States before and after are ranked once, together: an exchange is a weight of 0 or 1 for each half of a cluster.
    prepared = resample.prepare(both, jnp.concatenate([index, index + count]), 2 * count, levels, missing)

    def networks(stay: Array) -> tuple[Array, Array]:
        stay = stay.astype(both.dtype)
        return (
            prepared.coupling(jnp.concatenate([stay, 1 - stay])),
            prepared.coupling(jnp.concatenate([1 - stay, stay])),
        )

    def change(stay: Array) -> tuple[Array, Array, Array]:
        before, after = networks(stay)
        off = coupling.off_diagonal(before) & coupling.off_diagonal(after)
        gap = jnp.where(off, after - before, 0)
        strength = jnp.sum(jnp.where(off, jnp.abs(after) - jnp.abs(before), 0)) / 2
        return gap, jnp.max(jnp.abs(gap)), strength

    ones = jnp.ones(count, bool)
    gap, largest, strength = change(ones)
    stays = jax.random.bernoulli(key, 0.5, (resamples, count))
    largest_draws, strength_draws = resample.map_resamples(stays, lambda stay: change(stay)[1:], 2 * both.size)
    flat = jnp.abs(gap).reshape(-1)
    each = null.p_value(flat, jnp.broadcast_to(largest_draws[:, None], (resamples, flat.size)))
    pre, post = networks(ones)
    off = coupling.off_diagonal(pre) & coupling.off_diagonal(post)
    return NetworkComparison(
        pre,
        post,
        largest,
        null.p_value(largest, largest_draws),
        strength,
        null.p_value(jnp.abs(strength), jnp.abs(strength_draws)),
        jnp.where(off, each.reshape(gap.shape), jnp.nan),
    )


def excess_coupling(shift_coupling: Array, pre_coupling: Array) -> Array:
    """Returns the coupling of the shift beyond that of the states before it, `R(shift) - R(pre)` off the diagonal.

    Values whose states correlate before the intervention may move together for the same reason.
    """
    identity = jnp.eye(shift_coupling.shape[0], dtype=bool)
    return jnp.where(identity, shift_coupling, shift_coupling - jnp.where(identity, 0, pre_coupling))
