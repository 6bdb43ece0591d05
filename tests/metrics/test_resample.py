import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics
from vatjax.metrics import resample

pytestmark = pytest.mark.fast_compile


def data(n, values=6, few=True, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, values))
    return (np.round(x * 2) / 2 if few else x).astype(np.float32)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("clusters", ["alone", "equal", "unequal"])
def test_reweighting_is_resampling(few, clusters):
    n = 60
    x = data(n, few=few)
    labels = {"alone": np.arange(n), "equal": np.arange(n) // 4, "unequal": np.arange(n) ** 2 // 90}[clusters]
    codes = np.unique(labels, return_inverse=True)[1]
    weights = np.asarray(metrics.bootstrap_weights(jax.random.key(0), codes.max() + 1, 20, jnp.float32))
    ours = metrics.couplings(x, weights, labels)
    for r, w in zip(ours, weights, strict=True):
        resampled = np.repeat(x, w[codes].astype(int), axis=0)
        np.testing.assert_allclose(r, stats.spearmanr(resampled).statistic, rtol=0, atol=1e-5)


def test_few_and_many_levels_give_one_result():
    x, index = data(90), jnp.arange(90) // 3
    w = metrics.bootstrap_weights(jax.random.key(1), 30, 1, jnp.float32)[0]
    few, many = (resample.prepare(x, index, 30, levels) for levels in (resample.level_count(x), None))
    assert few.levels is not None
    assert many.levels is None
    np.testing.assert_allclose(few.coupling(w), many.coupling(w), rtol=0, atol=1e-6)


def test_reweighting_with_missing_ratings():
    x = data(50, 4)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    weights = metrics.bootstrap_weights(jax.random.key(0), 50, 3, jnp.float32)
    for r, w in zip(metrics.couplings(x, weights), np.asarray(weights), strict=True):
        np.testing.assert_allclose(r, metrics.spearman(np.repeat(x, w.astype(int), axis=0)), rtol=0, atol=1e-5)


def test_weights():
    boot = np.asarray(metrics.bootstrap_weights(jax.random.key(0), 40, 500))
    assert (boot.sum(1) == 40).all()
    assert abs(boot.var() - (1 - 1 / 40)) < 0.05
    sub = np.asarray(metrics.subsample_weights(jax.random.key(0), 40, 50, 0.8))
    assert set(sub.sum(1)) == {32.0}
    assert len({tuple(row) for row in sub}) == 50
    np.testing.assert_array_equal(metrics.jackknife_weights(4), 1 - np.eye(4))
    grouped = np.asarray(metrics.jackknife_weights(1000))
    assert grouped.shape == (resample.JACKKNIFE_GROUPS, 1000)
    np.testing.assert_array_equal((1 - grouped).sum(0), 1)
    assert set((1 - grouped).sum(1)) <= {3.0, 4.0}


def test_bootstrap_of_any_statistic():
    x = data(40)
    draws = metrics.bootstrap(lambda d, w: metrics.gain(d, 2, weights=w), x, np.arange(40) // 2, jax.random.key(0), 300)
    assert draws.shape == (300,)
    sums = x[:, 2].reshape(20, 2).sum(1)
    assert abs(draws.std() - np.sqrt(((sums - sums.mean()) ** 2).sum()) / 40) < 0.02
    again = metrics.bootstrap(lambda d, w: metrics.gain(d, 2, weights=w), x, np.arange(40) // 2, jax.random.key(0), 300)
    np.testing.assert_array_equal(draws, again)


def test_one_compilation_for_many_interventions():
    traces = []

    def counted(d, w):
        traces.append(1)
        return metrics.gain(d, 0, weights=w)

    run = jax.jit(lambda d: metrics.bootstrap(counted, d, np.arange(30), jax.random.key(0), 70))
    for seed in range(3):
        run(data(30, seed=seed))
    assert len(traces) == 1


def test_chunks_fill_up_and_drop_nothing():
    xs = jnp.arange(10.0)
    for size in (1, 3, 10, 64):
        np.testing.assert_array_equal(resample.map_in_chunks(lambda x: x * 2, xs, size), xs * 2)


def test_the_bootstrap_of_spearman_takes_the_fast_path():
    x, clusters = data(60), np.arange(60) // 3
    fast = metrics.bootstrap(metrics.spearman, x, clusters, jax.random.key(0), 20)
    slow = metrics.bootstrap(lambda d, w: metrics.spearman(d, w), x, clusters, jax.random.key(0), 20)
    np.testing.assert_allclose(fast, slow, atol=1e-6)
    before = resample._couplings._cache_size()
    metrics.bootstrap(metrics.spearman, data(60, seed=1), clusters, jax.random.key(1), 20)
    assert resample._couplings._cache_size() == before  # nothing is traced anew


def test_clusters_must_be_concrete_and_fit():
    with pytest.raises(TypeError, match="close over them"):
        jax.jit(lambda c: metrics.couplings(data(4), jnp.ones((1, 2)), c))(jnp.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="a cluster label for each of 4 contexts"):
        metrics.couplings(data(4), jnp.ones((1, 2)), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"expected weights of \[resamples, 24 clusters\]"):
        metrics.couplings(data(48), jnp.ones((1, 10)), np.arange(48) // 2)


def test_crossed_keys_have_their_intersection_and_nested_ones_are_the_coarser_key():
    country, topic = np.arange(24) % 4, np.arange(24) // 8
    crossed = resample.clusters_of(np.stack([country, topic], 1), 24)
    assert crossed.counts == (4, 3, 12)
    assert crossed.count == 3
    nested = resample.clusters_of(np.stack([np.arange(24) // 2, topic], 1), 24)
    assert nested.counts == (3,)
    np.testing.assert_array_equal(nested.index[0], topic)
    with pytest.raises(ValueError, match="choose one of the crossed keys"):
        metrics.bootstrap(metrics.spearman, data(24), np.stack([country, topic], 1), jax.random.key(0), 10)
