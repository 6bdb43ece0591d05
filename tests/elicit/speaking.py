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

    `words` are those of GPT-2, those of Llama 3, which joins a full stop with the line feed behind it, those of Qwen, which
    takes digits one by one, or those of SentencePiece, which puts a mark for the space in front of words.
    """
    if words == "sentencepiece":
        return _sentencepiece(template)
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words in ("llama3", "qwen"):
        pattern = LLAMA3 if words == "llama3" else LLAMA3.replace("{1,3}", "")
        cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
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


def _sentencepiece(template):
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    normal = tokenizers.normalizers
    inner.normalizer = normal.Sequence([normal.Prepend("\u2581"), normal.Replace(" ", "\u2581")])
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2 * VOCABULARY, special_tokens=["<unk>", "<s>", "</s>", *bytes_of], show_progress=False
    )
    data = items.bundled()
    inner.train_from_iterator(
        (word for i in range(0, len(data), 300) for text in data[i] for word in text.split()), trainer
    )
    decode = tokenizers.decoders
    inner.decoder = decode.Sequence([decode.Replace("\u2581", " "), decode.ByteFallback(), decode.Fuse()])
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
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
