"""Two interventions on the same contexts: does the first do more than the second?

Both are left without the same clusters at a time, so that what they share cancels. Mean square quantities are compared
without the noise's share: roots of debiased squares, as in `moved` and `coupled`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import coupled, coupling, intervals, pairs, ranks, resample, shifts
from vatjax.metrics.arrays import Arrayish, namespace
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Difference(NamedTuple):
    """The first intervention minus the second.

    Attributes:
        gain: scalar.
        p_gain: two-sided.
        shift: mean shift, [values].
        off_target: root mean square GND off target, scalar; NaN where one of the gains cannot be distinguished from 0.
        off_target_shift: root mean square shift off target, in points, scalar.
        vat: root mean square correlation of each value, [values].
        nvat: debiased nVAT, scalar.
        p_nvat: two-sided, of equal mean square coupling.
    """

    gain: Estimate
    p_gain: Array
    shift: Estimate
    off_target: Estimate
    off_target_shift: Estimate
    vat: Estimate
    nvat: Estimate
    p_nvat: Array


def difference(
    first: Arrayish,
    second: Arrayish,
    target: Arrayish,
    clusters: Any = None,
    direction: int = 1,
    missing: bool | None = None,
) -> Difference:
    """Compares two interventions with the same target.

    Args:
        first, second: shifts of the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys, concrete.
        direction: +1 or -1.
        missing: as in `spearman`.
    """
    first, second = (shifts.as_matrix(x) for x in (first, second))
    if first.shape != second.shape:
        raise ValueError(f"two interventions on the same contexts are needed, found {first.shape} and {second.shape}")
    groups = resample.clusters_of(clusters, first.shape[0])
    missing = coupling.has_missing(first) or coupling.has_missing(second) if missing is None else missing
    member, sign = shifts.target_mask(target, first.shape[1]), jnp.asarray(shifts.directed(direction), first.dtype)
    both = jnp.stack([first, second])
    compared = _compared(both, jnp.asarray(groups.index), missing)
    both, compared, member, sign = shifts.on_host(both, compared, member, sign)
    if namespace(both) is np:
        with np.errstate(all="ignore"):
            return _summary(both, compared, groups.index, member, sign)
    return _compiled_summary(both, compared, jnp.asarray(groups.index), member, sign)


def _summary(both: Array, compared: pairs.Pairs, cluster: Arrayish, member: Array, sign: Array) -> Difference:
    groups = pairs.grouping(cluster, both.dtype)
    freedom = coupled.freedom_of(groups.sizes)
    t = intervals.t_quantile(freedom, dtype=both.dtype)
    one, other = (_arm(both[i], jax.tree.map(lambda x, i=i: x[i], compared), member, sign, groups, t) for i in range(2))
    return _differences(one, other, groups.used, freedom, t)


_compiled_summary = jax.jit(_summary)


@functools.partial(jax.jit, static_argnums=2)
def _compared(both: Array, cluster: Array, missing: bool) -> pairs.Pairs:
    groups = pairs.grouping(cluster, both.dtype)

    def one(d: Array) -> pairs.Pairs:
        ranked = ranks.rank(d)
        return pairs.compare(d, ranked, ranks.midranks(ranked, jnp.ones(len(d), d.dtype)), groups, missing)

    return jax.vmap(one)(both)


class _Arm(NamedTuple):
    """One intervention: statistics, and the same without each group."""

    gain: tuple[Array, Array]
    shift: tuple[Array, Array]
    off_target: tuple[Array, Array]
    off_target_shift: tuple[Array, Array]
    vat: tuple[Array, Array]
    nvat: tuple[Array, Array]
    resolved: Array


def _differences(one: _Arm, other: _Arm, used: Array, freedom: Array, t: Array) -> Difference:
    xp = namespace(one.nvat[0])

    def gap(name: str) -> Estimate:
        (x, without), (y, other_without) = getattr(one, name), getattr(other, name)
        return intervals.jackknife_interval(x - y, without - other_without, used, t)

    def root(name: str) -> tuple[Estimate, Array]:
        return intervals.root_difference(getattr(one, name), getattr(other, name), used, t)

    nvat, error = root("nvat")
    square = one.nvat[0] - other.nvat[0]
    gain = gap("gain")
    resolved = one.resolved & other.resolved
    return Difference(
        gain=gain,
        p_gain=intervals.p_of_t(gain.estimate, (gain.high - gain.low) / (2 * t), freedom),
        shift=gap("shift"),
        off_target=Estimate(*(xp.where(resolved, part, np.nan) for part in root("off_target")[0])),
        off_target_shift=root("off_target_shift")[0],
        vat=root("vat")[0],
        nvat=nvat,
        p_nvat=intervals.p_of_t(square, error, freedom),
    )


def _arm(d: Array, compared: pairs.Pairs, member: Array, sign: Array, groups: pairs.Grouping, t: Array) -> _Arm:
    xp = namespace(d)
    used = groups.used
    mean, without = pairs.means(d, groups)
    gain, gain_without = (sign * pairs.mean_over(x, member & ~xp.isnan(mean)) for x in (mean, without))
    off = ~member & ~xp.isnan(mean)
    square = pairs.mean_over(mean**2 - intervals.jackknife_variance(without, used), off)
    squares = pairs.mean_over(without**2, off)
    resolved = xp.abs(gain) > t * xp.sqrt(intervals.jackknife_variance(gain_without, used))
    bottom, bottoms = (xp.where(resolved, x**2, 1) for x in (gain, gain_without))
    variance = intervals.jackknife_variance(compared.r_without, used)
    total, totals, sound = coupled.debiased_square(compared.r, compared.r_without, variance)
    rows = coupled.row_squares(compared.r, compared.r_without, variance, sound)
    return _Arm(
        gain=(gain, gain_without),
        shift=(mean, without),
        off_target=(square / bottom, squares / bottoms),
        off_target_shift=(square, squares),
        vat=rows,
        nvat=(total, totals),
        resolved=resolved,
    )
