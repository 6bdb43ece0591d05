"""Anchors are rated as prompts are, with a gradient; and a price on the tax is what its formula says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiers import quick
from tests.train.test_examples import few, pocket
from vatjax import elicit, errors, metrics, models, train
from vatjax.train.anchors import _draw_items, answer_probs, option_probs
from vatjax.train.anchors import value_state as leaning
from vatjax.train.penalty import VARIANTS

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]


@functools.cache
def own():
    return train.draw_anchors(pocket(), few(), scenes=4, rows=2, seed=2)


def edit():
    config = pocket().config
    vector = jax.random.normal(jax.random.key(0), (config.layers, config.width)) * 0.2
    return models.Edit(jnp.float32(1), residual=vector)


def told(chunk, changed=None):
    return answer_probs(own(), chunk, pocket().arrays, pocket().config, changed, train.Memory())


@pytest.mark.parametrize("changed", [False, True])
def test_anchors_are_rated_as_prompts_are(changed):
    """Against the scorer of elicitation, which computes a tree with a cache: the same ratings of the same actions."""
    side, _ = few().split(0.25, 2)
    chosen = _draw_items(side, 4, 2)
    asked = side.take(chosen.reshape(-1))
    rated = elicit.ratings(pocket(), asked, edit=edit() if changed else None)
    order = np.stack([asked.pair().express, asked.pair().suppress], 1).reshape(-1)
    expected = {(asked.scene[i], asked.action[i]): x for i, x in zip(order, rated.ratings, strict=True)}
    for chunk in (0, 1):
        found = told(chunk, edit() if changed else None)
        mean = np.einsum("rtpo,o->rtp", option_probs(found), np.arange(1, 6))
        for row in (0, 1):
            for t in range(10):
                for k in (0, 1):
                    own = chosen[2 * chunk + row, t, k]
                    rating = expected[side.scene[own], side.action[own]]
                    assert mean[row, t, k] == pytest.approx(rating, abs=2e-4)


def test_every_type_has_an_action_for_it_and_one_against():
    side, test = few().split(0.25, 2)
    chosen = _draw_items(side, 4, 2)
    assert chosen.shape == (4, 10, 2)
    types = np.array(few().taxonomy.type_of)
    for scene in chosen:
        assert len(set(side.scene_of[scene.reshape(-1)].tolist())) == 1
        for t, (express, suppress) in enumerate(scene):
            assert side.value[express] == side.value[suppress]
            assert types[side.value[express]] == t
            assert (side.polarity[express], side.polarity[suppress]) == (1, -1)
    assert not set(side.scene[chosen.reshape(-1)]) & set(test.scene)


def price(variant, weight=2.0):
    return train.tax_penalty(own(), few().taxonomy, "Power", weight, variant)


def test_variants_are_their_formulas():
    key = jax.random.key(3)
    chunk = int(jax.random.randint(key, (), 0, 2))
    before, now = own().before[chunk], told(chunk, edit())
    x = [np.asarray(leaning(own(), part), np.float64) for part in (before, now)]
    moved = x[1] - x[0]
    off = np.arange(10) != few().taxonomy.types.index("Power")
    safe = [np.maximum(np.asarray(part, np.float64), 1e-9) for part in (before, now)]
    expected = {
        "l2": (moved**2)[:, off].mean(),
        "drift": (moved.mean(0) ** 2)[off].mean(),
        "kl": (np.asarray(before) * (np.log(safe[0]) - np.log(safe[1]))).sum(-1).mean(),
    }
    for variant, value in expected.items():
        found, facts = price(variant)(pocket().arrays, pocket().config, edit(), key, train.Memory())
        assert float(found) == pytest.approx(2 * value, rel=1e-3, abs=1e-6), variant
        assert float(facts["tax/off"]) == pytest.approx(np.abs(moved.mean(0))[off].mean(), rel=1e-3)
        assert float(facts["tax/target"]) == pytest.approx(moved.mean(0)[~off].mean(), rel=1e-3)


@pytest.mark.thorough
def test_coupling_is_that_of_drawn_ratings():
    """With probabilities of 0 and 1 the price is the nVAT of the ratings' shifts."""
    random = np.random.default_rng(0)
    rows, types = 40, 10
    rating = random.integers(0, 5, (2, rows, types, 2))
    hot = [jnp.concatenate([jax.nn.one_hot(one, 5), jnp.zeros((rows, types, 2, 1))], -1) for one in rating]
    shift = (np.diff(rating[..., 0], axis=0)[0] - np.diff(rating[..., 1], axis=0)[0]) / 2
    expected = metrics.nvat(metrics.spearman(jnp.asarray(shift, jnp.float32)))
    found = price("coupling")._value(None, hot[0], hot[1])
    assert float(found) == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("variant", quick(VARIANTS, ["coupling"]))
def test_gradients_are_those_of_differences(variant):
    """Where nothing has moved yet they are finite; and elsewhere they are the slope."""
    config = pocket().config
    vector = edit().residual

    def value(strength):
        changed = models.Edit(jnp.float32(1), residual=strength * vector)
        return price(variant)(pocket().arrays, config, changed, jax.random.key(3), train.Memory())[0]

    assert np.isfinite(jax.grad(value)(jnp.float32(0)))
    slope = (float(value(jnp.float32(1.02))) - float(value(jnp.float32(0.98)))) / 0.04
    assert float(jax.grad(value)(jnp.float32(1.0))) == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_what_can_not_be_priced():
    with pytest.raises(errors.InputError, match=r"penalty.*l3.*l2"):
        price("l3")
    with pytest.raises(errors.InputError, match=r"the weight of a penalty: expected 0 or more"):
        price("l2", -1.0)
    with pytest.raises(errors.InputError, match="5 scenes can't be rated 2 at a time"):
        train.draw_anchors(pocket(), few(), scenes=5, rows=2)
    with pytest.raises(errors.InputError, match="900 anchors need as many scenes of the train side"):
        train.draw_anchors(pocket(), few(), scenes=900, rows=2)


def test_a_step_with_a_price():
    model = pocket()
    records = train.records_for_model(model, few(), "Power", 1, "preferences")[:16]
    data = train.make_rows(train.tokenise(model, records), rows=8)
    state = train.init(model, train.Lora(rank=2), train.Adam(rate=1e-2, warmup=0), steps=9)
    plain = priced = state
    for step in range(6):
        batch = train.batch(data, train.rows_at_step(data, step))
        plain, _ = train.step(plain, batch, train.dpo())
        priced, logs = train.step(priced, batch, train.dpo(), price("l2", 30.0))
    assert float(logs["loss"]) > float(logs["penalty"]) > 0
    off = []
    for one in (plain, priced):
        changed = train.export(one)
        moved = [leaning(own(), told(c, changed)) - leaning(own(), own().before[c]) for c in (0, 1)]
        off.append(float(jnp.mean(jnp.stack(moved) ** 2)))
    assert off[1] < 0.7 * off[0]


@pytest.mark.thorough
def test_a_run_with_a_price_has_checkpoints_of_its_own(tmp_path, monkeypatch):
    """In a folder that is named from where one stands."""
    monkeypatch.chdir(tmp_path)
    model = pocket()
    data = train.make_rows(
        train.tokenise(model, train.records_for_model(model, few(), "Power", 1, "preferences")[:16]), rows=8
    )

    def run(variant):
        state = train.init(model, train.Lora(rank=2), train.Adam(rate=1e-2), steps=2)
        return train.run(state, data, train.dpo(), train.Course(steps=2, log=1), "run", price(variant))

    assert "penalty" in run("l2").metrics[-1]
    assert run("l2").start_step == 2
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    with pytest.raises(errors.InputError, match="of another run, which differs in penalty "):
        run("drift")
