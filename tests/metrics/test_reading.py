import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics, values


def planted(n=120, k=4, seed=0):
    rng = np.random.default_rng(seed)
    clusters = np.arange(n) // 3
    x = rng.normal(size=(n, k)) + rng.normal(size=(n // 3, k))[clusters]
    y = x @ np.linspace(-1, 1, k) + rng.normal(size=n) + rng.normal(size=n // 3)[clusters]
    return y, x, clusters


def by_hand(y, x, clusters):
    """Least squares with cluster-robust errors, in float64 and plain NumPy."""
    full = np.column_stack([np.ones(len(y)), x])
    inverse = np.linalg.inv(full.T @ full)
    beta = inverse @ full.T @ y
    residual = y - full @ beta
    meat = sum(np.outer(s, s) for s in (full[clusters == c].T @ residual[clusters == c] for c in np.unique(clusters)))
    count, (n, k) = len(np.unique(clusters)), full.shape
    variance = inverse @ meat @ inverse * count / (count - 1) * (n - 1) / (n - k)
    return beta[1:], np.sqrt(np.diag(variance))[1:], 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()


def test_regression_is_least_squares_with_cluster_robust_errors():
    y, x, clusters = planted()
    fit = metrics.regress(y.astype(np.float32), x.astype(np.float32), clusters)
    beta, error, explained = by_hand(y, x, clusters)
    np.testing.assert_allclose(fit.coefficient.estimate, beta, atol=1e-5)
    np.testing.assert_allclose(fit.error, error, rtol=1e-4)
    np.testing.assert_allclose(fit.r_squared, explained, atol=1e-5)
    np.testing.assert_allclose(fit.p, 2 * stats.t.sf(np.abs(beta / error), 39), atol=1e-5)
    np.testing.assert_allclose(fit.coefficient.high - beta, stats.t.ppf(0.975, 39) * error, rtol=1e-4)
    others = np.column_stack([np.ones(len(y)), x[:, 1:]])
    residual = x[:, 0] - others @ np.linalg.lstsq(others, x[:, 0])[0]
    np.testing.assert_allclose(
        fit.inflation[0], ((x[:, 0] - x[:, 0].mean()) ** 2).sum() / (residual**2).sum(), rtol=1e-4
    )


def test_regression_leaves_incomplete_contexts_out():
    y, x, clusters = planted()
    gone = np.arange(len(y)) % 10 == 0
    x[gone, 1] = np.nan
    fit = metrics.regress(y.astype(np.float32), x.astype(np.float32), clusters)
    beta, error, _ = by_hand(y[~gone], x[~gone], clusters[~gone])
    np.testing.assert_allclose(fit.coefficient.estimate, beta, atol=1e-5)
    np.testing.assert_allclose(fit.error, error, rtol=1e-3)


def test_regression_on_ipsatised_shifts_is_undefined():
    _, x, clusters = planted()
    plain = metrics.ipsatise(x.astype(np.float32))
    fit = metrics.regress(x[:, 0].astype(np.float32), plain, clusters)
    assert np.isnan(fit.inflation).all()
    assert np.isnan(fit.coefficient.estimate).all()


def test_holm_and_false_discovery():
    p = np.array([0.01, 0.04, 0.03, 0.005], np.float32)
    np.testing.assert_allclose(metrics.holm(p), [0.03, 0.06, 0.06, 0.02], rtol=1e-5)
    np.testing.assert_allclose(metrics.false_discovery(p), stats.false_discovery_control(p), rtol=1e-5)
    np.testing.assert_allclose(metrics.holm(np.array([0.9, 0.8], np.float32)), [1, 1])


def test_amplification_is_a_ratio_of_sums():
    d = np.array([[1.0, 2.0, -1.0], [-1.0, 2.0, 0.0], [2.0, -4.0, 1.0], [0.0, 0.0, 2.0]], np.float32)
    result = metrics.amplification(d, 0, None, jax.random.key(0), splits=4, resamples=20)
    np.testing.assert_allclose(result.ratio, [1, 2, 1], rtol=1e-6)


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


# Soft ---------------------------------------------------------------------------------------------------------------


def test_certain_probabilities_give_spearman_of_the_argmax():
    ratings = np.random.default_rng(0).integers(0, 5, size=(60, 4))
    certain = jax.nn.one_hot(ratings, 5)
    np.testing.assert_allclose(
        metrics.soft_spearman(certain), metrics.spearman(ratings.astype(np.float32)), rtol=0, atol=1e-4
    )
    weights = np.random.default_rng(1).integers(0, 3, 60)
    np.testing.assert_allclose(
        metrics.soft_spearman(certain, weights.astype(np.float32)),
        metrics.spearman(np.repeat(ratings, weights, axis=0)),
        rtol=0,
        atol=1e-4,
    )


def test_the_gap_to_the_argmax_closes_with_temperature_and_that_to_expected_ratings_is_small():
    logits = np.random.default_rng(0).normal(size=(300, 4, 5)).astype(np.float32) + 2 * np.random.default_rng(1).normal(
        size=(300, 1, 1)
    ).astype(np.float32) * np.linspace(-1, 1, 5, dtype=np.float32)
    argmax = metrics.spearman(np.argmax(logits, -1))
    gaps = [np.abs(metrics.soft_spearman(jax.nn.softmax(logits / t, -1)) - argmax).max() for t in (1.0, 0.1, 0.01)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02
    p = jax.nn.softmax(logits, -1)
    expected = metrics.spearman(p @ jnp.arange(5.0))
    assert np.abs(metrics.soft_spearman(p) - expected).max() < 0.1


@pytest.mark.parametrize("kind", ["even", "certain", "constant"])
def test_gradients_are_finite_everywhere(kind):
    p = {
        "even": jnp.full((9, 3, 5), 0.2),
        "certain": jax.nn.one_hot(jnp.arange(27).reshape(9, 3) % 5, 5),
        "constant": jax.nn.one_hot(jnp.zeros((9, 3), int), 5),
    }[kind]
    value, gradient = jax.value_and_grad(lambda p: metrics.soft_nvat(metrics.soft_spearman(p)))(p)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_step_down_the_gradient_lowers_the_soft_tax():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(80, 1, 5)) + np.zeros((1, 4, 1)), jnp.float32)
    tax = jax.jit(lambda logits: metrics.soft_nvat(metrics.soft_spearman(jax.nn.softmax(logits, -1))))
    logits = logits + 0.3 * jnp.asarray(np.random.default_rng(1).normal(size=logits.shape), jnp.float32)
    begin, step = tax(logits), jax.jit(lambda x: x - 20 * jax.grad(tax)(x))
    for _ in range(30):
        logits = step(logits)
    assert tax(logits) < 0.7 * begin


def test_the_levels_of_a_shift():
    rng = np.random.default_rng(0)
    pre, post = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 6, 3, 4)), jnp.float32), -1)
    levels = metrics.shift_levels(pre, post)
    assert levels.shape == (6, 3, 7)
    np.testing.assert_allclose(levels.sum(-1), 1, rtol=1e-5)
    step = jnp.arange(4.0)
    np.testing.assert_allclose(levels @ jnp.arange(-3.0, 4.0), post @ step - pre @ step, atol=1e-5)
