import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, spatial, stats

from tests.tiers import quick
from vatjax import metrics, values
from vatjax.metrics import circle
from vatjax.metrics.mds import isotonic

ANGLES = np.arange(10) * 2 * np.pi / 10
CIRCLE = np.cos(ANGLES[:, None] - ANGLES[None, :]).astype(np.float32)


def brute(r, slots):
    """The test by the definition, order by order."""
    types, sectors = len(r), max(slots) + 1
    pairs = list(itertools.combinations(range(types), 2))

    def index(places):
        apart = []
        for i, j in pairs:
            step = abs(slots[places[i]] - slots[places[j]])
            apart.append(min(step, sectors - step))
        score = count = 0
        for (p, a), (q, b) in itertools.permutations(zip(pairs, apart, strict=True), 2):
            if a < b and not np.isnan(r[p]) and not np.isnan(r[q]):
                score += np.sign(r[p] - r[q])
                count += 1
        return score / count if count else np.nan

    observed = index(range(types))
    every = [index(places) for places in itertools.permutations(range(types))]
    return observed, np.mean([x >= observed - 1e-6 for x in every])


@pytest.mark.parametrize("slots", [(0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5), (0, 1, 1, 2, 3), (0, 1, 2, 2, 3, 4)])
@pytest.mark.parametrize("missing", [False, True])
def test_the_order_test_is_exact(slots, missing):
    r = np.random.default_rng(len(slots)).normal(size=(len(slots),) * 2)
    r = np.round(r + r.T, 1).astype(np.float32)
    if missing:
        r[0, 2] = r[2, 0] = np.nan
    test = metrics.order_test(r, slots)
    index, p = brute(r, slots)
    np.testing.assert_allclose(test.correspondence, index, atol=1e-6)
    np.testing.assert_allclose(test.p, p, atol=1e-6)


@pytest.mark.thorough
def test_ten_types_have_so_many_orders():
    assert metrics.order_test(CIRCLE).arrangements == 181_440
    assert metrics.order_test(CIRCLE, values.schwartz().sector_of).arrangements == 907_200


def test_a_planted_circle_is_found():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.15, (10, 10))
    for sectors in (None, values.schwartz().sector_of):
        test = metrics.order_test((CIRCLE + noise + noise.T).astype(np.float32), sectors)
        assert test.p < 1e-4
        assert test.correspondence > 0.5


def test_noise_gives_a_uniform_p():
    def noise(key):
        return metrics.order_test(metrics.spearman(jax.random.normal(key, (60, 7)))).p

    p = jax.lax.map(noise, jax.random.split(jax.random.key(0), 200))
    assert stats.kstest(np.asarray(p), "uniform").pvalue > 0.01


def test_without_any_comparison_there_is_no_p():
    test = metrics.order_test(np.full((5, 5), np.nan, np.float32))
    assert np.isnan(test.p)
    assert np.isnan(test.correspondence)


@pytest.mark.parametrize(("types", "sectors"), [(3, None), (11, None), (6, (0, 1, 2)), (6, (0, 0, 1, 1, 2, 3))])
def test_what_can_not_be_tested_exactly_is_refused(types, sectors):
    with pytest.raises(ValueError, match=r"types|sector"):
        metrics.order_test(np.eye(types, dtype=np.float32), sectors)


def test_the_order_test_under_jit_and_vmap():
    r = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 6)), jnp.float32)
    r = (r + r.transpose(0, 2, 1)) / 2
    together = jax.jit(jax.vmap(lambda r: metrics.order_test(r).p))(r)
    np.testing.assert_allclose(together, [metrics.order_test(x).p for x in r], rtol=1e-6)


def test_the_distance_profile():
    np.testing.assert_allclose(metrics.distance_profile(CIRCLE), np.cos(ANGLES[1:6]), atol=1e-6)
    sectors = values.schwartz().sector_of
    profile = metrics.distance_profile(CIRCLE, sectors)
    assert len(profile) == 5
    np.testing.assert_allclose(profile[0], CIRCLE[6, 7], atol=1e-6)


# Scaling ------------------------------------------------------------------------------------------------------------


def test_isotonic_is_scipys():
    rng = np.random.default_rng(0)
    for n in (1, 2, 45):
        y, weight = rng.normal(size=n).round(1).astype(np.float32), rng.random(n).astype(np.float32)
        expected = optimize.isotonic_regression(y, weights=weight).x
        np.testing.assert_allclose(isotonic(jnp.asarray(y), jnp.asarray(weight)), expected, atol=1e-6)


def test_congruence_is_scipys():
    x, y = np.random.default_rng(0).normal(size=(2, 10, 2))
    expected = np.sqrt(1 - spatial.procrustes(x, y)[2])
    np.testing.assert_allclose(metrics.congruence(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-5)


@pytest.mark.parametrize("ordinal", quick([False, True], [False]))
def test_scaling_finds_planted_positions_and_noise_has_its_percentile_beside_it(ordinal):
    points = np.random.default_rng(0).normal(size=(8, 2))
    apart = spatial.distance.squareform(spatial.distance.pdist(points))
    r = (1 - (apart / apart.max()) ** 2 * 2).astype(np.float32)
    start = jnp.asarray(points + 0.3 * np.random.default_rng(1).normal(size=points.shape), jnp.float32)
    positions, stress = metrics.mds(r, start, ordinal, 500)
    assert stress < 0.02
    assert metrics.congruence(positions, jnp.asarray(points, jnp.float32)) > 0.99
    fit = metrics.circle_fit(CIRCLE, ANGLES, jax.random.key(0), ordinal, draws=40)
    assert fit.congruence > 0.99 > fit.null_95
    assert fit.null.shape == (40,)


def test_scaling_leaves_missing_pairs_out():
    r = CIRCLE.copy()
    r[0, 1] = r[1, 0] = np.nan
    assert metrics.circle_fit(r, ANGLES, jax.random.key(0), draws=4).congruence > 0.99


def test_the_circumplex_finds_planted_angles_communalities_and_weights():
    rng = np.random.default_rng(0)
    angles, z, b = ANGLES + rng.normal(0, 0.25, 10), rng.uniform(0.6, 0.95, 10), np.array([0.3, 0.5, 0.15, 0.05])
    waves = sum(b[k] * np.cos(k * (angles[:, None] - angles[None, :])) for k in range(4))
    r = (z[:, None] * z[None, :] * waves).astype(np.float32)
    np.fill_diagonal(r, 1)
    fit = metrics.circumplex(r, ANGLES, jax.random.key(0))
    turn = np.angle(np.exp(1j * (np.asarray(fit.angles) - angles)))
    np.testing.assert_allclose(turn - turn.mean(), 0, atol=1e-3)
    np.testing.assert_allclose(fit.communality, z**2, atol=1e-3)
    np.testing.assert_allclose(fit.weights, b, atol=1e-3)
    assert fit.rmsr < 1e-3
    assert fit.explained > 0.999
    np.testing.assert_allclose(np.asarray(fit.implied)[~np.eye(10, dtype=bool)], r[~np.eye(10, dtype=bool)], atol=1e-3)


def test_arrangements_are_all_different():
    for slots in (tuple(range(6)), (0, 1, 2, 2, 3, 4)):
        places = circle._arrangements(slots)
        apart = circle._distances(slots)
        first, second = np.triu_indices(6, 1)
        kinds = {tuple(apart[p[first], p[second]]) for p in places}
        assert len(kinds) == len(places)
