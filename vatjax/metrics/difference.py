"""Two interventions on the same contexts: which one moved more, and which one taxed more."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vatjax.metrics import coupling as cp
from vatjax.metrics import inference as inf
from vatjax.metrics import intervals as iv
from vatjax.metrics import resample as rs
from vatjax.metrics import shifts as sh
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Difference(NamedTuple):
    """The first intervention's tax minus the second's, on the same contexts.

    Attributes:
        gain, shift: differences with their intervals.
        off_target: of the mean absolute GND; NaN where either intervention's gain can't be told from 0.
        vat: of value-level taxes. Noise makes these two larger in both arms; their intervals allow for all of it.
        nvat: of the roots of the debiased mean squares.
        p_nvat: two-sided p-value of the difference of the debiased mean squares.
    """

    gain: Estimate
    shift: Estimate
    off_target: Estimate
    vat: Estimate
    nvat: Estimate
    p_nvat: Array


def difference(
    first: Array,
    second: Array,
    target: Array | int,
    clusters: Any,
    direction: int = 1,
    missing: bool | None = None,
) -> Difference:
    """Compares two interventions, paired by scene: every jackknife resample leaves the same scenes out of both.

    Args:
        first, second: the shifts of two interventions in the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete.
        direction: +1 or -1.
        missing: as in `spearman`.
    """
    first, second = sh.as_floating(first), sh.as_floating(second)
    if first.shape != second.shape:
        raise ValueError(f"two interventions on the same contexts are needed, found {first.shape} and {second.shape}")
    groups = rs.clusters_of(clusters, first.shape[0])
    missing = cp.has_missing(first) or cp.has_missing(second) if missing is None else missing
    levels = 0 if missing else max(counts) if all(counts := [rs.level_count(x) for x in (first, second)]) else 0
    plan = dataclasses.replace(rs.plan(first, groups, missing), levels=levels)
    compared: Difference = _difference(first, second, sh.target_mask(target, first.shape[1]), direction, plan)
    return compared


@functools.partial(jax.jit, static_argnames="plan")
def _difference(first: Array, second: Array, member: Array, direction: Array | int, plan: rs.Plan) -> Difference:
    left_out = rs.jackknife_weights(plan.clusters.count, first.dtype)
    groups = left_out.shape[0]
    one, other = (_jackknifed(shift, member, direction, left_out, plan) for shift in (first, second))
    t = jnp.fmax(one.t, other.t)
    t_gain = jnp.fmax(one.t_gain, other.t_gain)
    t_all = iv.t_quantile(groups - 1, groups - 1, first.dtype)
    roots = [jnp.sqrt(jnp.maximum(arm.square[0], 0)) for arm in (one, other)]
    square, half = _root_gap(one, other, roots, t_all)
    error = jnp.sqrt(iv.jackknife_variance(one.square[1] - other.square[1]))
    p = 2 * iv.t_tail(jnp.abs(square) / jnp.where(error > 0, error, jnp.nan), groups - 1)
    nvat = roots[0] - roots[1]
    return Difference(
        _gap(one.gain, other.gain, t_gain),
        _gap(one.shift, other.shift, t),
        _gap(one.off_target, other.off_target, t_gain),
        _gap(one.vat, other.vat, t_all),
        Estimate(nvat, nvat - half, nvat + half),
        jnp.where((error == 0) & (square == 0), 1, p),
    )


class _Part(NamedTuple):
    """A statistic on all clusters, without each, and how much noise alone can make of it."""

    estimate: Array
    left_out: Array
    noise: Array | float = 0.0


class _Arm(NamedTuple):
    """One intervention."""

    gain: _Part
    shift: _Part
    off_target: _Part
    vat: _Part
    square: tuple[Array, Array]
    t: Array
    t_gain: Array


def _gap(one: _Part, other: _Part, t: Array) -> Estimate:
    """The difference and its interval; noise can only have made either part too large, by its own share."""
    gap = iv.jackknife_interval(one.estimate - other.estimate, one.left_out - other.left_out, t)
    return Estimate(gap.estimate, gap.low - one.noise, gap.high + other.noise)


def _root_gap(one: _Arm, other: _Arm, roots: list[Array], t: Array) -> tuple[Array, Array]:
    """The difference of the debiased squares, and the half width of that of their roots.

    Where both squares are clear of 0 the error is that of `a^2 / 2 a - b^2 / 2 b`; else the roots differ by no more than
    the root of the squares' error.
    """
    (square, squares), (other_square, other_squares) = one.square, other.square
    clear = [s > t * jnp.sqrt(iv.jackknife_variance(without)) for s, without in (one.square, other.square)]
    first, second = (jnp.where(yes, root, 1) for yes, root in zip(clear, roots, strict=True))
    along = jnp.sqrt(iv.jackknife_variance(squares / (2 * first) - other_squares / (2 * second)))
    error = jnp.sqrt(iv.jackknife_variance(squares - other_squares))
    bottom = jnp.maximum(roots[0] + roots[1], jnp.sqrt(error))
    rough = error / jnp.where(bottom > 0, bottom, 1)
    return square - other_square, t * jnp.where(clear[0] & clear[1], along, rough)


def _jackknifed(shift: Array, member: Array, direction: Array | int, left_out: Array, plan: rs.Plan) -> _Arm:
    groups = plan.clusters
    index = jnp.asarray(groups.index)
    prepared = rs.prepare(shift, groups, plan.levels, plan.missing)

    def moved(w: Array) -> tuple[Array, Array, Array]:
        mean = sh.mean_shift(shift, w[index])
        return sh.gain_of(mean, member, direction), mean, sh.off_target(mean, member)

    ones = jnp.ones(groups.count, shift.dtype)
    gain, mean, size = moved(ones)
    gains, means, sizes = rs.over(left_out, moved, shift.size)
    r, without = prepared.coupling(ones), rs.over(left_out, prepared.coupling, shift.size)
    square, squares, sound = inf.debiased_square(r, without)
    _, counts = inf.cluster_sums(shift, groups)
    resting, resting_gain = inf.rests_on(counts, left_out, member)
    t, t_gain = (iv.t_quantile(k - 1, left_out.shape[0] - 1, shift.dtype) for k in (resting, resting_gain))
    bottom = jnp.where(gain**2 > t_gain**2 * iv.jackknife_variance(gains), jnp.abs(gain), jnp.nan)
    noise = iv.noise_of(jnp.sqrt(jnp.where(sound, iv.jackknife_variance(without), jnp.nan)))
    return _Arm(
        _Part(gain, gains),
        _Part(mean, means),
        _Part(
            size / bottom,
            sizes / jnp.abs(gains),
            sh.off_target(iv.noise_of(jnp.sqrt(iv.jackknife_variance(means))), member) / bottom,
        ),
        _Part(cp.vat(r), jax.vmap(lambda one: cp.vat(jnp.where(sound, one, jnp.nan)))(without), cp.vat(noise)),
        (square, squares),
        t,
        t_gain,
    )
