"""From a Hugging Face `config.json` to what the port computes, family by family.

A configuration is parsed as plain data, written by transformers 4.x or 5.x. Every attribute is either implemented, or on
a written list of those without an effect on logits, or holds the one value at which it has none; anything else is refused
by name, since a quirk that is silently left out gives wrong numbers and no error.
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

# Attributes that change no logit: names, versions, files, tokens, how to sample, how to train.
HARMLESS = frozenset(
    [
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_llama_config",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    ]
)

# Attributes that change logits only where they hold another value than one of these, and what they would change.
ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "add_cross_attention": ((False,), "attention to a second text"),
    "is_encoder_decoder": ((False,), "an encoder"),
    "pruned_heads": (({}, None), "which heads there are"),
    "tie_encoder_decoder": ((False,), "an encoder's weights"),
    "use_bidirectional_attention": ((False, None), "tokens would see those after them"),
    "quantization_config": ((), "weights are stored in another form"),
    "attention_bias": ((False,), "which projections have a bias"),
    "rope_interleaved": ((False,), "which dimensions of a head turn together"),
    "use_mrope": ((False,), "positions in more than one dimension"),
}

# What the options of rotary positions may say; of any other it is not known what it does.
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

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


class Reader:
    """Reads a configuration, notes what was read, and collects what is wrong with it."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.seen: set[str] = set()
        self.problems: list[str] = []

    def get(self, name: str, otherwise: Any = None) -> Any:
        """An attribute, or a default where it is absent or null."""
        self.seen.add(name)
        value = self.content.get(name)
        return otherwise if value is None else value

    def number(self, name: str, otherwise: float | None = None, whole: bool = True) -> Any:
        """A positive number; without a default it must be there."""
        value = self.get(name, otherwise)
        fits = isinstance(value, int) or (isinstance(value, float) and not whole and math.isfinite(value))
        if value is None:
            self.problems.append(f"{name} is missing")
        elif isinstance(value, bool) or not fits or value <= 0:
            kind = "a positive whole number" if whole else "a positive number"
            self.problems.append(f"{name}: expected {kind}, found {value!r}")
        else:
            return value
        return 1

    def flag(self, name: str, otherwise: bool) -> bool:
        """A truth value."""
        value = self.get(name, otherwise)
        if not isinstance(value, bool):
            self.problems.append(f"{name}: expected true or false, found {value!r}")
        return bool(value)

    def activation(self, name: str, otherwise: str) -> Activation:
        """The MLP's activation."""
        value = self.get(name, otherwise)
        if value not in _ACTIVATIONS:
            self.problems.append(f"{name}: {value!r} is not implemented; the port has {names.listed(_ACTIVATIONS)}")
        return _ACTIVATIONS.get(value, "silu")


def read(folder: Path | str) -> Config:
    """Reads the configuration in a folder.

    Raises:
        InputError: with everything that is wrong, or not implemented.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.InputError(f"{folder}: no config.json there, so it is no checkpoint") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise errors.InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise errors.InputError(f"{path}: expected an object with a model_type")
    return parse(content, str(path))


def parse(content: Mapping[str, Any], where: str = "config.json") -> Config:
    """A configuration from plain data; `where` stands in messages."""
    family = str(content.get("model_type"))
    if family not in FAMILIES:
        raise errors.InputError(f"{where}: {names.unknown('model_type', family, list(FAMILIES))}")
    reader = Reader(content)
    config = FAMILIES[family](reader)
    problems = reader.problems + _refused(reader)
    if problems:
        raise errors.InputError("\n  ".join([f"{where}: this {family} configuration can't be run:", *problems]))
    return config


def _refused(reader: Reader) -> list[str]:
    """Attributes that the port does not implement, by name."""
    refused = []
    for name, value in reader.content.items():
        if value is None or name in reader.seen or name in HARMLESS:
            continue
        if name in ONLY:
            allowed, change = ONLY[name]
            if value not in allowed:
                refused.append(f"{name}: {value!r} is not implemented ({change})")
        else:
            refused.append(f"{name}: {value!r} is not known to this port, so it might change the logits")
    return refused


# What all families share --------------------------------------------------------------------------------------------


def _shape(reader: Reader) -> dict[str, Any]:
    """Lengths, which every family has under the same names."""
    width, heads = reader.number("hidden_size"), reader.number("num_attention_heads")
    kv_heads = reader.number("num_key_value_heads", heads)
    if heads % kv_heads:
        reader.problems.append(f"num_key_value_heads: {heads} heads can't share {kv_heads} of them evenly")
    if reader.get("head_dim") is None and width % heads:
        reader.problems.append(f"hidden_size: {width} is no multiple of {heads} heads, and there is no head_dim")
    return {
        "family": reader.content["model_type"],
        "vocabulary": reader.number("vocab_size"),
        "width": width,
        "layers": reader.number("num_hidden_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": reader.number("head_dim", max(1, width // heads)),
        "hidden": reader.number("intermediate_size"),
        "context": reader.number("max_position_embeddings"),
        "norm_epsilon": reader.number("rms_norm_eps", whole=False),
    }


def _rope(reader: Reader, size: int, theta: float, options: Mapping[str, Any] | None, context: int) -> Rope:
    """One kind of rotary positions, from the options of 4.x (`rope_scaling`) or 5.x (`rope_parameters`)."""
    options = dict(options or {})
    kind = options.get("rope_type", options.get("type", "default"))
    theta = float(options.get("rope_theta", theta))
    size = int(size * options.get("partial_rotary_factor", 1.0))
    options.setdefault("original_max_position_embeddings", context)
    strange = sorted(key for key in set(options) - _ROPE_OPTIONS if options[key] is not None)
    if strange:
        reader.problems.append(f"rope options: {', '.join(strange)} is not known to this port")
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
        "yarn": ("factor",),
        "longrope": ("short_factor", "long_factor"),
    }
    if kind not in needed:
        reader.problems.append(f"rope_type: {names.unknown('rope type', str(kind), list(needed))}")
        return Rope((0.0,) * (size // 2))
    lacking = [key for key in needed[kind] if options.get(key) is None]
    if lacking:
        reader.problems.append(f"rope of type {kind}: {', '.join(lacking)} is missing")
        return Rope((0.0,) * (size // 2))
    for key in ("short_factor", "long_factor"):
        if kind == "longrope" and len(options[key]) != size // 2:
            reader.problems.append(f"{key}: expected {size // 2} factors, found {len(options[key])}")
            return Rope((0.0,) * (size // 2))
    if kind == "default":
        return Rope(tuple(float(f) for f in rope.plain(theta, size)))
    if kind == "longrope":
        return rope.longrope(theta, size, options, context)
    return {"linear": rope.linear, "llama3": rope.llama3, "yarn": rope.yarn}[kind](theta, size, options)


def _one_rope(reader: Reader, shape: Mapping[str, Any], theta: float = 10_000.0) -> dict[str, Any]:
    """The same rotary positions in every layer."""
    own = reader.get("rope_parameters") or reader.get("rope_scaling") or {}
    reader.seen |= {"rope_scaling"}
    options = {"rope_theta": reader.get("rope_theta", theta), **own}
    found = _rope(reader, shape["head_size"], theta, options, shape["context"])
    return {"ropes": (found,), "rope_of": (0,) * shape["layers"]}


def _windows(reader: Reader, layers: int, otherwise: Callable[[int], bool], window: int | None) -> tuple[int, ...]:
    """Each layer's window, from `layer_types` where 5.x wrote them, else by the family's rule."""
    kinds = reader.get("layer_types") or [
        "sliding_attention" if window and otherwise(layer) else "full_attention" for layer in range(layers)
    ]
    unknown = sorted(set(kinds) - {"sliding_attention", "full_attention"})
    if unknown:
        reader.problems.append(f"layer_types: {', '.join(unknown)} is not implemented (another kind of attention)")
    if len(kinds) != layers:
        reader.problems.append(f"layer_types: expected {layers}, one a layer, found {len(kinds)}")
    if "sliding_attention" in kinds and not window:
        reader.problems.append("layer_types: sliding_attention needs a sliding_window")
    return tuple(window or 0 if kind == "sliding_attention" else 0 for kind in kinds)


def _scale(shape: Mapping[str, Any]) -> float:
    return 1.0 / math.sqrt(shape["head_size"])


# The families -------------------------------------------------------------------------------------------------------


def _llama(reader: Reader) -> Config:
    """Llama 2, 3, 3.1, 3.2 and SmolLM2: the plain form."""
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
    """Every layer looks back over one window, where there is one."""
    shape = _shape(reader)
    window = reader.get("sliding_window")
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=_windows(reader, shape["layers"], lambda _: True, window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        tied=reader.flag("tie_word_embeddings", False),
    )


def _qwen(reader: Reader, head_norm: bool) -> Config:
    """Qwen 2, 2.5 have a bias on queries, keys and values; Qwen 3 norms queries and keys instead."""
    shape = _shape(reader)
    window = reader.get("sliding_window", 4096) if reader.flag("use_sliding_window", False) else None
    reader.seen.add("sliding_window")
    first = reader.get("max_window_layers", 28)
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
    """Soft caps, windows in every second layer, norms before and after each block, scaled embeddings."""
    shape = _shape(reader)
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=_windows(reader, shape["layers"], lambda layer: layer % 2 == 0, reader.get("sliding_window", 4096)),
        attention_scale=float(reader.number("query_pre_attn_scalar", 256, whole=False)) ** -0.5,
        activation=_gemma_activation(reader),
        norm_offset=1.0,
        post_norm=True,
        qkv_bias=bias,
        output_bias=bias,
        attention_cap=float(reader.get("attn_logit_softcapping", 0.0)),
        logit_cap=float(reader.get("final_logit_softcapping", 0.0)),
        embedding_scale=math.sqrt(shape["width"]),
        tied=reader.flag("tie_word_embeddings", True),
    )


def _gemma3(reader: Reader) -> Config:
    """Five layers with a window and slow rotary positions to one without, which turn by another base."""
    shape = _shape(reader)
    layers, size = shape["layers"], shape["head_size"]
    every = reader.get("sliding_window_pattern", reader.get("_sliding_window_pattern", 6))
    windows = _windows(reader, layers, lambda layer: (layer + 1) % every != 0, reader.get("sliding_window", 4096))
    nested = reader.get("rope_parameters") or {}
    scaling = reader.get("rope_scaling") or {}
    full = {"rope_theta": reader.get("rope_theta", 1e6), **scaling, **nested.get("full_attention", {})}
    near = {"rope_theta": reader.get("rope_local_base_freq", 1e4), **nested.get("sliding_attention", {})}
    stray = sorted(set(nested) - {"full_attention", "sliding_attention"})
    if stray:
        reader.problems.append(f"rope_parameters: {', '.join(stray)} is not a kind of layer of this family")
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        ropes=tuple(_rope(reader, size, 0.0, options, shape["context"]) for options in (full, near)),
        rope_of=tuple(int(window > 0) for window in windows),
        windows=windows,
        attention_scale=float(reader.number("query_pre_attn_scalar", 256, whole=False)) ** -0.5,
        activation=_gemma_activation(reader),
        norm_offset=1.0,
        post_norm=True,
        head_norm="each",
        qkv_bias=bias,
        output_bias=bias,
        attention_cap=float(reader.get("attn_logit_softcapping", 0.0)),
        logit_cap=float(reader.get("final_logit_softcapping", 0.0)),
        embedding_scale=math.sqrt(shape["width"]),
        tied=reader.flag("tie_word_embeddings", True),
    )


def _gemma_activation(reader: Reader) -> Activation:
    """`hidden_activation`; early files say `hidden_act: gelu` and mean the tanh form."""
    reader.seen.add("hidden_act")
    return reader.activation("hidden_activation", "gelu_pytorch_tanh")


def _olmo2(reader: Reader) -> Config:
    """Norms after each block instead of before, and over all queries and all keys as one vector."""
    shape = _shape(reader)
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        **_one_rope(reader, shape),
        windows=(0,) * shape["layers"],
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        pre_norm=False,
        post_norm=True,
        head_norm="whole",
        qkv_bias=bias,
        output_bias=bias,
        tied=reader.flag("tie_word_embeddings", False),
    )


def _phi3(reader: Reader) -> Config:
    """Fused projections, which loading takes apart; some heads turn in part; long texts have factors of their own."""
    shape = _shape(reader)
    own = dict(reader.get("rope_parameters") or reader.get("rope_scaling") or {})
    reader.seen |= {"rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
    if own.get("rope_type", own.get("type")) in ("su", "yarn"):  # earlier names of the same
        own["rope_type"] = "longrope"
    options = {
        "rope_theta": reader.get("rope_theta", 10_000.0),
        "partial_rotary_factor": reader.get("partial_rotary_factor", 1.0),
        **own,
        "original_max_position_embeddings": reader.get("original_max_position_embeddings", 4096),
    }
    window = reader.get("sliding_window")
    return Config(
        **shape,
        ropes=(_rope(reader, shape["head_size"], 10_000.0, options, shape["context"]),),
        rope_of=(0,) * shape["layers"],
        windows=_windows(reader, shape["layers"], lambda _: True, window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        qkv_bias=False,
        tied=reader.flag("tie_word_embeddings", False),
    )


def _smollm3(reader: Reader) -> Config:
    """Every fourth layer has no positions at all."""
    shape = _shape(reader)
    layers = shape["layers"]
    every = reader.get("no_rope_layer_interval", 4)
    turned: Sequence[Any] = reader.get("no_rope_layers") or [int((layer + 1) % every != 0) for layer in range(layers)]
    if len(turned) != layers:
        reader.problems.append(f"no_rope_layers: expected {layers}, one a layer, found {len(turned)}")
    window = reader.get("sliding_window") if reader.flag("use_sliding_window", False) else None
    reader.seen |= {"sliding_window", "max_window_layers"}
    found = _one_rope(reader, shape, 2_000_000.0)["ropes"][0]
    bias = reader.flag("attention_bias", False)
    return Config(
        **shape,
        ropes=(found, Rope((0.0,) * len(found.frequencies))),
        rope_of=tuple(0 if yes else 1 for yes in turned),
        windows=_windows(reader, layers, lambda layer: not turned[layer], window),
        attention_scale=_scale(shape),
        activation=reader.activation("hidden_act", "silu"),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=reader.flag("mlp_bias", False),
        tied=reader.flag("tie_word_embeddings", True),
    )


def _granite(reader: Reader) -> Config:
    """Llama with four factors: on embeddings, on what blocks add, on attention, and one that divides the logits."""
    return dataclasses.replace(
        _llama(reader),
        attention_scale=float(reader.number("attention_multiplier", 1.0, whole=False)),
        embedding_scale=float(reader.number("embedding_multiplier", 1.0, whole=False)),
        residual_scale=float(reader.number("residual_multiplier", 1.0, whole=False)),
        logit_scale=1.0 / float(reader.number("logits_scaling", 1.0, whole=False)),
    )


FAMILIES: Mapping[str, Callable[[Reader], Config]] = {
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
}
