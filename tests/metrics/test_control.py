"""Control: success, its rise and its leakage, against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics

pytestmark = pytest.mark.fast_compile


def planted(n=60, values=5, seed=0):
    random = np.random.default_rng(seed)
    pre = random.normal(size=(n, values)).astype(np.float32)
    return pre, pre + np.float32([1.5, 0.7, 0.0, 0.4, -0.3])


def test_rates_and_leakage_are_counts():
    pre, post = planted()
    pre[3, 2] = np.nan
    found = metrics.control(pre, post, 0, np.arange(60) // 3, distance=[0, 1, 2, 2, 1])
    there = ~np.isnan(pre)
    before, after = ([(x[there[:, v], v] > 0).mean() for v in range(5)] for x in (pre, post))
    np.testing.assert_allclose(found.success.estimate, after, rtol=1e-6)
    rise = np.array(after) - before
    np.testing.assert_allclose(found.rise.estimate, rise, atol=1e-6)
    np.testing.assert_allclose(found.leakage.estimate, rise[1:].mean() / rise[0], rtol=1e-5)
    rings = [np.nan, rise[[1, 4]].mean() / rise[0], rise[[2, 3]].mean() / rise[0]]
    np.testing.assert_allclose(found.by_distance.estimate, rings, rtol=1e-5)
    np.testing.assert_allclose(found.target_success.estimate, after[0], rtol=1e-6)
    for part in (found.success, found.rise, found.leakage):
        assert (np.asarray(part.low) <= np.asarray(part.estimate)).all()
        assert (np.asarray(part.estimate) <= np.asarray(part.high)).all()


def test_intervals_are_the_jackknifes():
    pre, post = planted()
    found = metrics.control(pre, post, 1)
    x = (post[:, 1] > 0).astype(float) - (pre[:, 1] > 0)
    half = stats.t.ppf(0.975, 59) * x.std(ddof=1) / np.sqrt(60)
    np.testing.assert_allclose([found.target.low, found.target.high], [x.mean() - half, x.mean() + half], rtol=1e-4)


def test_suppression_counts_the_other_side():
    pre, post = planted()
    one = metrics.control(-pre, -post, 0, direction=-1)
    jax.tree.map(np.testing.assert_array_equal, one, metrics.control(pre, post, 0))


def test_a_target_that_did_not_rise_leaks_no_number():
    pre, _ = planted()
    found = metrics.control(pre, pre, 0, distance=[0, 1, 1, 1, 1])
    assert np.isnan(found.leakage.estimate)
    assert np.isnan(found.by_distance.estimate).all()
    np.testing.assert_array_equal(found.rise.estimate, 0)


def test_control_under_jit_and_vmap():
    both = [jnp.stack(x) for x in zip(planted(), planted(seed=1), strict=True)]
    run = lambda pre, post: metrics.control(pre, post, 0, np.arange(60) // 3)  # noqa: E731
    together = jax.jit(jax.vmap(run))(*both)
    for i in range(2):
        alone = run(both[0][i], both[1][i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6), together, alone)
    with pytest.raises(ValueError, match="one distance of 0 or more for each of 5 values"):
        metrics.control(*planted(), 0, distance=[1, 2])


def test_distances_decide_shapes_and_must_be_concrete():
    pre, post = planted()
    with pytest.raises(TypeError, match="distances decide shapes"):
        jax.jit(lambda far: metrics.control(pre, post, 0, distance=far))(jnp.arange(5))


def test_intervals_of_shares_end_where_shares_do():
    random = np.random.default_rng(1)
    pre, post = (random.normal(shift, 1, (6, 4)) for shift in (-1.0, 1.5))
    found = metrics.control(pre, post, 0)
    for share in (found.success, found.target_success):
        assert np.nanmin(share.low) >= 0
        assert np.nanmax(share.high) <= 1
    assert np.nanmax(found.rise.high) <= 1
    assert np.nanmin(found.rise.low) >= -1
