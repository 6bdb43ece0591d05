import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vatjax import metrics

pytestmark = pytest.mark.fast_compile


def test_certain_probabilities_give_spearman_of_the_argmax():
    ratings = np.random.default_rng(0).integers(0, 5, size=(60, 4))
    certain = jax.nn.one_hot(ratings, 5)
    ours = metrics.soft_spearman(certain)
    np.testing.assert_allclose(ours, metrics.spearman(ratings.astype(np.float32)), rtol=0, atol=2e-6)
    weights = np.random.default_rng(1).integers(0, 3, 60)  # integers are as good as floats
    np.testing.assert_allclose(
        metrics.soft_spearman(certain, weights),
        metrics.spearman(np.repeat(ratings, weights, axis=0)),
        rtol=0,
        atol=2e-6,
    )


def test_the_gap_to_the_argmax_closes_with_temperature_and_that_to_expected_ratings_is_small():
    logits = np.random.default_rng(0).normal(size=(300, 4, 5)).astype(np.float32) + 2 * np.random.default_rng(1).normal(
        size=(300, 1, 1)
    ).astype(np.float32) * np.linspace(-1, 1, 5, dtype=np.float32)
    argmax = metrics.spearman(np.argmax(logits, -1))
    gaps = [np.abs(metrics.soft_spearman(jax.nn.softmax(logits / t, -1)) - argmax).max() for t in (1.0, 0.1, 0.01)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02
    p = jax.nn.softmax(logits, -1)
    expected = metrics.spearman(p @ jnp.arange(5.0))
    assert np.abs(metrics.soft_spearman(p) - expected).max() < 0.1


@pytest.mark.parametrize("kind", ["even", "certain", "constant"])
def test_gradients_are_finite_everywhere(kind):
    p = {
        "even": jnp.full((9, 3, 5), 0.2),
        "certain": jax.nn.one_hot(jnp.arange(27).reshape(9, 3) % 5, 5),
        "constant": jax.nn.one_hot(jnp.zeros((9, 3), int), 5),
    }[kind]
    value, gradient = jax.value_and_grad(lambda p: metrics.soft_nvat(metrics.soft_spearman(p)))(p)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_step_down_the_gradient_lowers_the_soft_tax():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(80, 1, 5)) + np.zeros((1, 4, 1)), jnp.float32)
    tax = jax.jit(lambda logits: metrics.soft_nvat(metrics.soft_spearman(jax.nn.softmax(logits, -1))))
    logits = logits + 0.3 * jnp.asarray(np.random.default_rng(1).normal(size=logits.shape), jnp.float32)
    begin, step = tax(logits), jax.jit(lambda x: x - 20 * jax.grad(tax)(x))
    for _ in range(30):
        logits = step(logits)
    assert tax(logits) < 0.7 * begin


def test_the_levels_of_a_shift():
    rng = np.random.default_rng(0)
    pre, post = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 6, 3, 4)), jnp.float32), -1)
    levels = metrics.shift_levels(pre, post)
    assert levels.shape == (6, 3, 7)
    np.testing.assert_allclose(levels.sum(-1), 1, rtol=1e-5)
    step = jnp.arange(4.0)
    np.testing.assert_allclose(levels @ jnp.arange(-3.0, 4.0), post @ step - pre @ step, atol=1e-5)


def test_a_column_that_hardly_varies_keeps_its_coupling():
    ratings = np.zeros((4000, 2), int)
    ratings[:3] = [[1, 1], [1, 0], [0, 1]]
    ours = metrics.soft_spearman(jax.nn.one_hot(ratings, 2))
    np.testing.assert_allclose(
        ours, stats.spearmanr(ratings).statistic * np.array([[0, 1], [1, 0]]) + np.eye(2), atol=1e-4
    )
