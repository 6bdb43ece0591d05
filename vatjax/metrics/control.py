"""Success of an intervention on its target, and its leakage to other values.

    success(v)  = share of contexts whose state leans to value v, x D > 0
    rise(v)     = success after - success before
    leakage     = mean rise of the other values / rise of the target

Intervals are those of the delete-one-cluster jackknife; leakage, a ratio, has Fieller's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from vatjax.metrics import coupled, intervals, pairs, resample, shifts
from vatjax.metrics.arrays import namespace
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Control(NamedTuple):
    """Success of an intervention on its target, and its leakage.

    Attributes:
        success: after the intervention, [values].
        rise: increase of each value's success, [values].
        target: rise of the target's success, the mean over its values, scalar.
        leakage: to all other values, scalar; NaN where the target's rise cannot be distinguished from 0.
        by_distance: leakage to the values at each distance from the target, [distances]; NaN for an empty distance.
        target_success: success of the target after the intervention, the mean over its values, scalar.
    """

    success: Estimate
    rise: Estimate
    target: Estimate
    leakage: Estimate
    by_distance: Estimate
    target_success: Estimate


def control(
    pre: Array, post: Array, target: Array | int, clusters: Any = None, direction: int = 1, distance: Any = None
) -> Control:
    """Computes success, its rise, and its leakage.

    Args:
        pre, post: value states around 0, [contexts, values]; NaN is missing in both.
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys, concrete.
        direction: +1 where the target was to be expressed, -1 where it was to be suppressed.
        distance: [values] integers, the distance of each value from the target; concrete. All are equal by default.
    """
    pre, post = (shifts.check_finite(shifts.as_matrix(x)) for x in (pre, post))
    values = pre.shape[1]
    member, sign = shifts.target_mask(target, values), shifts.check_direction(direction)
    if distance is not None and not shifts.is_concrete(distance):
        raise TypeError("distances decide shapes and must be concrete: close over them instead of passing them in")
    far = np.ones(values, int) if distance is None else np.asarray(distance, int)
    if far.shape != (values,) or (far < 0).any():
        raise ValueError(f"expected one distance of 0 or more for each of {values} values, found the shape {far.shape}")
    index = resample.clusters_of(clusters, pre.shape[0]).index
    pre, post, member = shifts.to_host(pre, post, member)
    xp = namespace(pre, post, member)
    groups = pairs.group_clusters(xp.asarray(index), pre.dtype, 1)
    used, t = groups.used, intervals.t_quantile(coupled.satterthwaite_degrees(groups.sizes), dtype=pre.dtype)
    present = ~(xp.isnan(pre) | xp.isnan(post))
    (before, before_without), (after, after_without) = (
        pairs.means(xp.where(present, (x * sign > 0).astype(x.dtype), np.nan), groups) for x in (pre, post)
    )
    rise, rise_without = after - before, after_without - before_without
    rated = ~xp.isnan(rise)

    def mean(chosen: Array) -> tuple[Array, Array]:
        return pairs.mean_over(rise, chosen & rated), pairs.mean_over(rise_without, chosen & rated)

    gain, gain_without = mean(member)
    rings = [mean(~member)] + [mean(~member & xp.asarray(far == d)) for d in range(int(far.max(initial=0)) + 1)]
    top, top_without = xp.stack([x for x, _ in rings]), xp.stack([x for _, x in rings], -1)
    leakage = Estimate(
        top / xp.where(gain == 0, np.nan, gain),
        *intervals.fieller_interval(top, gain, top_without, gain_without, used, t),
    )
    sign_of = xp.where(gain < 0, -1, 1).astype(pre.dtype)  # Fieller's ratio is to the size of the rise
    leakage = Estimate(leakage.estimate, *_ordered(leakage.low * sign_of, leakage.high * sign_of))
    leakage = Estimate(*(xp.where(xp.isnan(leakage.low), np.nan, part) for part in leakage))
    success, target_success = (
        intervals.clip_interval(intervals.jackknife_interval(share, without, used, t), 0, 1)
        for share, without in (
            (after, after_without),
            [pairs.mean_over(x, member & ~xp.isnan(after)) for x in (after, after_without)],
        )
    )
    rises, gains = (
        intervals.clip_interval(intervals.jackknife_interval(change, without, used, t), -1, 1)
        for change, without in ((rise, rise_without), (gain, gain_without))
    )
    return Control(
        success,
        rises,
        gains,
        Estimate(*(part[0] for part in leakage)),
        Estimate(*(part[1:] for part in leakage)),
        target_success,
    )


def _ordered(x: Array, y: Array) -> tuple[Array, Array]:
    xp = namespace(x)
    return xp.minimum(x, y), xp.maximum(x, y)
