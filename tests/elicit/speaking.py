"""Checkpoints that can be asked in words: a tiny random model with a byte-level tokenizer of its own."""

import functools
import pathlib
import shutil
import tempfile

import pytest

from tests.models.checkpoints import checkpoint, transformers
from vatjax import items, models

tokenizers = pytest.importorskip("tokenizers")

VOCABULARY = 512
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@functools.cache
def tokenizer(template=None, begins=True, words="gpt2"):
    """Byte-level BPE trained on bundled items; `begins` puts a BOS in front of every text.

    `words` are those of GPT-2, or those of Llama 3, which joins a full stop with the line feed behind it.
    """
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words == "llama3":
        cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
        level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([cut, level])
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    data = items.bundled()
    inner.train_from_iterator(["\n".join(data[i]) for i in range(0, len(data), 100)], trainer)
    if begins:
        inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = template
    return made


@functools.cache
def speaking(family="llama", template=None, mesh=None):
    """A model of a family with that tokenizer."""
    made = checkpoint(family, vocab_size=VOCABULARY, max_position_embeddings=2048)
    with tempfile.TemporaryDirectory() as scratch:
        folder = shutil.copytree(made.folder, pathlib.Path(scratch) / "model")
        tokenizer(template).save_pretrained(folder)
        return models.load(folder, mesh=mesh)
