import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax.metrics import intervals

pytestmark = pytest.mark.fast_compile


def test_students_t_at_traced_degrees_of_freedom():
    freedom = np.array([0, 1, 2, 3.5, 7, 30, 255], np.float32)
    traced = jax.jit(intervals.t_quantile)(freedom)
    exact = stats.t.ppf(0.975, freedom[1:])
    assert np.isnan(traced[0])
    assert np.isnan(intervals.t_quantile(freedom)[0])
    np.testing.assert_allclose(traced[1:], exact, rtol=1e-3)
    np.testing.assert_allclose(intervals.t_quantile(freedom)[1:], exact, rtol=1e-6)
    wide = jax.jit(lambda f, z: intervals.t_quantile(f, z))(np.float32(9), np.float32(3.1))
    np.testing.assert_allclose(wide, stats.t.isf(stats.norm.sf(3.1), 9), rtol=5e-3)
    t = np.float32([0, 0.5, 2, 8])
    for tail in (intervals.t_tail, jax.jit(intervals.t_tail)):
        np.testing.assert_allclose(tail(t, 7), stats.t.sf(t, 7), rtol=1e-5)


def test_the_p_of_a_number_without_an_error_is_0_or_1():
    p = intervals.p_of_t(np.float32([0, 0.3, np.nan, 2]), np.float32([0, 0, 1, 1]), np.float32(11))
    np.testing.assert_allclose(p, [1, 0, np.nan, 2 * stats.t.sf(2, 11)], rtol=1e-5)


def replicates(*x):
    """Statistics without each cluster, as one way of clustering has them."""
    return tuple(np.asarray(part, np.float32)[None] for part in x), np.ones((1, len(x[0])), bool)


def test_the_jackknife_leaves_groups_out_that_are_not_there():
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    (left_out,), used = replicates(x)
    expected = 29 / 30 * ((x - x.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(intervals.jackknife_variance(left_out, used), expected, rtol=1e-5)
    padded, there = np.pad(left_out, ((0, 0), (0, 9), (0, 0))), np.pad(used, ((0, 0), (0, 9)))
    np.testing.assert_allclose(intervals.jackknife_variance(padded, there), expected, rtol=1e-5)


def test_crossed_keys_add_their_variances_and_take_the_intersection_off():
    one, other, both = np.float32([4, 1, 2]), np.float32([3, 1, 5]), np.float32([2, 0.5, 6])
    np.testing.assert_allclose(intervals.combine_ways(np.stack([one, other, both])), [5, 1.5, 5])


def test_fieller_is_the_set_of_ratios_that_can_not_be_refused():
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(0.8, 0.02, 100), rng.normal(-1.5, 0.03, 100)
    top += 0.3 * (bottom + 1.5)
    covariance = 99 * np.cov(top, bottom) * 99 / 100
    (tops, bottoms), used = replicates(top[:, None], bottom)
    t = np.float32(2.0)
    low, high = intervals.fieller_interval(np.float32([0.8]), np.float32(-1.5), tops, bottoms, used, t)
    q = np.linspace(-3, 3, 600_001)
    (a, ab), b = covariance[0], covariance[1, 1]
    inside = (0.8 - q * 1.5) ** 2 <= 4 * (a + 2 * q * ab + q**2 * b)
    np.testing.assert_allclose([low[0], high[0]], [q[inside].min(), q[inside].max()], atol=5e-4)
    low, _ = intervals.fieller_interval(np.float32([0.8]), np.float32(0.3), tops, bottoms, used, t)
    assert np.isnan(low)


def test_a_ratio_of_a_number_to_itself_has_a_finite_gradient():
    def high(x):
        without = ((jnp.sum(x) - x) / 11)[None]
        used = jnp.ones((1, 12), bool)
        return intervals.fieller_interval(
            jnp.mean(x)[None], jnp.mean(x), without[..., None], without, used, jnp.float32(2)
        )[1][0]

    assert np.isfinite(jax.grad(high)(jnp.linspace(1, 2, 12))).all()


def test_root_interval_is_from_zero_where_nothing_is_resolved():
    t = np.float32(2.0)
    zero = intervals.root_interval(np.float32(-0.001), np.float32(0.002), t)
    assert (zero.estimate, zero.low) == (0, 0)
    np.testing.assert_allclose(zero.high, np.sqrt(0.004), rtol=1e-6)
    clear = intervals.root_interval(np.float32(0.25), np.float32(0.05), t)
    np.testing.assert_allclose(clear, [0.5, 0.4, 0.6], rtol=1e-6)


def test_a_clustered_mean_is_students_where_each_entry_is_a_cluster_and_covers_where_it_is_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    interval = intervals.clustered_mean(np.append(x, np.nan), np.arange(31))
    expected = stats.t.interval(0.95, 29, x.mean(), stats.sem(x))
    np.testing.assert_allclose(interval, [x.mean(), *expected], rtol=1e-9)
    cluster, covered = np.arange(100) // 5, 0
    for _ in range(500):
        low, high = intervals.clustered_mean(rng.normal(size=20)[cluster] + rng.normal(size=100), cluster)[1:]
        covered += low < 0 < high
    assert 0.92 < covered / 500 < 0.98
    assert np.isnan(intervals.clustered_mean(x, np.zeros(30))).all()
