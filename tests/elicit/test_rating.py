"""Ratings from words to states: what is asked, what is read, what is kept, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.elicit.speaking import CHAT, speaking
from tests.models.checkpoints import checkpoint
from tests.tiers import quick
from vatjax import elicit, errors, items, models, prefix, prompts, states
from vatjax.elicit import protocols
from vatjax.models import tokens
from vatjax.prefix.tokenize import answer_log_probs, answer_spellings

TOPIC = items.bundled().topic[0]
DATA = items.bundled().where(country=["Egypt", "Germany"], topic=TOPIC, value=["Wealth", "Social Power", "Wisdom"])

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:the options have")]


def by_hand(model, row, wording, scale, chat=None, shots=()):
    """Probabilities of the options behind one prompt, taken whole."""
    made = prompts.assemble([row], wording, scale, shots, chat)
    ways = answer_spellings(model.tokenizer, made.text(0)[-200:], scale.options)
    ids = tokens.encode(model.tokenizer, made.text(0), chat is not None)
    longest = max(len(way.tokens) for way in ways)
    batch = np.array([[*ids, *way.tokens, *[0] * (longest - len(way.tokens))] for way in ways])
    found = np.asarray(models.log_probs(model, batch))[:, len(ids) :]
    logs = [found[i, : len(way.tokens)].sum() for i, way in enumerate(ways)]
    return np.exp(answer_log_probs(ways, np.array(logs)))


@pytest.mark.parametrize(
    ("protocol", "template"),
    quick(itertools.product(["paired", "stated"], [None, CHAT]), [("paired", CHAT)]),
)
def test_ratings_are_those_of_whole_prompts(protocol, template):
    model = speaking("llama", template)
    chat = None if template is None else lambda messages: tokens.render_chat(model.tokenizer, messages)
    rated = elicit.ratings(model, DATA, elicit.ElicitConfig(protocol, floor=0, prefill="none"))
    rows = list(protocols.make_questions(DATA, protocol).rows)
    assert rated.shares.shape == (1, len(rows), 5)
    for i in (0, len(rows) // 2, len(rows) - 1):
        share = by_hand(model, rows[i], prompts.wording(protocol), prompts.Scale(), chat)
        np.testing.assert_allclose(rated.shares[0, i], share, rtol=2e-4)
        assert rated.ratings[i] == pytest.approx((share * np.arange(1, 6)).sum() / share.sum(), abs=1e-4)


def test_the_state_is_made_of_the_ratings_and_can_be_saved(tmp_path):
    model = speaking()
    rated = elicit.ratings(model, DATA)
    asked = protocols.make_questions(DATA, "paired")
    expected, level = protocols.answers_to_state(asked, rated.ratings, 3.0, 56)
    np.testing.assert_array_equal(rated.state.state, expected)
    np.testing.assert_array_equal(rated.agreement.state, level)
    assert set(rated.state.contexts) == {"country", "topic", "scene", "situation"}
    states.save(rated.state, tmp_path / "pre.npz")
    back = states.load(tmp_path / "pre.npz")
    np.testing.assert_array_equal(back.state, rated.state.state)
    assert back.meta == rated.state.meta
    meta = back.meta
    assert meta["model"]["weights"] == models.fingerprint(model.arrays)
    assert meta["how"]["wording"] == ["agree"]
    assert meta["items"]["count"] == len(DATA)
    assert meta["mass"]["mean"] == pytest.approx(rated.shares.sum(-1).mean())
    assert meta["cost"]["distinct"] < meta["cost"]["full"]


def test_counterbalancing_asks_with_the_scale_turned_round():
    model = speaking()
    both = elicit.ratings(model, DATA, elicit.ElicitConfig(counterbalance=True))
    one = elicit.ratings(model, DATA, elicit.ElicitConfig())
    assert both.shares.shape[0] == 2
    np.testing.assert_array_equal(both.shares[0], one.shares[0])
    falling = (both.shares[1] * np.arange(5, 0, -1)).sum(-1) / both.shares[1].sum(-1)
    np.testing.assert_allclose(both.ratings, (one.ratings + falling) / 2, rtol=1e-9)
    row = next(iter(protocols.make_questions(DATA, "paired").rows))
    share = by_hand(model, row, prompts.wording("paired"), prompts.Scale(falling=True))
    np.testing.assert_allclose(both.shares[1, 0], share, rtol=2e-4)


def test_the_prior_is_what_is_answered_to_nothing():
    model = speaking()
    plain, corrected = (
        elicit.ratings(model, DATA, elicit.ElicitConfig(prior=prior, floor=0)) for prior in (False, True)
    )
    np.testing.assert_allclose(corrected.shares, plain.shares, rtol=1e-4)
    row = next(iter(protocols.make_questions(DATA, "paired").rows))
    prior = by_hand(model, dict.fromkeys(row, "N/A"), prompts.wording("paired"), prompts.Scale())
    share = plain.shares[0] / prior
    np.testing.assert_allclose(corrected.ratings, (share * np.arange(1, 6)).sum(-1) / share.sum(-1), rtol=1e-4)


@pytest.mark.thorough
def test_a_scale_to_ten_and_the_likeliest_option():
    model = speaking()
    rated = elicit.ratings(model, DATA, elicit.ElicitConfig(high=10, reading="argmax", floor=0))
    np.testing.assert_array_equal(rated.ratings, rated.shares[0].argmax(-1) + 1)
    row = next(iter(protocols.make_questions(DATA, "paired").rows))
    share = by_hand(model, row, prompts.wording("paired"), prompts.Scale(1, 10))
    np.testing.assert_allclose(rated.shares[0, 0], share, rtol=2e-4)
    assert rated.shares.sum(-1).max() <= 1


def test_shots_stand_before_every_prompt_and_edits_change_the_answers():
    model = speaking()
    plain = elicit.rate(model, DATA, floor=0)
    shots = [prompts.Shot({"scene": "A town needs a mayor.", "action": "Run for it."}, 5)]
    shown = elicit.rate(model, DATA, shots=shots, floor=0)
    edit = models.Edit(jnp.asarray(2.0), residual=jnp.ones((4, 64)) * 0.3)
    moved = elicit.rate(model, DATA, edit=edit, floor=0)
    none = elicit.rate(model, DATA, edit=edit * 0.0, floor=0)
    there = plain.mask
    assert np.abs(shown.state - plain.state)[there].max() > 1e-4
    assert np.abs(moved.state - plain.state)[there].max() > 1e-4
    np.testing.assert_array_equal(none.state, plain.state)
    assert shown.meta["prompts"]["sha256"] != plain.meta["prompts"]["sha256"]
    assert shown.meta["shots"] == [{"scene": "A town needs a mayor.", "action": "Run for it.", "rating": 5}]
    assert len({str(state.meta["edit"]) for state in (plain, moved, none)}) == 3


def test_labelled_needs_labels():
    model = speaking()
    labels = np.random.default_rng(0).integers(-1, 2, (len(DATA), 56))
    state = elicit.rate(model, DATA, "labelled", labels=labels, floor=0)
    assert state.state.shape == (len(DATA), 56)
    assert ((state.state == 0) == (labels == 0)).all()
    for wrong, message in (
        (None, "needs a label"),
        (labels[:3], "expected the shape"),
        (labels * 2, "expected -1, 0"),
    ):
        with pytest.raises(errors.InputError, match=message):
            elicit.rate(model, DATA, "labelled", labels=wrong)
    with pytest.raises(errors.InputError, match="labels belong to the protocol labelled"):
        elicit.rate(model, DATA, "paired", labels=labels)


def test_low_mass_is_said():
    with pytest.warns(UserWarning, match="of the probability on average: the model mostly answers something else"):
        elicit.rate(speaking(), DATA)


def test_what_can_not_be_asked_is_refused():
    silent = models.load(checkpoint("llama").folder)
    with pytest.raises(errors.InputError, match="it has no tokenizer, so it can't be asked"):
        elicit.rate(silent, DATA)
    with pytest.raises(errors.InputError, match="unknown wording 'agre'; did you mean 'agree'"):
        elicit.rate(speaking(), DATA, wording="agre")
    with pytest.raises(errors.InputError, match="scale: expected whole numbers"):
        elicit.rate(speaking(), DATA, low=5, high=1)
    with pytest.raises(errors.InputError, match="no chat template"):
        elicit.rate(speaking(), DATA, chat=True)
    many = [prompts.Shot({"scene": "A town. " * 40, "action": "Go. " * 40}, 5)] * 20
    with pytest.raises(errors.InputError, match=r"item \d+ \(.*context of 2,048"):
        elicit.rate(speaking(), DATA, shots=many)


def test_the_same_question_twice_gives_the_same_bits():
    first, second = (elicit.rate(speaking(), DATA, size=prefix.Size(128, 300)) for _ in range(2))
    np.testing.assert_array_equal(first.state, second.state)


@pytest.mark.thorough
def test_from_items_to_a_table_of_tax():
    """The thin path: items, a model, ratings without and with shots, shifts, metrics."""
    from vatjax import metrics

    model = speaking()
    data = items.bundled().where(country="Egypt", topic=[TOPIC, "Environment"], type=["Power", "Security"])
    train, test = data.split(0.5, seed=1)
    demonstrations = [
        prompts.Shot({"scene": item.scene, "action": item.action}, 5 if item.polarity == "express" else 1)
        for item in itertools.islice(train.where(type="Power"), 4)
    ]
    assert demonstrations
    pre, post = (elicit.rate(model, test, shots=shots, floor=0) for shots in ((), demonstrations))
    here = pre.mask.all(0)
    shift = (post.state - pre.state)[:, here]
    target = data.taxonomy.mask("Power")[here]
    assert np.abs(shift).max() > 1e-4
    assert np.isfinite(metrics.gain(shift, target))
    assert np.isfinite(metrics.nvat(metrics.spearman(shift))) or len(shift) < 4


@pytest.mark.thorough
def test_all_wordings_are_averaged_and_their_spread_is_told():
    model = speaking()
    jax.clear_caches()
    compiled, listening = [], [True]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            compiled.append(event) if listening and event.endswith("backend_compile_duration") else None
        )
    )
    every = elicit.ratings(model, DATA, elicit.ElicitConfig(wording="all", counterbalance=True, floor=0))
    listening.clear()
    assert 1 <= len(compiled) <= 6  # one set of shapes serves all rubrics
    names = list(prompts.wordings("paired"))
    single = [
        elicit.ratings(model, DATA, elicit.ElicitConfig(wording=name, counterbalance=True, floor=0)).ratings
        for name in names
    ]
    assert every.shares.shape[0] == 6
    np.testing.assert_allclose(every.ratings, np.mean(single, axis=0), rtol=0, atol=2e-5)
    spread = every.state.meta["spread"]
    assert spread["sd"] == pytest.approx(np.std(single, axis=0, ddof=1).mean(), abs=2e-5)
    assert spread["mean"] == pytest.approx(
        {name: one.mean() for name, one in zip(names, single, strict=True)}, abs=2e-5
    )
    assert elicit.ratings(model, DATA).state.meta["spread"] is None


def test_written_answers_are_read_and_refusals_are_missing(monkeypatch):
    from vatjax.elicit import generated

    model = speaking()
    count = len(list(protocols.make_questions(DATA, "paired").rows))
    said = itertools.cycle(["4", "I can't say.", "Rating: 2\nSituation: more", '{"rating": 5}', "3 or 4"])
    expected = itertools.islice(itertools.cycle([4, np.nan, 2, 5, np.nan]), count)
    seen = []

    def write(_, batch, mask, sampling, edit):
        seen.append(batch.shape)
        texts = [model.tokenizer(next(said), add_special_tokens=False)["input_ids"] for _ in range(len(batch))]
        width = max(map(len, texts))
        lengths = np.array(list(map(len, texts)))
        return models.Completions(
            np.array([t + [0] * (width - len(t)) for t in texts]), np.zeros((len(texts), width)), lengths
        )

    monkeypatch.setattr(generated, "generate", write)
    rated = elicit.ratings(model, DATA, elicit.ElicitConfig(reading="generate"))
    assert len(set(seen)) == 1
    np.testing.assert_array_equal(rated.ratings, np.fromiter(expected, float))
    assert np.isnan(rated.state.state[~rated.state.mask]).all()
    assert rated.state.meta["mass"]["mean"] == pytest.approx(np.mean(~np.isnan(rated.ratings)))


def test_written_answers_that_are_not_finite_and_prompts_without_room_name_the_item():
    model = speaking()
    broken = models.Model(
        {**model.arrays, "norm": model.arrays["norm"] * np.nan}, model.config, model.tokenizer, model.source
    )
    with pytest.raises(errors.InputError, match=r"item 1 \(.*not finite"):
        elicit.ratings(broken, DATA, elicit.ElicitConfig(reading="generate", written=2))
    with pytest.raises(
        errors.InputError, match=r"item \d+ \(.* and 2040 written ones are longer than the model's context"
    ):
        elicit.ratings(model, DATA, elicit.ElicitConfig(reading="generate", written=2040))


@pytest.mark.thorough
def test_what_a_model_writes_is_what_it_is_asked_for():
    model = speaking()
    rated = elicit.ratings(model, DATA, elicit.ElicitConfig(reading="generate", written=4))
    assert rated.shares.shape == (1, len(rated.ratings), 5)
    with pytest.raises(errors.InputError, match="written answers have no probabilities"):
        elicit.ElicitConfig(reading="generate", prior=True)
    for wrong, message in (
        ({"reading": "arg-max"}, "unknown reading 'arg-max'; did you mean 'argmax'"),
        ({"parser": "loose"}, "unknown parser 'loose'"),
        ({"protocol": "pared"}, "unknown protocol 'pared'; did you mean 'paired'"),
    ):
        with pytest.raises(errors.InputError, match=message):
            elicit.ElicitConfig(**wrong)
