"""Hugging Face checkpoints in: each device gets its part of each tensor, read from the file slice by slice.

Stacked arrays are filled in place, layer by layer (the update donates them), so that beyond the final arrays there is
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
from vatjax.models import weights as wt
from vatjax.models.config import Config
from vatjax.models.model import Model
from vatjax.models.safetensors import Tensor

Array = jax.Array

DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def load(
    where: str | Path | Found,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    ignore: Sequence[str] = (),
    context: int = 0,
) -> Model:
    """Loads a model from a folder or the Hub.

    Args:
        where: a folder in Hugging Face's layout, a `.gguf` file, or `owner/name` on the Hub, `@revision` behind it where one
            is wanted; or what `look` found there.
        dtype: of the weights and of what flows between layers: "float32" or "bfloat16"; "mixed" is bfloat16 weights and a
            float32 residual stream between them. Norms, softmax, sums of products and logits are float32 in any case.
            "auto" is float32 on a CPU, and what the file has on an accelerator.
        mesh: devices to spread the weights over (`models.mesh`); by default the first device.
        ignore: attributes of `config.json` that the port does not know, and that are taken to change nothing.
        context: the longest text that will be read, in tokens. A model that turns longer texts by other rotary positions
            (Phi 3) takes those for all texts where more is asked for than its usual ones allow, and by default reads no
            longer ones.

    Raises:
        InputError: for anything that is no checkpoint, or not one that this port computes; with all that is wrong.
    """
    if dtype not in DTYPES:
        raise errors.InputError(names.unknown("dtype", dtype, DTYPES))
    if isinstance(where, Found) and (ignore or context):
        raise errors.InputError("ignore and context are decided where a checkpoint is looked at: give them to look")
    found = where if isinstance(where, Found) else look(where, ignore, context)
    dtype = _stored_dtype(found) if dtype == "auto" else dtype
    config, of_weights = computed(found.config, dtype, mesh)
    arrays = {p.name: _fill(p, found, of_weights, mesh) for p in wt.parameters(config)}
    return Model(
        wt.assemble(arrays, config), config, found.tokenizer, found.source, found.generation, found.name, found.ignored
    )


def computed(config: Config, dtype: str, mesh: jax.sharding.Mesh | None) -> tuple[Config, Any]:
    """Returns the configuration of a decoder in a dtype on a mesh, and the dtype of its weights; a mesh of one device divides
    nothing, and is left out."""
    mixed = dtype == "mixed"
    divides = mesh if mesh is not None and mesh.size > 1 else None
    made = dataclasses.replace(config, float32_residual=mixed, mesh=divides)
    return made, jnp.dtype("bfloat16" if mixed else dtype)


def _stored_dtype(found: Found) -> str:
    """float32 on a CPU, which computes in it faster; else bfloat16 where the embedding is stored in half precision."""
    half = found.tensors["model.embed_tokens.weight"].dtype not in ("F32", "F64")
    return "bfloat16" if half and jax.default_backend() != "cpu" else "float32"


class Found(NamedTuple):
    """What a checkpoint is, before any of its weights is read.

    Attributes:
        name: as it was asked for.
        folder: where it lies, or the GGUF file; for a name on the Hub, in its cache.
        config: what its decoder computes.
        tensors: where each of its tensors lies.
        tokenizer: from `transformers`; None where there is none.
        source, generation: `config.json` and `generation_config.json`; of a model of text and pictures `config.json` is
            that of its text decoder.
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


def look(where: str | Path, ignore: Sequence[str] = (), context: int = 0) -> Found:
    """Reads all of a checkpoint but its weights, and checks that its parts belong together.

    Args:
        where: as in `load`.
        ignore, context: as in `load`.

    Raises:
        InputError: as `load` does.
    """
    if gguf.is_gguf(where):
        return _look_into(Path(where).expanduser(), context)
    folder = hub.folder(where)
    content, nested = families.content_of(folder, ignore)
    found = _text_tensors(safetensors.folder(folder))
    if nested and "lm_head.weight" in found:  # the outer configuration's default says otherwise for some of them
        content["tie_word_embeddings"] = False
    config = families.parse(content, str(folder / "config.json"), context)
    config = _untied(found, config)
    _check(found, config, folder)
    tokenizer = tokens.tokenizer(folder)
    tokens.check(tokenizer, config, str(folder))
    source = families.as_text(content) if nested else (folder / "config.json").read_text(encoding="utf-8")
    return Found(str(where), folder, config, found, tokenizer, source, _generation(folder), tuple(ignore))


# Where models of text and pictures keep the text decoder, and the rest of them.
_TEXT = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
_PICTURES = ("vision_tower.", "vision_model.", "multi_modal_projector.")


def _text_tensors(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the text decoder by their usual names; those of pictures are left out."""
    named = {}
    for name, tensor in found.items():
        if name.removeprefix("model.").startswith(_PICTURES):
            continue
        prefix = next(((old, new) for old, new in _TEXT if name.startswith(old)), ("", ""))
        named[prefix[1] + name.removeprefix(prefix[0])] = tensor
    return named


def _look_into(path: Path, context: int) -> Found:
    """The same of a GGUF file."""
    contents = gguf.read(path)
    config = families.parse(contents.config, str(path), context)
    _check(contents.tensors, config, path)
    tokens.check(contents.tokenizer, config, str(path))
    return Found(str(path), path, config, contents.tensors, contents.tokenizer, families.as_text(contents.config), "{}")


def _untied(found: Mapping[str, Tensor], config: Config) -> Config:
    """A file that says its head is the embedding, and holds another head, means the head: so does transformers."""
    head, embedding = (found.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    if not config.tied or head is None or embedding is None or head.shape != embedding.shape or len(head.shape) != 2:
        return config
    ours, other = head.open(), embedding.open()
    rows = range(0, head.shape[0], 1024)
    same = all(np.array_equal(ours[i : i + 1024], other[i : i + 1024]) for i in rows)
    return config if same else dataclasses.replace(config, tied=False)


def _generation(folder: Path) -> str:
    """`generation_config.json`, where there is one."""
    path = folder / "generation_config.json"
    text = path.read_text(encoding="utf-8") if path.exists() else "{}"
    try:
        if isinstance(json.loads(text), dict):
            return text
    except ValueError:
        pass
    raise errors.InputError(f"{path}: not valid JSON; it says which tokens end a text")


def _check(found: Mapping[str, Tensor | gguf.QuantizedTensor], config: Config, folder: Path) -> None:
    """Missing, surplus and misshapen tensors, all at once."""
    problems, known = [], set()
    for parameter in wt.parameters(config):
        for layer in range(config.layers) if parameter.stacked else (0,):
            name = parameter.source.format(layer)
            known.add(name)
            if name not in found:
                problems.append(errors.Problem(str(folder), None, f"{name} is missing"))
            elif found[name].shape != _stored(parameter, config):
                expected, shape = list(_stored(parameter, config)), list(found[name].shape)
                where = found[name].file
                problems.append(
                    errors.Problem(str(where), None, f"{name}: expected the shape {expected}, found {shape}")
                )
    # A tied head is the embedding once more, and old files carry the frequencies of their rotary positions.
    surplus = [name for name in found if name not in known and not name.endswith("rotary_emb.inv_freq")]
    for name in surplus:
        if not (name == "lm_head.weight" and config.tied):
            message = f"{name} is no parameter of this {config.family} configuration"
            problems.append(errors.Problem(str(found[name].file), None, message))
    if problems:
        raise errors.all_of(problems, "The weights and config.json belong to different models.")


def _stored(parameter: wt.Parameter, config: Config) -> tuple[int, ...]:
    """The shape of a parameter's tensor in the file."""
    shape = parameter.shape
    if parameter.rows:
        siblings = [p for p in wt.parameters(config) if p.source == parameter.source]
        shape = (*shape[:-1], max(p.rows[1] for p in siblings if p.rows))
    return shape if parameter.name == "embedding" else shape[::-1]


def _fill(parameter: wt.Parameter, found: Found, dtype: Any, mesh: jax.sharding.Mesh | None) -> Array:
    single, whole = sharding.of(parameter, mesh)

    def one(layer: int) -> Array:
        tensor = found.tensors[parameter.source.format(layer)]
        return jax.make_array_from_callback(
            parameter.shape, single, lambda index: _slice(tensor, parameter, index, dtype)
        )

    if not parameter.stacked:
        return one(0)
    layers = found.config.layers
    stacked = _empty((layers, *parameter.shape), dtype, whole)
    for layer in range(layers):
        stacked = _put(stacked, one(layer), layer)
    return stacked


def _slice(
    tensor: Tensor | gguf.QuantizedTensor, parameter: wt.Parameter, index: tuple[slice, ...] | None, dtype: Any
) -> np.ndarray:
    """The part of a tensor that one device holds, turned to [in, out]."""
    stored = tensor.open()
    if parameter.rows:
        stored = stored[slice(*parameter.rows)]
    ours = wt.turned(parameter, stored)
    return np.ascontiguousarray(ours[... if index is None else index], dtype)


def _empty(shape: tuple[int, ...], dtype: Any, where: jax.sharding.Sharding) -> Array:
    empty: Array = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=where)()
    return empty


@functools.partial(jax.jit, donate_argnums=0)
def _put(stacked: Array, one: Array, layer: Array | int) -> Array:
    filled: Array = jax.lax.dynamic_update_index_in_dim(stacked, one, layer, 0)
    return filled
