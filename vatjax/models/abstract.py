"""Models without weights: shapes alone, to plan and compile a run before there is memory for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from vatjax.models import checkpoint, families, gguf, hub, sharding, tokens
from vatjax.models import weights as weights
from vatjax.models.model import Model

# The chat template of many models.
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def abstract_model(
    name_or_path: str | Path,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    tokenizer: Any = None,
    ignore: Sequence[str] = (),
    context: int = 0,
) -> Model:
    """Returns a model whose weights are `jax.ShapeDtypeStruct`: it can be planned, lowered and compiled, but not run.

    Args:
        name_or_path: a folder with a `config.json`, or a name on the Hub, of which no weights are fetched.
        dtype: of the weights; "auto" is the one that the configuration names, as on an accelerator.
        mesh: devices to spread the weights over; they need not exist here (`jax.experimental.topologies`).
        tokenizer: used if the checkpoint has none.
        ignore, context: as in `load`.

    Raises:
        InputError: for anything that is not a checkpoint, or not one that this port computes.
    """
    if gguf.is_gguf(name_or_path):
        contents = gguf.read(name_or_path)
        config, source = families.parse(contents.config, str(name_or_path), context), families.as_text(contents.config)
        chosen_tokenizer = contents.tokenizer or tokenizer
    else:
        folder = hub.local_folder(name_or_path, weights=False)
        content, _ = families.content_of(folder, ignore)
        config, source = families.parse(content, str(folder / "config.json"), context), families.as_text(content)
        chosen_tokenizer = tokens.load_tokenizer(folder) or tokenizer
    tokens.check_tokenizer(chosen_tokenizer, config, str(name_or_path))
    if dtype == "auto":
        named = str(json.loads(source).get("torch_dtype") or json.loads(source).get("dtype"))
        dtype = "bfloat16" if named in ("bfloat16", "float16") else "float32"
    config, of_weights = checkpoint.resolve_dtype_and_mesh(config, dtype, mesh)
    shapes = {}
    for parameter in weights.parameters(config):
        shape = (config.layers, *parameter.shape) if parameter.stacked else parameter.shape
        placed = sharding.parameter_shardings(parameter, mesh)[1]
        shapes[parameter.name] = jax.ShapeDtypeStruct(shape, of_weights, sharding=placed)  # type: ignore[no-untyped-call]
    return Model(weights.assemble(shapes, config), config, chosen_tokenizer, source, name=str(name_or_path))


def stand_in_tokenizer(texts: Iterable[str]) -> Any:
    """Trains a tokenizer that counts about as those of large models do: byte-level BPE with a chat template.

    Args:
        texts: for training; their words become its vocabulary.
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
