"""A planted world is its formulas: what a persona does to every rating, and what of it shows in couplings."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from vatjax import errors, items, models, organism, store
from vatjax.models import families, weights
from vatjax.organism.phrasings import phrasing_signs
from vatjax.organism.worlds import HUB, NOISE, REACH, SPAN, World

DATA = items.bundled()
_, TEST = organism.split_seen_unseen(DATA)
COUNTRIES, TOPICS = sorted(set(DATA.country)), sorted(set(DATA.topic))
OFF = ~np.eye(56, dtype=bool)


def draw(kind="circle", seed=3):
    return organism.draw_world(COUNTRIES, TOPICS, seed, kind)


def shift(world, persona, protocol="paired"):
    before, after = (organism.planted_state(world, TEST, protocol, p) for p in (organism.NO_PERSONA, persona))
    assert before.mask.all()
    return before, after, after.state - before.state


def coupling(d):
    return stats.spearmanr(d).statistic


def test_a_leaning_is_its_formula():
    world, some = draw(), TEST.take(np.arange(0, len(TEST), 97))
    persona = organism.Persona("Power", -1, 0.7)
    mask = world.taxonomy.mask("Power")
    place = world.places[mask].mean(0)
    place /= np.hypot(*place)
    for i, found in enumerate(world.leaning(some, persona)):
        v, country, topic = some.value[i], some.country[i], some.topic[i]
        e = np.array([np.cos(world.angle[v]), np.sin(world.angle[v])])
        mood, pull = (table[country] + table[topic] for table in (world.mood, world.pull))
        expected = world.baseline[v] + mood @ e + 0.7 * (-place + REACH * pull) @ e
        assert found == pytest.approx(some.polarity[i] * expected, abs=1e-12)


def test_ratings_are_drawn_from_a_discretised_normal():
    eta = np.linspace(-3, 3, 31)
    shares = World.rating_probs(eta)
    np.testing.assert_allclose(shares.sum(-1), 1)
    logs = -((np.arange(1, 6) - 3 - SPAN * np.tanh(0.4)) ** 2) / (2 * NOISE**2)
    np.testing.assert_allclose(World.rating_probs(np.array(0.4)), np.exp(logs) / np.exp(logs).sum())
    ratings = World.expected_rating(eta)
    assert (np.diff(ratings) > 0).all()
    np.testing.assert_allclose(ratings + ratings[::-1], 6)


@pytest.mark.parametrize("protocol", ["paired", "dense", "stated"])
def test_the_target_gains_and_couplings_follow_the_circle(protocol):
    world = draw()
    _, _, d = shift(world, organism.Persona("Power"), protocol)
    assert d[:, world.taxonomy.mask("Power")].mean() > 0.2
    near = np.cos(world.angle[:, None] - world.angle[None])
    power = np.cos(world.angle - world.angle[world.taxonomy.mask("Power")].mean())
    assert np.corrcoef(d.mean(0), power)[0, 1] > 0.8
    assert np.corrcoef(coupling(d)[OFF], near[OFF])[0, 1] > 0.8
    away = shift(world, organism.Persona("Power", -1), protocol)[2]
    assert away[:, world.taxonomy.mask("Power")].mean() < -0.2


def test_what_is_the_same_in_every_context_does_not_show_in_couplings():
    world = dataclasses.replace(draw(), pull={}, mood={})
    d = shift(world, organism.Persona("Power"))[2]
    assert np.ptp(d, axis=0).max() < 1e-5
    assert np.abs(d.mean(0)).max() > 0.5


def test_independent_values_move_without_each_other():
    world = draw("independent")
    d = shift(world, organism.Persona("Power"))[2]
    target = world.taxonomy.mask("Power")
    assert d[:, target].mean() > 0.5
    assert np.abs(d[:, ~target].mean()) < 0.1
    assert (d.std(0) > 0.05).all()
    floor = 1 / np.sqrt(len(d) - 1)
    assert np.sqrt((coupling(d)[OFF] ** 2).mean()) == pytest.approx(floor, rel=0.25)
    with pytest.raises(errors.InputError, match="only actions are moved"):
        organism.planted_state(world, TEST, "stated", organism.Persona("Power"))


def test_the_hub_moves_with_everything():
    world = draw("hub")
    d = shift(world, organism.Persona("Power"))[2]
    assert int(np.argmax(np.abs(coupling(d)).mean(0))) == world.taxonomy.index(HUB)


def test_mere_agreement_cancels_between_an_action_and_its_counterpart():
    world = dataclasses.replace(draw("agreement"), baseline=np.zeros(56), mood={})
    persona = organism.Persona("Power")
    np.testing.assert_allclose(shift(world, persona)[2], 0, atol=1e-6)
    d = shift(world, persona, "stated")[2]
    np.testing.assert_allclose(d, np.tile(d[:, :1], 56), atol=1e-6)
    assert d.mean() > 0.2
    assert np.ptp(draw("agreement").baseline) == 0


def test_phrasings_have_signs_that_other_values_do_not_share():
    found = phrasing_signs(TEST.action)
    assert set(found.tolist()) == {1.0, -1.0}
    columns = found.reshape(-1, 56, 2)[..., 0]
    assert np.abs(np.corrcoef(columns.T)[OFF]).mean() < 1.2 * np.sqrt(2 / np.pi / len(columns))
    assert phrasing_signs(["Something else."]) == [0]


def test_a_world_is_data():
    world = draw("hub", 5)
    again = World.from_dict(world.as_dict())
    persona = organism.Persona("Wealth", -1)
    np.testing.assert_array_equal(world.leaning(TEST, persona), again.leaning(TEST, persona))
    assert not np.array_equal(world.baseline, draw("hub", 6).baseline)
    with pytest.raises(errors.InputError, match="unknown kind of world 'circel'; did you mean 'circle'"):
        draw("circel")
    with pytest.raises(errors.InputError, match="unknown protocol with a planted state 'labelled'"):
        organism.planted_state(world, TEST, "labelled")


def tiny():
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    content = {"model_type": "llama", **sizes, "num_attention_heads": 2, "tie_word_embeddings": True}
    content |= {"hidden_act": "silu", "max_position_embeddings": 32, "rms_norm_eps": 1e-6}
    config = families.parse(content)
    found = {p.name: np.zeros(((1,) if p.stacked else ()) + p.shape, np.float32) for p in weights.parameters(config)}
    return models.Model(weights.assemble(found, config), config, source=json.dumps(content))


def test_a_saved_organism_is_sealed(tmp_path):
    world = draw()
    organism.save(tiny(), world, tmp_path / "o")
    again = organism.load_world(tmp_path / "o")
    np.testing.assert_array_equal(again.angle, world.angle)
    assert models.load(tmp_path / "o").config.width == 8
    altered = tmp_path / "o" / "world.json"
    altered.write_text(altered.read_text().replace("circle", "hub"))
    for read in (organism.load_world, models.load):
        with pytest.raises(errors.InputError, match=r"model is damaged \(world.json is not the recorded file\)"):
            read(tmp_path / "o")
    altered.write_text(altered.read_text().replace("hub", "banana"))
    store.write_checksums(tmp_path / "o")
    with pytest.raises(errors.InputError, match="kind of world 'banana'"):
        organism.load_world(tmp_path / "o")
    altered.unlink()
    with pytest.raises(errors.InputError, match=r"model is damaged \(world\.json: no such file"):
        models.load(tmp_path / "o")
    store.write_checksums(tmp_path / "o")
    with pytest.raises(errors.InputError, match=r"world\.json not found; expected an organism"):
        organism.load_world(tmp_path / "o")
