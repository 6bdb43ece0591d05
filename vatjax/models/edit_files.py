"""Edits on disk: arrays as safetensors, and a JSON file with their structure and the model that they are for.

edit.safetensors     strength, residual, lora.query.down, steps.0.direction, ...
edit.json            kinds of steps, positions, the model, and any metadata of the author
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from vatjax import errors, store
from vatjax.models import safetensors
from vatjax.models import weights as weights
from vatjax.models.edit import Edit, LowRank, Step
from vatjax.models.fingerprint import fingerprint
from vatjax.models.model import Model, dtype_of
from vatjax.models.safetensors import Pending
from vatjax.runtime import processes

_ARRAYS, _FACTS = "edit.safetensors", "edit.json"
_FORMAT = 1


def save_edit(edit: Edit, model: Model, path: store.Path, meta: Mapping[str, Any] | None = None) -> None:
    """Writes an edit.

    Args:
        edit: the edit.
        model: the model that it is for.
        path: a folder, local or in a bucket; an existing edit is replaced.
        meta: how the edit was found, as plain data.

    Raises:
        InputError: for an edit that does not fit the model.
    """
    weights.check_edit(edit, model.config)
    _check_finite(dict(_parts(edit)), "the edit")
    folder = store.path(path)
    if folder.exists() and not folder.is_dir():
        raise errors.InputError(f"{folder}: an edit is a folder, and this is a file")
    pending = []
    edit = processes.fetch(edit)
    for name, array in _parts(edit):
        whole = np.asarray(array, np.float32)
        pending.append(Pending(name, whole.dtype, whole.shape, functools.partial(np.asarray, whole)))
    for name in (_FACTS, _ARRAYS):  # new arrays never meet old facts, and links are not followed
        store.remove_file(folder / name)
    safetensors.write(folder / _ARRAYS, pending)
    facts = {
        "format": _FORMAT,
        "positions": edit.positions,
        "steps": [{"kind": step.kind, "cosine": step.cosine} for step in edit.steps],
        "tensors": [tensor.name for tensor in pending],
        "model": _model_facts(model),
        "meta": dict(meta or {}),
    }
    store.commit_json(folder / _FACTS, facts)


def load_edit(path: str | Path, model: Model) -> Edit:
    """Reads an edit for a model.

    Raises:
        InputError: if the folder does not hold an edit, or holds one for another model; the message names both models.
    """
    folder = store.path(path)
    facts = edit_facts(folder)
    saved, here = facts["model"], _model_facts(model)
    differs = [key for key in ("family", "layers", "width", "hidden") if saved.get(key) != here[key]]
    if saved.get("dtype") == here["dtype"] and saved.get("weights") != here["weights"]:
        differs.append("weights")
    if differs:
        differences = ", ".join(f"{key} {saved.get(key)} against {here[key]}" for key in differs)
        raise errors.InputError(
            f"{folder}: this edit was made for {saved.get('name') or 'another model'}, not for "
            f"{model.name or 'this one'}: {differences}"
        )
    if not (folder / _ARRAYS).exists():
        raise errors.InputError(f"{folder}: no {_ARRAYS} there, so it is not an edit")
    arrays = {name: jnp.asarray(tensor.open()) for name, tensor in safetensors.read_tensors(folder / _ARRAYS).items()}
    for name in sorted(set(arrays) ^ set(facts["tensors"])):
        which = f"a tensor {name!r} that {_FACTS} does not name" if name in arrays else f"no tensor {name!r}"
        raise errors.InputError(f"{folder / _ARRAYS}: {which}; the edit is damaged")
    _check_finite(arrays, str(folder / _ARRAYS))
    try:
        edit = _build_edit(arrays, facts)
    except KeyError as error:
        raise errors.InputError(f"{folder / _ARRAYS}: no tensor {error.args[0]!r}, which {_FACTS} names") from None
    weights.check_edit(edit, model.config)
    return edit


def _check_finite(parts: Mapping[str, Any], what: str) -> None:
    for name, array in parts.items():
        if not np.isfinite(np.asarray(array)).all():
            raise errors.InputError(f"{what}: {name} holds values that are not finite")


def edit_facts(path: str | Path) -> dict[str, Any]:
    """Reads an edit's JSON file: `positions`, `steps`, `model`, and under `meta` how the edit was found."""
    folder = store.path(path)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        _check_facts(facts)
        if facts["format"] != _FORMAT:
            raise errors.InputError(f"{folder / _FACTS}: format {facts['format']!r}; this version reads {_FORMAT}")
        _ = facts["model"]["family"], facts["positions"], [step["kind"] for step in facts["steps"]], facts["tensors"]
    except FileNotFoundError:
        inside = folder / "edit"
        hint = f"; did you mean {inside}?" if (inside / _FACTS).exists() else ""
        raise errors.InputError(f"{folder}: no {_FACTS} there, so it is not an edit{hint}") from None
    except KeyError as error:
        raise errors.InputError(f"{folder / _FACTS}: not the facts of an edit: {error} is missing") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise errors.InputError(f"{folder / _FACTS}: not the facts of an edit ({error})") from None
    return dict(facts)


def _check_facts(facts: Any) -> None:
    """Raises TypeError or KeyError for facts whose parts have other types than `save_edit` writes."""
    for name, kind in (("model", dict), ("steps", list), ("tensors", list), ("positions", str), ("meta", dict)):
        if not isinstance(facts[name], kind):
            raise TypeError(f"{name} is a {type(facts[name]).__name__}")
    if not all(isinstance(name, str) for name in facts["tensors"]):
        raise TypeError("tensors are not names")
    for step in facts["steps"]:
        if not isinstance(step["kind"], str) or not isinstance(step["cosine"], (bool, int, float, type(None))):
            raise TypeError("a step has no kind")


def _model_facts(model: Model) -> dict[str, Any]:
    config, arrays = model.config, model.arrays
    return {
        "name": model.name,
        "family": config.family,
        "layers": config.layers,
        "width": config.width,
        "hidden": config.hidden,
        "dtype": dtype_of(model),
        "weights": fingerprint(arrays),
    }


_STEP = ("direction", "amount", "share", "gate", "threshold")


def _parts(edit: Edit) -> Iterator[tuple[str, Any]]:
    yield "strength", np.reshape(np.asarray(edit.strength, np.float32), 1)
    for name in ("residual", "neurons", "gains"):
        if getattr(edit, name) is not None:
            yield name, getattr(edit, name)
    for name, change in edit.lora.items():
        yield f"lora.{name}.down", change.down
        yield f"lora.{name}.up", change.up
    for number, step in enumerate(edit.steps):
        for key in _STEP:
            if getattr(step, key) is not None:
                yield f"steps.{number}.{key}", getattr(step, key)


def _build_edit(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> Edit:
    changed = sorted({name.split(".")[1] for name in arrays if name.startswith("lora.")})
    steps = []
    for number, step_facts in enumerate(facts["steps"]):
        needed = {key: arrays[f"steps.{number}.{key}"] for key in _STEP[:3]}
        gate, threshold = (arrays.get(f"steps.{number}.{key}") for key in _STEP[3:])
        steps.append(
            Step(**needed, gate=gate, threshold=threshold, kind=step_facts["kind"], cosine=step_facts["cosine"])
        )
    return Edit(
        arrays["strength"].reshape(()),
        **{name: arrays.get(name) for name in ("residual", "neurons", "gains")},
        lora={name: LowRank(arrays[f"lora.{name}.down"], arrays[f"lora.{name}.up"]) for name in changed},
        steps=tuple(steps),
        positions=facts["positions"],
    )
