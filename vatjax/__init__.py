"""vatjax measures what an alignment intervention costs: the Value Alignment Tax of a language model.

    import vatjax

    model = vatjax.load("pocket")
    edit = vatjax.steer(model, "Power")
    print(vatjax.measure(model, edit, target="Power"))

Packages are imported when they are first used, so `import vatjax` is instant and imports neither JAX nor transformers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

_SUBMODULES = (
    "analysis",
    "authoring",
    "config",
    "edits",
    "elicit",
    "errors",
    "estimate",
    "human",
    "items",
    "metrics",
    "models",
    "organism",
    "prefix",
    "prompts",
    "report",
    "runtime",
    "states",
    "store",
    "study",
    "tables",
    "train",
    "validate",
    "values",
)

# Defined in `vatjax.api`.
_FRONT_DOOR = ("Shots", "Tax", "finetune", "load", "measure", "shots", "steer")

__all__ = [*_SUBMODULES, *_FRONT_DOOR]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return importlib.metadata.version("vatjax")
        except importlib.metadata.PackageNotFoundError:  # run from a source tree that isn't installed
            return "0+source"
    if name in _SUBMODULES:
        return importlib.import_module(f"vatjax.{name}")
    if name in _FRONT_DOOR:
        return getattr(importlib.import_module("vatjax.api"), name)
    raise AttributeError(f"module 'vatjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
