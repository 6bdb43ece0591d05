"""Every way to find an edit moves the organism towards its target, and along the circle as the planted persona does."""

import jax
import numpy as np
import pytest

from vatjax import edits, elicit, errors, items, models, organism
from vatjax.edits import outcome, pairs

pytestmark = pytest.mark.long

DATA = items.bundled()
_, TEST = DATA.split()
SOME = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[::8])))
WORLD = organism.load_world("pocket")
POWER = DATA.taxonomy.mask("Power")


@pytest.fixture(scope="module")
def model():
    return models.load("pocket")


@pytest.fixture(scope="module")
def before(model):
    return elicit.ratings(model, SOME).state.state


@pytest.fixture(scope="module")
def found(model):
    return edits.directions(edits.contrast(model, DATA, "Power"))


def shift(model, before, edit):
    return np.nanmean(elicit.ratings(model, SOME, edit=edit).state.state - before, 0)


def profile():
    one, other = (
        organism.planted_state(WORLD, SOME, persona=p).state for p in (organism.NO_PERSONA, organism.Persona("Power"))
    )
    return np.nanmean(other - one, 0)


@pytest.mark.parametrize(
    ("method", "layers", "options", "least"),
    [
        ("mean", [0], {}, 0.3),
        pytest.param("pca", [0], {"operator": "turn"}, 0.3, marks=pytest.mark.thorough),
        pytest.param("probe", [0], {"operator": "set"}, 0.15, marks=pytest.mark.thorough),
        pytest.param("mean", [1], {"way": "instructed"}, 0.3, marks=pytest.mark.thorough),
        ("conva", (), {"probability": 0.9}, 0.3),
        pytest.param("split", [0], {"training": edits.Training(steps=60, rate=0.05)}, 0.1, marks=pytest.mark.thorough),
        pytest.param("neurons", (), {"pairs": 40}, 0.01, marks=pytest.mark.thorough),
        pytest.param("conditional", [1], {"way": "instructed"}, 0.05, marks=pytest.mark.thorough),
    ],
)
def test_an_edit_pushes_its_target_and_what_lies_beside_it(model, before, method, layers, options, least):
    edit = edits.find(model, DATA, "Power", 1, method, layers, **options)
    moved = shift(model, before, edit)
    assert moved[POWER].mean() > least
    assert np.corrcoef(moved, profile())[0, 1] > (0.5 if method == "neurons" else 0.8)
    assert shift(model, before, 0.0 * edit).tolist() == [0.0] * 56


def test_away_is_the_other_way(model, before, found):
    away = edits.find(model, DATA, "Power", -1, layers=0)
    np.testing.assert_allclose(away.residual[0], -found.vector[0], rtol=1e-4, atol=1e-4)
    assert shift(model, before, away)[POWER].mean() < -0.2


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mean", {}),
        pytest.param("split", {"training": edits.Training(steps=12, rate=0.05)}, marks=pytest.mark.thorough),
        ("neurons", {"top": 20}),
        pytest.param("conditional", {}, marks=pytest.mark.thorough),
    ],
)
def test_what_a_finder_makes_of_shuffled_labels(model, method, options):
    """The same pairs, of which half have changed their labels: less is found, and the same again."""
    real, blind, again = (
        edits.find_with_facts(model, DATA, "Power", 1, method, [0], pairs=40, exchanged=seed, **options)
        for seed in (None, 3, 3)
    )
    for one, other in zip(jax.tree.leaves(blind.edit), jax.tree.leaves(again.edit), strict=True):
        np.testing.assert_array_equal(one, other)
    if method == "mean":
        own = edits.directions(edits.shuffle_labels(edits.contrast(model, DATA, "Power", 1, "acted", 40), 3))
        np.testing.assert_allclose(blind.edit.residual[0], own.vector[0], rtol=1e-4, atol=1e-5)
        assert np.linalg.norm(blind.edit.residual) < np.linalg.norm(real.edit.residual) / 2
        assert blind.facts["accuracy"][0] < 0.75 < real.facts["accuracy"][0]
    elif method == "split":
        assert blind.facts["margin"] < real.facts["margin"] / 2
    elif method == "neurons":
        assert real.facts["neurons"] != blind.facts["neurons"]


def test_probes_of_shuffled_labels_are_not_sound(model):
    with pytest.raises(errors.InputError, match="probe"):
        edits.find(model, DATA, "Power", method="conva", pairs=40, exchanged=0)


def test_pairs_are_matched_and_of_the_train_side(model):
    asked = pairs.tokenize_pairs(model, DATA, "Power", 1, "acted", 50, elicit.ElicitConfig(), 0.25, 0)
    texts = [model.tokenizer.decode(asked.prompts.tokens(i)) for i in range(100)]
    assert len(asked.scene) == 50
    scenes = {scene.text for scene in TEST.scenes}
    for positive, negative in zip(texts[:50], texts[50:], strict=True):
        assert positive != negative
        assert positive.split("<|assistant|>")[0] == negative.split("<|assistant|>")[0]
        assert not any(scene in positive for scene in scenes)
    turned = pairs.tokenize_pairs(model, DATA, "Power", -1, "acted", 50, elicit.ElicitConfig(), 0.25, 0)
    assert [model.tokenizer.decode(turned.prompts.tokens(i)) for i in range(100)] == texts[50:] + texts[:50]


def test_pairs_of_several_targets_are_those_of_each(model):
    together = edits.contrasts(model, DATA, ["Power", "Wealth", "Tradition"], pairs=12)
    for name, found in together.items():
        alone = edits.contrast(model, DATA, name, pairs=12)
        np.testing.assert_allclose(found.positive, alone.positive, atol=2e-3)
        np.testing.assert_allclose(found.negative, alone.negative, atol=2e-3)
        np.testing.assert_array_equal(found.scene, alone.scene)


def test_states_are_those_of_whole_texts(model):
    asked = pairs.tokenize_pairs(model, DATA, "Wealth", 1, "instructed", 8, elicit.ElicitConfig(), 0.25, 0)
    states = pairs.last_token_states(model, asked.prompts)
    neurons = pairs.last_token_states(model, asked.prompts, every="neurons")
    assert neurons.shape == (4, 32, model.config.hidden)
    for i in (0, 9, 31):
        tokens = np.array([asked.prompts.tokens(i)])
        logits = models.logits(model, tokens)[0, -1]
        last = states[-1, i]
        norm = last / np.sqrt((last**2).mean() + model.config.norm_epsilon) * np.asarray(model.arrays["norm"])
        np.testing.assert_allclose(norm @ np.asarray(model.arrays["embedding"]).T, logits, atol=2e-3)


@pytest.mark.thorough
def test_a_sweep_finds_where_an_edit_works_and_where_it_breaks(model, found):
    points = edits.sweep(
        model,
        SOME,
        "Power",
        lambda layers: edits.steer(found, layers),
        [(0,), (3,)],
        (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 12.0),
    )
    assert [point.layers for point in points] == [(0,)] * 8 + [(3,)] * 8
    gains = [point.outcome.gain for point in points[:8]]
    assert gains[0] < 0 < gains[5]
    assert gains[3] == 0
    for point in (points[3], points[11]):  # wherever it would be, without a strength it is no edit
        assert (point.outcome.gain, point.outcome.off_target) == (0, 0)
        assert np.isnan(point.outcome.nvat)
    assert points[7].outcome.broken
    assert points[7].outcome.mass < 0.5
    best = edits.best_point(points)
    assert best.layers == (0,)
    assert best.strength in (0.5, 1.0, 2.0)
    alone = edits.outcomes(model, SOME, "Power", [best.strength * edits.steer(found, [0])])[0]
    np.testing.assert_allclose(alone.gain, best.outcome.gain, atol=1e-4)
    curve = edits.fit_curve(points[:8])
    assert curve.utility_r2 > 0.9
    assert curve.useful[1] < 12
    assert np.isnan(best.outcome.perplexity)  # it was never taught plain text


def test_odds_are_their_formulas():
    share = np.array([[[[0.6, 0.2], [0.5, 0.25]]]])
    preference, utility = outcome.odds_of(share)
    np.testing.assert_allclose(preference, np.mean([np.log(3), np.log(2)]))
    np.testing.assert_allclose(utility, np.mean([np.log(0.8 / 0.2), np.log(0.75 / 0.25)]))


def test_a_curve_has_the_shape_that_was_planted():
    m = np.array([-8, -4, -2, -1, -0.5, 0.5, 1, 2, 4, 8.0])
    shape = np.array([0.3, np.log(20), 1.2, np.log(5), 2.0])
    d = edits.sweeping.validity(m, shape)
    made = [
        edits.Point((1,), s, outcome.Outcome(0, 0, 0, 0, (1.5 * s + 0.4) * v, -3 + 9 * v, 1, 1))
        for s, v in zip(m, d, strict=True)
    ]
    found = edits.fit_curve(made)
    assert found.preference_r2 > 0.999
    assert found.utility_r2 > 0.999
    grid = np.linspace(-8, 8, 4001)
    valid = grid[edits.sweeping.validity(grid, shape) > edits.sweeping.MIN_VALIDITY]
    np.testing.assert_allclose(found.useful, [valid.min(), valid.max()], atol=0.15)
    with pytest.raises(errors.InputError, match="at least 8 strengths, found 3"):
        edits.fit_curve(made[:3])
    broken = [edits.Point((1,), 64.0, outcome.Outcome(0, 0, 0, 0, np.nan, np.nan, np.nan, np.nan))]
    np.testing.assert_allclose(edits.fit_curve(made + broken).useful, found.useful)


@pytest.mark.parametrize(
    ("utility", "useful"),
    [
        (lambda m: 3 - m**2 / 4, (-2.5, 2.5)),  # falls slowly at first, and then below nothing
        (lambda m: 8 + 0 * m, (-4, 4)),  # has no validity to lose
    ],
)
def test_a_useful_range_has_not_lost_its_use(utility, useful):
    m = np.array(edits.STRENGTHS)
    made = [edits.Point((0,), s, outcome.Outcome(0, 0, 0, 0, 0.5 * s, utility(s), 1, 1)) for s in m]
    low, high = edits.fit_curve(made).useful
    assert useful[0] <= low < 0 < high <= useful[1]
    assert utility(high) >= utility(m).max() - 0.5 * np.ptp(utility(m))


def test_a_curve_that_only_falls():
    m = np.arange(1.0, 9)
    made = [
        edits.Point((0,), s, outcome.Outcome(0, 0, 0, 0, 0.5 * s, u, 1, 1))
        for s, u in zip(m, (5, 1, -1, -2, -2.2, -2.3, -2.4, -2.4), strict=True)
    ]
    assert edits.fit_curve(made).useful[1] < 2


def test_what_is_never_written_can_not_be_edited(model, found):
    with pytest.raises(errors.InputError, match="an edit of written ones does nothing"):
        edits.outcomes(model, SOME, "Power", [edits.steer(found, [0], positions="written")])
    with pytest.raises(errors.InputError, match="no edits"):
        edits.outcomes(model, SOME, "Power", [])
    assert np.isnan(edits.perplexities(model, [edits.steer(found, [0], positions="last")])).all()


@pytest.mark.thorough
def test_a_push_beside_its_placebos(model, found):
    real = edits.steer(found, [0])
    pushes = {"real": edits.Push(elicit.Condition(edit=real))} | {
        f"random {i}": edits.Push(elicit.Condition(edit=edits.random_like(real, jax.random.key(i))), "random")
        for i in range(3)
    }
    first, *others = edits.run_trials(model, SOME, "Power", pushes)
    assert first.resolved
    assert float(first.gain.estimate) > 0.3 > max(abs(float(one.gain.estimate)) for one in others)
    (together,) = edits.summarise_placebos([first, *others])
    assert (together.name, together.draws, together.resolved) == ("random", 3, False)
    assert first.by_distance.estimate.shape == (5,)
    assert float(first.success.estimate) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "Powr"}, "did you mean 'Power'"),
        ({"method": "meen"}, "unknown method 'meen'; did you mean 'mean'"),
        ({"way": "actd"}, "unknown contrast 'actd'; did you mean 'acted'"),
        ({"layers": [7]}, "layer 7: the model has layers 0 to 3"),
        ({"direction": 0}, "direction: expected 1 or -1, found 0"),
        ({"pairs": 0}, "pairs: at least 8 are needed, found 0"),
        ({"method": "conditional", "layers": [0, 1]}, r"one layer .* found \[0, 1\]"),
        (
            {"items": DATA.where(value=["Wealth"]).take(np.arange(12))},
            r"\d pairs of Power on the train side, and .* at least 8",
        ),
    ],
)
def test_what_can_not_be_found(model, options, message):
    own = {"items": DATA, "target": "Power"} | options
    with pytest.raises(errors.InputError, match=message):
        edits.find(model, own.pop("items"), own.pop("target"), **own)
