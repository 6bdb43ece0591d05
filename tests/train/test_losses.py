"""Losses are their formulas in float64; theirs and their gradients are trl's where trl has them."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vatjax import errors, train

N = 7


def sides(seed=0):
    """Log-probabilities of texts, some near 0 and some far below."""
    random = np.random.default_rng(seed)
    length = random.integers(1, 30, (2, N)).astype(np.float32)
    policy = (-random.gamma(1.0, 1.5, (2, N)) * length).astype(np.float32)
    policy[:, 0] = -1e-3 * length[:, 0]  # the model is nearly sure
    reference = (policy + random.normal(0, 2, (2, N))).astype(np.float32)
    return policy, reference, length


def pairs(policy, reference, length):
    return train.Pairs(*(train.Texts(policy[i], reference[i], length[i]) for i in (0, 1)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def formulas(policy, reference, length):
    """Each loss written out in float64."""
    policy, reference, length = (np.asarray(x, np.float64) for x in (policy, reference, length))
    c, r = policy - reference
    h = c - r
    mean = policy / length
    flat = (policy - reference) / length
    odds = np.exp(mean) / (1 - np.exp(mean))
    return {
        "dpo": (train.dpo(beta=0.2), -np.log(sigmoid(0.2 * h))),
        "cdpo": (train.cdpo(beta=0.2, flipped=0.3), -0.7 * np.log(sigmoid(0.2 * h)) - 0.3 * np.log(sigmoid(-0.2 * h))),
        "robust_dpo": (
            train.robust_dpo(beta=0.2, flipped=0.3),
            (-0.7 * np.log(sigmoid(0.2 * h)) + 0.3 * np.log(sigmoid(-0.2 * h))) / 0.4,
        ),
        "ipo": (train.ipo(beta=0.2), (flat[0] - flat[1] - 2.5) ** 2),
        "hinge": (train.hinge(beta=0.2), np.maximum(0, 1 - 0.2 * h)),
        "simpo": (train.simpo(beta=1.5, margin=0.4), -np.log(sigmoid(1.5 * (mean[0] - mean[1]) - 0.4))),
        "orpo": (train.orpo(beta=0.3), -mean[0] - 0.3 * np.log(sigmoid(np.log(odds[0]) - np.log(odds[1])))),
        "apo_zero": (train.apo_zero(beta=0.2), 1 - sigmoid(0.2 * c) + sigmoid(0.2 * r)),
    }


@pytest.mark.parametrize("name", formulas(*sides()))
def test_pairs(name):
    loss, expected = formulas(*sides())[name]
    assert loss.name == name
    np.testing.assert_allclose(loss(pairs(*sides())), expected, rtol=2e-5, atol=2e-6)


def test_a_label_taken_to_be_wrong_is_two_losses():
    one, other = (make(beta=0.1, flipped=0.2)(pairs(*sides())) for make in (train.cdpo, train.robust_dpo))
    assert np.abs(one - other).min() > 1e-3
    for make in (train.cdpo, train.robust_dpo):
        np.testing.assert_allclose(make(flipped=0.0)(pairs(*sides())), train.dpo()(pairs(*sides())), rtol=1e-6)


def test_sft_is_the_log_probability():
    policy, reference, length = sides()
    texts = train.Texts(policy[0], reference[0], length[0])
    np.testing.assert_array_equal(train.sft()(texts), -policy[0])


def test_kto():
    policy, reference, length = sides()
    texts = train.Texts(policy[0], reference[0], length[0])
    good = np.arange(N) % 2 == 0
    loss = train.kto(beta=0.3, good=1.5, bad=0.5)
    ratio = np.float64(policy[0]) - reference[0]
    expected = np.where(good, 1.5 * (1 - sigmoid(0.3 * (ratio - 0.8))), 0.5 * (1 - sigmoid(0.3 * (0.8 - ratio))))
    judged = train.Judged(texts, jnp.asarray(good), jnp.float32(0.8))
    np.testing.assert_allclose(loss(judged), expected, rtol=2e-5)
    through = jax.grad(lambda drift: jnp.sum(loss(judged._replace(drift=drift))))(jnp.float32(0.8))
    assert through == 0


def test_odds_of_a_text_that_is_certain():
    sure = np.zeros((2, 1), np.float32)
    value, gradient = jax.value_and_grad(lambda p: jnp.sum(train.orpo()(pairs(p, sure, np.ones_like(sure)))))(
        jnp.asarray(sure)
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_settings_are_named_and_checked():
    assert train.dpo(beta=0.1) == train.dpo()
    assert hash(train.dpo(beta=0.1)) == hash(train.dpo())
    assert train.dpo(beta=0.3) != train.dpo()
    with pytest.raises(TypeError, match=r"^dpo: its settings are beta"):
        train.dpo(0.1)
    with pytest.raises(TypeError, match=r"^dpo: its settings are beta"):
        train.dpo(label_smoothing=0.1)
    with pytest.raises(errors.InputError, match=r"robust_dpo: flipped: expected a share from 0 to below 0\.5"):
        train.robust_dpo(flipped=0.5)
    with pytest.raises(errors.InputError, match="dpo: beta: expected more than 0, found 0"):
        train.dpo(beta=0)
    with pytest.raises(errors.InputError, match="dpo: beta: expected a number, found 'x'"):
        train.dpo(beta="x")


# What trl gives ------------------------------------------------------------------------------------------------------

FIXTURES = pathlib.Path(__file__).parent / "trl_losses.json"
THEIRS = json.loads(FIXTURES.read_text()) if FIXTURES.exists() else {"losses": {}}


@pytest.mark.parametrize("name", THEIRS["losses"])
def test_values_and_gradients_are_those_of_trl(name):
    theirs = THEIRS["losses"][name]
    loss = getattr(train, theirs["loss"])(**theirs["settings"])
    policy, reference, length = (jnp.asarray(THEIRS[key], jnp.float32) for key in ("policy", "reference", "length"))

    def values(policy):
        if loss.kind == "judged":
            good = jnp.asarray(THEIRS["good"])
            texts = train.Texts(policy[0], reference[0], length[0])
            return loss(train.Judged(texts, good, jnp.float32(theirs["drift"])))
        return loss(pairs(policy, reference, length))

    np.testing.assert_allclose(values(policy), theirs["values"], rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda policy: jnp.sum(values(policy)))(policy)
    np.testing.assert_allclose(gradient, theirs["gradient"], rtol=1e-5, atol=1e-5)
