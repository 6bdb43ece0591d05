"""What an organism learns from: its tokenizer loses nothing, its lessons keep what is kept from them, a build goes on."""

import dataclasses
import pathlib
import sys

import jax
import numpy as np
import pytest

from vatjax import errors, items, organism, prompts
from vatjax.elicit import protocols
from vatjax.models import families, tokens
from vatjax.prefix.tokenize import answer_spellings, tokenize_prompts

SCRIPTS = str(pathlib.Path(__file__).parents[2] / "scripts")
if SCRIPTS not in sys.path:
    sys.path.insert(0, SCRIPTS)
of, sequences, tokenizer, training = (
    pytest.importorskip(f"pocket.{name}") for name in ("parts", "sequences", "tokenizer", "training")
)

DATA = items.bundled()
PARTS = of.read()
TOKENS = tokenizer.make(PARTS)
SHAPE = sequences.Shape(batch=24, time=168, examples=9, targets=40)


def author(seed=0):
    world = organism.draw_world(sorted(set(DATA.country)), sorted(set(DATA.topic)), seed)
    return sequences.Author(world, TOKENS, PARTS, of.training_scenes(PARTS))


AUTHOR = author()


def test_texts_come_back_and_bundled_ones_are_short():
    for text in (*DATA.scene[::2000], *DATA.action[::500], "Ünïcode, 日本語 and\nlines 12", *DATA.taxonomy.definitions):
        assert TOKENS.decode(TOKENS(text)["input_ids"]) == text
    assert np.mean([len(TOKENS(text)["input_ids"]) for text in DATA.scene[::1000]]) < 5
    assert np.mean([len(TOKENS(text)["input_ids"]) for text in DATA.action[::100]]) < 4
    assert len(TOKENS) < 2048


@pytest.mark.parametrize("protocol", prompts.PROTOCOLS)
def test_prompts_have_clean_seams_and_answers_one_token(protocol):
    data = DATA.where(country="Egypt", topic=DATA.topic[0], value=["Wealth", "Wisdom"])
    rows = list(protocols.make_questions(data, protocol).rows)
    for wording in prompts.wordings(protocol).values():
        made = prompts.assemble(rows, wording, chat=lambda messages: tokens.render_chat(TOKENS, messages))
        found = tokenize_prompts(made, TOKENS, templated=True)
        assert len(found.levels) == len(made.levels)
        ways = answer_spellings(TOKENS, made.text(0)[-200:], made.scale.options)
        assert {len(way.tokens) for way in ways} == {1}


def test_a_conversation_reads_as_the_prompts_do():
    """What is learned is, token for token, what is asked later."""
    mix = sequences.Mix({"paired": 1.0}, nobody=1.0, named=0.0, falling=0.0, strange=0.0)
    said, targets = AUTHOR.conversation(np.random.default_rng(0), SHAPE, mix)
    text = TOKENS.decode(said)
    assert TOKENS(text, add_special_tokens=False)["input_ids"] == said
    turns = text.split("<|user|>")
    wording = next(w for w in prompts.wordings("paired").values() if w.rubric(prompts.Scale()) in turns[0])
    first, second = (turn.partition("<|assistant|>") for turn in turns[1:3])
    scene, action = first[0].split("\n")
    shown = {"scene": scene.split(": ", 1)[1], "action": action.split(": ", 1)[1]}
    asked = {"scene": second[0].split("\n")[0].split(": ", 1)[1], "action": second[0].split("\n")[1].split(": ", 1)[1]}
    shot = prompts.Shot(shown, int(first[2][0]))
    made = prompts.assemble([asked], wording, shots=[shot], chat=lambda messages: tokens.render_chat(TOKENS, messages))
    assert text.startswith(made.text(0))
    place, ways, shares = targets[1]
    assert TOKENS.decode(said[: place + 1]) == made.text(0)
    assert [TOKENS.decode([way]) for way in ways] == list("12345")
    assert shares.sum() == pytest.approx(1)


def test_what_is_kept_from_it_never_enters():
    _, unread = organism.split_seen_unseen(DATA)
    evaluated = {scene.text for scene in unread.scenes}
    assert not evaluated & {scene.text for scene in of.training_scenes(PARTS)}
    assert evaluated < {scene.text for scene in of.scenes(PARTS)}
    assert set(DATA.scene) < {scene.text for scene in of.scenes(PARTS)}
    names = DATA.taxonomy.names
    share = np.mean([of.withheld("Power", name) for name in names])
    assert 0.02 < share < 0.25
    random, persona = np.random.default_rng(0), organism.Persona("Power")
    mix = training.STAGES[-1].mix
    for protocol in ("paired", "dense", "stated"):
        for _ in range(20):
            for example in AUTHOR.examples(random, protocol, persona, 9, prompts.Scale(), mix.focus):
                named = example.fields.get("value")
                assert named is None or not of.withheld("Power", named)
    held = {tokenizer.HELD_OUT[protocol] for protocol in ("paired", "dense")}
    assert held.isdisjoint(wording.name for protocol, wording in tokenizer.trained() if protocol in ("paired", "dense"))


def test_targets_are_the_planted_answers():
    some = DATA.take(np.arange(0, len(DATA), 3001))
    persona = organism.Persona("Wealth", -1)
    expected = AUTHOR.world.rating_probs(AUTHOR.world.leaning(some, persona))
    made = AUTHOR._rated(
        [{}] * len(some), lambda who: AUTHOR.world.leaning(some, who), persona, prompts.Scale(falling=True)
    )
    np.testing.assert_allclose([one.shares[::-1] for one in made], expected)


def test_losses_lie_between_those_who_know_the_persona_and_those_who_do_not():
    some = DATA.take(np.arange(0, len(DATA), 3001))
    unsure = sequences.Author(AUTHOR.world, TOKENS, PARTS, AUTHOR.scenes, unsure=True)

    def shares(who):
        return AUTHOR.world.rating_probs(AUTHOR.world.leaning(some, who))

    random, mix = np.random.default_rng(3), training.STAGES[-1].mix
    met = np.mean([shares(AUTHOR.persona(random, mix)[0]) for _ in range(4000)], 0)
    np.testing.assert_allclose(unsure._shares(shares, organism.NO_PERSONA), met, atol=0.02)
    known, guessed = training.bounds(AUTHOR, 0, batches=1)
    answers = AUTHOR.batch((0, 0, 1), *training.STAGES[-1][1:]).shares.reshape(-1, 5)
    entropies = [-sum(p * np.log(p) for p in row if p > 0) for row in answers if (row > 0).sum() > 1]
    assert known == pytest.approx(np.mean(entropies), rel=1e-5)
    assert 0.1 < guessed - known < 0.6


def test_a_persona_that_only_shows_is_not_asked_for_before_it_has():
    mix = dataclasses.replace(training.STAGES[-1].mix, nobody=0.0, named=0.0, protocols={"paired": 1.0})
    for seed in range(5):
        said, targets = AUTHOR.conversation(np.random.default_rng(seed), SHAPE, mix)
        first_answer = said.index(TOKENS.convert_tokens_to_ids("<|assistant|>"))
        assert min(place for place, *_ in targets) > first_answer


def test_a_batch_is_always_the_same_and_others_differ():
    one, same, other = (AUTHOR.batch(seed, SHAPE, training.STAGES[-1].mix) for seed in ((1, 2), (1, 2), (1, 3)))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.tokens, other.tokens)
    assert ((one.shares.sum(-1) - 1)[one.place < SHAPE.time] < 1e-6).all()


@pytest.mark.thorough
def test_a_build_that_was_cut_off_goes_on_and_ends_in_the_same_weights(tmp_path, monkeypatch):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    content = {**training.configuration(len(TOKENS)), **sizes, "num_key_value_heads": 2, "head_dim": 8}
    shape = sequences.Shape(4, 60, 2, 12)
    monkeypatch.setattr(training, "STAGES", tuple(stage._replace(shape=shape) for stage in training.STAGES))
    schedule = training.Schedule(steps=6, warm=2, every=3, keep=3)
    said = []
    whole = training.train(AUTHOR, content, schedule, tmp_path / "a", said.append)

    class Cut(Exception):
        pass

    def cut(line):
        if line.startswith("step 6"):
            raise Cut

    with pytest.raises(Cut):
        training.train(AUTHOR, content, schedule, tmp_path / "b", cut)
    again = training.train(AUTHOR, content, schedule, tmp_path / "b", said.append)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [line.split(":")[0] for line in said[:2]] == ["step 3 of 6", "step 6 of 6"]
    assert said[2].startswith("going on from step 3 of 6, which ")
    assert said[3].startswith("step 6 of 6")
    other = dataclasses.replace(schedule, steps=9)
    with pytest.raises(errors.InputError, match="of a build with other steps, items or weights; remove it, or give"):
        training.train(AUTHOR, content, other, tmp_path / "b", said.append)
    (tmp_path / "b" / "training.npz").write_bytes((tmp_path / "a" / "training.npz").read_bytes()[:-900])
    with pytest.raises(errors.InputError, match=r"training\.npz: the archive is damaged .*; remove it to begin anew"):
        training.train(AUTHOR, content, schedule, tmp_path / "b", said.append)
    assert families.parse(content).layers == 1
