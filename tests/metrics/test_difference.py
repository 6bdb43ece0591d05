import jax
import numpy as np
import pytest

from vatjax import metrics


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
