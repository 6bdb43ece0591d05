"""Whether an intervention controls what it is meant to control: how often it succeeds, and how much of that leaks.

    success(v)  = share of contexts in which value v is leaned to, x D > 0
    rise(v)     = success after - success before
    leakage     = mean rise of the other values / rise of the target

Intervals are those of the delete-one-cluster jackknife.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import intervals as iv
from vatjax.metrics import ranks as rk
from vatjax.metrics import resample as rs
from vatjax.metrics import shifts as sh
from vatjax.metrics.inference import cluster_sums
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Control(NamedTuple):
    """How far an intervention controls its target.

    Attributes:
        success: after it, [values].
        rise: of each value's success, [values].
        target: rise of the target's success, the mean over its values, scalar.
        leakage: of the mean of all other values, scalar; NaN where the target's rise can't be told from 0.
        by_distance: the same of the values at each distance from the target, [distances]; NaN where there are none.
    """

    success: Estimate
    rise: Estimate
    target: Estimate
    leakage: Estimate
    by_distance: Estimate


def control(
    pre: Array, post: Array, target: Array | int, clusters: Any = None, direction: int = 1, distance: Any = None
) -> Control:
    """Success, its rise, and its leakage.

    Args:
        pre, post: value states around 0, [contexts, values]; NaN is missing in both.
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
        direction: +1 where the target was to be expressed, -1 where it was to be suppressed.
        distance: [values] whole numbers, how far each is from the target; concrete. By default all are equally far.
    """
    pre, post = (sh.finite(sh.as_matrix(x)) for x in (pre, post))
    values = pre.shape[1]
    member, sign = sh.target_mask(target, values), sh.directed(direction)
    groups = rs.clusters_of(clusters, pre.shape[0])
    far = np.ones(values, int) if distance is None else np.asarray(distance, int)
    if far.shape != (values,) or (far < 0).any():
        raise ValueError(
            f"one distance of 0 or more for each of {values} values is needed, found the shape {far.shape}"
        )
    there = ~(jnp.isnan(pre) | jnp.isnan(post))
    before, after = (jnp.where(there, (x * sign > 0).astype(x.dtype), jnp.nan) for x in (pre, post))
    weights = jnp.concatenate([jnp.ones((1, groups.count), pre.dtype), rs.jackknife_weights(groups.count, pre.dtype)])
    successes = [_means(x, groups, weights) for x in (before, after)]
    rise = successes[1] - successes[0]
    own = _mean_over(rise, member[None, :])
    others = _mean_over(rise, ~member[None, :])
    rings = jnp.stack(
        [_mean_over(rise, (~member & (far == d))[None, :]) for d in range(int(far.max(initial=0)) + 1)], axis=1
    )
    t = iv.t_quantile(groups.count - 1, groups.count - 1, pre.dtype)
    gained = _interval(own, t)
    told = (gained.low > 0) | (gained.high < 0)
    ratios = [
        jnp.where(told, x / jnp.where(own == 0, 1, own).reshape(-1, *(1,) * (x.ndim - 1)), jnp.nan)
        for x in (others, rings)
    ]
    return Control(_interval(successes[1], t), _interval(rise, t), gained, *(_interval(x, t) for x in ratios))


def _means(x: Array, groups: rs.Clusters, weights: Array) -> Array:
    """Means under rows of cluster weights, [rows, values]."""
    sums, counts = cluster_sums(x, groups)
    total = jnp.einsum("bc,cv->bv", weights, counts, precision=rk.EXACT)
    return jnp.where(
        total > 0, jnp.einsum("bc,cv->bv", weights, sums, precision=rk.EXACT) / jnp.where(total > 0, total, 1), jnp.nan
    )


def _mean_over(x: Array, chosen: Array) -> Array:
    """The mean over some columns that have a number, [rows]."""
    used = chosen & ~jnp.isnan(x)
    count = jnp.sum(used, 1).astype(x.dtype)
    return jnp.where(count > 0, jnp.sum(jnp.where(used, x, 0), 1) / jnp.where(count > 0, count, 1), jnp.nan)


def _interval(x: Array, t: Array) -> Estimate:
    """From a statistic of everything, and without each cluster, [1 + groups, ...]."""
    return iv.jackknife_interval(x[0], x[1:], t)
