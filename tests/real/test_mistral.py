"""Mistral's own SentencePiece tokenizers, which the package `mistral-common` ships, against its own chat encoding."""

import itertools
import json
import pathlib
import shutil

import pytest

from vatjax import items, prompts, train
from vatjax.elicit import protocols
from vatjax.models import tokens
from vatjax.prefix.tokenize import answer_spellings, tokenize_prompts
from vatjax.train import examples

pytest.importorskip("sentencepiece")
mistral_common = pytest.importorskip("mistral_common")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.real

DATA = pathlib.Path(mistral_common.__file__).parent / "data"
FILES = [
    "mistral_instruct_tokenizer_240216.model.v2",
    "mistral_instruct_tokenizer_240323.model.v3",
    "mistral_instruct_tokenizer_241114.model.v7",
]
# The layout of Mistral 7B Instruct v0.3: a system message begins the user's turn.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[INST] {{ m.content }}\n\n"
    "{% elif m.role == 'user' %}{{ '' if messages[0].role == 'system' else '[INST] ' }}{{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(params=FILES)
def file(request):
    return DATA / request.param


@pytest.fixture
def tokenizer(file, tmp_path):
    shutil.copy(file, tmp_path / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False}
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | marks))
    loaded = tokens.load_tokenizer(tmp_path)
    loaded.chat_template = TEMPLATE
    return loaded


@pytest.fixture
def encode_chat(file):
    """Returns mistral-common's own encoding of a conversation that begins with the user."""
    messages = pytest.importorskip("mistral_common.protocol.instruct.messages")
    request = pytest.importorskip("mistral_common.protocol.instruct.request").ChatCompletionRequest
    mode = pytest.importorskip("mistral_common.protocol.instruct.validator").ValidationMode.finetuning
    encoder = pytest.importorskip("mistral_common.tokens.tokenizers.mistral").MistralTokenizer.from_file(
        str(file), mode=mode
    )

    def encode(user, assistant):
        turns = [messages.UserMessage(content=user), messages.AssistantMessage(content=assistant)]
        return encoder.encode_chat_completion(request(messages=turns)).tokens

    return encode


def rating_prompts(protocol, tokenizer):
    data = items.bundled().where(country="Egypt", topic=items.bundled().topic[0], type="Power")
    rows = list(itertools.islice(protocols.make_questions(data, protocol).rows, 60))
    return prompts.assemble(rows, prompts.wording(protocol), chat=lambda m: tokens.render_chat(tokenizer, m))


@pytest.mark.parametrize("protocol", prompts.PROTOCOLS)
def test_prompts_and_answers_have_the_tokens_of_mistral_common(protocol, tokenizer, encode_chat):
    asked = rating_prompts(protocol, tokenizer)
    tokenized = tokenize_prompts(asked, tokenizer, templated=True)
    spellings = answer_spellings(tokenizer, asked.text(0)[-200:], asked.scale.options)
    assert len(tokenized.levels) == len(asked.levels)  # shared texts are tokenized once
    for i in range(0, len(asked), 7):
        user = asked.text(i).removeprefix("<s>[INST] ").removesuffix("[/INST]")
        prompt = tokenized.tokens(i)
        for number, answer in enumerate(asked.scale.options):
            whole = encode_chat(user, answer)
            assert whole[: len(prompt)] == prompt
            assert tuple(whole[len(prompt) : -1]) in {s.tokens for s in spellings if s.answer == number}


def test_completions_have_the_tokens_of_mistral_common(tokenizer, encode_chat, tmp_path):
    class Model:
        name = "mistral"
        config = type("Config", (), {"context": 4096, "vocabulary": 40_000})

    Model.tokenizer = tokenizer
    user, answer = (
        "I share the last of our water.\n\nIs it kind?",
        "Yes: 3 of 4 neighbours would say so, café owners too.",
    )
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": messages}) + "\n")
    records = examples.read(
        file, lambda m: tokens.render_chat(tokenizer, m), lambda m: tokens.render_conversation(tokenizer, m)
    )
    [example] = train.tokenise(Model, records)
    assert [*example.prompt, *example.texts[0]] == encode_chat(user, answer)
