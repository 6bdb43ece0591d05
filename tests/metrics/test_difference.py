import jax
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics
from vatjax.metrics import pairs

pytestmark = pytest.mark.fast_compile


@pytest.mark.thorough
def test_a_paired_difference_is_sharper_than_two_apart():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(150, 5))
    first = (common + 0.1 * rng.normal(size=common.shape) + 0.5).astype(np.float32)
    second = (common + 0.1 * rng.normal(size=common.shape)).astype(np.float32)
    clusters = np.arange(150) // 2
    result = metrics.difference(first, second, 1, clusters)
    np.testing.assert_allclose(result.gain.estimate, metrics.gain(first, 1) - metrics.gain(second, 1), rtol=1e-5)
    assert result.gain.high - result.gain.low < 0.1
    alone = metrics.infer(np.zeros_like(first), first, 1, clusters, jax.random.key(0), resamples=100)
    assert alone.gain.high - alone.gain.low > 0.2
    assert result.p_nvat > 0.05
    with pytest.raises(ValueError, match="same contexts"):
        metrics.difference(first, second[1:], 1, clusters)


def test_a_difference_in_coupling_is_found():
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(200, 5)).astype(np.float32)
    together = (apart + 1.5 * rng.normal(size=(200, 1))).astype(np.float32)
    result = metrics.difference(together, apart, 0, None)
    assert result.p_nvat < 0.01
    assert result.nvat.low > 0.2


def test_an_unresolved_gain_gives_no_difference_of_side_effects():
    rng = np.random.default_rng(0)
    moved = (rng.normal(size=(80, 4)) + np.array([3, 0, 0, 0])).astype(np.float32)
    still = rng.normal(size=(80, 4)).astype(np.float32)
    still[:, 0] -= still[:, 0].mean()
    result = metrics.difference(moved, still, 0, None)
    assert np.isnan(result.off_target.estimate)
    assert np.isfinite(result.gain.estimate)
    both = metrics.difference(moved, 2 * moved, 0, None)
    np.testing.assert_allclose(both.off_target.estimate, 0, atol=1e-6)


@pytest.mark.thorough
def test_the_difference_of_noise_is_debiased_before_it_is_tested():
    """Many contexts against few that are repeated: both independent, with floors of their own."""
    rng = np.random.default_rng(0)
    loose = rng.normal(size=(240, 8)).astype(np.float32)
    tight = np.repeat(rng.normal(size=(30, 8)), 8, axis=0).astype(np.float32)
    clusters = np.arange(240) // 8
    raw = metrics.nvat(metrics.spearman(tight)) - metrics.nvat(metrics.spearman(loose))
    result = metrics.difference(tight, loose, 0, clusters)
    assert raw > 0.08
    assert result.p_nvat > 0.05
    assert result.nvat.low <= 0 <= result.nvat.high


def test_a_difference_of_side_effects_is_found_without_the_floor():
    """Root mean square shifts of .5 and 0: noise is taken off both before they are compared."""
    rng = np.random.default_rng(0)
    side = np.array([1, 0.5, -0.5, 0.5, -0.5])
    first = (rng.normal(size=(150, 5)) + side).astype(np.float32)
    second = (rng.normal(size=(150, 5)) + np.array([1, 0, 0, 0, 0])).astype(np.float32)
    result = metrics.difference(first, second, 0)
    assert result.off_target_shift.low > 0
    assert result.off_target_shift.low < 0.5 < result.off_target_shift.high
    assert result.off_target.low < 0.5 < result.off_target.high
    assert result.p_gain > 0.05


def paths(clusters=40, seed=0, scale=(1.0, 1.6)):
    """Two interventions that do the same, one of them stronger at each of its two levels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(clusters), 2)
    mean = np.linspace(-0.3, 0.3, 6) + np.eye(6)[0]
    arms = []
    for size in scale:
        shared = 0.6 * rng.normal(size=(clusters, 6))[labels] + 0.4 * rng.normal(size=(clusters, 1))[labels]
        whole = size * (mean + shared + 0.3 * rng.normal(size=(2 * clusters, 6)))
        arms.append(np.stack([0.5 * whole + 0.1 * rng.normal(size=whole.shape), whole]).astype(np.float32))
    return *arms, labels


def test_between_levels_an_intervention_is_between_its_levels():
    weak, strong = np.ones((1, 4, 2), np.float32), np.full((2, 4, 2), 2.0, np.float32)
    strong[1] = 3
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 1)).astype(np.float32)
    same = metrics.same_gain(weak + noise, strong + noise, 0, np.arange(4))
    assert same.gain == pytest.approx(1, abs=0.02)  # the weaker one's; the other has it halfway to its first level
    np.testing.assert_allclose(same.difference.shift.estimate, 0, atol=1e-5)
    at_last = metrics.same_gain(3 * weak + noise, strong + noise, 0, np.arange(4))
    assert at_last.gain == pytest.approx(3, abs=0.02)
    assert metrics.same_gain(-weak, strong, 0, np.arange(4)).difference is None
    with pytest.raises(ValueError, match="same contexts"):
        metrics.same_gain(weak, strong[:, :3], 0, None)


def test_at_the_same_gain_each_replicate_has_weights_of_its_own():
    """Against the whole comparison made anew without each cluster, and against weights that are taken for known."""
    first, second, labels = paths()
    same = metrics.same_gain(first, second, 0, labels)
    count = labels.max() + 1
    again = [
        metrics.same_gain(first[:, labels != g], second[:, labels != g], 0, labels[labels != g]) for g in range(count)
    ]
    replicates = np.array([one.difference.shift.estimate for one in again])
    error = np.sqrt((count - 1) / count * ((replicates - replicates.mean(0)) ** 2).sum(0))[1:]
    half = (same.difference.shift.high - same.difference.shift.low)[1:] / 2
    np.testing.assert_allclose(half / error, (half / error)[0], rtol=0.03)
    assert (half / error)[0] == pytest.approx(2.02, rel=0.02)
    # At the same gain the gain does not differ, and nothing makes it uncertain.
    assert same.difference.gain.high - same.difference.gain.low < 0.1 * half[0]
    low = first[1] * (same.gain / first[1][:, 0].mean())
    high = second[1] * (same.gain / second[1][:, 0].mean())
    known = metrics.difference(low, high, 0, labels)
    assert known.gain.high - known.gain.low > half[0] / 2


def test_crossed_clusters_and_missing_ratings_at_the_same_gain():
    first, second, labels = paths()
    crossed = np.stack([labels % 8, labels // 8], 1)
    first[:, 3, 2] = np.nan
    same = metrics.same_gain(first, second, 0, crossed).difference
    assert all(np.isfinite(part).all() for part in (*same.shift, *same.nvat, *same.off_target_shift))


def arm(gain, tax, clusters=50, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    d = np.tile([gain, tax, -tax], (clusters, 1)) + noise * rng.normal(size=(clusters, 3))
    d += np.array([gain, tax, -tax]) - d.mean(0)  # exactly these means
    return metrics.trade_off(d.astype(np.float32), 0, np.arange(clusters))


def test_the_front_says_how_sure_it_is():
    better, worse = arm(2, 0.2, seed=1), arm(1, 0.8, seed=2)
    np.testing.assert_allclose(metrics.front_shares([better, worse]), [1, 0], atol=0.01)
    trade = metrics.front_shares([arm(2, 0.8, seed=1), arm(1, 0.2, seed=2)])
    np.testing.assert_allclose(trade, [1, 1], atol=0.01)
    # Of two that cannot be distinguished each is on the front three times in four: only one who loses both is not.
    alike = metrics.front_shares([arm(1, 0.5, seed=1), arm(1, 0.5, seed=2)])
    np.testing.assert_allclose(alike, 0.75, atol=0.08)
    # The same scenes move both: the difference is sure although each alone is not.
    paired = metrics.front_shares([arm(1.05, 0.5, seed=3), arm(1, 0.6, seed=3)])
    assert paired[0] == pytest.approx(1, abs=0.01)
    assert paired[1] < 0.05


def test_interventions_that_do_the_same_are_all_on_the_front():
    same = arm(1, 0.5, seed=1)
    np.testing.assert_array_equal(metrics.front_shares([same, same, same]), 1)


def test_many_values_have_fewer_groups_in_all_parts(monkeypatch):
    """The limit of memory binds from 396 values; here 10 values have 37 groups of 61 clusters."""
    monkeypatch.setattr(pairs, "_MOST_REPLICATES", 37 * 10**2)  # a shape that no other test has compiled
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(1, 61, 10)).astype(np.float32) + gain for gain in (1.0, 2.0))
    clusters = np.arange(61)
    alike = metrics.same_gain(first, second, 3, clusters)
    assert np.isfinite(alike.difference.nvat.low)
    result = metrics.infer_shift(first[0], 3, clusters, 0, resamples=200)
    assert result.raw.nvat.high > result.raw.nvat.low
    error = stats.t.ppf(0.975, 60) * stats.sem(first[0, :, 3])  # means have all 61 groups
    np.testing.assert_allclose(result.gain.high - result.gain.estimate, error, rtol=1e-3)
