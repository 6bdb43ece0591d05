"""Provenance of ratings: the model, the items, the option mass, and all inputs of the answers.

A state is compared with another, and cached answers are used again, only where these agree.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib
import platform
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import vatjax
from vatjax import models
from vatjax.items import Items
from vatjax.models import Edit, Model, sharding
from vatjax.prefix.packing import Shapes
from vatjax.prompts import ElicitConfig

LOW_MASS = 0.5


def items_meta(items: Items) -> dict[str, Any]:
    """Returns the items' source, and a hash of them."""
    return {
        "items": {"source": items.source, "sha256": digest(items), "count": len(items)},
        "taxonomy": items.taxonomy.name,
    }


def digest(items: Items) -> str:
    """Returns a hash of the items, whatever their file is called."""
    whole = hashlib.sha256("\0".join(items.taxonomy.names).encode())
    for item in items:
        whole.update("\0".join(item).encode() + b"\n")
    return whole.hexdigest()


def model_meta(model: Model, edit: Edit | None) -> dict[str, Any]:
    """Returns the model, the edit and the versions, as plain data."""
    weights = model.arrays
    return {
        "model": {
            "name": model.name,
            "family": model.config.family,
            "weights": models.fingerprint(weights),
            "dtype": models.dtype_of(model),
            "context": model.config.context,
            **({"ignored": list(model.ignored)} if model.ignored else {}),
        },
        "edit": None if edit is None else models.fingerprint(edit),
        "versions": {"vatjax": vatjax.__version__, "jax": jax.__version__},
    }


def mass_summary(mass: np.ndarray, were_written: bool = False, wordings: Sequence[str] = ()) -> dict[str, float]:
    """Summarises the probability of the options, and warns if most of it went elsewhere.

    Args:
        mass: [wordings x scales, ...].
        were_written: whether the mass is the share of written answers that could be read.
        wordings: their names, where there are several.
    """
    each = mass.reshape(max(1, len(wordings)), -1).mean(-1)
    low = [f" in the wording {name}" for name, mean in zip(wordings, each, strict=False) if mean < LOW_MASS]
    if each.min() < LOW_MASS:
        measure = "of the answers could be read" if were_written else "of the probability on average"
        in_wordings = ",".join(low) if len(wordings) > 1 else ""
        warnings.warn(
            f"the options have {each.min():.0%} {measure}{in_wordings}: the model mostly answers something else",
            stacklevel=4,
        )
    return {
        "mean": float(mass.mean()),
        "least": float(mass.min()),
        "below_half": float((mass < LOW_MASS).mean()),
    }


def answer_inputs(
    model: Model, how: ElicitConfig, edit: Edit | None, read_as: Sequence[str], shapes: Shapes
) -> dict[str, Any]:
    """Returns all inputs that the probabilities depend on, down to the last bit."""
    device, mesh = jax.devices()[0], sharding.mesh_of(model.arrays)
    return {
        "model": {"weights": models.fingerprint(model.arrays), "config": models.computation_key(model)},
        "edit": None if edit is None else models.fingerprint(edit),
        "how": {"protocol": how.protocol, "wording": how.wording, "prior": how.prior},
        "tokens": list(read_as),
        "passes": shapes._asdict(),
        "device": {
            "kind": device.device_kind,
            "platform": f"{device.client.platform_version} {platform.machine()} {_processor()}",
            "count": len(jax.devices()),
            "mesh": None if mesh is None else dict(mesh.shape),
            "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        },
        "versions": {
            "vatjax": vatjax.__version__,
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
        },
    }


def _processor() -> str:
    """Returns the processor's name, if the system reports it: another processor may sum in another order."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
