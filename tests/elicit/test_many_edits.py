"""States and choices under many edits are those under each alone; neutral shots are the model's own answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiers import quick
from vatjax import elicit, errors, items, models
from vatjax.prompts import item_fields

DATA = items.bundled()
TRAIN, TEST = DATA.split()
SOME = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[:3]) & (TEST.value % 5 == 0)))


@pytest.fixture(scope="module")
def model():
    return models.load("pocket")


def edits(model):
    drawn = jax.random.normal(jax.random.key(0), (2, 4, model.config.width)) * 8
    return [
        models.Edit(jnp.float32(1), residual=one).only_layers([layer]) for one, layer in zip(drawn, (2, 1), strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    quick(
        [{}, {"protocol": "stated", "counterbalance": True}, {"reading": "argmax", "prior": True}],
        [{"reading": "argmax", "prior": True}],
    ),
)
def test_states_are_those_under_each(model, options):
    how, made = elicit.ElicitConfig(**options), edits(model)
    found = elicit.states_under(model, SOME, made, how)
    for i, edit in enumerate(made):
        alone = elicit.ratings(model, SOME, how, edit=edit)
        np.testing.assert_allclose(found.states[i], alone.state.state, atol=1e-4)
        np.testing.assert_allclose(found.mass[i], alone.shares.sum(-1).mean(0), atol=1e-4)
    np.testing.assert_array_equal(found.clusters, alone.state.clusters)
    assert np.nanmax(np.abs(found.states[0] - found.states[1])) > 0.05


@pytest.mark.thorough
def test_choices_are_those_under_each(model):
    made = edits(model)
    share = elicit.choices_under(model, SOME, made)
    for i, edit in enumerate(made):
        alone = elicit.choose(model, SOME, edit=edit)
        np.testing.assert_allclose(share[i].sum(-1), alone.mass, atol=1e-4)
        np.testing.assert_allclose((share[i][..., 0] / share[i].sum(-1)).mean(-1), alone.preference, atol=1e-4)


def test_neutral_shots_are_the_models_own_answers(model):
    shots = elicit.neutral_shots(model, DATA, 8, avoid="Power")
    values = [DATA.taxonomy.index(shot.fields["value"]) for shot in shots]
    assert not DATA.taxonomy.mask("Power")[values].any()
    kept = {scene.text for scene in TEST.scenes}
    assert not kept & {shot.fields["scene"] for shot in shots}
    asked = {tuple(item_fields(TRAIN, i).items()): i for i in range(len(TRAIN))}
    rows = [asked[tuple(shot.fields.items())] for shot in shots]
    assert sorted(TRAIN.polarity[rows].tolist()) == [-1] * 4 + [1] * 4
    for shot, row in zip(shots, rows, strict=True):
        both = TRAIN.take(np.flatnonzero((TRAIN.scene_of == TRAIN.scene_of[row]) & (TRAIN.value == TRAIN.value[row])))
        ratings = elicit.ratings(model, both).ratings
        (own,) = (r for r, text in zip(ratings, both.action, strict=True) if text == TRAIN.action[row])
        assert shot.rating == round(own)
        break
    others = elicit.neutral_shots(model, DATA, 8, draw=1)
    assert [shot.fields for shot in others] != [shot.fields for shot in shots]
    assert elicit.neutral_shots(model, DATA, 0) == []
    with pytest.raises(errors.InputError, match="30000 neutral shots need 15000 actions for a value"):
        elicit.neutral_shots(model, DATA, 30000)
