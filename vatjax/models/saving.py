"""Saving of Hugging Face checkpoints: the folder that torch users load, with the same logits.

Tensors leave the devices one at a time. `config.json` is written last: a folder without it is not a checkpoint, so that
an interrupted write is never taken for one.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from vatjax import errors, store
from vatjax.models import safetensors, tokens
from vatjax.models import weights as weights
from vatjax.models.config import Config
from vatjax.models.model import Model
from vatjax.models.safetensors import Pending
from vatjax.runtime import processes

_SHARD = 5_000_000_000
_INDEX = "model.safetensors.index.json"


def save(model: Model, path: store.Path, overwrite: bool = False, shard: int = _SHARD) -> None:
    """Writes a model in Hugging Face's layout: configuration, weights, tokenizer.

    Args:
        model: the model; weights keep the dtype that they have.
        path: a folder, local or in a bucket.
        overwrite: replace an existing checkpoint.
        shard: the most bytes of one file of weights.

    Raises:
        InputError: if the folder already holds a checkpoint.
    """
    if shard < 1:
        raise errors.InputError(f"shard: a number of bytes is needed, found {shard}")
    if not json.loads(model.source):
        raise errors.InputError("the model has no config.json to write: give Model(..., source=) its text")
    folder = store.path(path)
    remove_checkpoint(folder, overwrite)
    pending = list(_pending(model.arrays, model.config))
    files = _sharded(pending, shard)
    for name, part in files.items():
        safetensors.write(folder / name, part)
    if len(files) > 1:
        places = {tensor.name: name for name, part in files.items() for tensor in part}
        store.commit_json(
            folder / _INDEX, {"metadata": {"total_size": sum(p.size for p in pending)}, "weight_map": places}
        )
    if model.tokenizer is not None:
        _save_tokenizer(model.tokenizer, folder)
    if json.loads(model.generation):
        store.commit(folder / "generation_config.json", model.generation.encode())
    store.commit(folder / "config.json", _configuration(model).encode())


# Files of a checkpoint: none of an older one may stay, or it would be read as part of the new one.
_OURS = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
)


def remove_checkpoint(folder: Any, overwrite: bool) -> None:
    """Removes the checkpoint in a folder, its configuration first."""
    if folder.exists() and not folder.is_dir():
        raise errors.InputError(f"{folder}: a checkpoint is a folder, and this is a file")
    old = [path for pattern in _OURS for path in sorted(folder.glob(pattern))] if folder.exists() else []
    inner = folder / "additional_chat_templates"
    if isinstance(inner, pathlib.Path) and inner.is_symlink():
        raise errors.InputError(f"{inner}: a link, and files would be removed where it leads; remove it")
    for path in old:
        if path.is_dir():
            raise errors.InputError(f"{path}: a folder, where a checkpoint has a file; remove it")
    if old and not overwrite:
        raise errors.InputError(f"{folder}: there is a checkpoint already ({old[0].name}); overwrite=True replaces it")
    for path in old if store.writes_enabled() else ():
        path.unlink()


def _pending(arrays: dict[str, Any], config: Config) -> Iterator[Pending]:
    """Yields every tensor of the checkpoint, in the order of the layers."""
    outer: list[Pending] = []
    inner: dict[str, list[weights.Parameter]] = {}
    for parameter in weights.parameters(config):
        if parameter.stacked:  # fused parameters share a source
            inner.setdefault(parameter.source, []).append(parameter)
        else:
            outer.append(_pending_tensor(parameter.source, [parameter], arrays, None))
    yield outer[0]
    for layer in range(config.layers):
        for source, parts in inner.items():
            yield _pending_tensor(source.format(layer), parts, arrays["layers"], layer)
    yield from outer[1:]


def _pending_tensor(name: str, parts: list[weights.Parameter], arrays: dict[str, Any], layer: int | None) -> Pending:
    """Returns one tensor of the checkpoint, from the parameters that it is made of."""
    shapes = [p.shape if p.name == "embedding" else p.shape[::-1] for p in parts]
    shape = (sum(s[0] for s in shapes), *shapes[0][1:])

    def make() -> np.ndarray:
        taken = [arrays[p.name] if layer is None else arrays[p.name][layer] for p in parts]
        return np.concatenate([weights.transpose(p, processes.fetch(x)) for p, x in zip(parts, taken, strict=True)])

    return Pending(name, np.dtype(arrays[parts[0].name].dtype), shape, make)


def _sharded(pending: list[Pending], limit: int) -> dict[str, list[Pending]]:
    """Distributes tensors over files, each with as many as fit; returns them by the name of the file."""
    parts: list[list[Pending]] = [[]]
    for tensor in pending:
        if parts[-1] and sum(p.size for p in parts[-1]) + tensor.size > limit:
            parts.append([])
        parts[-1].append(tensor)
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, 1)}


# Files of a tokenizer, as the folder that it was read from has them.
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)


def _save_tokenizer(tokenizer: Any, folder: Any) -> None:
    """Copies the files that the tokenizer was read from, byte for byte.

    Other programs can read those, but not files that the installed transformers writes anew.
    """
    source = pathlib.Path(str(getattr(tokenizer, "name_or_path", "")))
    files = [path for pattern in _TOKENIZER for path in sorted(source.glob(pattern))] if source.is_dir() else []
    if files and _unchanged(tokenizer, source):
        for path in files:
            store.commit(folder / path.relative_to(source).as_posix(), path.read_bytes())
        return
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(pathlib.Path(scratch).rglob("*")):
            if path.is_file():
                store.commit(folder / path.relative_to(scratch).as_posix(), path.read_bytes())


def _unchanged(tokenizer: Any, source: pathlib.Path) -> bool:
    """Returns True if a tokenizer still is that of its folder: without another template or further tokens."""
    try:
        read = tokens.load_tokenizer(source)
    except errors.InputError:
        return False
    same = ("chat_template", "bos_token", "eos_token", "pad_token")
    return (
        read is not None
        and len(read) == len(tokenizer)
        and all(getattr(read, name, None) == getattr(tokenizer, name, None) for name in same)
    )


def _configuration(model: Model) -> str:
    """Returns the configuration that was read, with the written dtype; the code that it refers to is not copied."""
    content = json.loads(model.source)
    content.pop("auto_map", None)
    key = "torch_dtype" if "torch_dtype" in content else "dtype"
    content[key] = str(model.arrays["embedding"].dtype)
    return json.dumps(content, indent=2) + "\n"
