"""LoRA adapters in PEFT's layout, written and read: adapters trained here run under `peft`, and the other way round.

    adapter_config.json          rank, alpha, which projections
    adapter_model.safetensors    lora_A [rank, in] and lora_B [out, rank] of each projection in each layer

A change `s x A B` is written with alpha = rank, so that PEFT's own factor alpha / rank is 1, and s within B.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vatjax import errors, names, store
from vatjax.models import safetensors
from vatjax.models import weights as weights
from vatjax.models.config import Config
from vatjax.models.edit import PROJECTIONS, Edit, LowRank
from vatjax.models.safetensors import Pending, Tensor
from vatjax.runtime import processes

_PREFIX = "base_model.model."
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# Options without an effect on the two factors: names, versions, initialisation, training.
_HARMLESS = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    ]
)
# Options without an effect at these values. Initialisations that change the model's own weights are not listed.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
}


def save_adapter(edit: Edit, config: Config, path: store.Path, base: str = "") -> None:
    """Writes an edit's low-rank changes as a PEFT adapter.

    Args:
        edit: an edit with low-rank changes only.
        config: of the model that it changes.
        path: a folder, local or in a bucket; an existing adapter is replaced.
        base: the model's folder or name on the Hub, for PEFT to find it.

    Raises:
        InputError: for an edit that PEFT cannot represent.
    """
    other = [name for name in ("residual", "neurons", "gains") if getattr(edit, name) is not None]
    other += ["steps"] if edit.steps else []
    other += [f"{edit.positions} tokens alone"] if edit.positions != "all" else []
    if other or not edit.lora:
        contents = " and ".join(other) or "nothing"
        raise errors.InputError(f"a PEFT adapter holds low-rank changes alone; this edit has {contents}")
    if jnp.ndim(edit.strength):
        raise errors.InputError("an adapter is one edit; this is a stack of them")
    weights.check_edit(edit, config)
    edit = processes.fetch(edit)
    pending, ranks = [], {}
    for source, parts in _sources(config).items():
        chosen = [part for part in parts if part.name in edit.lora]
        if not chosen:
            continue
        module = source.removesuffix(".weight")
        ranks[module.rpartition(".")[2]] = sum(edit.lora[part.name].down.shape[-1] for part in chosen)
        for layer in range(config.layers):
            factors = _factors(edit, parts, chosen, layer)
            for name, factor in zip(_pair(_PREFIX + module.format(layer)), factors, strict=True):
                pending.append(Pending(name, factor.dtype, factor.shape, functools.partial(np.asarray, factor)))
    folder = store.path(path)
    if folder.exists() and not folder.is_dir():
        raise errors.InputError(f"{folder}: an adapter is a folder, and this is a file")
    for name in (_CONFIG, _WEIGHTS):  # new weights never meet an old configuration, and links are not followed
        store.remove_file(folder / name)
    safetensors.write(folder / _WEIGHTS, pending)
    most = max(ranks.values())
    pattern = {name: rank for name, rank in ranks.items() if rank != most}
    store.commit_json(
        folder / _CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base or None,
            "inference_mode": True,
            "r": most,
            "lora_alpha": most,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": sorted(ranks),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
        },
    )


def _sources(config: Config) -> dict[str, list[weights.Parameter]]:
    """Returns the checkpoint's projections, each with the parameters that it holds: several if a family fuses them."""
    projections: dict[str, list[weights.Parameter]] = {}
    for parameter in weights.parameters(config):
        if parameter.name in PROJECTIONS:
            projections.setdefault(parameter.source, []).append(parameter)
    return projections


def _factors(
    edit: Edit, parts: list[weights.Parameter], chosen: list[weights.Parameter], layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lora_A and lora_B of one module. Each part of a fused projection has its own ranks and its own rows."""
    downs, ups, row = [], [], 0
    total = sum(part.shape[1] for part in parts)
    for part in parts:
        size = part.shape[1]
        if part in chosen:
            change = edit.lora[part.name]
            downs.append(np.asarray(change.down[layer], np.float32).T)
            up = np.zeros((total, change.up.shape[-2]), np.float32)
            up[row : row + size] = np.asarray(change.up[layer] * edit.strength, np.float32).T
            ups.append(up)
        row += size
    return np.concatenate(downs), np.concatenate(ups, axis=1)


def load_adapter(path: str | Path, config: Config) -> Edit:
    """Reads a PEFT adapter as an edit of strength 1.

    Args:
        path: a local folder.
        config: of the model that the adapter is for.

    Raises:
        InputError: for a folder without an adapter, for options that this port does not implement, and for factors that
            are missing, surplus or do not fit the model.
    """
    folder = Path(path).expanduser()
    options = _options(folder)
    stored = safetensors.read_tensors(folder / _WEIGHTS)
    lora: dict[str, LowRank] = {}
    problems, known = [], set()
    for source, parts in _sources(config).items():
        place = _PREFIX + source.removesuffix(".weight")
        sizes = parts[0].shape[0], sum(part.shape[1] for part in parts)
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for layer in range(config.layers):
            pair = {name: stored.get(name) for name in _pair(place.format(layer))}
            known |= set(pair)
            down, up = pair.values()
            if down is not None and up is not None:
                pairs[layer] = down, up
            if down is not None or up is not None:
                rank = _by_module(options, "rank_pattern", options["r"], place.format(layer))
                problems += _misfits(folder, pair, *sizes, rank)
        if pairs and not problems:
            lora |= _stack(pairs, parts, config.layers, functools.partial(_scale, options, place))
    surplus = sorted(set(stored) - known)
    problems += [
        errors.Problem(str(folder), None, f"{name} is not a projection of this {config.family}") for name in surplus
    ]
    if problems:
        raise errors.all_of(problems, "The adapter and the model do not belong together.")
    return Edit(jnp.ones(()), lora=lora)


def _options(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        raise errors.InputError(f"{folder}: an adapter is a folder with an {_CONFIG}, and this is a file")
    try:
        options = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        kind = options.get("peft_type")
    except FileNotFoundError:
        raise errors.InputError(f"{folder}: no {_CONFIG} there, so it is not an adapter") from None
    except (ValueError, AttributeError, RecursionError):
        raise errors.InputError(f"{folder / _CONFIG}: not a JSON object") from None
    if not (folder / _WEIGHTS).exists():
        raise errors.InputError(f"{folder}: no {_WEIGHTS} there; adapters in other file formats are not read")
    if kind != "LORA":
        raise errors.InputError(f"{folder / _CONFIG}: expected peft_type LORA, found {kind!r}")
    wrong = _wrong_options(options)
    if wrong:
        raise errors.InputError("\n  ".join([f"{folder / _CONFIG}: this adapter can't be read:", *wrong]))
    strange = [
        f"{name}: {value!r}"
        for name, value in options.items()
        if name not in _HARMLESS and value not in _PLAIN.get(name, ()) and (name in _PLAIN or _has_effect(value))
    ]
    if strange:
        raise errors.InputError(f"{folder / _CONFIG}: not implemented: {names.short_list(strange)}")
    return dict(options)


def _wrong_options(options: Mapping[str, Any]) -> list[str]:
    """Returns messages about options whose value is not of the expected type."""

    def positive(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31

    def pattern(value: Any) -> bool:
        return value is None or (isinstance(value, dict) and all(map(positive, value.values())))

    kinds: tuple[tuple[str, Any, Callable[[Any], bool], str], ...] = (
        ("r", None, lambda value: positive(value) and isinstance(value, int), "a positive whole number"),
        ("lora_alpha", 8, positive, "a positive number"),
        ("rank_pattern", None, pattern, "ranks by module"),
        ("alpha_pattern", None, pattern, "alphas by module"),
        ("use_rslora", False, lambda value: isinstance(value, bool), "true or false"),
    )
    entries = [(name, options.get(name, absent), fits, kind) for name, absent, fits, kind in kinds]
    return [f"{name}: expected {kind}, found {value!r}" for name, value, fits, kind in entries if not fits(value)]


def _has_effect(value: Any) -> bool:
    """Returns True if an unknown option has an effect: null, false and empty values do not."""
    return value not in (None, False, [], {}, "")


def _pair(place: str) -> tuple[str, str]:
    return f"{place}.lora_A.weight", f"{place}.lora_B.weight"


def _misfits(folder: Path, pair: Mapping[str, Tensor | None], width: int, out: int, rank: int) -> list[errors.Problem]:
    """Returns the problems of one module: A must be [rank, in], B must be [out, rank], and neither may be missing."""
    messages = [f"{name} is missing" for name, tensor in pair.items() if tensor is None]
    if not messages:
        (first, down), (second, up) = [(name, tensor.shape) for name, tensor in pair.items() if tensor is not None]
        messages = [
            f"{name}: expected the shape {list(expected)}, found {list(shape)}"
            for name, shape, expected in ((first, down, (rank, width)), (second, up, (out, rank)))
            if shape != expected
        ]
    return [errors.Problem(str(folder), None, message) for message in messages]


def _scale(options: Mapping[str, Any], place: str, layer: int, rank: int) -> float:
    """Returns PEFT's factor: alpha / rank, or alpha / sqrt(rank) for rsLoRA. Alphas may differ by module."""
    alpha = _by_module(options, "alpha_pattern", options.get("lora_alpha", 8), place.format(layer))
    return float(alpha) / (rank**0.5 if options.get("use_rslora") else rank)


def _by_module(options: Mapping[str, Any], patterns: str, otherwise: Any, place: str) -> Any:
    """Returns an option's value for one module: that of the first matching pattern, as PEFT reads them."""
    module = place.removeprefix(_PREFIX)
    for pattern, value in (options.get(patterns) or {}).items():
        try:
            if re.match(pattern if pattern.startswith("^") else rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            raise errors.InputError(f"{_CONFIG}: {patterns}: {pattern!r} is not a valid pattern") from None
    return otherwise


def _stack(
    pairs: Mapping[int, tuple[Tensor, Tensor]],
    parts: list[weights.Parameter],
    layers: int,
    scale: Callable[[int, int], float],
) -> dict[str, LowRank]:
    """Stacks one module's factors over layers. Layers without factors, and lower ranks, are filled with zeros."""
    rank = max(down.shape[0] for down, _ in pairs.values())
    stacked: dict[str, LowRank] = {}
    row = 0
    for part in parts:
        width, size = part.shape
        downs, ups = np.zeros((layers, width, rank), np.float32), np.zeros((layers, rank, size), np.float32)
        for layer, (down, up) in pairs.items():
            layer_rank = down.shape[0]
            downs[layer, :, :layer_rank] = down.open().astype(np.float32).T
            ups[layer, :layer_rank] = up.open()[row : row + size].astype(np.float32).T * scale(layer, layer_rank)
        stacked[part.name] = LowRank(jnp.asarray(downs), jnp.asarray(ups))
        row += size
    return stacked
