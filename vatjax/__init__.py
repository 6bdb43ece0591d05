"""vatjax measures what an alignment intervention costs: the Value Alignment Tax of a language model.

    from vatjax import items, states, values

Submodules are imported when they are first used, so `import vatjax` is instant and imports neither JAX nor transformers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

_SUBMODULES = (
    "analysis",
    "config",
    "elicit",
    "errors",
    "items",
    "metrics",
    "models",
    "prompts",
    "states",
    "store",
    "tables",
    "values",
)

__all__ = list(_SUBMODULES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return importlib.metadata.version("vatjax")
        except importlib.metadata.PackageNotFoundError:  # run from a source tree that isn't installed
            return "0+source"
    if name in _SUBMODULES:
        return importlib.import_module(f"vatjax.{name}")
    raise AttributeError(f"module 'vatjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES])
