import jax
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics

pytestmark = pytest.mark.fast_compile


def planted(coupling, seed=0, n=150, values=5):
    rng = np.random.default_rng(seed)
    return (np.sqrt(coupling) * rng.normal(size=(n, 1)) + np.sqrt(1 - coupling) * rng.normal(size=(n, values))).astype(
        np.float32
    )


def test_a_changed_structure_is_found_pair_by_pair():
    pre, post = planted(0.0), planted(0.5, seed=1)
    result = metrics.compare_networks(pre, post, None, jax.random.key(0), 200)
    np.testing.assert_allclose(result.pre, stats.spearmanr(pre).statistic, atol=1e-6)
    np.testing.assert_allclose(result.post, stats.spearmanr(post).statistic, atol=1e-6)
    gap = np.abs(np.asarray(result.post - result.pre))
    np.testing.assert_allclose(result.largest, gap.max(), rtol=1e-6)
    off = np.triu_indices(5, 1)
    strength = (np.abs(result.post) - np.abs(result.pre))[off].sum()
    np.testing.assert_allclose(result.strength, strength, rtol=1e-5)
    assert result.largest_p < 0.01
    assert result.strength_p < 0.01
    assert np.isnan(np.diag(result.change_p)).all()
    assert np.median(result.change_p[off]) < 0.05
    assert result.change_p[off].max() < 0.15


def test_no_change_raises_no_alarm_with_shared_scenes_and_missing_ratings():
    rng = np.random.default_rng(0)
    clusters = np.arange(60) // 3
    alarms = []
    for seed in range(60):
        common = np.repeat(rng.normal(size=(20, 1, 4)), 3, 1).reshape(60, 4)
        pre, post = (np.round(common + rng.normal(size=(60, 4))).astype(np.float32) for _ in range(2))
        result = metrics.compare_networks(pre, post, clusters, jax.random.key(seed), 99)
        alarms.append((float(result.largest_p) <= 0.05, float(result.strength_p) <= 0.05))
    assert (np.mean(alarms, 0) < 0.15).all()
    pre[3, 1] = np.nan
    assert np.isfinite(metrics.compare_networks(pre, post, clusters, jax.random.key(0), 19).largest_p)
    with pytest.raises(ValueError, match="must have one shape"):
        metrics.compare_networks(pre, post[1:], clusters, jax.random.key(0))


def test_the_excess_over_the_states_before_is_a_difference_off_the_diagonal():
    r, before = metrics.spearman(planted(0.4)), metrics.spearman(planted(0.1, 2))
    excess = np.asarray(metrics.excess_coupling(r, before))
    np.testing.assert_allclose(np.diag(excess), 1)
    np.testing.assert_allclose(excess[0, 1], float(r[0, 1] - before[0, 1]), rtol=1e-6)


def test_a_mean_shift_is_not_another_structure():
    rng = np.random.default_rng(0)
    alarms = []
    for seed in range(40):
        pre = rng.normal(size=(132, 6)).astype(np.float32)
        post = (rng.normal(size=(132, 6)) + 2).astype(np.float32)
        alarms.append(float(metrics.compare_networks(pre, post, None, jax.random.key(seed), 199).largest_p) <= 0.05)
    assert np.mean(alarms) <= 0.15
