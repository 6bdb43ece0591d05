import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.tiers import quick
from vatjax import metrics
from vatjax.metrics import coupled, inference, intervals, null, pairs

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]


# Most tests share one shape, and so one compilation.
def planted(n=120, values=6, coupling=0.0, seed=0, each=1):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n // each, 1)).repeat(each, 0)
    own = rng.normal(size=(n, values))
    d = np.sqrt(coupling) * shared + np.sqrt(1 - coupling) * own + np.linspace(-0.5, 1, values)
    return d.astype(np.float32), np.arange(n) // each


def infer(d, clusters=None, target=5, **options):
    key = options.pop("key", jax.random.key(0))
    return metrics.infer(np.zeros_like(d), d, target, clusters, key, **{"resamples": 200} | options)


def test_estimates_are_those_of_the_point_functions():
    d, clusters = planted(coupling=0.3)
    result, point = infer(d, clusters), metrics.tax(np.zeros_like(d), d, 5)
    for ours, theirs in (
        (result.gain.estimate, point.gain),
        (result.shift.estimate, point.shift),
        (result.gnd.estimate, point.gnd),
        (result.raw.coupling.estimate, point.coupling),
        (result.raw.vat, point.vat),
        (result.raw.nvat.estimate, point.nvat),
        (result.raw.gini, point.gini),
        (result.ipsatised.coupling.estimate, metrics.spearman(metrics.ipsatise(d))),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (result.contexts, result.clusters) == (120, 120)
    assert result.nvat is result.raw.nvat
    assert result.p == result.raw.p
    assert repr(result).startswith("Inference(120 contexts in 120 clusters, gain ")
    assert len(repr(result)) < 200


def test_intervals_are_in_order_and_contain_their_estimates():
    d, clusters = planted(coupling=0.3, each=2)
    result = infer(d, clusters)
    assert result.clusters == 60
    parts = (result.gain, result.shift, result.gnd, result.first.band, result.raw.coupling, result.raw.band)
    for part in (*parts, result.raw.vat_debiased, result.raw.debiased, result.off_target, result.raw.covariance):
        estimate, low, high = (np.asarray(x) for x in part)
        assert (low <= estimate + 1e-6).all()
        assert (estimate <= high + 1e-6).all()
    assert (result.first.band.high >= result.shift.high).all()
    assert (np.nan_to_num(result.raw.band.high - result.raw.coupling.high) >= -1e-6).all()
    assert result.raw.p < 0.01
    assert result.raw.debiased.low > 0
    assert result.first.bound >= np.abs(result.shift.estimate[:5]).max()


def test_independent_values_are_not_told_from_noise():
    d, _ = planted()
    result = infer(d)
    assert result.raw.debiased.low == 0
    assert result.raw.debiased.high < 0.2
    assert result.raw.p > 0.01
    assert abs(float(result.raw.floor) - 1 / np.sqrt(119)) < 0.01


def test_an_unresolved_gain_makes_every_gnd_nan_and_never_huge():
    rng = np.random.default_rng(0)
    result = infer(rng.normal(size=(120, 6)).astype(np.float32), target=0)
    assert not result.resolved
    assert np.isnan(result.gnd.estimate).all()
    assert np.isnan(result.gnd.low).all()
    assert np.isnan(result.off_target.estimate)


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


def test_calls_of_one_shape_share_a_compilation_however_they_are_clustered():
    infer(planted()[0])
    before = inference._drawn._cache_size()
    for seed, clusters in enumerate((np.arange(120) // 5, np.arange(120) // 2, np.arange(120) ** 2 // 900)):
        infer(planted(seed=seed)[0], clusters, target=seed, direction=-1, key=jax.random.key(seed))
    assert inference._drawn._cache_size() == before


@pytest.mark.thorough
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
    d, _ = planted(coupling=0.5)
    d[::7, 1] = np.nan
    d[:, 2] = 0.25
    result = infer(d, target=4)
    assert np.isnan(result.raw.vat).tolist() == [False, False, True, False, False, False]
    assert np.isfinite(result.raw.debiased.estimate)
    assert np.isfinite(result.gnd.estimate).all()


def test_a_constant_gain_is_resolved_and_a_constant_zero_is_not():
    d = np.tile(np.float32([0.7, -0.1, 0.3, 0, 0.1, 1 / 3]), (120, 1))
    result = infer(d, np.arange(120) // 5, target=0)
    assert result.resolved
    np.testing.assert_allclose(result.gnd.estimate, d[0] / 0.7, rtol=1e-5)
    assert result.first.gain_p < 0.01
    still = infer(0 * d, np.arange(120) // 5, target=0)
    assert not still.resolved
    assert np.isnan(still.gnd.estimate).all()
    assert still.first.gain_p == 1


def test_a_target_with_a_member_that_nobody_rated_has_one_gain():
    d, _ = planted()
    d[:, 4] = np.nan
    target = np.array([False, False, True, False, True, False])
    np.testing.assert_allclose(metrics.gain(d, target), d[:, 2].mean(), rtol=1e-5)
    np.testing.assert_allclose(infer(d, target=target).gain.estimate, d[:, 2].mean(), rtol=1e-5)


def test_ties_that_rounding_would_split_stay_ties():
    rng = np.random.default_rng(0)
    pre = rng.integers(0, 30, size=(120, 6)) / 10
    d = rng.integers(-1, 2, size=(120, 6)) / 10
    d[:, 1] = d[:, 0]
    np.testing.assert_allclose(metrics.tax(pre, pre + d, 0).coupling, stats.spearmanr(d).statistic, atol=1e-6)
    single = metrics.tax(np.float32(pre), np.float32(pre + d), 0).coupling
    np.testing.assert_allclose(single, stats.spearmanr(d).statistic, atol=1e-6)
    halves = np.float32(rng.integers(-4, 5, size=(300, 7)) / 2)
    exact = 7 * halves - halves.sum(1, keepdims=True)
    r = metrics.spearman(metrics.ipsatise(halves))
    np.testing.assert_allclose(r, stats.spearmanr(exact).statistic, atol=1e-6)


def test_a_column_of_one_scene_has_no_say_in_the_debiased_value():
    """It has correlations, but no variance to take off their squares."""
    d, clusters = planted(n=60, coupling=0.3, each=4)
    lone = np.where(clusters == 0, np.arange(60), 0).astype(np.float32)
    both, without = (infer(x, clusters).raw for x in (np.column_stack([d, lone]), d))
    np.testing.assert_allclose(both.debiased, without.debiased, rtol=1e-4)
    assert 0 < both.debiased.estimate < both.nvat.estimate


def test_replicates_are_the_correlations_without_each_cluster():
    """One pass over pairs gives what ranking anew without each cluster gives, to the order of a context's weight."""
    rng = np.random.default_rng(0)
    for n, each, tolerance in ((132, 1, 3e-4), (132, 4, 4e-3)):
        d, clusters = planted(n=n, coupling=0.3, each=each)
        d = np.round(d, 1)
        d[rng.random(d.shape) < 0.05] = np.nan
        weights = metrics.jackknife_weights(n // each)
        exact = metrics.couplings(d, weights, clusters)
        groups = pairs.group_clusters(jnp.asarray(clusters[None], jnp.int32), jnp.float32, 1)
        draws = coupled.draw_null(jnp.asarray(d), groups, jax.random.key(0), 32, True, jnp.zeros_like(d))
        ours = draws.compared.r_without[0, : n // each]
        np.testing.assert_allclose(ours, exact, atol=tolerance)
        variances = [
            intervals.jackknife_variance(np.asarray(x)[None], np.ones((1, n // each), bool)) for x in (ours, exact)
        ]
        off = ~np.eye(6, dtype=bool)
        np.testing.assert_allclose(variances[0][off], variances[1][off], rtol=0.04)
        np.testing.assert_allclose(draws.compared.r, metrics.spearman(d), atol=1e-6)


def test_a_column_that_few_scenes_rate_has_their_degrees_of_freedom():
    d, _ = planted(each=5)
    d[20:, 1] = np.nan
    shift = infer(d, np.arange(120) // 5).shift
    means = d[:20, 1].reshape(4, 5).mean(1)
    width = 2 * stats.t.ppf(0.975, 3) * means.std(ddof=1) / 2
    np.testing.assert_allclose(shift.high[1] - shift.low[1], width, rtol=1e-4)


def test_a_few_large_clusters_have_fewer_degrees_of_freedom():
    counts = np.float32([[[1]] * 8 + [[10]] * 2]).transpose(0, 1, 2)
    freedom = coupled.satterthwaite_degrees(counts)[0]
    assert 1 < freedom < 1.2
    np.testing.assert_allclose(coupled.satterthwaite_degrees(np.ones((1, 12, 1), np.float32)), 11)


def test_first_order_p_is_uniform_where_nothing_moved_and_small_where_something_did():
    rng = np.random.default_rng(0)
    p = []
    for seed in range(200):
        first = infer(
            rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) // 2, 2, key=jax.random.key(seed)
        ).first
        p.append((first.gain_p, first.shift_p[0]))
    for column in np.array(p).T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
    moved, _ = planted()
    first = infer(moved).first
    assert first.gain_p < 0.01
    assert first.off_target_p < 0.01
    assert np.isnan(first.shift_holm[5])
    truth = np.sqrt((np.linspace(-0.5, 1, 6)[:5] ** 2).mean())
    assert first.off_target_shift.low < truth < first.off_target_shift.high
    assert first.off_target.low < truth < first.off_target.high  # for each point of a gain of 1


def test_a_large_shift_in_four_clusters_is_certain():
    """Sign flips of four clusters have no p below .125; Student's t knows better."""
    d = np.float32(np.random.default_rng(0).normal(3, 0.1, size=(40, 4)))
    first = infer(d, np.arange(40) // 10, 0).first
    assert first.gain_p < 0.001
    assert first.gain.low > 2.8


def test_off_target_shifts_that_are_noise_reach_down_to_0():
    clear = []
    for seed in range(60):
        d, _ = planted(seed=seed)
        d[:, :5] -= np.linspace(-0.5, 1, 6, dtype=np.float32)[:5]
        result = infer(d, key=jax.random.key(seed))
        clear.append((result.first.off_target_shift.low > 0, *(np.asarray(result.raw.vat_debiased.low) > 0)))
    assert np.mean(clear) < 0.05


def test_detectable_effects_are_those_of_normal_theory():
    d = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    result = infer(d, target=0, resamples=2000)
    error = d[:, 0].std(ddof=1) / np.sqrt(120)
    np.testing.assert_allclose(
        result.first.detectable, (stats.t.ppf(0.975, 119) + stats.norm.ppf(0.8)) * error, rtol=1e-3
    )
    squares = stats.chi2(15)  # of 15 pairs
    expected = np.sqrt((squares.ppf(0.95) / 15 + 0.8416 * np.sqrt(2 / 15) - 1) / 119)
    np.testing.assert_allclose(result.raw.detectable, expected, rtol=0.1)
    np.testing.assert_allclose(metrics.detectable_effects(120, 6).nvat, expected, rtol=1e-3)
    np.testing.assert_allclose(metrics.detectable_effects(132, 10).nvat, 0.065, atol=0.001)
    np.testing.assert_allclose(metrics.detectable_effects(132, 56).nvat, 0.025, atol=0.002)
    assert np.isnan(metrics.detectable_effects(2).gain)


def test_the_coupling_in_points_is_small_where_shifts_are_small():
    d, _ = planted(coupling=0.5)
    result = infer(d).raw
    np.testing.assert_allclose(result.covariance.estimate, np.sqrt(0.5), rtol=0.2)
    tiny = infer(d / 500).raw
    np.testing.assert_allclose(tiny.debiased.estimate, result.debiased.estimate, rtol=1e-4)
    np.testing.assert_allclose(tiny.covariance.estimate, result.covariance.estimate / 500, rtol=1e-3)


@pytest.mark.thorough
def test_traced_data_with_missing_ratings_need_a_word():
    d, _ = planted(coupling=0.4)
    d[3, 2] = np.nan
    alone = infer(d).raw
    run = jax.jit(lambda d: metrics.infer(0 * d, d, 0, None, jax.random.key(0), resamples=200, missing=True).raw)
    traced = run(d)
    np.testing.assert_allclose(traced.coupling.estimate, alone.coupling.estimate, atol=1e-6)
    np.testing.assert_allclose(traced.p, alone.p)
    for missing in (True, None):
        point = jax.jit(lambda d, missing=missing: metrics.tax(0 * d, d, 0, missing=missing).coupling)(d)
        if missing:
            np.testing.assert_allclose(point, alone.coupling.estimate, atol=1e-6)
        else:
            assert np.isnan(point[2]).all()
    weights = metrics.jackknife_weights(120)
    one = jax.jit(lambda d: metrics.couplings(d, weights, missing=True))(d)
    np.testing.assert_allclose(one, metrics.couplings(d, weights), atol=1e-6)


# The null -----------------------------------------------------------------------------------------------------------


def test_rows_in_another_order_give_the_same_floor_and_p():
    """A planted profile that all scenes share: where rows stand within a scene says nothing."""
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(24), 10)
    d = (0.5 * rng.normal(size=(10, 1))[np.arange(240) % 10] + rng.normal(size=(240, 6))).astype(np.float32)
    order = np.argsort(scene + rng.random(240) / 2)
    results = [infer(d, scene, resamples=1000), infer(d[order], scene[order], resamples=1000)]
    results.append(infer(d[1:], scene[1:], resamples=1000))
    floors = [float(result.raw.floor) for result in results]
    assert max(floors) - min(floors) < 0.005
    assert all(result.raw.p < 0.01 for result in results)


def inert(rng, n, values, each=1):
    """Independent values in scenes of which half hardly react."""
    scene = np.arange(n) // each
    strength = np.where(rng.random(n // each) < 0.5, 1, 0.1)[scene, None]
    common = rng.normal(size=(n // each, values))[scene]
    return (strength * (common + rng.normal(size=(n, values)))).astype(np.float32), scene


@pytest.mark.parametrize(("clusters", "each", "dropped"), quick([(132, 1, 0), (66, 2, 0), (12, 11, 1)], [(66, 2, 0)]))
def test_scenes_that_do_not_react_are_no_coupling(clusters, each, dropped):
    """Permuting columns found coupling in 62 % of such data sets, and 78 % with one row dropped from 12 clusters."""
    rng = np.random.default_rng(0)
    alarms = []
    for seed in range(200):
        d, scene = inert(rng, clusters * each, 10, each)
        result = infer(d[dropped:], scene[dropped:], 3, key=jax.random.key(seed), resamples=199)
        alarms.append((result.raw.p <= 0.05, result.ipsatised.p <= 0.05, result.raw.vat_together.min() <= 0.05))
    assert (np.mean(alarms, 0) <= stats.binom.ppf(0.9995, 200, 0.07) / 200).all(), np.mean(alarms, 0)


def test_crossed_countries_and_topics_are_no_coupling():
    rng = np.random.default_rng(0)
    country, topic = (part.ravel() for part in np.meshgrid(range(12), range(11), indexing="ij"))
    both, one = [], []
    for seed in range(100):
        d = rng.normal(size=(132, 10)) + rng.normal(size=(12, 10))[country] + rng.normal(size=(11, 10))[topic]
        key = jax.random.key(seed)
        two_way = infer(d.astype(np.float32), np.stack([country, topic], 1), 3, key=key, resamples=199)
        apart = infer(d.astype(np.float32), None, 3, key=key, resamples=199)
        both.append((two_way.raw.p <= 0.05, two_way.first.gain_p <= 0.05))
        one.append((apart.raw.p <= 0.05, apart.first.gain_p <= 0.05))
    assert (np.mean(both, 0) <= stats.binom.ppf(0.9995, 100, 0.07) / 100).all(), np.mean(both, 0)
    assert (np.mean(one, 0) > 0.3).all()  # which contexts by themselves do not know


def test_the_floor_of_independent_contexts_is_one_over_the_root_of_n():
    d, _ = planted(n=132, values=10)
    draws = metrics.noise_floor(d, None, jax.random.key(0), 400)
    assert abs(float(draws.nvat.mean()) - 1 / np.sqrt(131)) < 0.003
    d = np.repeat(d[:33], 4, 0)
    clustered = metrics.noise_floor(d, np.arange(132) // 4, jax.random.key(0), 400)
    assert abs(float(clustered.nvat.mean()) - 1 / np.sqrt(32)) < 0.015


def test_ipsatised_noise_has_the_mechanical_correlation():
    d = np.random.default_rng(0).normal(size=(400, 10)).astype(np.float32)
    draws = metrics.noise_floor(d, None, jax.random.key(0), 200, ipsatised=True)
    off = ~np.eye(10, dtype=bool)
    spearman = 6 / np.pi * np.arcsin(-1 / 18)  # of a normal correlation of -1 / (V - 1)
    assert abs(np.asarray(draws.expected)[off].mean() - spearman) < 0.005
    assert float(draws.nvat.mean()) < 0.06


@pytest.mark.thorough
def test_labels_alone_create_coupling_which_their_own_null_knows():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], size=(120, 6), p=[0.4, 0.2, 0.4])
    labels[:, 1] = labels[:, 0]
    d = (rng.normal(size=(120, 1)) * labels).astype(np.float32)
    blind = infer(d, target=0)
    aware = infer(d, target=0, labels=labels)
    assert blind.raw.p < 0.02
    assert aware.raw.p > 0.05
    assert blind.raw.debiased.low > 0.2
    assert aware.raw.debiased.low == 0


@pytest.mark.thorough
def test_the_labelled_null_is_right_with_scenes_of_all_sizes_and_contexts_without_a_label():
    """Agreement that rises everywhere, by chance in each context: flipping it around 0 would make labels look coupled."""
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(90), (1, 2, 3) * 30)
    p = []
    for seed in range(60):
        labels = rng.choice([-1, 0, 1], size=(180, 4), p=[0.3, 0.4, 0.3])
        labels[:30] = 0
        d = ((1 + rng.normal(size=(180, 1))) * labels).astype(np.float32)
        for clusters in (scene, None):
            draws = metrics.noise_floor(d, clusters, jax.random.key(seed), 99, labels=labels)
            excess = null.remove_expected(metrics.spearman(d), draws.expected)
            p.append(float(null.p_value(metrics.nvat(excess), draws.nvat)))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_labels_of_types_are_means_and_ipsatised_labels_are_labels():
    """The published reading at the level of types: one agreement times the mean label of each type's values."""
    rng = np.random.default_rng(0)
    alarms = []
    for seed in range(60):
        labels = rng.choice([-1, 0, 1], size=(100, 12))
        types = labels.reshape(100, 4, 3).mean(2)
        d = (rng.normal(size=(100, 1)) * types).astype(np.float32)
        result = infer(d, np.arange(100) // 4, 0, labels=types, key=jax.random.key(seed), resamples=99)
        alarms.append((result.raw.p <= 0.05, result.ipsatised.p <= 0.05))
    assert (np.mean(alarms, 0) < 0.15).all()
    with pytest.raises(ValueError, match="labels of the shape"):
        infer(d, target=0, labels=types[1:])


@pytest.mark.parametrize("world", ["plain", "missing", "spreads", "heavy tails", "mostly 0", "style", "means"])
def test_what_ipsatising_makes_of_independent_values_is_known(world):
    """Against R of as many independent columns as make its own noise small."""
    rng = np.random.default_rng(0)
    d = rng.normal(size=(8000, 8))
    if world == "missing":
        d[rng.random(d.shape) < 0.5] = np.nan
    elif world == "spreads":
        d *= np.tile([4, 0.5, 2, 1], 2)
    elif world == "heavy tails":
        d = rng.standard_t(3, d.shape)
    elif world == "mostly 0":
        d = rng.choice([-0.5, 0, 0.5], p=[0.1, 0.8, 0.1], size=d.shape)
    elif world == "style":
        d += rng.normal(size=(len(d), 1))
    elif world == "means":
        d += np.linspace(-1, 2, 8)
    d = jnp.asarray(d, jnp.float32)
    gap = np.asarray(metrics.spearman(metrics.ipsatise(d)) - null.ipsatised_coupling(d, jax.random.key(0)))
    off = ~np.eye(8, dtype=bool)
    # The median of the few that are rated, or of very unlike spreads, leaves some of the style and takes some of the spread.
    assert np.sqrt((gap[off] ** 2).mean()) < (0.04 if world in ("missing", "spreads") else 0.017)


def test_mostly_zero_shifts_raise_no_alarm():
    d = np.float32(np.random.default_rng(0).choice([-0.5, 0, 0.5], p=[0.1, 0.8, 0.1], size=(400, 8)))
    assert infer(d, target=0).ipsatised.p > 0.05


def test_one_large_cluster_gives_no_p_of_coupling():
    """Its own effect is in every other cluster after centring: sign flips do not know that."""
    rng = np.random.default_rng(0)
    sizes = np.append(60, np.full(40, 4))
    labels = np.repeat(np.arange(41), sizes)
    d = (rng.normal(size=(41, 5))[labels] + rng.normal(size=(len(labels), 5))).astype(np.float32)
    found = metrics.infer_shift(d, 0, labels, resamples=99)
    assert np.isnan(found.raw.p)
    assert np.isnan(found.raw.vat_p).all()
    assert np.isnan(found.ipsatised.vat_together).all()
    fair = metrics.infer_shift(d, 0, np.arange(len(d)) // 4, resamples=99)
    assert np.isfinite(fair.raw.p)
    jitted = jax.jit(lambda d: metrics.infer_shift(d, 0, labels, resamples=99, missing=False))(d)
    assert np.isnan(jitted.raw.p)


def test_labels_and_networks_take_one_key():
    d = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    crossed = np.stack([np.arange(40) % 5, np.arange(40) // 5], 1)
    with pytest.raises(ValueError, match="clusters of one key"):
        metrics.infer_shift(d, 0, crossed, labels=np.ones_like(d))
    with pytest.raises(ValueError, match="clusters of one key"):
        metrics.compare_networks(d, d, crossed, jax.random.key(0))


@pytest.mark.parametrize("pattern", ["apart", "rows", "pairs"])
def test_the_null_keeps_missing_ratings_where_they_are(pattern):
    rng = np.random.default_rng(0)
    there = np.ones((80, 4), bool)
    if pattern == "apart":
        there[44:, :2] = there[:36, 2:] = False
    elif pattern == "rows":
        there[::2] = False
    else:
        there = np.stack([np.isin(np.arange(4), (i % 4, (i + 1 + i // 4 % 3) % 4)) for i in range(80)])
    p = []
    for seed in range(60):
        d = np.where(there, rng.normal(size=(80, 4)), np.nan).astype(np.float32)
        draws = metrics.noise_floor(d, None, jax.random.key(seed), 99)
        p.append(float(null.p_value(metrics.nvat(metrics.spearman(d)), draws.nvat)))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_pairs_that_few_contexts_share_have_a_floor():
    d = np.full((60, 3), np.nan, np.float32)
    d[:8] = np.random.default_rng(0).normal(size=(8, 3))
    drawn = metrics.noise_floor(d, None, jax.random.key(0), 200)
    assert np.isfinite([np.nanmean(drawn.nvat), *np.nanmean(drawn.vat, 0)]).all()
    assert np.isfinite(null.p_value(metrics.nvat(metrics.spearman(d)), drawn.nvat))


@pytest.mark.thorough
def test_a_style_that_moves_values_of_unequal_spread_alike_is_no_coupling():
    rng = np.random.default_rng(0)
    own = np.linspace(0.4, 1.4, 8)
    p = []
    for seed in range(60):
        d = (2 * rng.normal(size=(150, 1)) + own * rng.normal(size=(150, 8))).astype(np.float32)
        draws = metrics.noise_floor(d, None, jax.random.key(seed), 99, ipsatised=True)
        excess = null.remove_expected(metrics.spearman(metrics.ipsatise(d)), draws.expected)
        p.append(float(null.p_value(metrics.nvat(excess), draws.nvat)))
    assert np.mean(np.array(p) <= 0.05) < 0.15
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.thorough
def test_two_values_have_nothing_to_test_after_ipsatising():
    d, _ = planted(n=40, values=2)
    drawn = metrics.noise_floor(d, None, jax.random.key(0), 200, ipsatised=True)
    measured = metrics.nvat(null.remove_expected(metrics.spearman(metrics.ipsatise(d)), drawn.expected))
    np.testing.assert_allclose(measured, 0, atol=1e-6)
    assert null.p_value(measured, drawn.nvat) == 1


def test_a_seed_is_a_key():
    d, clusters = planted(n=24)
    one, other = infer(d, clusters, key=3), infer(d, clusters, key=jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.thorough
def test_the_names_of_clusters_change_nothing():
    d, _ = planted()
    one = infer(d, np.arange(120) // 5)
    before = inference._drawn._cache_size()
    renamed = np.array([f"scene {(7 * c) % 24}" for c in np.arange(120) // 5])
    jax.tree.map(np.testing.assert_array_equal, one, infer(d, renamed))
    assert inference._drawn._cache_size() == before


def test_input_that_is_no_rating_is_refused():
    d, _ = planted()
    d[3, 1] = np.inf
    for call, message in (
        (lambda: infer(d), "found an infinity"),
        (lambda: infer(d[:0]), "no contexts"),
        (lambda: infer(d[0]), "expected .contexts, values."),
        (lambda: infer(np.nan_to_num(d), direction=2), "a direction is 1"),
        (lambda: infer(np.nan_to_num(d), resamples=0), "at least one resample"),
        (lambda: metrics.nvat(np.eye(3), "mean"), "reading must be one of"),
        (lambda: metrics.vat(np.eye(3), "rms"), "reading must be one of"),
        (lambda: metrics.gain(d, np.array([0.2, 0.8, 0, 0, 0, 0])), "of 0 and 1"),
        (lambda: metrics.gain(d, np.zeros(6, bool)), "found none in the mask"),
        (lambda: metrics.spearman(d, np.ones(3)), "one weight for each of 120 contexts"),
        (lambda: metrics.robustness(d, None, jax.random.key(0), share=2.0), "share is above 0 and at most 1"),
        (lambda: metrics.as_reading(0.3, 4, "x"), "reading must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="expected a seed or a PRNG key"):
        infer(np.nan_to_num(d), key="0")


def test_a_weight_of_0_has_a_finite_gradient():
    """The influence of a context on the coupling, which the gradient with respect to its weight is."""
    d, _ = planted(coupling=0.3)
    influence = jax.grad(lambda w: metrics.nvat(metrics.spearman(d, w)))(jnp.ones(120).at[3].set(0))
    assert np.isfinite(influence).all()
    assert np.abs(influence).max() > 0


def test_a_stack_of_couplings_has_a_stack_of_taxes():
    r = jnp.stack([metrics.spearman(planted(coupling=c)[0]) for c in (0.1, 0.6)])
    for function in (metrics.nvat, lambda r: metrics.gini(metrics.vat(r)), lambda r: metrics.vat(r, "l2")):
        np.testing.assert_allclose(function(r), [function(one) for one in r], rtol=1e-6)


def test_nothing_moved_one_value_everything_in_the_target():
    d, _ = planted()
    still = infer(0 * d)
    assert np.isnan(still.raw.p)
    assert np.isnan(still.raw.debiased.estimate)
    assert still.first.off_target_shift.high == 0
    whole = infer(d, target=np.ones(6, bool))
    assert np.isnan(whole.off_target.estimate)
    assert np.isnan(whole.first.bound)
    alone = infer(d[:, :1], target=0)
    assert np.isfinite(alone.gain.estimate)
    assert np.isnan(alone.raw.p)
    two = infer(d, np.arange(120) // 60)
    assert np.isfinite(two.gain.low)
    np.testing.assert_allclose(
        two.gain.high - two.gain.low, np.diff([two.shift.low[5], two.shift.high[5]])[0], rtol=1e-5
    )


def test_response_style_fools_the_raw_numbers_and_not_the_ipsatised():
    rng = np.random.default_rng(0)
    d = (rng.normal(size=(120, 1)) + 0.7 * rng.normal(size=(120, 6))).astype(np.float32)
    result = infer(d, target=3)
    assert result.raw.p < 0.01
    assert result.ipsatised.p > 0.05


@pytest.mark.thorough
def test_intervals_cover_what_was_planted():
    """A small version of scripts/calibrate.py: three standard errors of 80 draws around .95."""
    truth = 6 / np.pi * np.arcsin(0.3 / 2)
    covered = []
    for seed in range(80):
        d, clusters = planted(coupling=0.3, seed=seed)
        result = infer(d, clusters, key=jax.random.key(seed))
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


@pytest.mark.parametrize("world", ["plain", "missing", "mostly 0", "a row without a rating"])
def test_what_ipsatising_makes_is_the_same_on_the_host(world):
    rng = np.random.default_rng(0)
    d = rng.normal(size=(90, 7)).astype(np.float32)
    if world == "missing":
        d[rng.random(d.shape) < 0.3] = np.nan
    elif world == "mostly 0":
        d = np.float32(rng.choice([-0.5, 0, 0.5], p=[0.1, 0.8, 0.1], size=d.shape))
    elif world == "a row without a rating":
        d[3], d[:, 6] = np.nan, np.nan
    key = jax.random.key(3)
    draws = 64  # float32 sums of more differ by more than the tolerance
    traced = np.asarray(jax.jit(lambda x: null.ipsatised_coupling(x, key, draws))(jnp.asarray(d)))
    np.testing.assert_allclose(null.ipsatised_coupling_on_host(d, key, draws), traced, atol=2e-6)


def test_a_notebook_shows_the_numbers_with_their_intervals():
    random = np.random.default_rng(0)
    pre, post = (random.standard_normal((30, 4)).astype(np.float32) for _ in range(2))
    result = metrics.infer(pre, post, 0, np.arange(30), 0)
    estimate, low, high, p = (
        f"{float(x):.3f}" for x in (result.gain.estimate, result.gain.low, result.gain.high, result.first.gain_p)
    )
    assert f"<td>{estimate}</td><td>{low}</td><td>{high}</td><td>{p}</td>" in result._repr_html_()
