"""Differences between two interventions on the same contexts.

The jackknife leaves the same clusters out of both, so that their shared variation cancels. Mean square quantities are
compared as roots of debiased squares, as in `moved` and `coupled`.

Interventions measured at several levels are also compared at the same gain `a`. Between two levels the shift of a
context is interpolated:

    d(w) = (1 - w) d_low + w d_high        w = (a - gain_low) / (gain_high - gain_low)

`a` and `w` are estimates: each replicate of the jackknife has its own. A statistic without cluster g is
`T_(g)(w) + slope (w_(g) - w)`, with the slope of T over one standard error of w on either side.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import coupled, coupling, intervals, pairs, ranks, resample, shifts
from vatjax.metrics.arrays import Arrayish, namespace
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Difference(NamedTuple):
    """First intervention minus the second.

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
    """Compares two interventions with the same target, in the ratings that both have.

    Args:
        first, second: shifts of the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys, concrete.
        direction: +1 or -1.
        missing: as in `spearman`.
    """
    first, second = (shifts.as_matrix(x) for x in (first, second))
    if first.shape != second.shape:
        raise ValueError(f"expected two interventions on the same contexts, found {first.shape} and {second.shape}")
    groups = resample.clusters_of(clusters, first.shape[0])
    missing = coupling.has_missing(first) or coupling.has_missing(second) if missing is None else missing
    member, sign = (
        shifts.target_mask(target, first.shape[1]),
        jnp.asarray(shifts.check_direction(direction), first.dtype),
    )
    both = jnp.stack([first, second])
    if missing:  # paired: a rating counts in both or in neither
        both = jnp.where(jnp.isnan(both).any(0), jnp.nan, both)
    compared = _compared(both, jnp.asarray(groups.index), missing)
    both, compared, member, sign = shifts.to_host(both, compared, member, sign)
    if namespace(both) is np:
        with np.errstate(all="ignore"):
            return _summary(both, compared, groups.index, member, sign)
    return _compiled_summary(both, compared, jnp.asarray(groups.index), member, sign)


class SameGain(NamedTuple):
    """Two interventions compared where both have the same gain.

    Attributes:
        gain: the highest gain that both reach; not above 0 if either lacks a gain.
        difference: at that gain; None if either lacks a gain.
    """

    gain: float
    difference: Difference | None


def same_gain(
    first: np.ndarray,
    second: np.ndarray,
    target: Arrayish,
    clusters: Any = None,
    direction: int = 1,
    missing: bool | None = None,
) -> SameGain:
    """Compares two interventions at the highest gain that both reach.

    That gain is a maximum over levels, which noise biases upwards: the choice of level is not resampled.

    Args:
        first, second: shifts at each level, the weakest first, [levels, contexts, values]; concrete.
        target, clusters, direction, missing: as in `difference`.
    """
    paths: list[Arrayish] = [np.asarray(x, np.float32) for x in (first, second)]
    for path in paths:
        if path.ndim != 3 or path.shape[1:] != paths[0].shape[1:] or not len(path):
            raise ValueError(f"expected [levels, contexts, values] of the same contexts, found {path.shape}")
    absent = np.any([np.isnan(path).any(0) for path in paths], 0)
    paths = [np.where(absent, np.float32(np.nan), path) for path in paths]  # paired: a rating counts in all or in none
    member: Arrayish = np.asarray(shifts.target_mask(target, paths[0].shape[2]))
    sign: Arrayish = np.float32(shifts.check_direction(direction))
    index: Arrayish = np.asarray(resample.clusters_of(clusters, paths[0].shape[1]).index)
    groups = pairs.group_clusters(index, np.float32, paths[0].shape[2])
    # The unmodified model is the level before the first.
    paths = [np.concatenate([0 * path[:1], path]) for path in paths]
    gains = [[_gain(d, member, sign, groups) for d in path] for path in paths]
    tops = [max(path, key=lambda gain: gain[0]) for path in gains]
    at, at_without = min(tops, key=lambda gain: gain[0])
    if not at > 0:
        return SameGain(float(at), None)
    mixes = [_mix(path, path_gains, at, at_without, groups) for path, path_gains in zip(paths, gains, strict=True)]
    stacked: Arrayish = np.concatenate([mix.shifts for mix in mixes])
    missing = bool(np.isnan(stacked).any()) if missing is None else missing
    compared = jax.tree.map(np.asarray, _compared(jnp.asarray(stacked), jnp.asarray(index), missing))
    freedom = coupled.satterthwaite_degrees(groups.sizes)
    t = intervals.t_quantile(freedom, dtype=np.float32)
    with np.errstate(all="ignore"):
        arms = [
            _arm(stacked[i], jax.tree.map(lambda x, i=i: x[i], compared), member, sign, groups, t)
            for i in range(len(stacked))
        ]
        first_arm, second_arm = (_drifted(arms[3 * i : 3 * i + 3], mix) for i, mix in enumerate(mixes))
        return SameGain(float(at), _differences(first_arm, second_arm, groups.used, freedom, t))


def _gain(d: Arrayish, member: Arrayish, sign: Arrayish, groups: pairs.Grouping) -> tuple[Any, Any]:
    mean, without = pairs.means(d, groups)
    gain, gain_without = (sign * pairs.mean_over(x, member & ~np.isnan(mean)) for x in (mean, without))
    return np.nan_to_num(gain), gain_without


class _Mix(NamedTuple):
    """An intervention between two levels.

    Attributes:
        shifts: at the weight between the levels, and one step of it above and below, [3, contexts, values].
        step: size of that step.
        drift: weight without each group minus weight, [ways, groups].
    """

    shifts: np.ndarray
    step: float
    drift: np.ndarray


def _mix(path: np.ndarray, gains: Sequence[tuple[Any, Any]], at: Any, at_without: Any, groups: pairs.Grouping) -> _Mix:
    high = next(i for i, (gain, _) in enumerate(gains) if gain >= at)  # a gain above 0 is never at level 0
    (low_gain, low_without), (high_gain, high_without) = gains[high - 1 : high + 1]
    weight = (at - low_gain) / (high_gain - low_gain)
    span = np.where(high_without - low_without > 0, high_without - low_without, np.nan)
    drift: Arrayish = np.where(groups.used, np.nan_to_num((at_without - low_without) / span - weight), 0)
    step = max(float(np.sqrt(intervals.jackknife_variance(drift, groups.used))), 1e-3)
    weights = np.array([weight, weight + step, weight - step], np.float32)[:, None, None]
    return _Mix((1 - weights) * path[high - 1] + weights * path[high], step, drift)


def _drifted(arms: Sequence[_Arm], mix: _Mix) -> _Arm:
    """Returns the arm with each replicate moved to its own weight."""
    center, above, below = arms

    def field(name: str) -> tuple[Any, Any]:
        estimate, without = getattr(center, name)
        slope = (getattr(above, name)[0] - getattr(below, name)[0]) / (2 * mix.step)
        return estimate, without + mix.drift.reshape(*mix.drift.shape, *(1,) * (without.ndim - 2)) * slope

    drifted: dict[str, Any] = {name: field(name) for name in _Arm._fields if name != "resolved"}
    return center._replace(**drifted)


def _summary(both: Array, compared: pairs.Pairs, cluster: Arrayish, member: Array, sign: Array) -> Difference:
    groups = pairs.group_clusters(cluster, both.dtype, both.shape[-1])
    freedom = coupled.satterthwaite_degrees(groups.sizes)
    t = intervals.t_quantile(freedom, dtype=both.dtype)
    first, second = (
        _arm(both[i], jax.tree.map(lambda x, i=i: x[i], compared), member, sign, groups, t) for i in range(2)
    )
    return _differences(first, second, groups.used, freedom, t)


_compiled_summary = jax.jit(_summary)


@functools.partial(jax.jit, static_argnums=2)
def _compared(both: Array, cluster: Array, missing: bool) -> pairs.Pairs:
    groups = pairs.group_clusters(cluster, both.dtype, both.shape[-1])

    def compare_shift(d: Array) -> pairs.Pairs:
        ranked = ranks.rank(d)
        return pairs.compare_columns(d, ranked, ranks.midranks(ranked, jnp.ones(len(d), d.dtype)), groups, missing)

    return jax.vmap(compare_shift)(both)


class _Arm(NamedTuple):
    """Statistics of one intervention, each paired with its replicates without each group."""

    gain: tuple[Array, Array]
    shift: tuple[Array, Array]
    off_target: tuple[Array, Array]
    off_target_shift: tuple[Array, Array]
    vat: tuple[Array, Array]
    nvat: tuple[Array, Array]
    resolved: Array


def _differences(first: _Arm, second: _Arm, used: Array, freedom: Array, t: Array) -> Difference:
    xp = namespace(first.nvat[0])

    def gap(name: str) -> Estimate:
        (x, without), (y, other_without) = getattr(first, name), getattr(second, name)
        return intervals.jackknife_interval(x - y, without - other_without, used, t)

    def root(name: str) -> tuple[Estimate, Array]:
        return intervals.root_difference(getattr(first, name), getattr(second, name), used, t)

    nvat, error = root("nvat")
    square = first.nvat[0] - second.nvat[0]
    gain = gap("gain")
    resolved = first.resolved & second.resolved
    return Difference(
        gain=gain,
        p_gain=intervals.p_of_t(gain.estimate, (gain.high - gain.low) / (2 * t), freedom),
        shift=gap("shift"),
        off_target=Estimate(*(xp.where(resolved, part, np.nan) for part in root("off_target")[0])),
        off_target_shift=root("off_target_shift")[0],
        vat=root("vat")[0],
        nvat=intervals.clip_interval(nvat, -1, 1),
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
