"""Two interventions on the same contexts: which one moved more, and which one taxed more."""

from __future__ import annotations

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
        gain, shift, vat: differences with their intervals.
        off_target: of the mean absolute GND; NaN where either intervention's gain can't be told from 0.
        nvat: of the roots of the debiased mean squares.
        p_nvat: two-sided p-value of the difference of the debiased mean squares.
    """

    gain: Estimate
    shift: Estimate
    off_target: Estimate
    vat: Estimate
    nvat: Estimate
    p_nvat: Array


def difference(first: Array, second: Array, target: Array | int, clusters: Any, direction: int = 1) -> Difference:
    """Compares two interventions, paired by scene: every jackknife resample leaves the same scenes out of both.

    Args:
        first, second: the shifts of two interventions in the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete.
        direction: +1 or -1.
    """
    first, second = sh.as_floating(first), sh.as_floating(second)
    if first.shape != second.shape:
        raise ValueError(f"two interventions on the same contexts are needed, found {first.shape} and {second.shape}")
    groups = rs.clusters_of(clusters, first.shape[0])
    left_out = rs.jackknife_weights(groups.count, first.dtype)
    freedom = left_out.shape[0] - 1
    t = iv.t_quantile(freedom, freedom, first.dtype)
    one, other = (_jackknifed(shift, target, direction, groups, left_out, t) for shift in (first, second))

    def gap(part: str) -> Estimate:
        (a, a_out), (b, b_out) = getattr(one, part), getattr(other, part)
        return iv.jackknife_interval(a - b, a_out - b_out, t)

    square = gap("square")
    error = (square.high - square.low) / (2 * t)
    roots = [jnp.sqrt(jnp.maximum(arm.square[0], 0)) for arm in (one, other)]
    nvat = roots[0] - roots[1]
    # The error of a difference of roots; two roots near 0 differ by no more than the root of the squares' error.
    half = t * error / jnp.maximum(roots[0] + roots[1], jnp.sqrt(error))
    return Difference(
        gap("gain"),
        gap("shift"),
        gap("off_target"),
        gap("vat"),
        Estimate(nvat, nvat - half, nvat + half),
        2 * iv.t_tail(jnp.abs(square.estimate / error), freedom),
    )


class _Arm(NamedTuple):
    """One intervention: each statistic on all clusters, and without each."""

    gain: tuple[Array, Array]
    shift: tuple[Array, Array]
    off_target: tuple[Array, Array]
    vat: tuple[Array, Array]
    square: tuple[Array, Array]


def _jackknifed(
    shift: Array, target: Array | int, direction: int, groups: rs.Clusters, left_out: Array, t: Array
) -> _Arm:
    index = jnp.asarray(groups.index)
    prepared = rs.prepare(shift, groups)

    def moved(w: Array) -> tuple[Array, Array, Array]:
        mean = sh.mean_shift(shift, w[index])
        return sh.gain_of(mean, target, direction), mean, sh.off_target(mean, target)

    ones = jnp.ones(groups.count, shift.dtype)
    gain, mean, size = moved(ones)
    gains, means, sizes = rs.over(left_out, moved, shift.size)
    r, without = prepared.coupling(ones), rs.over(left_out, prepared.coupling, shift.size)
    square, squares, sound = inf.debiased_square(r, without)
    resolved = gain**2 > t**2 * iv.jackknife_variance(gains)
    return _Arm(
        (gain, gains),
        (mean, means),
        (size / jnp.where(resolved, jnp.abs(gain), jnp.nan), sizes / jnp.abs(gains)),
        (cp.vat(r), jax.vmap(lambda one: cp.vat(jnp.where(sound, one, jnp.nan)))(without)),
        (square, squares),
    )
