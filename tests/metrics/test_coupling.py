import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from tests.tiers import quick
from vatjax import metrics

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]


def oracle(x, statistic):
    """SciPy's correlation of every pair, on the contexts that both have."""
    values = x.shape[1]
    r = np.full((values, values), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for v in range(values):
            for w in range(values):
                both = ~np.isnan(x[:, v] + x[:, w])
                if both.sum() > 1 and np.ptp(x[both, v]) > 0 and np.ptp(x[both, w]) > 0:
                    r[v, w] = statistic(x[both, v].astype(float), x[both, w].astype(float)).statistic
    return r


def hard(n, seed=0, missing=0.0):
    """Ties, a constant column, two equal ones, a skewed and a reversed one, and missing ratings."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(n, 8)) * 2) / 2
    x[:, 1] = 1.5
    x[:, 3] = x[:, 2]
    x[:, 4] = np.exp(3 * rng.normal(size=n))
    x[:, 5] = -(x[:, 4] ** 3)
    x[:, 6] = rng.integers(0, 2, n)
    x[rng.random(x.shape) < missing] = np.nan
    return x


@pytest.mark.parametrize("n", quick([1, 2, 3, 33, 264, 29_568], [33]))
@pytest.mark.parametrize("double", [False, True])
def test_spearman_is_scipys(n, double):
    x = hard(n)
    with jax.enable_x64(double):
        ours = np.asarray(metrics.spearman(x if double else x.astype(np.float32)))
    theirs = oracle(x if double else x.astype(np.float32), stats.spearmanr)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 if double else 1e-6)


@pytest.mark.parametrize("n", quick([2, 5, 40, 1000], [40]))
@pytest.mark.parametrize("double", [False, True])
def test_missing_ratings_are_left_out_pair_by_pair(n, double):
    x = hard(n, seed=n, missing=0.2)
    with jax.enable_x64(double):
        data = x if double else x.astype(np.float32)
        spearman, kendall = (np.asarray(f(data)) for f in (metrics.spearman, metrics.kendall))
        traced = np.asarray(jax.jit(lambda x: metrics.spearman(x, missing=True))(data))
    for ours, statistic in ((spearman, stats.spearmanr), (kendall, stats.kendalltau), (traced, stats.spearmanr)):
        theirs = oracle(np.asarray(data), statistic)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 if double else 1e-6)


def test_a_traced_incomplete_column_is_nan_and_never_a_number():
    x = hard(50).astype(np.float32)
    x[3, 0] = np.nan
    r = np.asarray(jax.jit(metrics.spearman)(x))
    assert np.isnan(r[0]).all()
    np.testing.assert_allclose(r[2:, 2:], oracle(x, stats.spearmanr)[2:, 2:], atol=1e-6)


@pytest.mark.parametrize("n", quick([2, 3, 33, 264, 29_568], [3, 264]))
def test_kendall_is_scipys(n):
    x = np.delete(hard(n), [4, 5], axis=1)
    theirs = oracle(x, stats.kendalltau)
    np.testing.assert_allclose(metrics.kendall(x.astype(np.float32)), theirs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        jax.jit(metrics.kendall)(x.astype(np.float32)[:3000]), oracle(x[:3000], stats.kendalltau), atol=1e-6
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(metrics.kendall(x), theirs, rtol=0, atol=1e-12)


def test_kendall_of_many_levels_goes_to_the_host_and_is_nan_when_traced():
    x = hard(200).astype(np.float32)
    np.testing.assert_allclose(metrics.kendall(x), oracle(x, stats.kendalltau), rtol=0, atol=1e-6)
    traced = np.asarray(jax.jit(metrics.kendall)(x))
    assert np.isnan(traced[4]).all()
    np.testing.assert_allclose(traced[0, 2], metrics.kendall(x)[0, 2], atol=1e-6)


@pytest.mark.parametrize("function", [metrics.spearman, metrics.kendall])
def test_weights_are_frequencies(function):
    x = np.delete(hard(40), [4, 5], axis=1).astype(np.float32)
    weights = np.random.default_rng(1).integers(0, 4, 40)
    repeated = np.repeat(x, weights, axis=0)
    np.testing.assert_allclose(function(x, weights), function(repeated), rtol=0, atol=1e-6)
    x[np.random.default_rng(2).random(x.shape) < 0.2] = np.nan
    repeated = np.repeat(x, weights, axis=0)
    np.testing.assert_allclose(function(x, weights), function(repeated), rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(hnp.arrays(np.float32, st.sampled_from([(2, 2), (12, 3)]), elements=st.integers(-3, 3).map(float)))
def test_spearman_of_any_ties(x):
    ours = np.asarray(metrics.spearman(x))
    np.testing.assert_allclose(ours, oracle(x, stats.spearmanr), rtol=0, atol=1e-6)
    np.testing.assert_allclose(metrics.spearman(-(x**3)), ours, rtol=0, atol=1e-6)


def test_one_trace_for_each_shape():
    traces = []

    @jax.jit
    def counted(x):
        traces.append(x.shape)
        return metrics.spearman(x)

    for seed in range(3):
        counted(hard(20, seed))
        counted(hard(21, seed))
    assert len(traces) == 2


def test_vmap_is_a_loop():
    x = jnp.asarray(np.stack([hard(30, seed) for seed in range(4)]), jnp.float32)
    for function in (metrics.spearman, metrics.tax):
        arguments = (x,) if function is metrics.spearman else (jnp.zeros_like(x), x, jnp.arange(4))
        together = jax.jit(jax.vmap(function))(*arguments)
        for i in range(4):
            alone = function(*(argument[i] for argument in arguments))
            jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), together, alone)


@pytest.mark.parametrize("shape", [(8,), (4, 2)])
def test_arrays_sharded_over_contexts(shape):
    x = hard(264).astype(np.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(shape), ("contexts", "values")[: len(shape)])
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("contexts")))
    for function in (metrics.spearman, lambda x: metrics.tax(jnp.zeros_like(x), x, 0)):
        one, many = jax.jit(function)(x), jax.jit(function)(spread)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, many)


# What is read off a matrix ------------------------------------------------------------------------------------------

R = np.array([[1, 0.5, -0.1], [0.5, 1, 0.2], [-0.1, 0.2, 1]])


def test_vat_is_the_mean_absolute_coupling_to_others():
    np.testing.assert_allclose(metrics.vat(R.astype(np.float32)), [0.3, 0.35, 0.15], rtol=1e-6)


def test_the_three_readings_of_nvat():
    off = np.sqrt(2 * (0.25 + 0.01 + 0.04))
    r = R.astype(np.float32)
    np.testing.assert_allclose(metrics.nvat(r), off / np.sqrt(6), rtol=1e-6)
    np.testing.assert_allclose(metrics.nvat(r, "offdiag"), off / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(metrics.nvat(r, "full"), np.linalg.norm(R) / np.sqrt(3), rtol=1e-6)
    assert metrics.nvat(np.eye(4, dtype=np.float32), "full") == 1.0
    for reading in metrics.READINGS:
        np.testing.assert_allclose(metrics.as_reading(metrics.nvat(r), 3, reading), metrics.nvat(r, reading), rtol=1e-6)
    with pytest.raises(ValueError, match="rms, offdiag, full"):
        metrics.nvat(r, "frobenius")


def test_a_value_without_correlation_is_left_out():
    r = np.full((4, 4), np.nan, np.float32)
    r[:3, :3] = R
    np.testing.assert_allclose(metrics.vat(r), [*metrics.vat(R.astype(np.float32)), np.nan], rtol=1e-6)
    for reading in metrics.READINGS:
        np.testing.assert_allclose(metrics.nvat(r, reading), metrics.nvat(R.astype(np.float32), reading), rtol=1e-6)
    assert np.isnan(metrics.nvat(np.full((3, 3), np.nan, np.float32)))


def test_gini():
    np.testing.assert_allclose(metrics.gini(np.ones(5, np.float32)), 0, atol=1e-7)
    np.testing.assert_allclose(metrics.gini(np.array([0, 0, 0, 1], np.float32)), 0.75, rtol=1e-6)
    two = np.eye(10, dtype=np.float32)
    two[0, 1] = two[1, 0] = 0.7
    np.testing.assert_allclose(metrics.gini(metrics.vat(two)), 8 / 10, rtol=1e-5)
    np.testing.assert_allclose(metrics.gini(np.array([1, 2, np.nan, 3], np.float32)), 2 / 9, rtol=1e-6)
    assert np.isnan(metrics.gini(np.zeros(3, np.float32)))


def test_hubs_are_the_highest():
    assert metrics.hubs(np.array([0.1, np.nan, 0.5, 0.3], np.float32), 2).tolist() == [False, False, True, True]
    assert metrics.hubs(np.array([np.nan, np.nan, 0.5], np.float32), 2).tolist() == [False, False, True]


def test_r_does_not_see_the_gain():
    x = np.delete(hard(100), [4, 5], axis=1).astype(np.float32)
    moved = metrics.tax(np.zeros_like(x), x + np.float32(8.0), 0)
    still = metrics.tax(np.zeros_like(x), x, 0)
    assert moved.gain > still.gain + 7
    np.testing.assert_array_equal(moved.coupling, still.coupling)
