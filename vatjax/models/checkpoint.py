"""Loading of Hugging Face checkpoints: each device gets its part of each tensor, read from the file slice by slice.

Stacked arrays are filled in place, layer by layer (the update donates them), so that memory holds the final arrays and
never more than one layer's tensor.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from vatjax import errors, names
from vatjax.dtypes import Dtype
from vatjax.models import families, gguf, hub, safetensors, sharding, tokens
from vatjax.models import weights as weights
from vatjax.models.config import Config
from vatjax.models.model import Model
from vatjax.models.safetensors import Tensor
from vatjax.runtime import processes

Array = jax.Array

DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def load(
    name_or_path: str | Path | Checkpoint,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    ignore: Sequence[str] = (),
    context: int = 0,
) -> Model:
    """Loads a model from a folder or the Hub.

    Args:
        name_or_path: a folder in Hugging Face's layout, a `.gguf` file, `owner/name` or `owner/name@revision` on the
            Hub, or the result of `open_checkpoint`.
        dtype: of the weights and of the values between layers: "float32" or "bfloat16"; "mixed" is bfloat16 weights and
            a float32 residual stream between them. Norms, softmax, sums of products and logits are float32 in any case.
            "auto" is float32 on a CPU, and the file's precision on an accelerator.
        mesh: devices to spread the weights over (`models.mesh`); by default the first device.
        ignore: attributes of `config.json` that the port does not know, to be treated as having no effect.
        context: the longest text that will be read, in tokens. A model with other rotary positions for longer texts
            (Phi 3) uses those for all texts if `context` exceeds the range of its usual ones; by default it reads no
            longer texts.

    Raises:
        InputError: for anything that is not a checkpoint, or not one that this port computes; lists all problems.
    """
    if dtype not in DTYPES:
        raise errors.InputError(names.unknown_name("dtype", dtype, DTYPES))
    if isinstance(name_or_path, Checkpoint) and (ignore or context):
        raise errors.InputError("give ignore and context to open_checkpoint, which has read this configuration already")
    checkpoint = (
        name_or_path if isinstance(name_or_path, Checkpoint) else open_checkpoint(name_or_path, ignore, context)
    )
    dtype = _stored_dtype(checkpoint) if dtype == "auto" else dtype
    config, of_weights = resolve_dtype_and_mesh(checkpoint.config, dtype, mesh)
    arrays = {p.name: _fill(p, checkpoint, of_weights, mesh) for p in weights.parameters(config)}
    _check_finite(arrays, checkpoint, config)
    return Model(
        weights.assemble(arrays, config),
        config,
        checkpoint.tokenizer,
        checkpoint.source,
        checkpoint.generation,
        checkpoint.name,
        checkpoint.ignored,
    )


def resolve_dtype_and_mesh(config: Config, dtype: str, mesh: jax.sharding.Mesh | None) -> tuple[Config, Any]:
    """Returns the configuration of a decoder in a dtype on a mesh, and the dtype of its weights.

    A mesh of one device is left out: it divides nothing.
    """
    mixed = dtype == "mixed"
    divides = mesh if mesh is not None and mesh.size > 1 else None
    resolved = dataclasses.replace(config, float32_residual=mixed, mesh=divides)
    return resolved, jnp.dtype("bfloat16" if mixed else dtype)


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """Returns float32 on a CPU, which is faster in it; else bfloat16 if the embedding is stored in half precision."""
    half = checkpoint.tensors["model.embed_tokens.weight"].dtype not in ("F32", "F64")
    return "bfloat16" if half and jax.default_backend() != "cpu" else "float32"


class Checkpoint(NamedTuple):
    """A checkpoint before any of its weights is read.

    Attributes:
        name: as the caller gave it.
        folder: its local folder (for a name on the Hub, in the Hub's cache), or the GGUF file.
        config: of its decoder.
        tensors: the location of each of its tensors.
        tokenizer: from `transformers`; None if there is none.
        source, generation: `config.json` and `generation_config.json`; for a model of text and pictures, `config.json`
            is that of its text decoder.
        ignored: attributes of `config.json` that were left out.
    """

    name: str
    folder: Path
    config: Config
    tensors: Mapping[str, Tensor | gguf.QuantizedTensor]
    tokenizer: Any
    source: str
    generation: str
    ignored: tuple[str, ...] = ()


def open_checkpoint(name_or_path: str | Path, ignore: Sequence[str] = (), context: int = 0) -> Checkpoint:
    """Reads all of a checkpoint but its weights, and checks that its parts belong together.

    Args:
        name_or_path: as in `load`.
        ignore, context: as in `load`.

    Raises:
        InputError: as `load` does.
    """
    if gguf.is_gguf(name_or_path):
        return _open_gguf(Path(name_or_path).expanduser(), context)
    folder = hub.local_folder(name_or_path)
    content, nested = families.content_of(folder, ignore)
    tensors = _text_tensors(safetensors.read_folder(folder))
    if nested and "lm_head.weight" in tensors:  # for some models the outer configuration's default says otherwise
        content["tie_word_embeddings"] = False
    config = families.parse(content, str(folder / "config.json"), context)
    config = _untied(tensors, config)
    _check(tensors, config, folder)
    tokenizer = tokens.load_tokenizer(folder)
    tokens.check_tokenizer(tokenizer, config, str(folder))
    source = families.as_text(content) if nested else (folder / "config.json").read_text(encoding="utf-8")
    return Checkpoint(str(name_or_path), folder, config, tensors, tokenizer, source, _generation(folder), tuple(ignore))


# Prefixes of the text decoder's tensors in models of text and pictures, and of their other tensors.
_TEXT = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
_PICTURES = ("vision_tower.", "vision_model.", "multi_modal_projector.")


def _text_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of the text decoder by their usual names, without those of pictures."""
    named = {}
    for name, tensor in tensors.items():
        if name.removeprefix("model.").startswith(_PICTURES):
            continue
        prefix = next(((old, new) for old, new in _TEXT if name.startswith(old)), ("", ""))
        named[prefix[1] + name.removeprefix(prefix[0])] = tensor
    return named


def _open_gguf(path: Path, context: int) -> Checkpoint:
    """Reads all of a GGUF file but its weights, likewise."""
    contents = gguf.read(path)
    config = families.parse(contents.config, str(path), context)
    _check(contents.tensors, config, path)
    tokens.check_tokenizer(contents.tokenizer, config, str(path))
    return Checkpoint(
        str(path), path, config, contents.tensors, contents.tokenizer, families.as_text(contents.config), "{}"
    )


def _untied(tensors: Mapping[str, Tensor], config: Config) -> Config:
    """Unties the head if the file holds one that differs from the embedding; transformers does the same."""
    head, embedding = (tensors.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    if not config.tied or head is None or embedding is None or head.shape != embedding.shape or len(head.shape) != 2:
        return config
    ours, other = head.open(), embedding.open()
    rows = range(0, head.shape[0], 1024)
    same = all(np.array_equal(ours[i : i + 1024], other[i : i + 1024]) for i in rows)
    return config if same else dataclasses.replace(config, tied=False)


def _generation(folder: Path) -> str:
    """Returns the text of `generation_config.json`, or "{}" if it is absent."""
    path = folder / "generation_config.json"
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise errors.InputError(f"{path}: not valid JSON; it says which tokens end a text")


def _check(tensors: Mapping[str, Tensor | gguf.QuantizedTensor], config: Config, folder: Path) -> None:
    """Raises for missing, surplus and misshapen tensors, all at once."""
    problems, known = [], set()
    for parameter in weights.parameters(config):
        for layer in range(config.layers) if parameter.stacked else (0,):
            name = parameter.source.format(layer)
            known.add(name)
            if name not in tensors:
                problems.append(errors.Problem(str(folder), None, f"{name} is missing"))
            elif tensors[name].shape != _stored_shape(parameter, config):
                expected, shape = list(_stored_shape(parameter, config)), list(tensors[name].shape)
                file = tensors[name].file
                problems.append(
                    errors.Problem(str(file), None, f"{name}: expected the shape {expected}, found {shape}")
                )
    # A tied head is the embedding once more, and old files carry the frequencies of their rotary positions.
    surplus = [name for name in tensors if name not in known and not name.endswith("rotary_emb.inv_freq")]
    for name in surplus:
        if not (name == "lm_head.weight" and config.tied):
            message = f"{name} is not a parameter of this {config.family} configuration"
            problems.append(errors.Problem(str(tensors[name].file), None, message))
    if problems:
        raise errors.all_of(problems, "The weights and config.json belong to different models.")


def _stored_shape(parameter: weights.Parameter, config: Config) -> tuple[int, ...]:
    """Returns the shape of a parameter's tensor in the file."""
    shape = parameter.shape
    if parameter.rows:
        siblings = [p for p in weights.parameters(config) if p.source == parameter.source]
        shape = (*shape[:-1], max(p.rows[1] for p in siblings if p.rows))
    return shape if parameter.name == "embedding" else shape[::-1]


def _fill(parameter: weights.Parameter, checkpoint: Checkpoint, dtype: Any, mesh: jax.sharding.Mesh | None) -> Array:
    single, whole = sharding.parameter_shardings(parameter, mesh)

    def read_layer(layer: int) -> Array:
        tensor = checkpoint.tensors[parameter.source.format(layer)]
        return jax.make_array_from_callback(
            parameter.shape, single, lambda index: _slice(tensor, parameter, index, dtype)
        )

    if not parameter.stacked:
        return read_layer(0)
    layers = checkpoint.config.layers
    stacked = _empty((layers, *parameter.shape), dtype, whole)
    for layer in range(layers):
        stacked = _put(stacked, read_layer(layer), layer)
    return stacked


def _slice(
    tensor: Tensor | gguf.QuantizedTensor, parameter: weights.Parameter, index: tuple[slice, ...] | None, dtype: Any
) -> np.ndarray:
    """Returns the part of a tensor that one device holds, turned to [in, out]."""
    stored = tensor.open()
    if parameter.rows:
        stored = stored[slice(*parameter.rows)]
    ours = weights.transpose(parameter, stored)
    return np.ascontiguousarray(ours[... if index is None else index], dtype)


def _check_finite(arrays: Mapping[str, Array], checkpoint: Checkpoint, config: Config) -> None:
    """Raises InputError, with the names of the tensors, for weights that are NaN or infinite."""
    finite = processes.fetch(_are_finite(dict(arrays)))
    bad = [
        p.source.format(layer)
        for p in weights.parameters(config)
        for layer in np.flatnonzero(~np.atleast_1d(finite[p.name]))
    ]
    if bad:
        raise errors.InputError(
            f"{checkpoint.name}: weights that are NaN or infinite in {names.short_list(dict.fromkeys(bad))}"
        )


@jax.jit
def _are_finite(arrays: dict[str, Array]) -> dict[str, Array]:
    """Returns whether all weights of each layer are finite, [layers] for stacked parameters."""
    return {
        name: jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)) if x.ndim > 2 else None) for name, x in arrays.items()
    }


def _empty(shape: tuple[int, ...], dtype: Any, placement: jax.sharding.Sharding) -> Array:
    empty: Array = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=placement)()
    return empty


@functools.partial(jax.jit, donate_argnums=0)
def _put(stacked: Array, layer_weights: Array, layer: Array | int) -> Array:
    filled: Array = jax.lax.dynamic_update_index_in_dim(stacked, layer_weights, layer, 0)
    return filled
