import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics
from vatjax.metrics import inference, null, resample


def planted(n=120, values=6, coupling=0.0, seed=0, each=1):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n // each, 1)).repeat(each, 0)
    own = rng.normal(size=(n, values))
    d = np.sqrt(coupling) * shared + np.sqrt(1 - coupling) * own + np.linspace(-0.5, 1, values)
    return d.astype(np.float32), np.arange(n) // each


def infer(d, clusters=None, target=5, **options):
    key = options.pop("key", jax.random.key(0))
    return metrics.infer(np.zeros_like(d), d, target, clusters, key, **{"resamples": 300} | options)


def test_estimates_are_those_of_the_point_functions():
    d, clusters = planted(coupling=0.3)
    result, point = infer(d, clusters), metrics.tax(np.zeros_like(d), d, 5)
    for ours, theirs in (
        (result.gain.estimate, point.gain),
        (result.shift.estimate, point.shift),
        (result.gnd.estimate, point.gnd),
        (result.off_target, point.off_target),
        (result.raw.coupling.estimate, point.coupling),
        (result.raw.vat.estimate, point.vat),
        (result.raw.nvat.estimate, point.nvat),
        (result.raw.gini.estimate, point.gini),
        (result.ipsatised.coupling.estimate, metrics.spearman(metrics.ipsatise(d))),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (result.contexts, result.clusters) == (120, 120)


def test_intervals_are_in_order_and_contain_their_estimates():
    d, clusters = planted(coupling=0.3, each=2)
    result = infer(d, clusters)
    assert result.clusters == 60
    for part in (result.gain, result.shift, result.gnd, result.raw.coupling, result.raw.vat, result.raw.debiased):
        low, estimate, high = (np.asarray(x) for x in (part.low, part.estimate, part.high))
        assert (low <= estimate + 1e-6).all()
        assert (estimate <= high + 1e-6).all()
    assert result.raw.p < 0.01
    assert result.raw.debiased.low > 0
    assert 0 <= float(result.raw.hub_share.sum()) <= 3.0001


def test_independent_values_are_not_told_from_noise():
    d, _ = planted(n=200, values=10)
    result = infer(d)
    assert result.raw.debiased.low == 0
    assert result.raw.debiased.high < 0.1
    assert result.raw.p > 0.01
    assert abs(float(result.raw.floor) - 1 / np.sqrt(199)) < 0.005


def test_an_unresolved_gain_makes_every_gnd_nan_and_never_huge():
    rng = np.random.default_rng(0)
    result = infer(rng.normal(size=(60, 4)).astype(np.float32), target=0)
    assert not result.resolved
    assert np.isnan(result.gnd.estimate).all()
    assert np.isnan(result.gnd.low).all()
    assert np.isnan(result.off_target)


def test_suppression_turns_the_gain_and_nothing_else():
    d, _ = planted(coupling=0.2)
    one, other = infer(d), infer(d, direction=-1)
    np.testing.assert_allclose(one.gain.estimate, -other.gain.estimate)
    np.testing.assert_allclose(one.gnd.estimate, other.gnd.estimate)
    np.testing.assert_array_equal(one.raw.p, other.raw.p)
    np.testing.assert_allclose([one.mechanical, other.mechanical], -1 / 5, rtol=1e-6)
    np.testing.assert_allclose(infer(-d).mechanical, 1 / 5, rtol=1e-6)


def test_the_same_key_gives_the_same_numbers():
    d, clusters = planted(coupling=0.2)
    jax.tree.map(np.testing.assert_array_equal, infer(d, clusters), infer(d, clusters))


def test_calls_of_one_grouping_share_a_compilation():
    before = inference._infer._cache_size()
    for seed in range(3):
        d = np.round(planted(n=44, seed=seed)[0]).clip(-2, 3)
        infer(d, np.arange(44) // 4, resamples=150, key=jax.random.key(seed))
    assert inference._infer._cache_size() - before <= 2  # columns may have one level less


def test_infer_under_jit_and_vmap():
    d = jnp.stack([jnp.asarray(planted(n=40, seed=seed, coupling=0.4)[0]) for seed in range(3)])
    clusters = np.arange(40) // 2
    run = lambda d: metrics.infer(jnp.zeros_like(d), d, 5, clusters, jax.random.key(0), resamples=100)  # noqa: E731
    together = jax.jit(jax.vmap(run))(d)
    for i in range(3):
        alone = run(d[i])
        for part in ("gain", "gnd", "shift"):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
                getattr(together, part),
                getattr(alone, part),
            )
        np.testing.assert_allclose(together.raw.debiased.estimate[i], alone.raw.debiased.estimate, rtol=1e-4)
        np.testing.assert_allclose(together.raw.p[i], alone.raw.p, rtol=1e-5)


def test_missing_ratings_and_constant_columns_are_flagged_and_not_numbers():
    d, _ = planted(n=60, values=5, coupling=0.5)
    d[::7, 1] = np.nan
    d[:, 2] = 0.25
    result = infer(d, target=4, resamples=100)
    assert np.isnan(result.raw.vat.estimate).tolist() == [False, False, True, False, False]
    assert np.isfinite(result.raw.debiased.estimate)
    assert np.isfinite(result.gnd.estimate).all()


def test_fieller_is_the_set_of_ratios_that_can_not_be_refused():
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(0.8, 0.02, 100), rng.normal(-1.5, 0.03, 100)
    top += 0.3 * (bottom + 1.5)
    a, b = (inference.jackknife_variance(jnp.asarray(x, jnp.float32)) for x in (top, bottom))
    ab = inference.jackknife_covariance(jnp.asarray(top, jnp.float32)[:, None], jnp.asarray(bottom, jnp.float32))[0]
    left_out = jnp.asarray(top, jnp.float32)[:, None], jnp.asarray(bottom, jnp.float32)
    low, high = inference.fieller(jnp.float32([0.8]), jnp.float32(-1.5), *left_out, jnp.float32(2.0))
    q = np.linspace(-3, 3, 600_001)
    inside = (0.8 - q * 1.5) ** 2 <= 4 * (a + 2 * q * ab + q**2 * b)
    np.testing.assert_allclose([low[0], high[0]], [q[inside].min(), q[inside].max()], atol=2e-5)
    low, _ = inference.fieller(jnp.float32([0.8]), jnp.float32(0.3), *left_out, jnp.float32(2.0))
    assert np.isnan(low)


def test_root_interval_is_from_zero_where_nothing_is_resolved():
    t = jnp.float32(2.0)
    zero = inference.root_interval(jnp.float32(-0.001), jnp.float32(0.002), t)
    assert (zero.estimate, zero.low) == (0, 0)
    np.testing.assert_allclose(zero.high, np.sqrt(0.004), rtol=1e-6)
    clear = inference.root_interval(jnp.float32(0.25), jnp.float32(0.05), t)
    np.testing.assert_allclose(clear, [0.5, 0.4, 0.6], rtol=1e-6)


# The null -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", ["equal", "unequal"])
def test_exchanging_keeps_scenes_whole_and_columns_apart(clusters):
    index = np.arange(24) // 3 if clusters == "equal" else np.arange(24) ** 2 // 60
    groups = resample.clusters_of(np.random.default_rng(0).permutation(index), 24)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(24, 5)), jnp.float32)
    (moved,) = null.exchanger(groups, jax.random.key(0))(jax.random.key(1), (x,))

    def scenes(x):
        return [np.asarray(x)[groups.index == c] for c in range(groups.count)]

    for v in range(5):
        before = sorted(tuple(scene[:, v].tolist()) for scene in scenes(x))
        after = sorted(tuple(scene[:, v].tolist()) for scene in scenes(moved))
        if clusters == "equal":
            assert before == after
        else:
            flips = [a[:, v] / b[:, v] for a, b in zip(scenes(moved), scenes(x), strict=True)]
            assert all(len(set(flip.tolist())) == 1 and abs(flip[0]) == 1 for flip in flips)
    assert len({tuple(np.asarray(moved[:, v]).tolist()) for v in range(5)}) == 5
    assert not np.array_equal(moved, x)


def test_the_floor_of_independent_contexts_is_one_over_the_root_of_n():
    d, _ = planted(n=132, values=10)
    draws = metrics.floor(d, None, jax.random.key(0), 400)
    assert abs(float(draws.nvat.mean()) - 1 / np.sqrt(131)) < 0.003
    d = np.repeat(d[:33], 4, 0)
    clustered = metrics.floor(d, np.arange(132) // 4, jax.random.key(0), 400)
    assert abs(float(clustered.nvat.mean()) - 1 / np.sqrt(32)) < 0.01


def test_ipsatised_noise_has_the_mechanical_correlation():
    d = np.random.default_rng(0).normal(size=(400, 10)).astype(np.float32)
    draws = metrics.floor(d, None, jax.random.key(0), 200, ipsatised=True)
    off = ~np.eye(10, dtype=bool)
    spearman = 6 / np.pi * np.arcsin(-1 / 18)  # of a normal correlation of -1 / (V - 1)
    assert abs(np.asarray(draws.expected)[off].mean() - spearman) < 0.005
    assert float(draws.nvat.mean()) < 0.06


def test_labels_alone_create_coupling_which_their_own_null_knows():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], size=(200, 6), p=[0.4, 0.2, 0.4])
    labels[:, 1] = labels[:, 0]
    d = (rng.normal(size=(200, 1)) * labels).astype(np.float32)
    blind = infer(d, resamples=200, target=0)
    aware = infer(d, resamples=200, target=0, labels=labels)
    assert blind.raw.p < 0.02
    assert aware.raw.p > 0.05


def test_response_style_fools_the_raw_numbers_and_not_the_ipsatised():
    rng = np.random.default_rng(0)
    d = (rng.normal(size=(250, 1)) + 0.7 * rng.normal(size=(250, 10))).astype(np.float32)
    result = infer(d, target=3)
    assert result.raw.p < 0.01
    assert result.ipsatised.p > 0.05


@pytest.mark.parametrize("sizes", [(1,) * 48, (4,) * 20, (1, 2, 3, 6) * 8])
def test_p_is_uniform_where_values_are_independent(sizes):
    scene = np.repeat(np.arange(len(sizes)), sizes)
    groups = resample.clusters_of(scene, len(scene))

    @jax.jit
    def p_value(key):
        keys = jax.random.split(key, 3)
        common = jax.random.normal(keys[0], (len(sizes), 5))[scene]
        d = common + jax.random.normal(keys[1], (len(scene), 5))
        draws = metrics.floor(d, groups, keys[2], 99)
        return (1 + jnp.sum(draws.nvat >= metrics.nvat(metrics.spearman(d)))) / 100

    p = jax.lax.map(p_value, jax.random.split(jax.random.key(0), 100))
    assert stats.kstest(np.asarray(p), "uniform").pvalue > 0.01


def test_intervals_cover_what_was_planted():
    """A small version of scripts/calibrate.py: three standard errors of 80 draws around .95."""
    truth = 6 / np.pi * np.arcsin(0.3 / 2)
    covered = []
    for seed in range(80):
        d, clusters = planted(n=64, values=6, coupling=0.3, seed=seed, each=1)
        result = infer(d, clusters, resamples=100, key=jax.random.key(seed))
        covered.append(
            (
                result.raw.debiased.low <= truth <= result.raw.debiased.high,
                result.gain.low <= 1 <= result.gain.high,
                *((result.shift.low <= np.linspace(-0.5, 1, 6)) & (result.shift.high >= np.linspace(-0.5, 1, 6))),
            )
        )
    nvat, gain, *means = np.mean(covered, 0)
    assert nvat > 0.87
    assert gain > 0.87
    assert 0.91 < np.mean(means) < 0.99
