"""Options of commands that choose devices: the mesh that a model is sharded over, and the processes that take part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from vatjax import errors
from vatjax.runtime.cluster import Cluster


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Mesh that a model is sharded over; with all zeros each accelerator has a whole copy, and a CPU is one device."""

    data: int = 0
    """Number of whole copies, each with its share of the texts; 0 takes the devices that the other two axes leave."""
    fsdp: int = 0
    """Number of slices that weights are split into; 0 means 1."""
    tensor: int = 0
    """Number of devices that heads, inner widths and the vocabulary are split over; 0 means 1."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise errors.InputError(f"{field.name}: expected 0 or more, found {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Options for the devices and processes of a run."""

    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    """Device mesh that a model is sharded over."""
    distributed: Cluster = dataclasses.field(default_factory=Cluster)
    """Processes that take part: auto, off, or coordinator, processes and index."""

    def cluster(self) -> Cluster:
        """Returns the cluster whose processes take part."""
        return self.distributed

    def device_mesh(self, devices: Sequence[Any] | None = None) -> Any:
        """Returns the mesh of all devices, or of `devices`, which may be remote; None for a single device."""
        import jax

        from vatjax import models

        mesh = self.mesh
        unset = mesh == Mesh()
        single_device = jax.device_count() == 1 or (jax.default_backend() == "cpu" and jax.process_count() == 1)
        if unset and single_device and devices is None:
            return None
        return models.mesh(mesh.data or -1, mesh.fsdp or 1, mesh.tensor or 1, devices)
