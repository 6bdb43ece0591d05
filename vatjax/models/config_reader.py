"""Reader of a configuration as plain data: records attributes that were read, problems, and unread attributes.

Every attribute is either read by a family, or on a written list of those without an effect on logits, or holds the one
value at which it has none; anything else is refused by name, since a quirk that is silently left out gives wrong
numbers and no error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vatjax import names
from vatjax.models.config import Activation

# Attributes that change no logit: names, versions, files, tokens, how to sample, how to train.
HARMLESS = frozenset(
    [
        "_attn_implementation_autoset",
        "_name_or_path",
        "_sliding_window_pattern",
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
        "max_sequence_length",
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
        "use_reentrant",
        "use_cache",
    ]
)

# Endings of attributes that name a token or where a file came from.
_NAMES_TOKENS_AND_PATHS = ("_token_id", "_token_ids", "_token_index", "name_or_path")

# Attributes without an effect on logits at these values, and what any other value would change.
NEUTRAL_VALUES: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "add_cross_attention": ((False,), "attention to a second text"),
    "is_encoder_decoder": ((False,), "an encoder"),
    "pruned_heads": (({}, None), "which heads there are"),
    "tie_encoder_decoder": ((False,), "an encoder's weights"),
    "use_bidirectional_attention": ((False, None), "tokens would see those after them"),
    "quantization_config": ((), "weights are stored in another form"),
    "full_attn_mod": ((1,), "which layers see everything"),
    "interpolate_factor": ((1,), "how far positions are apart"),
    "lm_head_bias": ((False,), "a bias on the logits"),
    "mlp_bias": ((False,), "a bias in the MLP"),
    "attention_bias": ((False,), "which projections have a bias"),
    "rope_interleaved": ((False,), "which dimensions of a head turn together"),
    "use_mrope": ((False,), "positions in more than one dimension"),
}

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


class Reader:
    """A reader of a configuration, which records the attributes that were read and collects problems.

    Args:
        content: of a `config.json`.
        context: the longest text that will be read; 0 if none is given.
    """

    def __init__(self, content: Mapping[str, Any], context: int = 0) -> None:
        self.content, self.context = content, context
        self.seen: set[str] = set()
        self.problems: list[str] = []

    def get(self, name: str, absent: Any = None) -> Any:
        """Returns an attribute as it stands, null included; the default only if the key is absent."""
        self.seen.add(name)
        return self.content.get(name, absent)

    def number(self, name: str, absent: Any = None, whole: bool = True) -> Any:
        """Returns a positive number; without a default it must be present."""
        value = self.get(name, absent)
        if value is None and name not in self.content:
            self.problems.append(f"{name} is missing")
        elif is_positive(value, whole):
            return value
        else:
            self.problems.append(f"{name}: expected {describe_number(whole)}, found {value!r}")
        return 1

    def optional(self, name: str, absent: Any = None, whole: bool = True) -> Any:
        """Returns a positive number, or None if it is null."""
        value = self.get(name, absent)
        return None if value is None else self.number(name, absent, whole)

    def flag(self, name: str, absent: bool) -> bool:
        """Returns a truth value."""
        value = self.get(name, absent)
        if not isinstance(value, bool):
            self.problems.append(f"{name}: expected true or false, found {value!r}")
        return value is True

    def mapping(self, name: str) -> dict[str, Any]:
        """Returns options by name; null and absent count as empty."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            self.problems.append(f"{name}: expected options by name, found {value!r}")
        return dict(value) if isinstance(value, dict) else {}

    def sequence(self, name: str, length: int) -> list[Any] | None:
        """Returns one entry for each layer; None if there are none."""
        value = self.get(name)
        if value is None or value == []:
            return None
        if not isinstance(value, list) or len(value) != length:
            actual = len(value) if isinstance(value, list) else repr(value)
            self.problems.append(f"{name}: expected a list of {length}, one entry a layer, found {actual}")
            return None
        return value

    def activation(self, name: str, absent: str) -> Activation:
        """Returns the MLP's activation function."""
        value = self.get(name, absent)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            self.problems.append(f"{name}: {value!r} is not implemented; the port has {names.short_list(_ACTIVATIONS)}")
            return "silu"
        return _ACTIVATIONS[value]


def is_positive(value: Any, whole: bool) -> bool:
    """Returns True if a value is a number above 0 and below 2^31."""
    number = isinstance(value, int) or (isinstance(value, float) and not whole and math.isfinite(value))
    return number and not isinstance(value, bool) and 0 < value < 2**31


def describe_number(whole: bool) -> str:
    """Returns the expected kind of number, in words."""
    return "a positive whole number" if whole else "a positive number"


def unimplemented_attributes(reader: Reader) -> list[str]:
    """Returns messages about attributes that the port does not implement, by name."""
    messages = []
    for name, value in reader.content.items():
        if value is None or name in reader.seen or name in HARMLESS or name.endswith(_NAMES_TOKENS_AND_PATHS):
            continue
        if name in NEUTRAL_VALUES:
            allowed, change = NEUTRAL_VALUES[name]
            if value not in allowed:
                messages.append(f"{name}: {value!r} is not implemented ({change})")
        else:
            messages.append(f"{name}: {value!r} is not known to this port, so it might change the logits")
    return messages
