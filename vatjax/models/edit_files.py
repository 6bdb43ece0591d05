"""Edits on disk: arrays as safetensors, and beside them in JSON what they are parts of and which model they are for.

edit.safetensors     strength, residual, lora.query.down, steps.0.direction, ...
edit.json            kinds of steps, positions, the model, and whatever the maker wants to say
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
from vatjax.models import hosts, safetensors
from vatjax.models import weights as wt
from vatjax.models.edit import Edit, LowRank, Step
from vatjax.models.fingerprint import fingerprint
from vatjax.models.model import Model, dtype_of
from vatjax.models.safetensors import Pending

_ARRAYS, _FACTS = "edit.safetensors", "edit.json"
_FORMAT = 1


def save_edit(edit: Edit, model: Model, where: store.Path, meta: Mapping[str, Any] | None = None) -> None:
    """Writes an edit.

    Args:
        edit: the edit.
        model: that it is for.
        where: a folder, local or in a bucket; an edit that is there is replaced.
        meta: how it was found, as plain data.

    Raises:
        InputError: for an edit that does not fit the model.
    """
    wt.check_edit(edit, model.config)
    _check_finite(dict(_parts(edit)), "the edit")
    folder = store.path(where)
    if folder.exists() and not folder.is_dir():
        raise errors.InputError(f"{folder}: an edit is a folder, and this is a file")
    pending = []
    edit = hosts.fetch(edit)
    for name, array in _parts(edit):
        whole = np.asarray(array, np.float32)
        pending.append(Pending(name, whole.dtype, whole.shape, functools.partial(np.asarray, whole)))
    safetensors.write(folder / _ARRAYS, pending)
    facts = {
        "format": _FORMAT,
        "positions": edit.positions,
        "steps": [{"kind": step.kind, "cosine": step.cosine} for step in edit.steps],
        "tensors": [one.name for one in pending],
        "model": _of(model),
        "meta": dict(meta or {}),
    }
    store.commit_json(folder / _FACTS, facts)


def load_edit(where: str | Path, model: Model) -> Edit:
    """Reads an edit for a model.

    Raises:
        InputError: where the folder holds none, and where it is for another model: both are named.
    """
    folder = store.path(where)
    facts = edit_facts(folder)
    made, here = facts["model"], _of(model)
    differs = [key for key in ("family", "layers", "width", "hidden") if made.get(key) != here[key]]
    if made.get("dtype") == here["dtype"] and made.get("weights") != here["weights"]:
        differs.append("weights")
    if differs:
        said = ", ".join(f"{key} {made.get(key)} against {here[key]}" for key in differs)
        raise errors.InputError(
            f"{folder}: this edit was made for {made.get('name') or 'another model'}, not for "
            f"{model.name or 'this one'}: {said}"
        )
    if not (folder / _ARRAYS).exists():
        raise errors.InputError(f"{folder}: no {_ARRAYS} there, so it is no edit")
    found = {name: jnp.asarray(tensor.open()) for name, tensor in safetensors.tensors(folder / _ARRAYS).items()}
    for name in sorted(set(found) ^ set(facts["tensors"])):
        which = f"a tensor {name!r} that {_FACTS} does not name" if name in found else f"no tensor {name!r}"
        raise errors.InputError(f"{folder / _ARRAYS}: {which}; the edit is damaged")
    _check_finite(found, str(folder / _ARRAYS))
    try:
        edit = _edit(found, facts)
    except KeyError as error:
        raise errors.InputError(f"{folder / _ARRAYS}: no tensor {error.args[0]!r}, which {_FACTS} speaks of") from None
    wt.check_edit(edit, model.config)
    return edit


def _check_finite(parts: Mapping[str, Any], what: str) -> None:
    for name, array in parts.items():
        if not np.isfinite(np.asarray(array)).all():
            raise errors.InputError(f"{what}: {name} holds what is no number")


def edit_facts(where: str | Path) -> dict[str, Any]:
    """What stands beside an edit's arrays: `positions`, `steps`, `model`, and under `meta` how it was found."""
    folder = store.path(where)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise errors.InputError(f"{folder / _FACTS}: format {facts['format']!r}; this version reads {_FORMAT}")
        _ = facts["model"]["family"], facts["positions"], [step["kind"] for step in facts["steps"]], facts["tensors"]
    except FileNotFoundError:
        inside = folder / "edit"
        hint = f"; did you mean {inside}?" if (inside / _FACTS).exists() else ""
        raise errors.InputError(f"{folder}: no {_FACTS} there, so it is no edit{hint}") from None
    except KeyError as error:
        raise errors.InputError(f"{folder / _FACTS}: not what an edit says of itself: no {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise errors.InputError(f"{folder / _FACTS}: not what an edit says of itself ({error})") from None
    return dict(facts)


def _of(model: Model) -> dict[str, Any]:
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


def _edit(found: Mapping[str, Any], facts: Mapping[str, Any]) -> Edit:
    changed = sorted({name.split(".")[1] for name in found if name.startswith("lora.")})
    steps = []
    for number, said in enumerate(facts["steps"]):
        needed = {key: found[f"steps.{number}.{key}"] for key in _STEP[:3]}
        gate, threshold = (found.get(f"steps.{number}.{key}") for key in _STEP[3:])
        steps.append(Step(**needed, gate=gate, threshold=threshold, kind=said["kind"], cosine=said["cosine"]))
    return Edit(
        found["strength"].reshape(()),
        **{name: found.get(name) for name in ("residual", "neurons", "gains")},
        lora={name: LowRank(found[f"lora.{name}.down"], found[f"lora.{name}.up"]) for name in changed},
        steps=tuple(steps),
        positions=facts["positions"],
    )
