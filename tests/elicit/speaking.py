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


@functools.cache
def tokenizer(template=None, begins=True):
    """Byte-level BPE trained on bundled items; `begins` puts a BOS in front of every text."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    data = items.bundled()
    inner.train_from_iterator([" ".join(data[i]) for i in range(0, len(data), 100)], trainer)
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
