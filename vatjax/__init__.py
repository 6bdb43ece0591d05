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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see
    from vatjax import (
        analysis,
        authoring,
        comparison,
        config,
        edits,
        elicit,
        errors,
        estimate,
        human,
        interventions,
        items,
        metrics,
        models,
        organism,
        prefix,
        prompts,
        report,
        runtime,
        states,
        store,
        study,
        tables,
        train,
        validate,
        values,
    )
    from vatjax.api import Shots, Tax, finetune, load, measure, shots, steer

# Defined in `vatjax.api`.
_FRONT_DOOR = ("Shots", "Tax", "finetune", "load", "measure", "shots", "steer")

__all__ = [
    "Shots",
    "Tax",
    "analysis",
    "authoring",
    "comparison",
    "config",
    "edits",
    "elicit",
    "errors",
    "estimate",
    "finetune",
    "human",
    "interventions",
    "items",
    "load",
    "measure",
    "metrics",
    "models",
    "organism",
    "prefix",
    "prompts",
    "report",
    "runtime",
    "shots",
    "states",
    "steer",
    "store",
    "study",
    "tables",
    "train",
    "validate",
    "values",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return importlib.metadata.version("vatjax")
        except importlib.metadata.PackageNotFoundError:  # run from a source tree that isn't installed
            return "0+source"
    if name in _FRONT_DOOR:
        return getattr(importlib.import_module("vatjax.api"), name)
    if name in __all__:
        return importlib.import_module(f"vatjax.{name}")
    raise AttributeError(f"module 'vatjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
