"""Texts of a tree have the tokens of whole prompts, and answers every way in which they can be written."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.elicit.speaking import CHAT, tokenizer, tokenizers
from tests.models.checkpoints import transformers
from vatjax import errors, items, prompts
from vatjax.elicit import protocols
from vatjax.models import tokens
from vatjax.prefix.tokenize import Spelling, answer_log_probs, answer_spellings, tokenize_prompts


def made(protocol="dense", chat=None, count=1, wording=""):
    data = items.bundled().where(country="Egypt", topic=items.bundled().topic[0], type="Power")
    asked = protocols.make_questions(data, protocol)
    rows = list(itertools.islice(asked.rows, 300))
    return prompts.assemble(rows, prompts.wording(protocol, wording), chat=chat)


@pytest.mark.parametrize("protocol", prompts.PROTOCOLS)
@pytest.mark.parametrize("template", [None, CHAT])
@pytest.mark.parametrize("words", ["gpt2", "llama3", "qwen", "sentencepiece"])
def test_pieces_are_the_tokens_of_the_whole(protocol, template, words):
    own = tokenizer(template, words=words)
    assert (".\n" in own.get_vocab() or ".\u010a" in own.get_vocab()) == (words in ("llama3", "qwen"))
    chat = None if template is None else lambda messages: tokens.render_chat(own, messages)
    for name in prompts.wordings(protocol):
        whole = made(protocol, chat, wording=name)
        found = tokenize_prompts(whole, own, templated=template is not None)
        assert len(found.levels) == len(whole.levels)  # not one by one
        for i in range(len(whole)):
            assert found.tokens(i) == tokens.encode(own, whole.text(i), template is not None)
        assert found.tokens(0).count(own.bos_token_id) == 1


def test_a_tokenizer_that_melts_texts_into_each_other_takes_each_prompt_whole():
    whole = made()
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))  # no words: it joins across lines
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    inner.train_from_iterator([whole.text(i) for i in range(0, len(whole), 20)], trainer)
    assert any("\n" in token.strip("\n") for token in inner.get_vocab())
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    found = tokenize_prompts(whole, own)
    assert len(found.levels) == 1
    assert all(found.tokens(i) == tokens.encode(own, whole.text(i)) for i in range(len(whole)))


def test_a_seam_that_is_not_clean_anywhere_is_found():
    """Two of five hundred scenes end in a mark that the tokenizer joins with what follows; a sample would miss them."""
    rows = [{"scene": f"Scene {n}", "action": "Go"} for n in range(500)]
    for n in (5, 77):
        rows[n]["scene"] += "."
    wording = dataclasses.replace(prompts.wording("paired"), levels=("{scene}", "{action}"))
    whole = prompts.assemble(rows, wording)
    joined = dataclasses.replace(
        whole,
        levels=(
            whole.levels[0],
            tuple(text.rstrip("\n") for text in whole.levels[1]),
            tuple("\n" + text for text in whole.levels[2]),
        ),
    )
    own = tokenizer(words="llama3")
    found = tokenize_prompts(joined, own)
    assert len(found.levels) == 1
    assert all(found.tokens(i) == tokens.encode(own, joined.text(i)) for i in range(500))
    assert len(tokenize_prompts(whole, own).levels) == 3


def test_options_are_written_with_a_space_and_without():
    own = tokenizer()
    found = answer_spellings(own, "Rating:", [str(n) for n in range(1, 11)])
    assert {option.answer for option in found} == set(range(10))
    for option in found:
        assert own.decode(option.tokens).strip() == str(option.answer + 1)
    ten = [option.tokens for option in found if option.answer == 9]
    assert all(len(way) >= 2 for way in ten)
    bare = answer_spellings(own, "<assistant>\n", ["1", "2"])
    assert [len(option.tokens) for option in bare] == [1, 1]


@pytest.mark.parametrize("words", ["gpt2", "llama3", "qwen", "sentencepiece"])
def test_every_kind_of_tokenizer_writes_every_answer(words):
    own = tokenizer(words=words)
    found = answer_spellings(own, "Rating:", [str(n) for n in range(11)])
    assert {option.answer for option in found} == set(range(11))
    assert max(len(option.tokens) for option in found if option.answer == 10) >= 2
    for option in found:
        before = own("Rating:", add_special_tokens=False)["input_ids"]
        assert own.decode([*before, *option.tokens]).strip().removeprefix("Rating:").strip() == str(option.answer)


def test_answers_without_tokens_of_their_own_are_refused():
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "R:": 1, "1": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert answer_spellings(own, "R:", ["1"]) == (Spelling((2,), 0),)
    with pytest.raises(errors.InputError, match="cannot score the answer '2' after 'R:'"):
        answer_spellings(own, "R:", ["1", "2"])
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "R:": 1, "yes": 2}, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.model = tokenizers.models.WordLevel({"<unk>": 0, "r:": 1, "yes": 2}, unk_token="<unk>")
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    with pytest.raises(errors.InputError, match="gives the answers 'yes' and 'Yes' the same tokens"):
        answer_spellings(own, "R:", ["yes", "Yes"])


def test_an_answer_that_begins_like_a_longer_one_is_what_is_left_of_it():
    found = (Spelling((1,), 0), Spelling((1, 0), 1), Spelling((9, 1), 0), Spelling((1, 0, 0), 2))
    ways = np.log([0.5, 0.2, 0.1, 0.05])
    np.testing.assert_allclose(np.exp(answer_log_probs(found, ways)), [0.5 - 0.2 + 0.1, 0.2 - 0.05, 0.05], rtol=1e-12)
    assert np.exp(answer_log_probs(found, ways)).sum() == pytest.approx(0.5 + 0.1)  # nothing counted twice
