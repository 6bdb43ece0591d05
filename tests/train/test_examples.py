"""Examples of items and files: every form, every mistake with its line, and no evaluated scene among them."""

import functools
import json
import types

import numpy as np
import pytest

from vatjax import errors, items, models, train
from vatjax.models import tokens
from vatjax.train import examples, settings

pytestmark = pytest.mark.long


@functools.cache
def pocket():
    return models.load("pocket")


@functools.cache
def few():
    """Items of two countries: enough scenes for both sides."""
    return items.bundled().where(country=["Egypt", "Germany"])


def written(tmp_path, *rows):
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat():
    """The pocket model's chat template, up to an answer and whole."""
    own = pocket().tokenizer
    return functools.partial(tokens.render_chat, own), functools.partial(tokens.render_conversation, own)


USER, ANSWER = {"role": "user", "content": "What now?"}, {"role": "assistant", "content": "I go home."}


@pytest.mark.parametrize("lesson", train.examples.LESSONS)
@pytest.mark.parametrize("direction", [1, -1])
def test_no_evaluated_scene_is_trained_on(lesson, direction):
    _, test = few().split(0.25, 3)
    found = train.from_items(few(), "Power", direction, lesson, test=0.25, seed=3)
    evaluated = set(test.scene)
    assert found
    assert evaluated
    for record in found:
        assert not any(scene in record.prompt for scene in evaluated)


def test_a_direction_turns_preferences_round():
    there, back = (train.from_items(few(), "Wealth", way, "preferences") for way in (1, -1))
    assert [one.texts for one in there] == [one.texts[::-1] for one in back]
    toward = set(few().action[few().polarity == 1])
    assert all(one.texts[0].strip() in toward for one in there)


def test_shuffled_labels_are_a_half():
    found = train.from_items(few(), "Wealth", 1, "preferences")
    turned = [a.texts != b.texts for a, b in zip(found, train.shuffle_labels(found, seed=1), strict=True)]
    assert sum(turned) == len(found) // 2
    assert turned != [a.texts != b.texts for a, b in zip(found, train.shuffle_labels(found, seed=2), strict=True)]
    with pytest.raises(errors.InputError, match="labels can be shuffled only in pairs"):
        train.shuffle_labels(train.from_items(few(), "Wealth"))


def test_every_form_of_a_file(tmp_path):
    plain = examples.read(written(tmp_path, {"prompt": "A", "completion": " b"}))
    assert plain[0][:3] == ("A", (" b",), None)
    pairs = examples.read(written(tmp_path, {"prompt": "A", "chosen": " b", "rejected": " c"}))
    assert pairs[0].texts == (" b", " c")
    judged = examples.read(written(tmp_path, {"prompt": "A", "completion": " b", "label": False}))
    assert judged[0].good is False
    talk = examples.read(written(tmp_path, {"messages": [USER, ANSWER]}), *chat())
    both = examples.read(written(tmp_path, {"prompt": [USER], "chosen": [ANSWER], "rejected": "No."}), *chat())
    assert both[0].prompt == talk[0].prompt
    assert both[0].texts[0] == talk[0].texts[0]
    assert talk[0].prompt + talk[0].texts[0] == tokens.render_conversation(pocket().tokenizer, [USER, ANSWER])
    assert "I go home." in talk[0].texts[0]
    assert "No." in both[0].texts[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "A"}, r":2: expected prompt and completion, .* 'completion' is missing or empty, found 'prompt'"),
        ({"prompt": "A", "chosen": "b", "rejected": ""}, ":2: .*'rejected' is missing or empty"),
        ({"text": "A"}, ":2: .*'completion', 'prompt' are missing or empty, found 'text'"),
        ({"prompt": "A", "completion": "b", "label": 1}, ":2: label: expected true or false, found 1"),
        ({"messages": [USER]}, ":2: messages: expected a conversation that ends with an answer of the assistant"),
        ({"messages": ["hello"]}, ":2: messages: expected a list of messages, each with role and content"),
        ({"prompt": "A", "completion": [ANSWER]}, ":2: a prompt of plain text needs completions of plain text"),
    ],
)
def test_rows_that_are_no_example(tmp_path, row, message):
    path = written(tmp_path, {"prompt": "A", "completion": "b"}, row)
    with pytest.raises(errors.InputError, match=message):
        examples.read(path, *chat())


def test_files_that_are_no_examples(tmp_path):
    mixed = written(tmp_path, {"prompt": "A", "completion": "b"}, {"prompt": "A", "chosen": "b", "rejected": "c"})
    with pytest.raises(errors.InputError, match=":2: pairs and single completions are mixed"):
        examples.read(mixed)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(errors.InputError, match="the file has no examples"):
        examples.read(empty)
    with pytest.raises(errors.InputError, match="messages need a chat template, and this model does not have one"):
        examples.read(written(tmp_path, {"messages": [USER, ANSWER]}))
    with pytest.raises(errors.InputError, match="the chat template renders a conversation differently"):
        examples.read(written(tmp_path, {"messages": [USER, ANSWER]}), lambda _: "x", lambda _: "y")


def test_completions_end_where_texts_and_turns_end():
    model = pocket()
    end = model.tokenizer.eos_token_id
    plain, closed = (
        examples.Record("A", (text,)) for text in (" I go home.", f" I go home.{model.tokenizer.eos_token}")
    )
    found = train.tokenise(model, [plain, closed])
    assert found[0].texts == found[1].texts
    assert found[0].texts[0].count(end) == 1
    assert found[0].prompt == tuple(tokens.encode(model.tokenizer, "A"))
    turn = tokens.turn_end(model.tokenizer)
    assert tokens.render_conversation(model.tokenizer, [USER, ANSWER]).endswith(f"I go home.{turn}")


def test_texts_that_a_model_can_not_take():
    model = pocket()
    long = examples.Record("A", (" and on" * model.config.context,), source="file:7")
    with pytest.raises(errors.InputError, match=r"file:7: [\d,]+ tokens, and the model's context is"):
        train.tokenise(model, [long])
    with pytest.raises(errors.InputError, match="cannot train on text without a tokenizer"):
        train.tokenise(types.SimpleNamespace(tokenizer=None, name=""), [long])


def test_kto_has_a_text_of_another_prompt():
    own = [train.Example((p,), ((i,),), True, str(i)) for p, i in ((1, 4), (1, 6), (2, 4), (3, 5))]
    found = train.with_mismatched_completions(own)
    assert [one.completions for one in found] == [((4,), (5,)), ((6,), (4,)), ((4,), (5,)), ((5,), (4,))]
    with pytest.raises(errors.InputError, match="KTO measures its drift on completions of other prompts"):
        train.with_mismatched_completions(own[:2])
    with pytest.raises(errors.InputError, match="KTO takes single completions"):
        train.with_mismatched_completions([train.Example((1,), ((4,), (5,)))])


def made(**options):
    return settings.training_records(pocket(), given(**options), few(), given(**options).build_loss())


def given(**options):
    return train.Training(model="pocket", target="Power", **options)


def test_what_each_loss_is_given():
    assert {len(one.texts) for one in made(loss="dpo")} == {2}
    verdicts = made(loss="kto")
    assert np.mean([one.good for one in verdicts]) == 0.5
    assert all(one.good for one in made(loss="sft"))
    assert {one.texts[0].strip().strip("</s>")[:1] for one in made(loss="sft", lesson="judgements")} == {"1", "5"}
    neutral = made(loss="sft", placebo="neutral text")
    assert neutral[0].prompt + neutral[0].texts[0] in train.settings.prompts.neutral_texts()


def test_labels_are_needed_by_kto_and_heeded_by_sft(tmp_path):
    said = [{"prompt": "A", "completion": "b", "label": True}, {"prompt": "B", "completion": "c", "label": False}]
    path = str(written(tmp_path, *said))
    assert [one.good for one in made(loss="kto", file=path)] == [True, False]
    with pytest.raises(errors.InputError, match=":2: sft would learn a completion whose label is false"):
        made(loss="sft", file=path)
    path = str(written(tmp_path, said[0], {"prompt": "B", "completion": "c"}))
    with pytest.raises(errors.InputError, match=":2: label: expected true or false for kto, found none"):
        made(loss="kto", file=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dpo", "lesson": "actions"}, "dpo needs a chosen and a rejected text after each prompt"),
        ({"loss": "sft", "lesson": "preferences"}, "sft needs one completion after each prompt"),
        ({"loss": "dpo", "placebo": "neutral text"}, "dpo needs pairs or labels, which neutral text lacks"),
        ({"loss": "sft", "placebo": "shuffled labels"}, "labels can be shuffled only in pairs"),
        ({"loss": "kto", "lesson": "judgements"}, "lesson: expected actions for kto, found judgements"),
        ({"loss": "dqo"}, "loss.*dqo.*dpo"),
        ({"loss": "dpo", "settings": {"beda": 1}}, "settings: dpo: expected beta, found 'beda'; did you mean 'beta'"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(errors.InputError, match=message):
        made(**options)


def test_validation_shares_no_prompt_with_training():
    own = [train.Example((p,), ((p, i),)) for p in range(10) for i in range(5)]
    taught, held = settings._split_validation(own, 0.3, seed=1)
    assert len(held) == 15
    assert sorted([*taught, *held]) == own
    assert not {one.prompt for one in taught} & {one.prompt for one in held}
    assert settings._split_validation(own, 0.3, seed=2)[1] != held
    assert settings._split_validation(own, 0.0, seed=1) == (own, [])
    with pytest.raises(errors.InputError, match=r"validation: 0\.5 of 5 examples with 1 prompts leaves none"):
        settings._split_validation(own[:5], 0.5, seed=1)


def test_verdicts_are_shuffled_among_completions():
    """The placebo of KTO: as many of each verdict, at other completions."""
    both = [train.Record(f"p{i}", (" x",), i % 3 == 0, f"line {i}") for i in range(60)]
    found = train.shuffle_labels(both, 3)
    assert [one.prompt for one in found] == [one.prompt for one in both]
    assert sum(one.good for one in found) == sum(one.good for one in both)
    assert 10 < sum(a.good != b.good for a, b in zip(found, both, strict=True)) < 45
    with pytest.raises(errors.InputError, match="among good and bad completions"):
        train.shuffle_labels([one._replace(good=True) for one in both])


def test_lessons_are_in_the_words_in_which_the_model_is_asked():
    """What a chat model learns stands in its template, as its questions do."""
    model = models.load("pocket")
    found = train.records_for_model(model, few(), "Power", 1, "judgements")
    assert found[0].templated
    assert found[0].prompt.startswith("<|system|>")
    plain = train.from_items(few(), "Power", 1, "judgements")
    assert len(plain) == len(found)
    scene = plain[0].prompt.split("Situation: ")[1].split("\n")[0]
    assert scene in found[0].prompt
