import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics
from vatjax.metrics import intervals


def test_bca_is_nan_where_its_bias_is_infinite():
    draws = jnp.stack([jnp.linspace(0, 1, 100), jnp.linspace(2, 3, 100)], 1)
    low, high = intervals.bca(jnp.array([0.5, 0.5]), draws, jnp.zeros((20, 2)), jnp.float32(2.09), 20)
    assert 0 < low[0] < 0.1
    assert 0.9 < high[0] < 1
    assert np.isnan(low[1])
    assert np.isnan(high[1])


def test_bca_is_scipys_up_to_the_small_sample_tails():
    x = np.random.default_rng(0).exponential(size=400)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=9999, method="BCa", rng=0).confidence_interval
    draws = metrics.bootstrap(lambda d, w: metrics.gain(d, 0, weights=w), x[:, None], None, jax.random.key(0), 9999)
    left_out = (x.sum() - x) / 399
    low, high = intervals.bca(jnp.float32(x.mean()), draws, jnp.asarray(left_out, jnp.float32), jnp.float32(1.966), 400)
    np.testing.assert_allclose([low, high], [theirs.low, theirs.high], atol=0.01)


@pytest.mark.thorough
def test_bca_leaves_draws_without_a_value_out():
    rng = np.random.default_rng(0)
    draws, left_out = rng.normal(size=(2, 400)), rng.normal(size=(2, 30)) / 30
    draws[1] = np.where(np.arange(400) % 2, np.nan, np.repeat(draws[0, ::2], 2))
    gappy = intervals.bca(jnp.zeros(2), jnp.float32(draws.T), jnp.float32(left_out[[0, 0]].T), jnp.float32(2.05), 30)
    half = intervals.bca(
        jnp.zeros(1), jnp.float32(draws[:1, ::2].T), jnp.float32(left_out[[0]].T), jnp.float32(2.05), 30
    )
    np.testing.assert_allclose([gappy[0][1], gappy[1][1]], [half[0][0], half[1][0]], rtol=1e-6)


def test_a_constant_has_an_interval_without_width():
    draws = jnp.float32([0.3, 0.30000004, 0.29999998] * 40)
    low, high = intervals.bca(jnp.float32(0.3), draws, draws[:20], jnp.float32(2.09), 20)
    np.testing.assert_allclose([low, high], 0.3, rtol=1e-6)


def test_students_t_at_traced_degrees_of_freedom():
    freedom = jnp.arange(0, 40)
    ours = jax.jit(lambda k: intervals.t_quantile(k, 39, jnp.float32))(freedom)
    assert np.isnan(ours[0])
    np.testing.assert_allclose(ours[1:], stats.t.ppf(0.975, np.arange(1, 40)), rtol=1e-6)
    t = jnp.float32([0, 0.5, 2, 8])
    np.testing.assert_allclose(jax.jit(intervals.t_tail)(t, 7), stats.t.sf(np.asarray(t), 7), rtol=1e-5)


def test_fieller_is_the_set_of_ratios_that_can_not_be_refused():
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(0.8, 0.02, 100), rng.normal(-1.5, 0.03, 100)
    top += 0.3 * (bottom + 1.5)
    a, b = (intervals.jackknife_variance(jnp.asarray(x, jnp.float32)) for x in (top, bottom))
    ab = intervals.jackknife_covariance(jnp.asarray(top, jnp.float32)[:, None], jnp.asarray(bottom, jnp.float32))[0]
    left_out = jnp.asarray(top, jnp.float32)[:, None], jnp.asarray(bottom, jnp.float32)
    low, high = intervals.fieller(jnp.float32([0.8]), jnp.float32(-1.5), *left_out, jnp.float32(2.0))
    q = np.linspace(-3, 3, 600_001)
    inside = (0.8 - q * 1.5) ** 2 <= 4 * (a + 2 * q * ab + q**2 * b)
    np.testing.assert_allclose([low[0], high[0]], [q[inside].min(), q[inside].max()], atol=2e-5)
    low, _ = intervals.fieller(jnp.float32([0.8]), jnp.float32(0.3), *left_out, jnp.float32(2.0))
    assert np.isnan(low)


def test_root_interval_is_from_zero_where_nothing_is_resolved():
    t = jnp.float32(2.0)
    zero = intervals.root_interval(jnp.float32(-0.001), jnp.float32(0.002), t)
    assert (zero.estimate, zero.low) == (0, 0)
    np.testing.assert_allclose(zero.high, np.sqrt(0.004), rtol=1e-6)
    clear = intervals.root_interval(jnp.float32(0.25), jnp.float32(0.05), t)
    np.testing.assert_allclose(clear, [0.5, 0.4, 0.6], rtol=1e-6)
