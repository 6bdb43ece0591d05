"""What is written down beside ratings: which model was asked about which items, how far it answered, and what decides it.

A state can be compared with another, and kept answers taken again, only where these say so.
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
from vatjax.elicit.passes import Shapes
from vatjax.items import Items
from vatjax.models import Edit, Model, sharding
from vatjax.prompts import How

LOW_MASS = 0.5


def described(items: Items) -> dict[str, Any]:
    """Their source, and a hash of them."""
    return {
        "items": {"source": items.source, "sha256": digest(items), "count": len(items)},
        "taxonomy": items.taxonomy.name,
    }


def digest(items: Items) -> str:
    """A hash of what is asked about, whatever the file is called."""
    whole = hashlib.sha256("\0".join(items.taxonomy.names).encode())
    for item in items:
        whole.update("\0".join(item).encode() + b"\n")
    return whole.hexdigest()


def asked_of(model: Model, edit: Edit | None) -> dict[str, Any]:
    """Which model was asked, and with what."""
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


def said_mass(mass: np.ndarray, were_written: bool = False, wordings: Sequence[str] = ()) -> dict[str, float]:
    """How much of the probability went to the options; a warning where most went elsewhere.

    Args:
        mass: [wordings x scales, ...].
        were_written: whether it is the share of written answers that could be read.
        wordings: their names, where there are several.
    """
    each = mass.reshape(max(1, len(wordings)), -1).mean(-1)
    low = [f" in the wording {name}" for name, mean in zip(wordings, each, strict=False) if mean < LOW_MASS]
    if each.min() < LOW_MASS:
        said = "of the answers could be read" if were_written else "of the probability on average"
        where = ",".join(low) if len(wordings) > 1 else ""
        warnings.warn(
            f"the options have {each.min():.0%} {said}{where}: the model mostly answers something else", stacklevel=4
        )
    return {
        "mean": float(mass.mean()),
        "least": float(mass.min()),
        "below_half": float((mass < LOW_MASS).mean()),
    }


def decides(model: Model, how: How, edit: Edit | None, read_as: Sequence[str], shapes: Shapes) -> dict[str, Any]:
    """All that decides the probabilities, down to the last bit."""
    device, mesh = jax.devices()[0], sharding.mesh_of(model.arrays)
    return {
        "model": {"weights": models.fingerprint(model.arrays), "config": models.computed_as(model)},
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
    """The processor's name, where the system tells: the same program may sum in another order on another one."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
