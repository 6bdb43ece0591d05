"""How far annotators agree on a scale with an order: Krippendorff's alpha and Gwet's AC2, with missing ratings.

    counts[u, k]                       how many annotators gave case u the rating k;  r_u = sum_k counts[u, k]

    alpha = 1 - D_o / D_e              over the cases with r_u >= 2
    o[c, k] = sum_u (counts[u, c] counts[u, k] - [c = k] counts[u, c]) / (r_u - 1)
    n_c = sum_k o[c, k],  n = sum_c n_c
    delta[c, k] = (sum_{g from c to k} n_g - (n_c + n_k) / 2)^2
    D_o = sum o delta / n,  D_e = sum n_c n_k delta / (n (n - 1))

    AC2 = (p_a - p_e) / (1 - p_e)      w[c, k] = 1 - C(|c - k| + 1, 2) / C(K, 2)
    p_a = mean over u with r_u >= 2 of sum_k counts[u, k] (sum_l w[k, l] counts[u, l] - 1) / (r_u (r_u - 1))
    pi_k = mean over u with r_u >= 1 of counts[u, k] / r_u
    p_e = sum w / (K (K - 1)) sum_k pi_k (1 - pi_k)

Everything is float64, and takes weights of the cases, so that a bootstrap is one product: a case drawn twice weighs 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vatjax import errors

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


_BEYOND = 0.025  # of the draws lie beyond either end of an interval


class Interval(NamedTuple):
    """A number and its 95 % interval; NaN where there is none.

    Attributes:
        estimate: of all cases.
        low, high: the ends of the interval; NaN where more draws lack a number than lie beyond one end.
        without: the share of draws that have no number: all their ratings are one.
    """

    estimate: float
    low: float
    high: float
    without: float = 0.0


def counted(ratings: np.ndarray, low: int, high: int) -> np.ndarray:
    """How many annotators gave each case each rating, [cases, categories].

    Args:
        ratings: [cases, annotators], whole numbers, NaN where one is missing.
        low, high: the ends of the scale.
    """
    same: np.ndarray = ratings[:, :, None] == np.arange(low, high + 1)[None, None, :]
    counts: np.ndarray = same.sum(1).astype(np.float64)
    return counts


def alpha(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha for ordered ratings, [draws]; NaN where all ratings are one, and where no case has two.

    Args:
        counts: [cases, categories].
        weights: [draws, cases].
    """
    each = counts.sum(1)
    pairs = each >= 2
    scale = np.where(pairs, 1 / np.where(pairs, each - 1, 1), 0)
    own = np.einsum("uc,uk->uck", counts, counts) - counts[:, :, None] * np.eye(counts.shape[1])
    met = np.tensordot(weights * scale, own, 1)  # [draws, categories, categories]
    margin = met.sum(2)
    total = margin.sum(1)
    delta = _apart(margin)
    observed = (met * delta).sum((1, 2))
    expected = np.einsum("dc,dk,dck->d", margin, margin, delta)
    there = expected > 0
    ratio = observed * (total - 1) / np.where(there, expected, 1)
    return np.where(there, 1 - ratio, np.nan)


def _apart(margin: np.ndarray) -> np.ndarray:
    """Squared distances of ratings by how many lie between them, [draws, categories, categories]."""
    reach = np.concatenate([np.zeros((len(margin), 1)), np.cumsum(margin, 1)], 1)
    low = np.minimum.outer(np.arange(margin.shape[1]), np.arange(margin.shape[1]))
    high = np.maximum.outer(np.arange(margin.shape[1]), np.arange(margin.shape[1]))
    between = reach[:, high + 1] - reach[:, low]
    found: np.ndarray = (between - (margin[:, :, None] + margin[:, None, :]) / 2) ** 2 * (low != high)
    return found


def ac2(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gwet's AC2 with ordinal weights, [draws]; NaN where no case has two ratings.

    Args:
        counts: [cases, categories].
        weights: [draws, cases].
    """
    each, categories = counts.sum(1), counts.shape[1]
    steps = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories)))
    near = 1 - steps * (steps + 1) / (categories * (categories - 1))
    pairs, any_ = each >= 2, each >= 1
    both = (counts * (counts @ near - 1)).sum(1) / np.where(pairs, each * (each - 1), 1)
    agreed = _mean(weights, both, pairs)
    shares = counts / np.where(any_, each, 1)[:, None]
    used = _mean(weights, shares, any_)
    chance = near.sum() / (categories * (categories - 1)) * (used * (1 - used)).sum(-1)
    found: np.ndarray = (agreed - chance) / (1 - chance)
    return found


def two_agree(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of cases in which at least two annotators give the same rating, of those with two or more, [draws].

    Of more annotators than ratings two agree always: with six and five it says nothing.
    """
    return _mean(weights, (counts.max(1) >= 2).astype(np.float64), counts.sum(1) >= 2)


def same_stance(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the share of cases in which at least two annotators take the same side of the middle, or both the middle, [draws].

    On 1 to 5 the stances are 4 and 5, 3, 1 and 2, as in the published study, whose agreement this is with three annotators.
    """
    half = counts.shape[1] // 2
    sides = [counts[:, :half].sum(1), counts[:, half : counts.shape[1] - half].sum(1), counts[:, -half:].sum(1)]
    return two_agree(np.stack(sides, 1), weights)


def mean(counts: np.ndarray, weights: np.ndarray, low: int) -> np.ndarray:
    """The mean rating over cases, each of which counts once, [draws]."""
    each = counts.sum(1)
    own = counts @ np.arange(low, low + counts.shape[1]) / np.where(each >= 1, each, 1)
    return _mean(weights, own, each >= 1)


def _mean(weights: np.ndarray, x: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Weighted means over the cases that have something, [draws, ...]."""
    own = weights * there
    total = own.sum(1)
    sums = np.tensordot(own, x, 1)
    total = total.reshape(-1, *[1] * (sums.ndim - 1))
    return np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)


def interval(statistic: Statistic, counts: np.ndarray, draws: np.ndarray) -> Interval:
    """A number over all cases, with the middle 95 % of what it is over drawn ones.

    Args:
        statistic: of counts and weights.
        counts: [cases, categories].
        draws: of `drawn`, [draws, cases].
    """
    estimate = float(statistic(counts, np.ones((1, len(counts))))[0])
    found = statistic(counts, draws)
    return _middle(estimate, found)


def ratio(sums: np.ndarray, counts: np.ndarray, draws: np.ndarray) -> Interval:
    """A mean over everything that all cases hold, with its interval over cases.

    Args:
        sums, counts: of each case, [cases].
        draws: of `drawn`, [draws, cases].
    """
    if not counts.sum():
        return Interval(np.nan, np.nan, np.nan)
    there = draws @ counts
    found = np.where(there > 0, draws @ sums / np.where(there > 0, there, 1), np.nan)
    return _middle(float(sums.sum() / counts.sum()), found)


def _middle(estimate: float, found: np.ndarray) -> Interval:
    """The middle 95 % of what was found, where there is enough of it."""
    without = float(np.isnan(found).mean())
    if np.isnan(estimate) or without > _BEYOND:
        return Interval(estimate, np.nan, np.nan, without)
    low, high = np.nanquantile(found, [_BEYOND, 1 - _BEYOND])
    return Interval(estimate, float(low), float(high), without)


def drawn(cases: int, draws: int, seed: int) -> np.ndarray:
    """How often each case is in each draw of as many, [draws, cases].

    Raises:
        InputError: for a seed below 0, and too few draws.
    """
    if draws < 100:
        raise errors.InputError(f"resamples: expected at least 100, found {draws}")
    if seed < 0:
        raise errors.InputError(f"seed: expected 0 or more, found {seed}")
    which = np.random.default_rng(seed).integers(cases, size=(draws, cases))
    return np.stack([np.bincount(own, minlength=cases) for own in which]).astype(np.float64)
