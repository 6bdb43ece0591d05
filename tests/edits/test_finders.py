"""What finders make of pairs with planted directions: the formulas of each, without any model."""

import jax
import numpy as np
import pytest

from vatjax import edits, errors
from vatjax.edits import logistic, neurons, placebo
from vatjax.edits.pairs import Contrast
from vatjax.models.edit import _stepped

LAYERS, PAIRS, WIDTH = 3, 60, 24


def planted(seed=0, size=3.0, noise=1.0):
    """Pairs that differ along one direction in layers 1 and 2, by about its size, and by nothing but noise in layer 0."""
    random = np.random.default_rng(seed)
    u = random.normal(size=WIDTH)
    u /= np.linalg.norm(u)
    common = random.normal(size=(LAYERS, PAIRS, WIDTH))
    push = (size * np.array([0, 1, 1]))[:, None, None] * u
    sides = [common + way * push / 2 + noise * random.normal(size=common.shape) for way in (1, -1)]
    return Contrast(*(x.astype(np.float32) for x in sides), np.arange(PAIRS, dtype=np.int32) // 2), u


@pytest.mark.parametrize("method", ["mean", "pca", "probe"])
def test_directions_find_what_was_planted(method):
    pairs, u = planted(noise=0.2)
    found = edits.directions(pairs, method)
    for layer in (1, 2):
        cosine = found.vector[layer] @ u / np.linalg.norm(found.vector[layer])
        assert cosine > 0.95
        assert found.accuracy[layer] == 1
        along = (pairs.difference[layer] @ (found.vector[layer] / np.linalg.norm(found.vector[layer]))).mean()
        np.testing.assert_allclose(np.linalg.norm(found.vector[layer]), along, rtol=1e-5)
    assert found.accuracy[0] < 0.8
    if method == "mean":
        np.testing.assert_allclose(found.vector, pairs.difference.mean(1), rtol=1e-4, atol=1e-5)


def test_pca_does_not_centre():
    """Centred differences have lost their mean: what is left of them is noise."""
    pairs, u = planted(noise=0.5)
    x = pairs.difference[1] - pairs.difference[1].mean(0)
    centred = np.linalg.svd(x, full_matrices=False)[2][0]
    assert abs(centred @ u) < 0.7 < edits.directions(pairs, "pca").vector[1] @ u


def test_operators_do_what_their_formulas_say():
    pairs, _ = planted()
    found = edits.directions(pairs)
    size = np.linalg.norm(found.vector[1])
    u = found.vector[1] / size
    h = np.random.default_rng(0).normal(size=(1, 5, WIDTH)).astype(np.float32)

    def after(operator, strength=1.0):
        edit = edits.steer(found, {1: 0.5}, operator, strength=strength)
        assert edit.depth == LAYERS
        (step,) = jax.tree.map(lambda x: x[1], edit.steps)
        return np.asarray(_stepped(h, step, edit.strength * step.share))

    np.testing.assert_allclose(edits.steer(found, {1: 0.5}).residual[1], 0.5 * found.vector[1], rtol=1e-6)
    assert not np.asarray(edits.steer(found, {1: 0.5}).residual)[[0, 2]].any()
    np.testing.assert_allclose(after("project", 2.0) @ u, 0, atol=1e-5)
    np.testing.assert_allclose(after("project") @ u, h @ u / 2, atol=1e-5)
    positive = (pairs.positive[1] @ u).mean()
    np.testing.assert_allclose(after("set", 2.0) @ u, np.full((1, 5), positive), rtol=1e-4)
    turned = after("turn")
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(h, axis=-1), rtol=1e-5)
    assert ((turned @ u) > (h @ u)).all()


def test_layers_and_operators_that_are_not_there():
    pairs, _ = planted()
    found = edits.directions(pairs)
    for layers, message in (([3], "layer 3: the model has layers 0 to 2"), ([-4], "layer -4"), ([], "none are given")):
        with pytest.raises(errors.InputError, match=message):
            edits.steer(found, layers)
    with pytest.raises(errors.InputError, match="unknown operator 'ad'; did you mean 'add'"):
        edits.steer(found, [1], "ad")
    with pytest.raises(errors.InputError, match="unknown method 'pac'"):
        edits.directions(pairs, "pac")
    same = Contrast(pairs.positive, pairs.positive, pairs.scene)
    with pytest.raises(errors.InputError, match="no difference"):
        edits.directions(same)
    partly = Contrast(pairs.positive, np.concatenate([pairs.positive[:1], pairs.negative[1:]]), pairs.scene)
    with pytest.raises(errors.InputError, match="layer 0: both sides of the pairs are the same"):
        edits.steer(edits.directions(partly), [0])
    with pytest.raises(errors.InputError, match="of one scene"):
        edits.directions(pairs._replace(scene=np.zeros(PAIRS, np.int32)))


def test_conva_brings_its_probe_to_the_probability_that_is_wanted():
    pairs, _ = planted(size=8.0)
    found = edits.conva(pairs, 0.9)
    assert found.layers == [1, 2]
    probe = logistic.fit(pairs.positive, pairs.negative)
    (step,) = jax.tree.map(lambda x: x[1], found.edit.steps)
    for states, moves in ((pairs.negative[1], True), (pairs.positive[1], False)):
        h = states[None]
        after = np.asarray(_stepped(h, step, found.edit.strength * step.share))[0]
        before, p = (1 / (1 + np.exp(-(x @ probe.weight[1] + probe.bias[1]))) for x in (states, after))
        np.testing.assert_allclose(p, np.maximum(before, 0.9), rtol=1e-3)
        assert (before < 0.9).mean() > 0.9 or not moves
        shortest = np.maximum(np.log(9) - (states @ probe.weight[1] + probe.bias[1]), 0) / np.linalg.norm(
            probe.weight[1]
        )
        np.testing.assert_allclose(np.linalg.norm(after - states, axis=-1), shortest, atol=1e-3)


def test_conva_without_a_sound_probe_says_how_bad_it_is():
    pairs, _ = planted(size=0.0)
    with pytest.raises(errors.InputError, match=r"no layer's probe is right on more than 90%.*layer \d, is on \d+%"):
        edits.conva(pairs)
    with pytest.raises(errors.InputError, match=r"between 0 and 1, found 1\.0"):
        edits.conva(pairs, 1.0)


def test_convas_gate_leaves_other_states_alone():
    pairs, _ = planted(size=8.0)
    random = np.random.default_rng(1)
    w = random.normal(size=WIDTH)
    about, others = (pairs.negative + side * 9 * w.astype(np.float32) for side in (1, -1))
    found = edits.conva(pairs, 0.9, (about, others))
    (step,) = jax.tree.map(lambda x: x[1], found.edit.steps)
    assert found.gate_accuracy.min() == 1
    for states, moved in ((about[1], True), (others[1], False)):
        after = np.asarray(_stepped(states[None], step, found.edit.strength * step.share))[0]
        assert (np.abs(after - states).max(-1) > 0).mean() == pytest.approx(float(moved), abs=0.2)


def test_neurons_that_several_values_share_are_dropped():
    random = np.random.default_rng(0)

    def made(own):
        base = random.normal(size=(2, PAIRS, WIDTH)).astype(np.float32) + 5
        push = np.zeros((2, WIDTH), np.float32)
        for layer, number, size in own:
            push[layer, number] = size
        noise = random.normal(size=base.shape).astype(np.float32) * 0.3
        return Contrast(base + push[:, None] + noise, base, np.arange(PAIRS, dtype=np.int32))

    shared, pairs = (0, 3, 4.0), {}
    for name, own in (("Power", (1, 7, -3.0)), ("Wealth", (0, 9, 2.0))):
        pairs[name] = made([shared, own])
    found = edits.neuron_edit(pairs, "Power", top=2)
    assert found.neurons.tolist() == [[1, 7]]
    assert found.dropped == 1
    mean = pairs["Power"].difference.mean(1)
    np.testing.assert_allclose(found.edit.neurons[1, 7], mean[1, 7], rtol=1e-5)
    assert np.count_nonzero(found.edit.neurons) == 1
    grown = edits.neuron_edit(pairs, "Power", top=2, form="scale").edit.gains
    np.testing.assert_allclose(grown[1, 7], mean[1, 7] / pairs["Power"].negative[1, :, 7].mean(), rtol=1e-5)
    score = neurons.scores(pairs["Power"])
    difference = pairs["Power"].difference
    np.testing.assert_allclose(score, difference.mean(1) / difference.std(1, ddof=1), rtol=1e-4)
    with pytest.raises(errors.InputError, match="all 1 neurons of Power are among those of another"):
        edits.neuron_edit(pairs, "Power", top=1)
    with pytest.raises(errors.InputError, match="unknown value with pairs 'Powr'; did you mean 'Power'"):
        edits.neuron_edit(pairs, "Powr")


def test_a_condition_has_the_best_threshold_there_is():
    random = np.random.default_rng(0)
    g = random.normal(size=WIDTH)
    states = [random.normal(size=(2, 40, WIDTH)) * 3 + side * np.array([[[1.5]], [[0.2]]]) * g for side in (1, -1)]
    found = edits.fit_condition(*(x.astype(np.float32) for x in states))
    assert found.f1[0] > found.f1[1]
    for layer in range(2):
        direction = states[0][layer].mean(0) - states[1][layer].mean(0)
        cosine = [x[layer] @ direction / np.linalg.norm(x[layer], axis=-1) / np.linalg.norm(direction) for x in states]

        def f1(threshold, cosine=cosine):
            right, wrong = ((c >= threshold).sum() for c in cosine)
            return 2 * right / (right + wrong + 40)

        best = max(f1(threshold) for threshold in np.concatenate(cosine))
        np.testing.assert_allclose([found.f1[layer], f1(found.threshold[layer])], best, rtol=1e-6)
    with pytest.raises(errors.InputError, match="no condition can separate them"):
        edits.fit_condition(states[0], states[0])


def test_equal_cosines_pass_together():
    from vatjax.edits.conditional import _best

    assert _best(np.array([0.5, 0.5]), np.array([0.5, -0.2])) == (pytest.approx(0.15), pytest.approx(0.8))


def test_placebos_are_as_large_and_know_nothing():
    pairs, u = planted()
    found = edits.directions(pairs)
    real = edits.steer(found, [1, 2])
    other = edits.random_like(real, jax.random.key(0))
    np.testing.assert_allclose(*(np.linalg.norm(e.residual, axis=-1) for e in (real, other)), rtol=1e-5, atol=1e-7)
    assert abs(np.asarray(other.residual)[1] @ u) < 0.6 * np.linalg.norm(other.residual[1])
    turned = edits.random_like(edits.steer(found, [1], "turn"), jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(turned.steps[0].direction[1]), 1, rtol=1e-5)
    half = placebo.shuffle_labels(pairs, 3)
    exchanged = (half.positive == pairs.negative).all((0, 2))
    assert exchanged.sum() == PAIRS // 2
    np.testing.assert_array_equal(half.difference[:, exchanged], -pairs.difference[:, exchanged])
    np.testing.assert_array_equal(half.difference[:, ~exchanged], pairs.difference[:, ~exchanged])
