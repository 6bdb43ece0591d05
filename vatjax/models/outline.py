"""A model without its weights: shapes alone, for what can be told of a run before there is room for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from vatjax.models import checkpoint, families, gguf, hub, sharding, tokens
from vatjax.models import weights as wt
from vatjax.models.model import Model

# How chat models commonly frame what is said.
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def outline(
    where: str | Path,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    tokenizer: Any = None,
    ignore: Sequence[str] = (),
    context: int = 0,
) -> Model:
    """A model whose weights are `jax.ShapeDtypeStruct`: it can be planned with, lowered and compiled, and computes nothing.

    Args:
        where: a folder with a `config.json`, or a name on the Hub, of which no weights are fetched.
        dtype: of the weights; "auto" is what the configuration names, as on an accelerator.
        mesh: devices to spread the weights over; they need not be there (`jax.experimental.topologies`).
        tokenizer: in place of its own, where it has none.
        ignore, context: as in `load`.

    Raises:
        InputError: for anything that is no checkpoint, or not one that this port computes.
    """
    if gguf.is_gguf(where):
        contents = gguf.read(where)
        config, source = families.parse(contents.config, str(where), context), families.as_text(contents.config)
        own = contents.tokenizer or tokenizer
    else:
        folder = hub.folder(where, weights=False)
        content, _ = families.content_of(folder, ignore)
        config, source = families.parse(content, str(folder / "config.json"), context), families.as_text(content)
        own = tokens.tokenizer(folder) or tokenizer
    tokens.check(own, config, str(where))
    if dtype == "auto":
        named = str(json.loads(source).get("torch_dtype") or json.loads(source).get("dtype"))
        dtype = "bfloat16" if named in ("bfloat16", "float16") else "float32"
    config, of_weights = checkpoint.computed(config, dtype, mesh)
    shapes = {}
    for parameter in wt.parameters(config):
        shape = (config.layers, *parameter.shape) if parameter.stacked else parameter.shape
        placed = sharding.of(parameter, mesh)[1]
        shapes[parameter.name] = jax.ShapeDtypeStruct(shape, of_weights, sharding=placed)  # type: ignore[no-untyped-call]
    return Model(wt.assemble(shapes, config), config, own, source, name=str(where))


def stand_in(texts: Iterable[str]) -> Any:
    """A tokenizer that counts about as those of large models do: byte-level BPE that knows the words of some texts, behind a
    chat template.

    Args:
        texts: what it knows the words of.
    """
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=30_000,
        special_tokens=_SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token=_SPECIAL[0], pad_token=_SPECIAL[0], chat_template=_CHAT
    )
