"""One BOS and no more, padding on both sides, chat templates, and tokenizers of another model."""

import shutil

import numpy as np
import pytest

from tests.models.checkpoints import checkpoint, transformers
from vatjax import errors, models
from vatjax.models import tokens

pytestmark = pytest.mark.fast_compile

tokenizers = pytest.importorskip("tokenizers")

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %} quiet{% endif %}{% endif %}"
)
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "quiet", "help", "a", "neighbour", "win", "1", "2"]


def made(words=tuple(WORDS), template=TEMPLATE):
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(checkpoint("llama").folder, tmp_path / "model")


def test_a_tokenizer_comes_with_its_model(folder):
    assert models.load(folder).tokenizer is None
    made().save_pretrained(folder)
    model = models.load(folder)
    assert tokens.encode(model.tokenizer, "help a neighbour") == [1, 7, 8, 9]


def test_there_is_one_bos_whoever_writes_it():
    tokenizer = made()
    messages = [{"role": "user", "content": "help"}]
    assert tokens.render_chat(tokenizer, messages) == "<s><user> help <assistant>"
    spaced = tokens.render_chat(made(template="{{ bos_token }} " + TEMPLATE[len("{{ bos_token }}") :]), messages)
    assert tokens.encode(tokenizer, spaced) == [1, 4, 7, 5]
    assert tokens.encode(tokenizer, "<user> help") == [1, 4, 7]
    assert tokens.encode(tokenizer, "<s> <user> help") == [1, 4, 7]


def test_options_reach_the_template():
    text = tokens.render_chat(made(), [{"role": "user", "content": "win"}], enable_thinking=False)
    assert text.endswith("<assistant> quiet")


def test_a_tokenizer_without_a_template_says_so():
    with pytest.raises(errors.InputError, match="no chat template; give plain text"):
        tokens.render_chat(made(template=None), [{"role": "user", "content": "win"}])


def test_padding_goes_where_it_is_asked_for():
    left = tokens.pad_batch([[1, 7], [1, 7, 8, 9]], side="left")
    np.testing.assert_array_equal(left.tokens, [[0, 0, 1, 7], [1, 7, 8, 9]])
    np.testing.assert_array_equal(left.mask, [[0, 0, 1, 1], [1, 1, 1, 1]])
    right = tokens.pad_batch([[1, 7], [1, 7, 8, 9]], pad=2, min_length=5)
    np.testing.assert_array_equal(right.tokens, [[1, 7, 2, 2, 2], [1, 7, 8, 9, 2]])
    np.testing.assert_array_equal(models.positions_of(left.mask), [[0, 0, 0, 1], [0, 1, 2, 3]])


def test_sides_of_padding_give_the_same_logits(folder):
    model = models.load(folder)
    rows = [[5, 9, 11], [3, 4, 5, 6, 7, 8]]
    (left, left_mask), (right, right_mask) = (tokens.pad_batch(rows, side=side) for side in ("left", "right"))
    one, other = models.logits(model, left, left_mask), models.logits(model, right, right_mask)
    np.testing.assert_allclose(one[left_mask > 0], other[right_mask > 0], rtol=0, atol=2e-5)


def test_a_text_beyond_the_context_is_refused():
    config = models.load(checkpoint("llama").folder).config
    with pytest.raises(errors.InputError, match="a text of 301 tokens is longer than the model's context of 256"):
        tokens.encode(made(), "a " * 300, config=config)


def test_a_token_that_was_added_beyond_the_embeddings_is_refused_where_a_text_has_it(folder):
    words = [*WORDS, *(f"w{i}" for i in range(96 - len(WORDS)))]
    tokenizer = made(words)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    model = models.load(folder)  # as Gemma 3's text models are
    assert tokens.encode(model.tokenizer, "help win", config=model.config) == [1, 7, 10]
    with pytest.raises(errors.InputError, match="no embedding for the token '<image>'"):
        tokens.encode(model.tokenizer, "help <image>", config=model.config)


@pytest.mark.parametrize(
    "template", [TEMPLATE.replace("{{ bos_token }}", "{{ bos_token }} "), TEMPLATE[len("{{ bos_token }}") :]]
)
def test_a_conversation_has_the_tokens_that_transformers_gives_it(template):
    tokenizer = made(template=template)
    messages = [{"role": "user", "content": "help a neighbour"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokens.encode(tokenizer, tokens.render_chat(tokenizer, messages), templated=True) == expected


def test_what_a_template_does_not_take_is_one_error():
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}"
    with pytest.raises(errors.InputError, match="does not take these messages: no system role"):
        tokens.render_chat(made(template=template), [{"role": "system", "content": "help"}])


def test_a_vocabulary_of_another_model_is_refused(folder):
    made([*WORDS, *(f"w{i}" for i in range(90))]).save_pretrained(folder)
    with pytest.raises(errors.InputError, match="its tokenizer has 103 tokens, its model embeddings for 96"):
        models.load(folder)


def test_a_damaged_tokenizer_is_one_error(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(errors.InputError, match="its tokenizer can't be read"):
        models.load(folder)


def test_a_sentencepiece_file_without_its_library_names_what_to_install(folder, monkeypatch):
    import importlib.util

    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sentencepiece" else found(name, *rest)
    )
    with pytest.raises(errors.InputError, match=r"install sentencepiece: pip install 'vatjax\[sentencepiece\]'"):
        tokens.load_tokenizer(folder)
