"""Conversion of a Hugging Face `config.json` to a decoder's `Config`, family by family.

Configurations written by transformers 4.x and 5.x are both read; an attribute that is absent has the default that
transformers gives it. `reader` decides about attributes that no family reads.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vatjax import errors, names
from vatjax.models import rope
from vatjax.models.config import Activation, Config, Rope
from vatjax.models.config_reader import Reader, describe_number, is_positive, unimplemented_attributes

# Known options of rotary positions; the effect of any other is unknown.
_ROPE_OPTIONS = frozenset(
    [
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "factor",
        "high_freq_factor",
        "long_factor",
        "low_freq_factor",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_theta",
        "rope_type",
        "short_factor",
        "truncate",
        "type",
    ]
)

# A damaged number must not decide the size of everything.
_MOST_LAYERS, _MOST_HEAD_SIZE = 10_000, 8192


def content_of(folder: Path | str, ignore: Sequence[str] = ()) -> tuple[dict[str, Any], bool]:
    """Returns the configuration in a folder as plain data, and whether it is the text decoder's of a model with pictures.

    Args:
        folder: of the checkpoint.
        ignore: attributes to leave out.

    Raises:
        InputError: lists everything that is wrong, or not implemented.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.InputError(f"{folder}: no config.json there, so it is not a checkpoint") from None
    except (ValueError, RecursionError) as error:
        raise errors.InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise errors.InputError(f"{path}: expected an object with a model_type")
    if not isinstance(content.get("model_type", ""), str):
        raise errors.InputError(f"{path}: model_type: expected a text, found {names.short_repr(content['model_type'])}")
    nested = content.get("model_type") in NESTED
    content = _text_of(content, str(path))
    for name in ignore:
        if name not in content:
            raise errors.InputError(f"{path}: ignore: {names.unknown_name('attribute', name, list(content))}")
    return {name: value for name, value in content.items() if name not in ignore}, nested


def as_text(content: Mapping[str, Any]) -> str:
    """Returns a configuration as the text of a `config.json`."""
    return json.dumps(content, indent=2) + "\n"


def read_config(folder: Path | str, ignore: Sequence[str] = (), context: int = 0) -> Config:
    """Reads the configuration in a folder; arguments as in `content_of` and `parse`.

    Raises:
        InputError: lists everything that is wrong, or not implemented.
    """
    return parse(content_of(folder, ignore)[0], str(Path(folder) / "config.json"), context)


def _text_of(content: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns the text decoder's configuration if it is nested next to that of pictures, else the content itself."""
    outer, nested = content.get("model_type"), content.get("text_config")
    if outer not in NESTED or not isinstance(nested, dict):
        return content
    inherited = {
        key: content[key] for key in ("torch_dtype", "dtype", "eos_token_id", "bos_token_id") if key in content
    }
    tied = {"tie_word_embeddings": content["tie_word_embeddings"]} if "tie_word_embeddings" in content else {}
    family = nested.get("model_type", NESTED[outer])
    if family not in FAMILIES:
        raise errors.InputError(f"{path}: text_config: {names.unknown_name('model_type', family, list(FAMILIES))}")
    return {**inherited, **nested, **tied, "model_type": family}


def parse(content: Mapping[str, Any], path: str = "config.json", context: int = 0) -> Config:
    """Parses a configuration from plain data.

    Args:
        content: of a `config.json`.
        path: names the file in messages.
        context: the longest text that will be read, in tokens; by default as long as the model's usual rotary positions
            allow.
    """
    family = str(content.get("model_type"))
    if family not in FAMILIES:
        raise errors.InputError(f"{path}: {names.unknown_name('model_type', family, list(FAMILIES))}")
    reader = Reader(content, context)
    config = FAMILIES[family](reader)
    problems = reader.problems + unimplemented_attributes(reader)
    if problems:
        raise errors.InputError("\n  ".join([f"{path}: this {family} configuration can't be run:", *problems]))
    if context > config.context:
        raise errors.InputError(f"{path}: context: the model reads {config.context:,} tokens, found {context:,}")
    return config


# Shared by all families ---------------------------------------------------------------------------------------------


def _shape(reader: Reader, kv_heads: int | None = None, head_size: int | None = None) -> dict[str, Any]:
    """Reads the lengths, which all families name alike; `kv_heads` and `head_size` are the family's defaults."""
    width, heads = reader.number("hidden_size"), reader.number("num_attention_heads")
    kv_heads = reader.optional("num_key_value_heads", kv_heads) or heads
    size = reader.optional("head_dim", head_size)
    if heads % kv_heads:
        reader.problems.append(f"num_key_value_heads: {heads} heads can't share {kv_heads} of them evenly")
    if size is None and width % heads:
        reader.problems.append(f"hidden_size: {width} is not a multiple of {heads} heads, and head_dim is missing")
    size = size or max(1, width // heads)
    if size > _MOST_HEAD_SIZE:
        reader.problems.append(f"head_dim: expected {_MOST_HEAD_SIZE:,} at most, found {size:,}")
        size = 2
    if size % 2:
        reader.problems.append(f"head_dim: the {size} dimensions of a head can't turn in pairs")
    return {
        "family": reader.content["model_type"],
        "vocabulary": reader.number("vocab_size"),
        "width": width,
        "layers": _layers(reader),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": size,
        "hidden": reader.number("intermediate_size"),
        "context": reader.number("max_position_embeddings"),
        "norm_epsilon": reader.number("rms_norm_eps", whole=False),
    }


def _layers(reader: Reader) -> int:
    layers: int = reader.number("num_hidden_layers")
    if layers > _MOST_LAYERS:
        reader.problems.append(f"num_hidden_layers: expected {_MOST_LAYERS:,} at most, found {layers:,}")
        return 1
    return layers


# Options that each type of rotary positions needs.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}


def _rope(reader: Reader, size: int, options: Mapping[str, Any], context: int, part: float = 1.0) -> Rope:
    """Builds one kind of rotary positions.

    Args:
        reader: collects problems.
        size: dimensions of a head.
        options: of 4.x (`rope_scaling`) or 5.x (`rope_parameters`), with `rope_theta` among them.
        context: of the model.
        part: the share of the dimensions that turns.
    """
    kind = options.get("rope_type", options.get("type", "default"))
    options = {"original_max_position_embeddings": context, **options}
    problems = _rope_problems(kind, options, int(size * part) // 2)
    if problems:
        reader.problems += problems
        return Rope((0.0,) * (size // 2))
    theta, size = float(options["rope_theta"]), int(size * part)
    try:
        if kind == "default":
            return Rope(tuple(float(f) for f in rope.base_frequencies(theta, size)))
        if kind == "longrope":
            return rope.longrope(theta, size, options, context, reader.context)
        return {"linear": rope.linear, "llama3": rope.llama3, "yarn": rope.yarn}[kind](theta, size, options)
    except ArithmeticError:  # a logarithm of 1 in a denominator
        reader.problems.append(f"rope of type {kind}: frequencies cannot be computed from {options!r}")
        return Rope((0.0,) * (size // 2))


def _rope_problems(kind: Any, options: Mapping[str, Any], pairs: int) -> list[str]:
    if not isinstance(kind, str) or kind not in _NEEDED:
        return [f"rope_type: {names.unknown_name('rope type', str(kind), list(_NEEDED))}"]
    given = {key: value for key, value in options.items() if value is not None}
    strange = sorted(set(given) - _ROPE_OPTIONS)
    problems = [f"rope options: {', '.join(strange)} is not known to this port"] if strange else []
    if kind == "llama3" and given.get("low_freq_factor") == given.get("high_freq_factor"):
        problems.append("rope of type llama3: low_freq_factor and high_freq_factor must differ")
    lacking = [key for key in (*_NEEDED[kind], "rope_theta") if key not in given]
    if lacking:
        problems.append(f"rope of type {kind}: {', '.join(lacking)} is missing")
    for key, value in given.items():
        if key in ("short_factor", "long_factor"):
            fits = isinstance(value, list) and len(value) == pairs and all(is_positive(x, whole=False) for x in value)
            expected = f"{pairs} factors"
        elif key in ("rope_type", "type", "truncate"):
            continue
        else:
            fits, expected = is_positive(value, whole=False), describe_number(whole=False)
        if not fits and key in _ROPE_OPTIONS:
            problems.append(f"rope options: {key}: expected {expected}, found {value!r}")
    return problems


def _rope_options(reader: Reader, theta: float) -> dict[str, Any]:
    """Reads the options of 4.x (`rope_scaling`) before those of 5.x (`rope_parameters`), as transformers does."""
    scaling, parameters = reader.mapping("rope_scaling"), reader.mapping("rope_parameters")
    return {"rope_theta": reader.number("rope_theta", theta, whole=False), **(scaling or parameters)}


def _one_rope(reader: Reader, shape: Mapping[str, Any], theta: float = 10_000.0) -> dict[str, Any]:
    """Returns the same rotary positions for every layer, in all dimensions of a head."""
    options = _rope_options(reader, theta)
    for place, part in (
        ("partial_rotary_factor", reader.get("partial_rotary_factor")),
        ("rope options: partial_rotary_factor", options.pop("partial_rotary_factor", None)),
    ):
        if part not in (None, 1):
            reader.problems.append(f"{place}: {part!r} is not implemented for this family (which dimensions turn)")
    rotary = _rope(reader, shape["head_size"], options, shape["context"])
    return {"ropes": (rotary,), "rope_of": (0,) * shape["layers"]}


def _windows(reader: Reader, layers: int, otherwise: Callable[[int], bool], window: int | None) -> tuple[int, ...]:
    """Returns each layer's window, from `layer_types` where 5.x wrote them, else by the family's rule."""
    kinds = reader.sequence("layer_types", layers) or [
        "sliding_attention" if window and otherwise(layer) else "full_attention" for layer in range(layers)
    ]
    unknown = sorted({str(kind) for kind in kinds} - {"sliding_attention", "full_attention"})
    if unknown:
        reader.problems.append(f"layer_types: {', '.join(unknown)} is not implemented (another kind of attention)")
    if "sliding_attention" in kinds and not window:
        reader.problems.append("layer_types: sliding_attention needs a sliding_window")
    return tuple(window or 0 if kind == "sliding_attention" else 0 for kind in kinds)


def _scale(shape: Mapping[str, Any]) -> float:
    return 1.0 / math.sqrt(shape["head_size"])


# The families -------------------------------------------------------------------------------------------------------


def _llama(reader: Reader) -> Config:
    """Reads Llama 2, 3, 3.1, 3.2 and SmolLM2: the plain form."""
    shape = _shape(reader)
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=(0,) * shape["layers"],
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=reader.flag("mlp_bias", False),
        tied=reader.flag("tie_word_embeddings", False),
    )


def _mistral(reader: Reader) -> Config:
    """Reads Mistral: every layer looks back over one window, if there is one."""
    shape = _shape(reader, kv_heads=8)
    window = reader.optional("sliding_window", 4096)
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=_windows(reader, shape["layers"], lambda _: True, window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        tied=reader.flag("tie_word_embeddings", False),
    )


def _qwen(reader: Reader, head_norm: bool) -> Config:
    """Reads Qwen 2, 2.5 with a bias on queries, keys and values, or Qwen 3, which norms queries and keys instead."""
    shape = _shape(reader, kv_heads=32, head_size=128 if head_norm else None)
    window = reader.optional("sliding_window", 4096)
    window = window if reader.flag("use_sliding_window", False) else None
    first = reader.get("max_window_layers", 28)
    if not isinstance(first, int):
        reader.problems.append(f"max_window_layers: expected a whole number, found {first!r}")
        first = 0
    bias = reader.flag("attention_bias", False) if head_norm else False
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=_windows(reader, shape["layers"], lambda layer: layer >= first, window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        head_norm="each" if head_norm else "none",
        qkv_bias=bias if head_norm else True,
        output_bias=bias,
        tied=reader.flag("tie_word_embeddings", False),
    )


def _gemma2(reader: Reader) -> Config:
    """Reads Gemma 2: soft caps, windows in every second layer, norms before and after each block, scaled embeddings."""
    shape = _shape(reader, kv_heads=4, head_size=256)
    bias = reader.flag("attention_bias", False)
    window = reader.number("sliding_window", 4096)
    if reader.get("sliding_window_size", window) != window:  # some files say it twice
        reader.problems.append(f"sliding_window_size: differs from sliding_window, {window}")
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=_windows(reader, shape["layers"], lambda layer: layer % 2 == 0, window),
        attention_scale=float(reader.number("query_pre_attn_scalar", 256, whole=False)) ** -0.5,
        activation=_gemma_activation(reader),
        norm_offset=1.0,
        norm_wide=True,
        post_norm=True,
        qkv_bias=bias,
        output_bias=bias,
        attention_cap=float(reader.optional("attn_logit_softcapping", 50.0, whole=False) or 0),
        logit_cap=float(reader.optional("final_logit_softcapping", 30.0, whole=False) or 0),
        embedding_scale=math.sqrt(shape["width"]),
        embedding_scale_rounded=True,
        tied=reader.flag("tie_word_embeddings", True),
    )


def _gemma3(reader: Reader) -> Config:
    """Reads Gemma 3: five layers with a window to one without, which has another rotary base."""
    shape = _shape(reader, kv_heads=4, head_size=256)
    layers, size = shape["layers"], shape["head_size"]
    every = reader.number("sliding_window_pattern", 6)
    windows = _windows(reader, layers, lambda layer: (layer + 1) % every != 0, reader.number("sliding_window", 4096))
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        ropes=tuple(_rope(reader, size, options, shape["context"]) for options in _gemma3_ropes(reader)),
        rope_of=tuple(int(window > 0) for window in windows),
        windows=windows,
        attention_scale=float(reader.number("query_pre_attn_scalar", 256, whole=False)) ** -0.5,
        activation=_gemma_activation(reader),
        norm_offset=1.0,
        norm_wide=True,
        post_norm=True,
        head_norm="each",
        qkv_bias=bias,
        output_bias=bias,
        logit_cap=float(reader.optional("final_logit_softcapping", whole=False) or 0),
        embedding_scale=math.sqrt(shape["width"]),
        embedding_scale_rounded=True,
        tied=reader.flag("tie_word_embeddings", True),
    )


def _gemma3_ropes(reader: Reader) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads rope options of layers without a window, and with one: 5.x nests them, 4.x scales the first kind."""
    return _ropes_by_kind(reader, 1e6, reader.number("rope_local_base_freq", 1e4, whole=False))


def _ropes_by_kind(reader: Reader, theta: float, near_theta: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads rope options of layers without a window, and with one, from nested options or from those of all layers."""
    nested, scaling = reader.mapping("rope_parameters"), reader.mapping("rope_scaling")
    stray = sorted(set(nested) - {"full_attention", "sliding_attention"})
    if stray:
        reader.problems.append(f"rope_parameters: {', '.join(stray)} is not a kind of layer of this family")
    parts = {}
    for kind in ("full_attention", "sliding_attention"):
        part = nested.get(kind)
        if part is not None and not isinstance(part, dict):
            reader.problems.append(f"rope_parameters: {kind}: expected options by name, found {part!r}")
        parts[kind] = part if isinstance(part, dict) else {}
    full = {"rope_theta": reader.number("rope_theta", theta, whole=False), **scaling, **parts["full_attention"]}
    near = {"rope_theta": near_theta, **parts["sliding_attention"]}
    return full, near


def _gemma_activation(reader: Reader) -> Activation:
    """Reads `hidden_activation`; early files say `hidden_act: gelu` and mean the tanh form."""
    reader.seen.add("hidden_act")
    return reader.activation("hidden_activation", "gelu_pytorch_tanh")


def _olmo2(reader: Reader) -> Config:
    """Reads OLMo 2: norms after each block instead of before, and over all queries and all keys as one vector."""
    shape = _shape(reader)
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=(0,) * shape["layers"],
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        norm_wide=True,
        pre_norm=False,
        post_norm=True,
        head_norm="whole",
        qkv_bias=bias,
        output_bias=bias,
        tied=reader.flag("tie_word_embeddings", False),
    )


def _phi3(reader: Reader) -> Config:
    """Reads Phi 3: fused projections, which loading splits; partial rotation in some heads; factors for long texts."""
    shape = _shape(reader)
    options = _rope_options(reader, 10_000.0)
    kind = options.pop("type", None)
    kind = options.pop("rope_type", kind)
    if kind in ("su", "yarn"):  # earlier names of the same
        kind = "longrope"
    options["rope_type"] = "default" if kind is None else kind
    part = options.pop("partial_rotary_factor", reader.optional("partial_rotary_factor", 1.0, whole=False))
    reader.seen.add("partial_rotary_factor")
    part = 1.0 if part is None else part
    if not is_positive(part, whole=False) or part > 1:
        reader.problems.append(f"partial_rotary_factor: expected a number above 0 and up to 1, found {part!r}")
        part = 1.0
    options["original_max_position_embeddings"] = reader.number("original_max_position_embeddings", 4096)
    window = reader.optional("sliding_window")
    ropes = (_rope(reader, shape["head_size"], options, shape["context"], part),)
    if kind == "longrope" and reader.context <= options["original_max_position_embeddings"]:
        shape["context"] = min(shape["context"], options["original_max_position_embeddings"])
    return Config(
        **shape,
        ropes=ropes,
        rope_of=(0,) * shape["layers"],
        windows=_windows(reader, shape["layers"], lambda _: True, window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        tied=reader.flag("tie_word_embeddings", False),
    )


def _smollm3(reader: Reader) -> Config:
    """Reads SmolLM3: every fourth layer has no positions at all."""
    shape = _shape(reader, kv_heads=4)
    layers = shape["layers"]
    every = reader.number("no_rope_layer_interval", 4)
    turned = reader.sequence("no_rope_layers", layers) or [int((layer + 1) % every != 0) for layer in range(layers)]
    if any(entry not in (0, 1) or isinstance(entry, bool) for entry in turned):
        reader.problems.append(f"no_rope_layers: expected 0 and 1, found {turned!r}")
    window = reader.optional("sliding_window")
    used = reader.flag("use_sliding_window", False)
    if window and not used and "sliding_attention" in (reader.get("layer_types") or []):
        reader.problems.append("layer_types: sliding_attention, and use_sliding_window is false")
    window = window if used else None
    reader.seen.add("max_window_layers")
    rotary = _one_rope(reader, shape, 2_000_000.0)["ropes"][0]
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        ropes=(rotary, Rope((0.0,) * len(rotary.frequencies))),
        rope_of=tuple(0 if yes else 1 for yes in turned),
        windows=_windows(reader, layers, lambda layer: not turned[layer], window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=reader.flag("mlp_bias", False),
        tied=reader.flag("tie_word_embeddings", True),
    )


def _olmo3(reader: Reader) -> Config:
    """Reads OLMo 3: OLMo 2 with a window in three layers of four; only the others have scaled rotary positions."""
    inner = Reader({k: v for k, v in reader.content.items() if k not in ("rope_parameters", "rope_scaling")})
    plain = _olmo2(inner)
    shape = _shape(reader)
    reader.problems += [problem for problem in inner.problems if problem not in reader.problems]
    reader.seen |= {"attention_bias", "hidden_act", "tie_word_embeddings"}
    window = reader.optional("sliding_window", 4096)
    windows = _windows(reader, shape["layers"], lambda layer: (layer + 1) % 4 != 0, window)
    ropes = _ropes_by_kind(reader, 5e5, reader.number("rope_theta", 5e5, whole=False))
    return dataclasses.replace(
        plain,
        ropes=tuple(_rope(reader, shape["head_size"], options, shape["context"]) for options in ropes),
        rope_of=tuple(int(window > 0) for window in windows),
        windows=windows,
    )


# Defaults of transformers.
_MINISTRAL3_ROPE: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _ministral3(reader: Reader) -> Config:
    """Reads Ministral 3: queries grow with the logarithm of their position, and the context ends where that begins."""
    shape = _shape(reader, kv_heads=8, head_size=128)
    options = _rope_options(reader, 1e6)
    if len(options) == 1:  # nothing but a base
        options |= _MINISTRAL3_ROPE
    options.pop("max_position_embeddings", None)  # transformers writes it there once more
    if options.pop("llama_4_scaling_beta", None):
        shape["context"] = min(shape["context"], int(options.get("original_max_position_embeddings", 16384)))
    window = reader.optional("sliding_window")
    return Config(
        **shape,
        ropes=(_rope(reader, shape["head_size"], options, reader.number("max_position_embeddings")),),
        rope_of=(0,) * shape["layers"],
        windows=_windows(reader, shape["layers"], lambda _: True, window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        tied=reader.flag("tie_word_embeddings", False),
    )


def _granite(reader: Reader) -> Config:
    """Reads Granite: Llama with factors on embeddings, block outputs and attention, and one that divides the logits."""
    return dataclasses.replace(
        _llama(reader),
        attention_scale=float(reader.number("attention_multiplier", 1.0, whole=False)),
        embedding_scale=float(reader.number("embedding_multiplier", 1.0, whole=False)),
        residual_scale=float(reader.number("residual_multiplier", 1.0, whole=False)),
        logit_scale=1.0 / float(reader.number("logits_scaling", 1.0, whole=False)),
    )


FAMILIES: dict[str, Callable[[Reader], Config]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": lambda reader: _qwen(reader, head_norm=False),
    "qwen3": lambda reader: _qwen(reader, head_norm=True),
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "smollm3": _smollm3,
    "granite": _granite,
    "olmo3": _olmo3,
    "ministral3": _ministral3,
}
# Models of text and pictures -> the family of their text decoder, where the nested configuration does not name it.
NESTED: dict[str, str] = {"gemma3": "gemma3_text", "mistral3": "mistral"}


def register_family(model_type: str, read: Callable[[Reader], Config]) -> None:
    """Registers a family for the running process: a function that reads its configuration, as those in this file do.

    Args:
        model_type: as `config.json` names it.
        read: maps a `Reader` to the `Config` of the decoder; attributes that it does not read are refused.

    Raises:
        ValueError: for a family that is registered already.
    """
    if model_type in FAMILIES:
        raise ValueError(f"the family {model_type!r} is registered already")
    FAMILIES[model_type] = read
