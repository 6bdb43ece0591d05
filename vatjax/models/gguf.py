"""Reading of GGUF files: a checkpoint of llama.cpp as the configuration, tensors and tokenizer of a Hugging Face one.

Tensors are dequantised when they are read, one at a time. llama.cpp stores three things in another form than a Hugging
Face checkpoint, and they are converted back: rows of queries and keys whose rotary pairs are neighbours (Llama), norm
weights with 1 added (Gemma), and rotary factors as tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vatjax import errors, names
from vatjax.models import gguf_tokenizer, rope

# llama.cpp's architecture -> the family here.
FAMILIES: Mapping[str, str] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
}
_QUANTISATIONS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")

# llama.cpp's names of tensors -> Hugging Face's, outside of blocks and within them.
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
_GEMMA_BLOCK = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class Contents(NamedTuple):
    """A GGUF file, before any of its weights is read.

    Attributes:
        config: the content of a `config.json`.
        tensors: by the names that they have in a Hugging Face checkpoint.
        tokenizer: of transformers; None where the file has none.
    """

    config: dict[str, Any]
    tensors: dict[str, QuantizedTensor]
    tokenizer: Any


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor of a GGUF file, with the interface of one of a safetensors file.

    Attributes:
        file: the path.
        dtype: the name of its quantisation.
        shape: of the dequantised numbers.
        stored: the file's content: [rows, bytes] of a quantised tensor.
        restore: turns the numbers into those of a Hugging Face checkpoint.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    stored: np.ndarray
    restore: Callable[[np.ndarray], np.ndarray]

    def open(self) -> np.ndarray:
        """Returns the numbers, float32."""
        import gguf

        numbers = gguf.dequantize(self.stored, gguf.GGMLQuantizationType[self.dtype])
        return self.restore(np.asarray(numbers, np.float32).reshape(self.shape))


def is_gguf(path: str | Path) -> bool:
    """Returns whether a path is a file whose name ends in `.gguf`."""
    path = Path(path).expanduser()
    return path.suffix.lower() == ".gguf" and path.is_file()


def read(path: str | Path) -> Contents:
    """Reads configuration, tokenizer and the locations of all tensors.

    Raises:
        InputError: for a file that is damaged or cut short, an architecture or a quantisation that is not read.
    """
    path = Path(path).expanduser()
    reader = _reader(path)
    facts = {key: _content(path, key, field) for key, field in reader.fields.items()}
    architecture = str(facts.get("general.architecture"))
    if architecture not in FAMILIES:
        raise errors.InputError(
            f"{path}: {names.unknown_name('architecture', architecture, list(FAMILIES))}; load its Hugging Face checkpoint"
        )
    stored = {tensor.name: tensor for tensor in reader.tensors}
    unknown = sorted({t.tensor_type.name for t in stored.values()} - set(_QUANTISATIONS))
    if unknown:
        raise errors.InputError(
            f"{path}: the quantisation {', '.join(unknown)} is not read; read are {', '.join(_QUANTISATIONS)}"
        )
    metadata = _Facts(path, architecture, facts)
    rope_tensors = {name: np.asarray(stored[name].data, np.float64) for name in _ROPE_TENSORS if name in stored}
    config = _config(metadata, rope_tensors, set(stored))
    tensors = {}
    for name, tensor in stored.items():
        if name not in _ROPE_TENSORS:
            source = _source(name, architecture)
            shape = tuple(int(n) for n in reversed(tensor.shape))
            restore = _restored(source, config, architecture)
            tensors[source] = QuantizedTensor(path, tensor.tensor_type.name, shape, tensor.data, restore)
    try:
        tokenizer = gguf_tokenizer.build_tokenizer(facts, str(path))
    except errors.InputError:
        raise
    except Exception as error:  # tokenizers' own errors have no type
        raise errors.InputError(f"{path}: its tokenizer can't be read ({' '.join(str(error).split())[:200]})") from None
    return Contents(config, tensors, tokenizer)


def _reader(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise errors.InputError(
            f'{path}: GGUF files need the package gguf: pip install "vatjax[gguf]", or load the Hugging Face checkpoint'
        ) from None
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise errors.InputError(f"{path}: not a GGUF file: it does not begin with GGUF")
    try:
        with path.open("rb") as file:
            _check_metadata(file, path.stat().st_size)
        return gguf.GGUFReader(path)
    except Exception as error:  # the reader indexes past the end of a short file in many ways
        raise errors.InputError(f"{path}: damaged or cut short: its tensors do not fit it") from error


_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by its type
_STRING, _ARRAY = 8, 9


def _check_metadata(file: BinaryIO, size: int) -> None:
    """Raises ValueError if the metadata claim more than the file holds; GGUFReader would loop beyond its end."""

    def number(bytes_of_number: int) -> int:
        data = file.read(bytes_of_number)
        if len(data) < bytes_of_number:
            raise ValueError("cut short")
        return int.from_bytes(data, "little")

    def skip(count: int) -> None:
        if count > size - file.tell():
            raise ValueError("longer than the file")
        file.seek(count, 1)

    def skip_value(kind: int) -> None:
        if kind == _STRING:
            skip(number(8))
        elif kind == _ARRAY:
            inner, count = number(4), number(8)
            if inner in _SIZES:
                skip(count * _SIZES[inner])
            elif inner != _STRING or count > size:
                raise ValueError("an array of arrays")
            else:
                for _ in range(count):
                    skip(number(8))
        else:
            skip(_SIZES[kind])

    file.seek(8)  # magic and version
    _, keys = number(8), number(8)
    if keys > size:
        raise ValueError("more keys than bytes")
    for _ in range(keys):
        skip(number(8))
        skip_value(number(4))


def _content(path: Path, key: str, field: Any) -> Any:
    try:
        return field.contents()
    except Exception as error:
        raise errors.InputError(f"{path}: {key}: damaged ({type(error).__name__}: {error})") from None


class _Facts:
    """Metadata of a file; `get` and `need` look keys up below the name of its architecture."""

    def __init__(self, path: Path, architecture: str, facts: Mapping[str, Any]) -> None:
        self.path, self.architecture, self.facts = path, architecture, facts

    def get(self, key: str, absent: Any = None) -> Any:
        return self.facts.get(f"{self.architecture}.{key}", absent)

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise errors.InputError(f"{self.path}: {self.architecture}.{key} is missing")
        return value


def _source(name: str, architecture: str) -> str:
    """Returns the name of a tensor in a Hugging Face checkpoint; an unknown name stays, and is refused as surplus."""
    base, _, kind = name.rpartition(".")
    if base in _OUTER:
        return f"{_OUTER[base]}.{kind}"
    block, layer, part = (*base.split("."), "", "")[:3]
    table = {**_BLOCK, **(_GEMMA_BLOCK if architecture.startswith("gemma") else {})}
    if architecture == "phi3" and part == "ffn_up":
        return f"model.layers.{layer}.mlp.gate_up_proj.{kind}"
    if block == "blk" and part in table:
        return f"model.layers.{layer}.{table[part]}.{kind}"
    return name


def _restored(source: str, config: Mapping[str, Any], architecture: str) -> Callable[[np.ndarray], np.ndarray]:
    if architecture == "llama" and (".q_proj." in source or ".k_proj." in source):
        heads = config["num_attention_heads" if ".q_proj." in source else "num_key_value_heads"]
        return lambda x: _halves(x, heads)
    if architecture.startswith("gemma") and source.endswith("norm.weight"):
        return lambda x: x - np.float32(1)
    return lambda x: x


def _halves(x: np.ndarray, heads: int) -> np.ndarray:
    """Reorders a head's rows from pairs (0, 1), (2, 3), ... to the halves that turn, (0, 2, ...) and (1, 3, ...)."""
    pairs = x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:])
    return pairs.swapaxes(1, 2).reshape(x.shape)


# The configuration --------------------------------------------------------------------------------------------------


def _config(facts: _Facts, rope_tensors: Mapping[str, np.ndarray], stored: set[str]) -> dict[str, Any]:
    """Returns the content of a `config.json`; `_gemma` and `_phi3` add what llama.cpp has only in its code."""
    heads, width = facts.need("attention.head_count"), facts.need("embedding_length")
    tokens = facts.facts.get("tokenizer.ggml.tokens") or ()
    config = {
        "model_type": FAMILIES[facts.architecture],
        "vocab_size": facts.get("vocab_size", len(tokens)),
        "hidden_size": width,
        "num_hidden_layers": facts.need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("attention.head_count_kv", heads),
        "head_dim": facts.get("attention.key_length") or facts.get("rope.dimension_count") or width // heads,
        "intermediate_size": facts.need("feed_forward_length"),
        "max_position_embeddings": facts.need("context_length"),
        # A float32 in the file: 1e-5 and not 9.999999747378752e-06.
        "rms_norm_eps": float(f"{facts.need('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(facts.get("rope.freq_base", 10_000.0)),
        "tie_word_embeddings": "output.weight" not in stored,
    }
    if facts.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in stored
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in stored
    for key, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        token = facts.facts.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            config[f"{name}_token_id"] = token
    if facts.architecture in ("llama", "qwen2", "qwen3"):
        config |= _scaling(facts, rope_tensors.get("rope_freqs.weight"), config)
    elif facts.architecture == "phi3":
        config |= _phi3(facts, rope_tensors)
    else:
        config |= _gemma(facts, config)
    return config


def _scaling(facts: _Facts, factors: np.ndarray | None, config: Mapping[str, Any]) -> dict[str, Any]:
    if factors is not None:
        return {"rope_scaling": _llama3(facts, factors, config)}
    kind = facts.get("rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind not in ("linear", "yarn"):
        raise errors.InputError(f"{facts.path}: rope scaling {kind!r} is not read; read are none, linear and yarn")
    scaling = {"rope_type": kind, "factor": float(facts.need("rope.scaling.factor"))}
    original = facts.get("rope.scaling.original_context_length")
    if kind == "yarn" and original is not None:
        scaling["original_max_position_embeddings"] = original
    return {"rope_scaling": scaling}


def _llama3(facts: _Facts, factors: np.ndarray, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of the published Llama 3 model whose rotary factors are those that the file holds."""
    theta, size = config["rope_theta"], config["head_dim"]
    plain = np.asarray(rope.base_frequencies(theta, size), np.float64)
    for factor in (8.0, 16.0, 32.0):
        options = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        frequencies = np.asarray(rope.llama3(theta, size, {**options, "rope_theta": theta}).frequencies)
        if np.allclose(plain / factors.ravel(), frequencies, rtol=1e-5, atol=0):
            return options
    raise errors.InputError(f"{facts.path}: rope_freqs.weight: its factors are not those of a published Llama 3")


def _phi3(facts: _Facts, rope_tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    config: dict[str, Any] = {"sliding_window": facts.get("attention.sliding_window") or None}
    config["original_max_position_embeddings"] = facts.get(
        "rope.scaling.original_context_length", facts.need("context_length")
    )
    turning = facts.get("rope.dimension_count")
    size = facts.need("embedding_length") // facts.need("attention.head_count")
    if turning is not None and turning != size:
        config["partial_rotary_factor"] = turning / size
    config["head_dim"] = size
    if rope_tensors:
        long, short = (rope_tensors[f"rope_factors_{kind}.weight"].ravel() for kind in ("long", "short"))
        config["rope_scaling"] = {
            "rope_type": "longrope",
            "long_factor": [float(f"{x:.7g}") for x in long],
            "short_factor": [float(f"{x:.7g}") for x in short],
        }
    return config


def _gemma(facts: _Facts, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of Gemma 2 and 3. The attention scale follows llama.cpp's code: the largest model differs."""
    second = facts.architecture == "gemma2"
    largest = config["num_hidden_layers"] == (46 if second else 62)
    width_of_head = config["hidden_size"] // config["num_attention_heads"]
    options: dict[str, Any] = {
        "query_pre_attn_scalar": width_of_head if largest else config["head_dim"],
        "sliding_window": facts.get("attention.sliding_window", 4096 if second else 1024),
    }
    if second:
        options["attn_logit_softcapping"] = float(facts.get("attn_logit_softcapping", 50.0))
        options["final_logit_softcapping"] = float(facts.get("final_logit_softcapping", 30.0))
        return options
    if facts.get("final_logit_softcapping"):
        options["final_logit_softcapping"] = float(facts.get("final_logit_softcapping"))
    options["rope_theta"] = float(facts.get("rope.freq_base", 1_000_000.0))
    options["rope_local_base_freq"] = 10_000.0
    if facts.get("rope.scaling.type", "none") == "linear":
        options["rope_scaling"] = {"rope_type": "linear", "factor": float(facts.need("rope.scaling.factor"))}
    return options
