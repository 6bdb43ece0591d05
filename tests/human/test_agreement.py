"""Alpha and AC2 against others' code, published numbers, and the formulas written out one by one."""

import itertools
import math
import warnings

import krippendorff
import numpy as np
import pytest

from vatjax.human import agreement

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
PUBLISHED = [
    "1 2 3 3 2 1 4 1 2 * * *",
    "1 2 3 3 2 2 4 1 2 5 * 3",
    "* 3 3 3 2 3 4 2 2 5 1 *",
    "1 2 3 3 2 4 4 1 2 5 1 *",
]


def one(cases):
    return np.ones((1, cases))


def ratings(seed):
    """Ratings with a truth behind them, some of them missing, on a scale of which not every number need be used."""
    random = np.random.default_rng(seed)
    cases, annotators = random.integers(3, 40), random.integers(2, 6)
    truth = random.integers(1, 6, size=(cases, 1))
    found = np.clip(truth + random.integers(-1, 2, size=(cases, annotators)), 1, 5).astype(float)
    found[random.random(found.shape) < random.choice([0, 0.2, 0.6])] = np.nan
    return found


def test_published_numbers():
    table = np.array([[math.nan if x == "*" else float(x) for x in row.split()] for row in PUBLISHED]).T
    counts = agreement.count_ratings(table, 1, 5)
    assert agreement.alpha(counts, one(12))[0] == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize("seed", range(60))
def test_alpha_is_that_of_the_package(seed):
    counts = agreement.count_ratings(ratings(seed), 1, 5)
    pairs = counts[counts.sum(1) >= 2]
    ours = agreement.alpha(counts, one(len(counts)))[0]
    if len(pairs) == 0 or (pairs.sum(0) > 0).sum() < 2:
        assert math.isnan(ours)
        return
    theirs = krippendorff.alpha(value_counts=pairs, value_domain=[1, 2, 3, 4, 5], level_of_measurement="ordinal")
    assert ours == pytest.approx(theirs, abs=1e-9)


def ac2_by_hand(table):
    """Gwet's AC2 as sums over cases, annotators and ratings."""
    scale = range(1, 6)
    near = {(a, b): 1 - math.comb(abs(a - b) + 1, 2) / math.comb(5, 2) for a, b in itertools.product(scale, scale)}
    agreed, used = [], []
    for row in table:
        given = [int(x) for x in row if not math.isnan(x)]
        if len(given) >= 2:
            pairs = [near[a, b] for i, a in enumerate(given) for j, b in enumerate(given) if i != j]
            agreed.append(sum(pairs) / len(pairs))
        if given:
            used.append([given.count(k) / len(given) for k in scale])
    if not agreed:
        return math.nan
    share = np.mean(used, 0)
    chance = sum(near.values()) / (5 * 4) * sum(p * (1 - p) for p in share)
    return (np.mean(agreed) - chance) / (1 - chance)


@pytest.mark.parametrize("seed", range(60))
def test_ac2_is_its_formula(seed):
    table = ratings(seed)
    ours = agreement.ac2(agreement.count_ratings(table, 1, 5), one(len(table)))[0]
    assert ours == pytest.approx(ac2_by_hand(table), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("statistic", [agreement.alpha, agreement.ac2, agreement.two_agree])
def test_a_weight_is_how_often_a_case_is_there(seed, statistic):
    counts = agreement.count_ratings(ratings(seed), 1, 5)
    often = np.random.default_rng(seed).integers(0, 4, size=len(counts))
    repeated = np.repeat(counts, often, 0)
    weighted = statistic(counts, often[None, :].astype(float))[0]
    assert weighted == pytest.approx(statistic(repeated, one(len(repeated)))[0], abs=1e-12, nan_ok=True)


def test_where_there_is_nothing_to_tell():
    same = agreement.count_ratings(np.full((6, 3), 4.0), 1, 5)
    alone = agreement.count_ratings(np.array([[1.0, math.nan], [math.nan, 5.0]]), 1, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(agreement.alpha(same, one(6))[0])  # nobody used another rating: chance can't be told
        assert agreement.ac2(same, one(6))[0] == 1
        for statistic in (agreement.alpha, agreement.ac2, agreement.two_agree):
            assert math.isnan(statistic(alone, one(2))[0])
        assert agreement.mean_rating(alone, one(2), 1)[0] == 3
        found = agreement.bootstrap_interval(agreement.alpha, same, agreement.bootstrap_weights(6, 100, 0))
    assert math.isnan(found.estimate)
    assert math.isnan(found.low)


def test_two_of_three():
    table = np.array([[1, 1, 5], [1, 2, 3], [4, 4, 4], [2, math.nan, math.nan]])
    assert agreement.two_agree(agreement.count_ratings(table, 1, 5), one(4))[0] == pytest.approx(2 / 3)
    stances = np.array([[4, 5, 1], [1, 3, 5], [3, 3, 3], [2, 1, 4]], float)  # for, none, the middle, against
    assert agreement.same_stance(agreement.count_ratings(stances, 1, 5), one(4))[0] == pytest.approx(3 / 4)
    assert agreement.two_agree(agreement.count_ratings(stances, 1, 5), one(4))[0] == pytest.approx(1 / 4)


def test_an_interval_covers_what_is_planted():
    """Of 200 samples of 60 cases, about 190 intervals hold the alpha of very many cases."""

    def table(random, cases):
        truth = random.choice([1, 2, 4, 5, 5], size=(cases, 1))
        return np.clip(truth + random.integers(-1, 2, size=(cases, 3)), 1, 5).astype(float)

    far = agreement.count_ratings(table(np.random.default_rng(1), 100_000), 1, 5)
    truth, held = agreement.alpha(far, one(len(far)))[0], 0
    for seed in range(200):
        counts = agreement.count_ratings(table(np.random.default_rng((2, seed)), 60), 1, 5)
        found = agreement.bootstrap_interval(agreement.alpha, counts, agreement.bootstrap_weights(60, 400, seed))
        held += found.low <= truth <= found.high
    assert 176 <= held <= 199
