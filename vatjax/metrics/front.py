"""Pareto front of gain against tax, and the probability that an intervention is on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vatjax.metrics import intervals, pairs, resample, shifts
from vatjax.metrics.arrays import Arrayish

Array = jax.Array


class TradeOff(NamedTuple):
    """Gain and tax of one intervention, and the same without each group of clusters.

    Attributes:
        gain: scalar.
        square: debiased mean square shift off target, scalar.
        gain_without: gain without each group, for each way of clustering, [groups in use].
        square_without: likewise.
    """

    gain: Array
    square: Array
    gain_without: list[Array]
    square_without: list[Array]


def trade_off(d: Arrayish, target: Arrayish, clusters: Any = None, direction: int = 1) -> TradeOff:
    """Computes gain and tax with their jackknife replicates, for a comparison across interventions.

    Args:
        d: shifts, [contexts, values]; concrete.
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys.
        direction: +1 or -1.
    """
    d = np.asarray(d)
    index: Arrayish = np.asarray(resample.clusters_of(clusters, len(d)).index)
    groups = pairs.group_clusters(index, d.dtype, 1)
    member: Arrayish = np.asarray(shifts.target_mask(target, d.shape[1]))
    mean, without = pairs.means(d, groups)
    rated: Arrayish = ~np.isnan(mean)
    sign: Arrayish = shifts.check_direction(direction)
    gain, gains = (sign * pairs.mean_over(x, member & rated) for x in (mean, without))
    variance = intervals.jackknife_variance(without, groups.used)
    square = pairs.mean_over(mean**2 - variance, ~member & rated)
    squares = pairs.mean_over(without**2, ~member & rated)
    ways = list(enumerate(groups.used))
    return TradeOff(gain, square, [gains[i][used] for i, used in ways], [squares[i][used] for i, used in ways])


def front_shares(arms: Sequence[TradeOff], draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Returns the probability that each intervention is on the front (none has more gain at less tax), [interventions].

    Gains and taxes of all interventions are drawn from the joint normal distribution of the jackknife, so that their
    shared variation by scene cancels. The probability is the share of draws that put the intervention on the front.

    Args:
        arms: of interventions on the same contexts and clusters.
        draws: number of draws.
        seed: of the draws.

    Returns:
        [interventions]; NaN for all if a replicate of one is missing, as where a target is rated in one cluster alone.
    """
    if not all(np.isfinite(x).all() for arm in arms for x in (*arm.gain_without, *arm.square_without)):
        return np.full(len(arms), np.nan)
    center = np.array([[float(arm.gain), float(arm.square)] for arm in arms]).ravel()
    covariances = []
    for way in range(len(arms[0].gain_without)):
        left_out = np.array([x for arm in arms for x in (arm.gain_without[way], arm.square_without[way])], np.float64)
        deviation = left_out - left_out.mean(1, keepdims=True)
        groups = left_out.shape[1]
        covariances.append((groups - 1) / groups * deviation @ deviation.T)
    total = covariances[0] if len(covariances) == 1 else covariances[0] + covariances[1] - covariances[2]
    size, axes = np.linalg.eigh(total)
    noise = np.random.default_rng(seed).normal(size=(draws, len(center)))
    drawn = (center + noise @ (axes * np.sqrt(np.maximum(size, 0))).T).reshape(draws, len(arms), 2)
    gain, tax = drawn[..., 0], np.maximum(drawn[..., 1], 0)
    # Rounding must not break the ties of equal interventions.
    more = gain[:, None, :] - gain[:, :, None]
    less = tax[:, :, None] - tax[:, None, :]
    slack = 1e-6 * np.abs(drawn).max(initial=0)
    better = (more >= -slack) & (less >= -slack) & ((more > slack) | (less > slack))
    shares: np.ndarray = (~better.any(2)).mean(0)
    return shares
