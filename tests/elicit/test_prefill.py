"""The prefill: it makes a model answer, is taken by what was measured, and is part of every prompt that a rating comes from."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.elicit.speaking import CHAT, speaking, tokenizer, tokenizers
from tests.models.checkpoints import transformers
from tests.test_cli import run
from vatjax import elicit, errors, items, models, prefix, prompts, states, train
from vatjax.elicit import ask, prefill, protocols
from vatjax.models import tokens
from vatjax.prefix import tokenize

DATA = items.bundled().where(country="Egypt", topic="Citizenship", value=["Wealth", "Wisdom"])
pytestmark = pytest.mark.filterwarnings("ignore:the options have")
WORDING = prompts.wording("paired")
ROWS = [{"scene": "A hall.", "action": "I share it."}]


def chat(prefill="none", words="gpt2", think=""):
    own = tokenizer(CHAT + think, words=words)
    return own, prompts.ChatFormat(
        lambda messages: tokens.render_chat(own, messages),
        prefill,
        lambda before, text: tokens.encode_continuation(own, before, text) is not None,
    )


@pytest.mark.parametrize(
    ("given", "ends"), [("none", "<assistant>\n"), ("cue", f"<assistant>\n{WORDING.answer}"), ("I say ", "\nI say ")]
)
def test_a_prompt_ends_with_its_prefill(given, ends):
    _, template = chat(given)
    text = prompts.assemble(ROWS, WORDING, chat=template).text(0)
    assert text.rstrip(" ").endswith(ends.rstrip(" "))


@pytest.mark.parametrize("words", ["gpt2", "llama3", "qwen", "sentencepiece"])
def test_a_cue_keeps_its_space_where_the_tokenizer_keeps_it_apart(words):
    """Whatever the tokenizer: the tokens of the prompt are a beginning of those of prompt and answer."""
    own, template = chat("cue", words)
    made = prompts.assemble(ROWS, WORDING, chat=template)
    ways = tokenize.answer_spellings(own, made.text(0)[-200:], made.scale.options)
    assert {way.answer for way in ways} == set(range(5))
    gap = prompts.build.answer_gap(template, WORDING, made.scale)
    for answer in made.scale.options:
        whole = own(made.text(0) + gap + answer, add_special_tokens=False)["input_ids"]
        prompt = own(made.text(0), add_special_tokens=False)["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert tuple(whole[len(prompt) :]) in {way.tokens for way in ways}


def test_examples_and_lessons_answer_behind_the_same_prefill():
    _, template = chat("cue")
    shot = prompts.Shot({"scene": "A yard.", "action": "I keep it."}, 4)
    text = prompts.assemble(ROWS, WORDING, shots=[shot], chat=template).text(0)
    gap = prompts.build.answer_gap(template, WORDING, prompts.Scale())
    opening = template.opening(WORDING, prompts.Scale())
    assert f"<assistant>\n{opening}{gap}4</s>" in text
    lessons = prompts.judgements(DATA, "Wealth", chat=template)
    assert all(one["prompt"].endswith(opening) for one in lessons)
    assert {one["completion"] for one in lessons} == {f"{gap}1", f"{gap}5"}
    # An action is written in the model's own words.
    assert not any(one["prompt"].endswith(opening) for one in prompts.actions(DATA, "Wealth", chat=template))


def test_reasoning_that_a_template_opens_is_closed():
    _, template = chat("none", think="{% if add_generation_prompt %}<think>\n{% endif %}")
    text = prompts.assemble(ROWS, WORDING, chat=template).text(0)
    assert text.endswith("<assistant>\n<think>\n\n</think>\n\n")


def test_the_cue_is_taken_where_only_it_makes_the_model_answer(monkeypatch):
    model = speaking(template=CHAT)
    masses = {"none": 0.01, "cue": 0.9}
    monkeypatch.setattr(prefill, "option_mass", lambda model, how: masses[how.prefill])
    for none, cue, taken in ((0.01, 0.9, "cue"), (0.85, 0.99, "none"), (0.01, 0.05, "none"), (0.4, 0.3, "none")):
        prefill._MEASURED.clear()
        masses |= {"none": none, "cue": cue}
        found = prefill.choose_prefill(model, elicit.ElicitConfig())
        assert found.prefill == taken
        assert prefill.resolve_prefill(model, elicit.ElicitConfig()).prefill == taken
    assert "option mass on 8 prompts: 0.40 with none, 0.30 with 'Rating: '" in found.sentence(WORDING)
    with pytest.raises(errors.InputError, match=r"options have 40% .*prefills tried: none: 40%; 'Rating: ': 30%"):
        prefill.ensure_option_mass(model, elicit.ElicitConfig())
    said = []
    assert prefill.ensure_option_mass(model, elicit.ElicitConfig(), True, said.append).prefill == "none"
    assert said[1] == found.sentence(WORDING)
    # A prefill of one's own is measured too.
    masses["I say "] = 0.2
    with pytest.raises(errors.InputError, match=r"options have 20% .*prefills tried: 'I say ': 20%"):
        prefill.ensure_option_mass(model, elicit.ElicitConfig(prefill="I say "))
    prefill._MEASURED.clear()
    # Without a template, and with a prefill of one's own, nothing is measured.
    assert prefill.choose_prefill(speaking(), elicit.ElicitConfig()).mass == {}
    assert prefill.choose_prefill(model, elicit.ElicitConfig(prefill="I say ")) == prefill.PrefillTrial("I say ", {})
    assert prefill.choose_prefill(models.abstract_model("pocket"), elicit.ElicitConfig()).prefill == "none"


def test_every_way_to_ask_has_it(monkeypatch):
    model = speaking(template=CHAT)
    how = elicit.ElicitConfig(prefill="I say ", floor=0)
    assert ask.build_prompts(ROWS, how, ask.PLAIN, ask.chat_format(model, how))[0].text(0).endswith("I say ")
    rated = elicit.ratings(model, DATA, how)
    plain = elicit.ratings(model, DATA, elicit.ElicitConfig(prefill="none", floor=0))
    assert np.nanmax(np.abs(rated.ratings - plain.ratings)) > 1e-3
    assert rated.state.meta["how"]["prefill"] == "I say "
    edit = models.Edit(jnp.float32(0), residual=jnp.zeros((model.config.layers, model.config.width)))
    under = elicit.states_under(model, DATA, [edit], how)
    np.testing.assert_allclose(under.states[0], rated.state.state, atol=1e-4)
    np.testing.assert_allclose(under.state(0).mass, rated.state.mass, atol=1e-6)
    record = train.records_for_model(model, DATA, "Wealth", lesson="judgements", how=how)[0]
    assert record.prompt.endswith("I say ")
    with pytest.raises(errors.InputError, match="prefill of the first is I say"):
        states.join(rated.state, plain.state)


def test_cells_below_the_floor_are_missing_and_mass_is_kept(tmp_path):
    model = speaking()
    free = elicit.ratings(model, DATA, elicit.ElicitConfig(floor=0))
    mass = free.shares.sum(-1).mean(0)
    floor = float(np.median(mass))
    found = elicit.ratings(model, DATA, elicit.ElicitConfig(floor=floor))
    np.testing.assert_array_equal(np.isnan(found.ratings), mass < floor)
    asked = protocols.make_questions(DATA, "paired")
    least = protocols.least_of_cells(asked, mass, 56)
    np.testing.assert_array_equal(found.state.mask, least >= floor)
    np.testing.assert_allclose(found.state.mass, least)
    states.save(found.state, tmp_path / "s.npz")
    np.testing.assert_array_equal(states.load(tmp_path / "s.npz").mass, found.state.mass)
    assert found.state.take(np.array([0])).mass.shape == (1, 56)
    with pytest.raises(errors.InputError, match="floor: expected a probability"):
        elicit.ElicitConfig(floor=1.5)


def test_a_command_refuses_a_model_that_does_not_answer(tmp_path, capsys):
    folder = tmp_path / "model"
    models.save(speaking(template=CHAT), folder)
    arguments = (
        "rate",
        "--model",
        str(folder),
        "--items.country",
        "Egypt",
        "--items.topic",
        "Citizenship",
        "--items.value",
        "Wealth",
    )
    status, _, said = run(capsys, *arguments, "--out", str(tmp_path / "s.npz"))
    assert status == 2
    assert "so that ratings would be noise (prefills tried: none: " in said
    assert "--allow-low-mass" in said
    status, _, said = run(capsys, *arguments, "--out", str(tmp_path / "s.npz"), "--allow-low-mass", "--floor", "0")
    assert status == 0
    assert "prefill: none; option mass on 8 prompts" in said
    assert states.load(tmp_path / "s.npz").meta["prefill"]["taken"] == "none"


def test_a_wording_of_ones_own_by_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "version: 3\nwordings:\n  first: &w\n    system: Rate it from {low} to {high}.\n    weak: bad\n    strong: good\n"
        '    levels: ["Scene: {scene}", "Action: {action}"]\n    answer: "Score:"\n'
        "  bare:\n    system: Rate it from {low} to {high}.\n    weak: bad\n    strong: good\n"
        '    levels: ["Scene: {scene}", "Action: {action}"]\n    answer: ""\n'
    )
    how = elicit.ElicitConfig(wording=str(path))
    assert how.wordings()[0].answer == "Score:"
    assert elicit.ElicitConfig(wording=f"{path}:bare").wordings()[0].name == f"{path}:bare"
    rated = elicit.ratings(speaking(), DATA, dataclasses.replace(how, floor=0))
    assert rated.state.meta["prompts"]["versions"] == {str(path): 3}
    with pytest.raises(errors.InputError, match="no answer cue"):
        elicit.ElicitConfig(wording=f"{path}:bare", prefill="cue")
    with pytest.raises(errors.InputError, match="did you mean 'bare'"):
        elicit.ElicitConfig(wording=f"{path}:bere")  # before any model is loaded
    with pytest.raises(errors.InputError, match=r"none\.yaml"):
        elicit.ElicitConfig(wording="none.yaml")
    with pytest.raises(errors.InputError, match="prefill: it begins a turn of the chat template, and chat is false"):
        elicit.ElicitConfig(chat=False, prefill="Rating: ")


# Tokens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["gpt2", "llama3", "qwen", "sentencepiece"])
def test_completions_have_the_tokens_that_they_have_behind_their_prompt(words):
    """SentencePiece alone puts a space in front of a text, so that an answer by itself has other tokens."""
    own, template = chat("none", words)
    model = _with(own)
    lessons = train.from_items(DATA, "Wealth", 1, "judgements", template, tokens.turn_end(own))
    for record, example in zip(lessons, train.tokenise(model, lessons), strict=True):
        whole = own(record.prompt + record.texts[0], add_special_tokens=False)["input_ids"]
        assert [*example.prompt, *example.texts[0]] == whole
        rated = prompts.assemble(ROWS, WORDING, chat=template)
        read = {way.tokens[0] for way in tokenize.answer_spellings(own, rated.text(0)[-200:], rated.scale.options)}
        assert example.texts[0][0] in read  # what is learned is what a rating reads


def _with(own):
    """The model with another tokenizer; its numbers are not looked at."""
    model = speaking()
    return models.Model(model.arrays, dataclasses.replace(model.config, vocabulary=4096), own)


def test_a_token_over_the_seam_is_refused():
    own, _ = chat(words="gpt2")
    text = str(DATA.action[0])
    cut = next(i for i in range(3, len(text)) if tokens.encode_continuation(own, text[:i], text[i:]) is None)
    record = train.Record(text[:cut], (text[cut:],), None, "mine.jsonl:1", False)
    with pytest.raises(errors.InputError, match=r"mine\.jsonl:1: a token spans the end of the prompt"):
        train.tokenise(_with(own), [record])


def test_no_end_of_text_stands_behind_a_prompt():
    import tokenizers

    own = tokenizer(words="qwen")
    own = type(own)(
        tokenizer_object=tokenizers.Tokenizer.from_str(own.backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
    )
    both = [("<s>", 1), ("</s>", 2)]
    own.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=both
    )
    assert own("Rating:")["input_ids"][-1] == 2
    assert tokens.encode(own, "Rating:")[-1] != 2
    assert tokens.encode(own, "Rating:")[0] == 1
    assert tokens.encode(own, "<s>Rating:").count(1) == 1
    assert tokens.encode(own, "Rating:", templated=True)[0] != 1


def test_judgements_are_put_as_the_model_is_asked():
    model = speaking(template=CHAT)
    how = elicit.ElicitConfig(wording="right", high=7, prefill="none")
    record = train.records_for_model(model, DATA, "Wealth", lesson="judgements", how=how)[0]
    assert prompts.wording("paired", "right").rubric(prompts.Scale(1, 7)) in record.prompt
    assert record.texts[0][0] in "17"


def test_a_measured_model_is_not_kept():
    import gc
    import weakref

    model = models.Model(speaking(template=CHAT).arrays, speaking().config, tokenizer(CHAT))
    prefill.choose_prefill(model, elicit.ElicitConfig())
    assert prefill.recorded_mass(models.fingerprint(model.arrays), model, elicit.ElicitConfig())
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None


TRIMS = CHAT.replace("{{ m.content }}", "{{ m.content | trim }}")
DROPS = CHAT.replace(
    "<{{ m.role }}>\n{{ m.content }}", "<{{ m.role }}>\n{{ m.content if m.role != 'assistant' else '' }}"
)
SHOT = prompts.Shot({"scene": "A yard.", "action": "I keep it."}, 4)


def test_a_template_that_trims_keeps_the_prefill_and_one_that_drops_or_raises_is_refused():
    """What follows the template is ours, so that it can't be cut; what a template makes of examples is looked at."""
    model = speaking(template=TRIMS)
    how = elicit.ElicitConfig(prefill="I say ")
    text = prompts.assemble(ROWS, WORDING, shots=[SHOT], chat=ask.chat_format(model, how)).text(0)
    assert text.endswith("<assistant>\nI say ")
    assert "<assistant>\nI say 4</s>" in text
    with pytest.raises(errors.InputError, match="template does not show the question, the examples"):
        prompts.assemble(ROWS, WORDING, shots=[SHOT], chat=ask.chat_format(speaking(template=DROPS), how))
    raises = speaking(template="{{ raise_exception('only on Mondays') }}")
    with pytest.raises(errors.InputError, match="only on Mondays"):
        elicit.ratings(raises, DATA, elicit.ElicitConfig(prefill="none"))


def test_a_tokenizer_without_digits_is_refused():
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "I": 1, "share": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with pytest.raises(errors.InputError, match="cannot score the answer '1'"):
        tokenize.answer_spellings(own, "I share:", ["1", "2"])


def test_a_free_answer_is_what_the_model_writes_behind_the_prompt():
    """Without a prefill, and of prompts of unlike length as of each alone."""
    model = speaking(template=CHAT)
    rows = [prompts.item_fields(DATA, i) for i in (0, 5)]
    both = elicit.free_answers(model, rows, elicit.ElicitConfig(prefill="cue"), length=8)
    assert all(one.prompt.endswith("<assistant>\n") for one in both)
    for row, one in zip(rows, both, strict=True):
        assert elicit.free_answers(model, [row], elicit.ElicitConfig(prefill="cue"), length=8) == [one]
        ids = jnp.array([tokens.encode(model.tokenizer, one.prompt, True)])
        wrote = models.generate(model, ids, sampling=models.Sampling(tokens=8))
        count = int(wrote.lengths[0])
        assert one.text == model.tokenizer.decode(wrote.tokens[0, :count].tolist(), skip_special_tokens=True).strip()


def test_noise_is_the_difference_between_passes_of_two_sizes(monkeypatch):
    model = speaking()
    found = elicit.numerical_noise(model, DATA, elicit.ElicitConfig(floor=0.0), prompts=6)
    assert found.prompts == 6
    assert found.most < 1e-4
    assert not elicit.is_noisy(model)
    sizes = []

    def rated(model, rows, how, condition, run):
        sizes.append(run.size.tokens)
        cost = prefix.Cost(len(rows), 100, 400, 900)
        return ask.Answers(np.arange(4.0) * (1 if len(sizes) % 2 else 1.5), np.ones((1, 4, 5)), cost, {})

    monkeypatch.setattr(ask, "answers", rated)
    noise = elicit.numerical_noise(model, DATA, elicit.ElicitConfig(), size=prefix.Size(1000))
    assert sizes == [1000, 100]  # a quarter of what is computed, where all of it fits one pass
    assert noise.most == 1.5
    assert noise.sd == pytest.approx(np.sqrt(np.mean((0.5 * np.arange(4)) ** 2) / 2))
