import numpy as np
from scipy import stats

from vatjax import metrics


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


def test_a_nan_is_no_test():
    p = np.array([0.01, np.nan, 0.04, 0.03, np.nan, 0.005], np.float32)
    there = ~np.isnan(p)
    for correct in (metrics.holm, metrics.false_discovery):
        corrected = np.asarray(correct(p))
        np.testing.assert_array_equal(np.isnan(corrected), ~there)
        np.testing.assert_allclose(corrected[there], correct(p[there]), rtol=1e-6)


def test_regression_counts_only_the_clusters_that_are_left():
    y, x, clusters = planted(n=60)
    gone = clusters >= 8
    y[gone] = np.nan
    fit = metrics.regress(y.astype(np.float32), x.astype(np.float32), clusters)
    beta, error, _ = by_hand(y[~gone], x[~gone], clusters[~gone])
    np.testing.assert_allclose(fit.p, 2 * stats.t.sf(np.abs(beta / error), 7), atol=1e-4)
    one = metrics.regress(y.astype(np.float32), x.astype(np.float32), np.zeros(60))
    assert np.isnan(one.p).all()
    assert np.isnan(one.error).all()
