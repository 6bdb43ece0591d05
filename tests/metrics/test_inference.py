import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.tiers import quick
from vatjax import metrics
from vatjax.metrics import inference, null, ranks, resample


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
        (result.off_target.estimate, point.off_target),
        (result.raw.coupling.estimate, point.coupling),
        (result.raw.vat.estimate, point.vat),
        (result.raw.nvat.estimate, point.nvat),
        (result.raw.gini.estimate, point.gini),
        (result.ipsatised.coupling.estimate, metrics.spearman(metrics.ipsatise(d))),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (result.contexts, result.clusters) == (120, 120)


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_calls_of_one_grouping_share_a_compilation():
    before = inference.coupled._cache_size()
    for seed in range(3):
        d = np.round(planted(seed=seed)[0]).clip(-2, 3)
        infer(d, np.arange(120) // 5, key=jax.random.key(seed))
    assert inference.coupled._cache_size() - before == 2  # raw by levels, ipsatised by sorting


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
    assert np.isnan(result.raw.vat.estimate).tolist() == [False, False, True, False, False, False]
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


@pytest.mark.thorough
def test_ties_that_rounding_would_split_stay_ties():
    rng = np.random.default_rng(0)
    pre = rng.integers(0, 30, size=(120, 6)) / 10
    d = rng.integers(-1, 2, size=(120, 6)) / 10
    d[:, 1] = d[:, 0]
    np.testing.assert_allclose(metrics.tax(pre, pre + d, 0).coupling, stats.spearmanr(d).statistic, atol=1e-6)
    halves = np.float32(rng.integers(-4, 5, size=(300, 7)) / 2)
    exact = 7 * halves - halves.sum(1, keepdims=True)
    r = metrics.spearman(metrics.ipsatise(halves))
    np.testing.assert_allclose(r, stats.spearmanr(exact).statistic, atol=1e-6)


def test_a_column_of_one_scene_has_no_say_in_the_debiased_value():
    """It has correlations, but no variance to take off their squares."""
    d, clusters = planted(n=60, coupling=0.3, each=4)
    lone = np.where(clusters == 0, np.arange(60), 0).astype(np.float32)
    weights = np.concatenate([np.ones((1, 15)), metrics.jackknife_weights(15)])
    whole, without = (metrics.couplings(x, weights, clusters) for x in (np.column_stack([d, lone]), d))
    ours, errors, sound = inference.debiased_square(whole[0], whole[1:])
    expected, other_errors, _ = inference.debiased_square(without[0], without[1:])
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    np.testing.assert_allclose(errors, other_errors, rtol=1e-5)
    assert not sound[6].any()
    assert 0 < expected < metrics.nvat(without[0]) ** 2


def test_a_column_that_few_scenes_rate_has_their_degrees_of_freedom():
    d, _ = planted(each=5)
    d[20:, 1] = np.nan
    groups = resample.clusters_of(np.arange(120) // 5, 120)
    plan, weights = resample.plan(d, groups), resample.bootstrap_weights(jax.random.key(0), 24, 200)
    flips = jax.random.rademacher(jax.random.key(1), (200, 24), jnp.float32)
    shift = inference.first_order(d, jnp.arange(6) == 5, 1.0, weights, metrics.jackknife_weights(24), flips, plan).shift
    means = d[:20, 1].reshape(4, 5).mean(1)
    width = 2 * stats.t.ppf(0.975, 3) * means.std(ddof=1) / 2
    assert 0.5 < float(shift.high[1] - shift.low[1]) / width < 1.5


def test_first_order_p_is_uniform_where_nothing_moved_and_small_where_something_did():
    plan = resample.plan(np.zeros((40, 4)), resample.clusters_of(np.arange(40) // 2, 40))
    weights, target = jnp.ones((199, 20)), jnp.arange(4) == 2

    def first(d, key):
        flips = jax.random.rademacher(key, (199, 20), d.dtype)
        return inference.first_order(d, target, 1.0, weights, metrics.jackknife_weights(20), flips, plan)

    keys = jax.random.split(jax.random.key(0), 300)
    d = jax.vmap(lambda key: jax.random.normal(key, (40, 4)))(keys)
    still = jax.jit(jax.vmap(first))(d, keys)
    assert stats.kstest(np.asarray(still.gain_p), "uniform").pvalue > 0.01
    assert stats.kstest(np.asarray(still.off_target_p), "uniform").pvalue > 0.01
    assert stats.kstest(np.asarray(still.shift_p)[:, 0], "uniform").pvalue > 0.01
    moved, _ = planted()
    result = infer(moved).first
    assert result.gain_p < 0.01
    assert result.off_target_p < 0.01
    assert result.off_target.low <= result.off_target.estimate <= result.off_target.high
    assert result.off_target_floor < result.off_target.estimate / 3
    noise = np.sqrt(2 / np.pi) * moved[:, :5].std(0, ddof=1).mean() / np.sqrt(120)
    np.testing.assert_allclose(result.off_target_floor * result.gain.estimate, noise, rtol=1e-3)


@pytest.mark.thorough
def test_what_noise_alone_makes_is_never_clear_of_nothing():
    """Absolute values are never 0: intervals of side effects and of value-level taxes allow for what noise makes."""
    clear = []
    for seed in range(40):
        d, _ = planted(seed=seed)
        d[:, :5] -= np.linspace(-0.5, 1, 6, dtype=np.float32)[:5]
        result = infer(d, key=jax.random.key(seed))
        clear.append((result.off_target.low > 0, *(np.asarray(result.raw.vat.low) > 0)))
    assert np.mean(clear) < 0.05


@pytest.mark.thorough
def test_traced_data_with_missing_ratings_need_a_word():
    d, _ = planted(coupling=0.4)
    d[3, 2] = np.nan
    alone = infer(d).raw
    run = jax.jit(lambda d: metrics.infer(0 * d, d, 0, None, jax.random.key(0), resamples=200, missing=True).raw)
    told = run(d)
    np.testing.assert_allclose(told.coupling.estimate, alone.coupling.estimate, atol=1e-6)
    np.testing.assert_allclose(told.p, alone.p)
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


@pytest.mark.parametrize("clusters", ["equal", "unequal"])
def test_exchanging_keeps_scenes_whole_and_columns_apart(clusters):
    index = np.arange(24) // 3 if clusters == "equal" else np.arange(24) ** 2 // 60
    groups = resample.clusters_of(np.random.default_rng(0).permutation(index), 24)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(24, 5)), jnp.float32)
    (moved,) = null.exchanger(groups, jax.random.key(0), null.flips(groups, False))(jax.random.key(1), (x,))

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
            draws = metrics.floor(d, clusters, jax.random.key(seed), 99, labels=labels)
            excess = null.remove(metrics.spearman(d), draws.expected)
            p.append(float(inference.p_value(metrics.nvat(excess), draws.nvat, jnp.float32(1))))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_floor_of_ipsatised_shifts_survives_wild_ratings():
    rng = np.random.default_rng(0)
    d = (rng.normal(size=(300, 6)) ** 9).astype(np.float32)
    z = metrics.ipsatise(d)
    ours = ranks.correlation(ranks.binned_midranks(z, *ranks.typical(z)), jnp.ones(300))
    np.testing.assert_allclose(ours, stats.spearmanr(z).statistic, atol=0.003)


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
        draws = metrics.floor(d, None, jax.random.key(seed), 99)
        p.append(float(inference.p_value(metrics.nvat(metrics.spearman(d)), draws.nvat, jnp.float32(1))))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_pairs_that_few_contexts_share_have_a_floor():
    d = np.full((60, 3), np.nan, np.float32)
    d[:8] = np.random.default_rng(0).normal(size=(8, 3))
    drawn = metrics.floor(d, None, jax.random.key(0), 200)
    assert np.isfinite([np.nanmean(drawn.nvat), *np.nanmean(drawn.vat, 0)]).all()
    assert np.isfinite(inference.p_value(metrics.nvat(metrics.spearman(d)), drawn.nvat, jnp.float32(1)))


@pytest.mark.thorough
def test_a_style_that_moves_values_of_unequal_spread_alike_is_no_coupling():
    rng = np.random.default_rng(0)
    own = np.linspace(0.4, 1.4, 8)
    p = []
    for seed in range(60):
        d = (2 * rng.normal(size=(150, 1)) + own * rng.normal(size=(150, 8))).astype(np.float32)
        draws = metrics.floor(d, None, jax.random.key(seed), 99, ipsatised=True)
        excess = null.remove(metrics.spearman(metrics.ipsatise(d)), draws.expected)
        p.append(float(inference.p_value(metrics.nvat(excess), draws.nvat, jnp.float32(1))))
    assert np.mean(np.array(p) <= 0.05) < 0.15
    assert stats.kstest(p, "uniform").pvalue > 0.001


@pytest.mark.thorough
def test_two_values_have_nothing_to_test_after_ipsatising():
    d, _ = planted(n=40, values=2)
    drawn = metrics.floor(d, None, jax.random.key(0), 200, ipsatised=True)
    measured = metrics.nvat(null.remove(metrics.spearman(metrics.ipsatise(d)), drawn.expected))
    np.testing.assert_allclose(measured, 0, atol=1e-6)
    assert inference.p_value(measured, drawn.nvat, jnp.float32(1)) == 1


@pytest.mark.thorough
def test_the_names_of_clusters_change_nothing():
    d, _ = planted()
    one = infer(d, np.arange(120) // 5)
    before = inference.coupled._cache_size()
    renamed = np.array([f"scene {(7 * c) % 24}" for c in np.arange(120) // 5])
    jax.tree.map(np.testing.assert_array_equal, one, infer(d, renamed))
    assert inference.coupled._cache_size() == before


def test_input_that_is_no_rating_is_refused():
    d, _ = planted()
    d[3, 1] = np.inf
    for call, message in (
        (lambda: infer(d), "found an infinity"),
        (lambda: infer(d[:0]), "no contexts"),
        (lambda: infer(d[0]), "expected .contexts, values."),
        (lambda: infer(np.nan_to_num(d), direction=2), "a direction is 1"),
        (lambda: infer(np.nan_to_num(d), resamples=0), "at least one resample"),
        (lambda: metrics.floor(d, None, jax.random.key(0), labels=np.full(d.shape, 3)), "labels are -1, 0 or 1"),
        (lambda: metrics.gain(d, np.array([0.2, 0.8, 0, 0, 0, 0])), "of 0 and 1"),
        (lambda: metrics.gain(d, np.zeros(6, bool)), "found none in the mask"),
        (lambda: metrics.spearman(d, np.ones(3)), "one weight for each of 120 contexts"),
        (lambda: metrics.robustness(d, None, jax.random.key(0), share=2.0), "share is above 0 and at most 1"),
        (lambda: metrics.as_reading(0.3, 4, "x"), "reading must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_response_style_fools_the_raw_numbers_and_not_the_ipsatised():
    rng = np.random.default_rng(0)
    d = (rng.normal(size=(120, 1)) + 0.7 * rng.normal(size=(120, 6))).astype(np.float32)
    result = infer(d, target=3)
    assert result.raw.p < 0.01
    assert result.ipsatised.p > 0.05


@pytest.mark.parametrize("sizes", quick([(1,) * 48, (4,) * 20, (1, 2, 3, 6) * 8], [(1, 2, 3, 6) * 8], whole=True))
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
