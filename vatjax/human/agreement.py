"""Inter-annotator agreement on an ordinal scale: Krippendorff's alpha and Gwet's AC2, with missing ratings.

    counts[u, k]                       number of annotators that gave case u the rating k;  r_u = sum_k counts[u, k]

    alpha = 1 - D_o / D_e              over the cases with r_u >= 2
    o[c, k] = sum_u (counts[u, c] counts[u, k] - [c = k] counts[u, c]) / (r_u - 1)
    n_c = sum_k o[c, k],  n = sum_c n_c
    delta[c, k] = (sum_{g from c to k} n_g - (n_c + n_k) / 2)^2
    D_o = sum o delta / n,  D_e = sum n_c n_k delta / (n (n - 1))

    AC2 = (p_a - p_e) / (1 - p_e)      w[c, k] = 1 - C(|c - k| + 1, 2) / C(K, 2)
    p_a = mean over u with r_u >= 2 of sum_k counts[u, k] (sum_l w[k, l] counts[u, l] - 1) / (r_u (r_u - 1))
    pi_k = mean over u with r_u >= 1 of counts[u, k] / r_u
    p_e = sum w / (K (K - 1)) sum_k pi_k (1 - pi_k)

Everything is float64 and takes case weights, so that a bootstrap is one matrix product: a case drawn twice weighs 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vatjax import errors

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


_TAIL = 0.025  # share of the draws beyond each end of an interval


class Interval(NamedTuple):
    """An estimate with its 95 % interval; NaN if undefined.

    Attributes:
        estimate: over all cases.
        low, high: the ends of the interval; NaN if a larger share of draws is undefined than lies beyond one end.
        without: the share of draws in which the statistic is undefined, since all their ratings are equal.
    """

    estimate: float
    low: float
    high: float
    without: float = 0.0


def count_ratings(ratings: np.ndarray, low: int, high: int) -> np.ndarray:
    """Counts the annotators that gave each case each rating, [cases, categories].

    Args:
        ratings: [cases, annotators], whole numbers, NaN if missing.
        low, high: the ends of the scale.
    """
    same: np.ndarray = ratings[:, :, None] == np.arange(low, high + 1)[None, None, :]
    counts: np.ndarray = same.sum(1).astype(np.float64)
    return counts


def alpha(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes Krippendorff's ordinal alpha, [draws]; NaN if all ratings are equal or no case has two ratings.

    Args:
        counts: [cases, categories].
        weights: [draws, cases].
    """
    each = counts.sum(1)
    pairs = each >= 2
    scale = np.where(pairs, 1 / np.where(pairs, each - 1, 1), 0)
    pairs_of_case = np.einsum("uc,uk->uck", counts, counts) - counts[:, :, None] * np.eye(counts.shape[1])
    met = np.tensordot(weights * scale, pairs_of_case, 1)  # [draws, categories, categories]
    margin = met.sum(2)
    total = margin.sum(1)
    delta = _ordinal_distances(margin)
    observed = (met * delta).sum((1, 2))
    expected = np.einsum("dc,dk,dck->d", margin, margin, delta)
    defined = expected > 0
    ratio = observed * (total - 1) / np.where(defined, expected, 1)
    return np.where(defined, 1 - ratio, np.nan)


def _ordinal_distances(margin: np.ndarray) -> np.ndarray:
    """Computes delta, the squared ordinal distances of ratings, [draws, categories, categories]."""
    reach = np.concatenate([np.zeros((len(margin), 1)), np.cumsum(margin, 1)], 1)
    low = np.minimum.outer(np.arange(margin.shape[1]), np.arange(margin.shape[1]))
    high = np.maximum.outer(np.arange(margin.shape[1]), np.arange(margin.shape[1]))
    between = reach[:, high + 1] - reach[:, low]
    distances: np.ndarray = (between - (margin[:, :, None] + margin[:, None, :]) / 2) ** 2 * (low != high)
    return distances


def ac2(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes Gwet's AC2 with ordinal weights, [draws]; NaN if no case has two ratings.

    Args:
        counts: [cases, categories].
        weights: [draws, cases].
    """
    each, categories = counts.sum(1), counts.shape[1]
    steps = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories)))
    near = 1 - steps * (steps + 1) / (categories * (categories - 1))
    pairs, any_ = each >= 2, each >= 1
    both = (counts * (counts @ near - 1)).sum(1) / np.where(pairs, each * (each - 1), 1)
    agreed = _weighted_mean(weights, both, pairs)
    shares = counts / np.where(any_, each, 1)[:, None]
    used = _weighted_mean(weights, shares, any_)
    chance = near.sum() / (categories * (categories - 1)) * (used * (1 - used)).sum(-1)
    coefficients: np.ndarray = (agreed - chance) / (1 - chance)
    return coefficients


def two_agree(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes the share of cases with two or more ratings in which at least two annotators agree exactly, [draws].

    With more annotators than categories, for example six and five, two always agree: the share is then uninformative.
    """
    return _weighted_mean(weights, (counts.max(1) >= 2).astype(np.float64), counts.sum(1) >= 2)


def same_stance(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the share of cases in which at least two annotators are on the same side of the middle or in it, [draws].

    On 1 to 5 the stances are {4, 5}, {3}, {1, 2}. With three annotators it is the agreement of the published study.
    """
    half = counts.shape[1] // 2
    sides = [counts[:, :half].sum(1), counts[:, half : counts.shape[1] - half].sum(1), counts[:, -half:].sum(1)]
    return two_agree(np.stack(sides, 1), weights)


def mean_rating(counts: np.ndarray, weights: np.ndarray, low: int) -> np.ndarray:
    """Computes the mean over cases of each case's mean rating, [draws]."""
    each = counts.sum(1)
    case_means = counts @ np.arange(low, low + counts.shape[1]) / np.where(each >= 1, each, 1)
    return _weighted_mean(weights, case_means, each >= 1)


def _weighted_mean(weights: np.ndarray, x: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Computes weighted means over the cases where `defined` is True, [draws, ...]."""
    used = weights * defined
    total = used.sum(1)
    sums = np.tensordot(used, x, 1)
    total = total.reshape(-1, *[1] * (sums.ndim - 1))
    return np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)


def bootstrap_interval(statistic: Statistic, counts: np.ndarray, draws: np.ndarray) -> Interval:
    """Computes a statistic over all cases with its 95 % bootstrap percentile interval.

    Args:
        statistic: function of counts and weights.
        counts: [cases, categories].
        draws: from `bootstrap_weights`, [draws, cases].
    """
    estimate = float(statistic(counts, np.ones((1, len(counts))))[0])
    replicates = statistic(counts, draws)
    return _percentile_interval(estimate, replicates)


def ratio_interval(sums: np.ndarray, counts: np.ndarray, draws: np.ndarray) -> Interval:
    """Computes a mean over all entries of all cases, sum(sums) / sum(counts), with its bootstrap interval over cases.

    Args:
        sums, counts: sum and number of each case's entries, [cases].
        draws: from `bootstrap_weights`, [draws, cases].
    """
    if not counts.sum():
        return Interval(np.nan, np.nan, np.nan)
    totals = draws @ counts
    replicates = np.where(totals > 0, draws @ sums / np.where(totals > 0, totals, 1), np.nan)
    return _percentile_interval(float(sums.sum() / counts.sum()), replicates)


def _percentile_interval(estimate: float, replicates: np.ndarray) -> Interval:
    """Returns the central 95 % of the draws; NaN ends if too many draws are NaN."""
    without = float(np.isnan(replicates).mean())
    if np.isnan(estimate) or without > _TAIL:
        return Interval(estimate, np.nan, np.nan, without)
    low, high = np.nanquantile(replicates, [_TAIL, 1 - _TAIL])
    return Interval(estimate, float(low), float(high), without)


def bootstrap_weights(cases: int, draws: int, seed: int) -> np.ndarray:
    """Draws bootstrap samples of the cases and returns each case's multiplicity, [draws, cases].

    Raises:
        InputError: for a negative seed, and for fewer than 100 draws.
    """
    if draws < 100:
        raise errors.InputError(f"resamples: expected at least 100, found {draws}")
    if seed < 0:
        raise errors.InputError(f"seed: expected 0 or more, found {seed}")
    which = np.random.default_rng(seed).integers(cases, size=(draws, cases))
    return np.stack([np.bincount(indices, minlength=cases) for indices in which]).astype(np.float64)
