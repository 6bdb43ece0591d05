import jax
import numpy as np
import pytest
from scipy import linalg, stats

from vatjax import metrics

pytestmark = pytest.mark.fast_compile


def planted(n=120, k=4, seed=0):
    rng = np.random.default_rng(seed)
    clusters = np.arange(n) // 3
    x = rng.normal(size=(n, k)) + rng.normal(size=(n // 3, k))[clusters]
    y = x @ np.linspace(-1, 1, k) + rng.normal(size=n) + rng.normal(size=n // 3)[clusters]
    return y, x, clusters


def by_hand(y, x, clusters):
    """Least squares with CR2 errors and Satterthwaite's degrees of freedom, by the definitions, in float64."""
    full = np.column_stack([np.ones(len(y)), x])
    inverse = np.linalg.inv(full.T @ full)
    beta = inverse @ full.T @ y
    residual, hat = y - full @ beta, full @ inverse @ full.T
    rows = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    adjust = [np.real(linalg.inv(linalg.sqrtm(np.eye(len(r)) - hat[np.ix_(r, r)]))) for r in rows]
    scores = [full[r].T @ a @ residual[r] for r, a in zip(rows, adjust, strict=True)]
    variance = inverse @ sum(np.outer(s, s) for s in scores) @ inverse
    freedom = []
    for one in np.eye(full.shape[1]):
        g = np.stack(
            [(np.eye(len(y)) - hat)[:, r] @ a @ full[r] @ inverse @ one for r, a in zip(rows, adjust, strict=True)], 1
        )
        spectrum = np.linalg.eigvalsh(g.T @ g)
        freedom.append(spectrum.sum() ** 2 / (spectrum**2).sum())
    explained = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()
    return beta[1:], np.sqrt(np.diag(variance))[1:], np.array(freedom)[1:], explained


def fitted(y, x, clusters):
    return metrics.regress(y.astype(np.float32), x.astype(np.float32), clusters)


def test_regression_is_least_squares_with_cluster_robust_errors():
    y, x, clusters = planted()
    fit = fitted(y, x, clusters)
    beta, error, freedom, explained = by_hand(y, x, clusters)
    np.testing.assert_allclose(fit.coefficient.estimate, beta, atol=1e-5)
    np.testing.assert_allclose(fit.error, error, rtol=1e-4)
    np.testing.assert_allclose(fit.freedom, freedom, rtol=1e-3)
    np.testing.assert_allclose(fit.r_squared, explained, atol=1e-5)
    np.testing.assert_allclose(fit.p, 2 * stats.t.sf(np.abs(beta / error), freedom), atol=1e-5)
    others = np.column_stack([np.ones(len(y)), x[:, 1:]])
    residual = x[:, 0] - others @ np.linalg.lstsq(others, x[:, 0])[0]
    np.testing.assert_allclose(
        fit.inflation[0], ((x[:, 0] - x[:, 0].mean()) ** 2).sum() / (residual**2).sum(), rtol=1e-4
    )


def test_regression_with_few_clusters_raises_no_false_alarms():
    """The usual errors, with C - 1 degrees of freedom, find 13 % here where nothing is, and CR2 with Satterthwaite's 8 %."""
    rng = np.random.default_rng(0)
    clusters = np.arange(132) // 11
    run = jax.jit(lambda y, x: metrics.regress(y, x, clusters))
    p, holm = [], []
    for _ in range(300):
        common = rng.normal(size=(12, 10))[clusters]
        z = (common + rng.normal(size=(132, 10))).astype(np.float32)
        fit = run(z[:, 0], z[:, 1:])
        p.append(np.asarray(fit.p) <= 0.05)
        holm.append(bool((np.asarray(fit.p_holm) <= 0.05).any()))
    assert 0.03 < np.mean(p) < 0.1
    assert np.mean(holm) < 0.08


def test_regression_leaves_incomplete_contexts_out():
    y, x, clusters = planted()
    gone = np.arange(len(y)) % 10 == 0
    x[gone, 1] = np.nan
    fit = fitted(y, x, clusters)
    beta, error, freedom, _ = by_hand(y[~gone], x[~gone], clusters[~gone])
    np.testing.assert_allclose(fit.coefficient.estimate, beta, atol=1e-5)
    np.testing.assert_allclose(fit.error, error, rtol=1e-3)
    np.testing.assert_allclose(fit.freedom, freedom, rtol=1e-3)


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
    fit = fitted(y, x, clusters)
    beta, error, freedom, _ = by_hand(y[~gone], x[~gone], clusters[~gone])
    np.testing.assert_allclose(fit.p, 2 * stats.t.sf(np.abs(beta / error), freedom), atol=1e-4)
    one = fitted(y, x, np.zeros(60))
    assert np.isnan(one.p).all()
    assert np.isnan(one.error).all()


def test_several_rows_of_p_are_refused():
    for correct in (metrics.holm, metrics.false_discovery):
        with pytest.raises(ValueError, match="one row of p-values"):
            correct(np.ones((2, 5), np.float32))
