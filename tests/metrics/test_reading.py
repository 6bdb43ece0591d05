import jax
import numpy as np
import pytest

from vatjax import metrics, values


def test_amplification_is_a_ratio_of_sums():
    d = np.array([[1.0, 2.0, -1.0], [-1.0, 2.0, 0.0], [2.0, -4.0, 1.0], [0.0, 0.0, 2.0]], np.float32)
    result = metrics.amplification(d, 0, None, jax.random.key(0), splits=4, resamples=20)
    np.testing.assert_allclose(result.ratio, [1, 2, 1], rtol=1e-6)


@pytest.mark.thorough
def test_amplification_does_not_choose_its_winners_from_noise():
    run = jax.jit(lambda d, key: metrics.amplification(d, 0, None, key, 10, 50).difference.estimate)
    rng = np.random.default_rng(1)
    draws = [run(rng.normal(size=(80, 12)).astype(np.float32), jax.random.key(seed)) for seed in range(12)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(12) + 0.01
    rng = np.random.default_rng(0)
    size = np.where(np.arange(12) < 6, 2.0, 0.5)
    d = size * (rng.normal(size=(80, 1)) * (size > 1) + 0.5 * rng.normal(size=(80, 12)))
    result = metrics.amplification(d.astype(np.float32), 11, None, jax.random.key(0), 10, 100)
    assert result.difference.low > 0


def test_agreement_leaves_missing_entries_out():
    x = np.array([1, 2, 3, np.nan, 5], np.float32)
    np.testing.assert_allclose(metrics.agreement(x, np.array([1, 2, 3, 9, 4], np.float32)), 1.0)
    np.testing.assert_allclose(metrics.agreement(x, -np.nan_to_num(x)), -1.0)


def test_types_agree_with_their_values_where_one_factor_orders_both():
    tax = values.schwartz()
    strength = np.linspace(0.1, 1, 10)
    own = strength[tax.type_of]
    np.testing.assert_allclose(
        metrics.types_against_values(strength.astype(np.float32), own.astype(np.float32), tax.type_of), 1
    )


def test_equal_membership_takes_the_advantage_from_large_types():
    type_of = np.repeat([0, 1, 2, 3], [12, 2, 2, 2])
    rng = np.random.default_rng(0)
    d = (rng.normal(size=(300, 1)) + 3 * rng.normal(size=(300, 18))).astype(np.float32)
    types = np.stack([d[:, type_of == t].mean(1) for t in range(4)], 1)
    assert int(np.argmax(metrics.vat(metrics.spearman(types)))) == 0
    share = metrics.equal_membership_hubs(d, type_of, jax.random.key(0), draws=60, top=1)
    assert share[0] < 0.6
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="between 1 and 2 members"):
        metrics.equal_membership_hubs(d, type_of, jax.random.key(0), members=3)


@pytest.mark.thorough
def test_amplification_weighs_missing_ratings_and_leaves_constant_columns_out():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(60, 6)).astype(np.float32)
    d[:, 5] = 9.0
    whole = metrics.amplification(d, 0, None, jax.random.key(0), 6, 40)
    np.testing.assert_allclose(whole.ratio[5], 9 / np.abs(d[:, 0]).mean(), rtol=1e-5)
    assert whole.low < 2  # the constant column is in neither half
    d[::2, 1] = np.nan
    ratio = metrics.amplification(d, 0, None, jax.random.key(0), 4, 20).ratio[1]
    np.testing.assert_allclose(ratio, np.nanmean(np.abs(d[:, 1])) / np.abs(d[:, 0]).mean(), rtol=1e-5)


@pytest.mark.thorough
def test_robustness_repeats_the_coupling_without_a_fifth_of_the_scenes():
    rng = np.random.default_rng(0)
    strength = np.linspace(0, 1.5, 8)
    firm = (rng.normal(size=(200, 1)) * strength + rng.normal(size=(200, 8))).astype(np.float32)
    result = metrics.robustness(firm, np.arange(200) // 2, jax.random.key(0), draws=60)
    assert result.nvat.low < result.nvat.estimate < result.nvat.high
    assert result.nvat.high - result.nvat.low < 0.1
    assert 0.9 < result.least <= result.agreement <= 1
    noise = rng.normal(size=(200, 8)).astype(np.float32)
    assert metrics.robustness(noise, None, jax.random.key(0), draws=60).agreement < 0.9
    np.testing.assert_allclose(metrics.robustness(firm, None, jax.random.key(0), 1.0, 3).agreement, 1)
