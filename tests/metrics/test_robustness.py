import jax
import numpy as np
import pytest

from vatjax import metrics, values

pytestmark = pytest.mark.fast_compile


def test_amplification_is_a_ratio_of_sums():
    d = np.array([[1.0, 2.0, -1.0], [-1.0, 2.0, 0.0], [2.0, -4.0, 1.0], [0.0, 0.0, 2.0]], np.float32)
    result = metrics.amplification(d, 0, None, jax.random.key(0), splits=4)
    np.testing.assert_allclose(result.ratio, [1, 2, 1], rtol=1e-6)


@pytest.mark.thorough
def test_amplification_does_not_choose_its_winners_from_noise():
    run = jax.jit(lambda d, key: metrics.amplification(d, 0, None, key, 10).difference.estimate)
    rng = np.random.default_rng(1)
    draws = [run(rng.normal(size=(80, 12)).astype(np.float32), jax.random.key(seed)) for seed in range(12)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(12) + 0.01
    rng = np.random.default_rng(0)
    size = np.where(np.arange(12) < 6, 2.0, 0.5)
    d = size * (rng.normal(size=(80, 1)) * (size > 1) + 0.5 * rng.normal(size=(80, 12)))
    result = metrics.amplification(d.astype(np.float32), 11, None, jax.random.key(0), 10)
    assert result.difference.low > 0


def test_agreement_leaves_missing_entries_out():
    x = np.array([1, 2, 3, np.nan, 5], np.float32)
    np.testing.assert_allclose(metrics.rank_agreement(x, np.array([1, 2, 3, 9, 4], np.float32)), 1.0)
    np.testing.assert_allclose(metrics.rank_agreement(x, -np.nan_to_num(x)), -1.0)


def test_types_agree_with_their_values_where_one_factor_orders_both():
    tax = values.schwartz()
    strength = np.linspace(0.1, 1, 10)
    own = strength[tax.type_of]
    np.testing.assert_allclose(
        metrics.types_against_values(strength.astype(np.float32), own.astype(np.float32), tax.type_of), 1
    )


def test_types_decide_shapes_and_must_be_concrete():
    with pytest.raises(TypeError, match="types decide shapes"):
        jax.jit(lambda of: metrics.types_against_values(np.ones(2), np.ones(4), of))(np.array([0, 0, 1, 1]))


def test_types_of_equal_size_lose_the_advantage_of_large_ones():
    type_of = np.repeat([0, 1, 2, 3], [12, 2, 2, 2])
    rng = np.random.default_rng(0)
    d = (rng.normal(size=(300, 1)) + 3 * rng.normal(size=(300, 18))).astype(np.float32)
    types = np.stack([d[:, type_of == t].mean(1) for t in range(4)], 1)
    assert int(np.argmax(metrics.vat(metrics.spearman(types)))) == 0
    result = metrics.infer_shift(d, 0, None, jax.random.key(0), resamples=100, type_of=type_of)
    equal = result.equal.coupling
    # Drawn by hand: the mean coupling over all pairs of members of the large type.
    pairs = [np.stack([d[:, [i, j]].mean(1), d[:, 12:14].mean(1)], 1) for i in range(12) for j in range(i)]
    np.testing.assert_allclose(equal[0, 1], np.mean([metrics.spearman(pair)[0, 1] for pair in pairs]), atol=0.02)
    assert result.equal.hub_p[0] > 0.05
    np.testing.assert_allclose(np.diag(equal), 1)


def test_stability_tells_a_firm_order_from_noise():
    rng = np.random.default_rng(0)
    strength = np.linspace(0, 1.5, 8)
    firm = (rng.normal(size=(200, 1)) * strength + rng.normal(size=(200, 8))).astype(np.float32)
    noise = rng.normal(size=(200, 8)).astype(np.float32)
    clusters = np.arange(200) // 2
    one, other = (metrics.stability(x, clusters, jax.random.key(0), 40) for x in (firm, noise))
    assert one.split_half > 0.9
    assert one.dropped >= 0.5
    assert other.split_half < 0.5
    assert other.dropped < 0.5


def test_reliability_is_cronbachs_alpha_and_disattenuation_takes_noise_off():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2000, 2)) @ np.linalg.cholesky(np.array([[1, 0.6], [0.6, 1]])).T
    replicates = (truth[None] + rng.normal(size=(3, 2000, 2))).astype(np.float32)
    alpha = metrics.reliability(replicates)
    np.testing.assert_allclose(alpha, 3 / (3 + 1), atol=0.02)  # three replicates with as much noise as truth
    by_hand = [
        3 / 2 * (1 - replicates[:, :, v].var(1, ddof=1).sum() / replicates[:, :, v].sum(0).var(ddof=1)) for v in (0, 1)
    ]
    np.testing.assert_allclose(alpha, by_hand, rtol=1e-5)
    r = np.asarray(metrics.spearman(replicates.mean(0)))
    clean = metrics.disattenuate(r, alpha)
    np.testing.assert_allclose(clean[0, 1], 6 / np.pi * np.arcsin(0.3), atol=0.04)
    assert clean[0, 1] > r[0, 1] + 0.08
    assert np.isnan(metrics.disattenuate(r, np.float32([0.5, -0.1]))[0, 1])


@pytest.mark.thorough
def test_amplification_weighs_missing_ratings_and_leaves_constant_columns_out():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(60, 6)).astype(np.float32)
    d[:, 5] = 9.0
    whole = metrics.amplification(d, 0, None, jax.random.key(0), 6)
    np.testing.assert_allclose(whole.ratio[5], 9 / np.abs(d[:, 0]).mean(), rtol=1e-5)
    assert whole.low < 2  # the constant column is in neither half
    d[::2, 1] = np.nan
    ratio = metrics.amplification(d, 0, None, jax.random.key(0), 4).ratio[1]
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
