"""Where a run happens: which devices a model is spread over, and which other processes take part.

Every process of a run is started with the same command. They find each other as the cluster says, or by the address of
the first; that one writes and speaks, and all of them compute.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from vatjax import errors, lost, store

# Seconds without a sign of life after which the others end. JAX's own are 100.
HEARTBEAT = 30
WAIT = 300  # seconds that the processes wait for each other at the start

_NOT_FOUND = (
    "distributed: not all processes were there within {} seconds; each index from 0 to one less than their number belongs to "
    "one of them, and all name the same coordinator"
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run."""

    coordinator: str = "auto"
    """auto: as the cluster says (Cloud TPU, GKE, Slurm, Open MPI); off: this process is alone; or the address of the first
    process, host:port."""
    processes: int = 0
    """With an address: how many there are."""
    index: int = -1
    """With an address: which of them this is, from 0."""

    def __post_init__(self) -> None:
        if self.coordinator in ("auto", "off"):
            if self.processes or self.index >= 0:
                raise errors.InputError(
                    f"coordinator: {self.coordinator} counts processes itself; with processes and index it is host:port"
                )
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise errors.InputError(f"coordinator: expected auto, off or host:port, found {self.coordinator!r}")
        if not 0 <= self.index < self.processes:
            raise errors.InputError(
                f"processes and index: expected an index from 0 to {max(0, self.processes - 1)}, found {self.index} of "
                f"{self.processes}"
            )

    @classmethod
    def of_text(cls, text: str) -> Cluster:
        """What stands in a configuration in place of a mapping: auto or off."""
        return cls(text)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How a model is spread over devices; with nothing but zeros each accelerator has a whole copy, and a CPU is one device."""

    data: int = 0
    """Whole copies, each with its share of the texts; 0 takes the devices that the other two leave."""
    fsdp: int = 0
    """In how many slices weights lie; 0 is 1."""
    tensor: int = 0
    """Over how many devices heads, inner widths and the vocabulary are spread; 0 is 1."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise errors.InputError(f"{field.name}: expected 0 or more, found {getattr(self, field.name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Where a run happens."""

    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    """How a model is spread over devices."""
    distributed: Cluster = dataclasses.field(default_factory=Cluster)
    """Which processes take part: auto, off, or coordinator, processes and index."""

    def processes(self) -> Cluster:
        """Those that take part."""
        return self.distributed

    def spread(self, devices: Sequence[Any] | None = None) -> Any:
        """The mesh of all devices, or of some that need not be here; None for a single one."""
        import jax

        from vatjax import models

        own = self.mesh
        plain = own == Mesh()
        alone = jax.device_count() == 1 or (jax.default_backend() == "cpu" and jax.process_count() == 1)
        if plain and alone and devices is None:
            return None
        return models.mesh(own.data or -1, own.fsdp or 1, own.tensor or 1, devices)


def start(cluster: Cluster) -> None:
    """Joins the other processes; before anything is computed.

    Of several processes only the first writes files and speaks from then on.

    Raises:
        InputError: where the others can't be reached.
    """
    if cluster.coordinator == "off":
        return
    import jax

    if jax.distributed.is_initialized():
        return
    if "cpu" in (os.environ.get("JAX_PLATFORMS") or ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
        # Programs that don't hang on each other would run at the same time, and their messages in any order.
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]
    given: dict[str, Any] = {}
    if cluster.coordinator != "auto":
        if cluster.index:
            _reach(cluster.coordinator)
        given = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.index,
        }
    lost.listen(_NOT_FOUND.format(WAIT), 2)
    try:
        jax.distributed.initialize(**given, initialization_timeout=WAIT, heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:
        lost.stop_listening()
        if not given and "should be defined" in str(error):  # no cluster: a process by itself
            return
        raise errors.InputError(f"distributed: {error}") from None
    except RuntimeError as error:
        lost.stop_listening()
        if not given and "before any JAX" in str(error):  # called from a program that computes already, by itself
            return
        raise errors.InputError(f"distributed: the processes did not find each other: {error}") from None
    lost.listen() if jax.process_count() > 1 else lost.stop_listening()
    if jax.process_index():
        store.leave_writing()
        _fall_silent()


def _reach(address: str) -> None:
    """Waits until somebody listens at an address."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise errors.InputError(
                    f"distributed: nobody answers at {address} ({store.reason(error)}); the process with index 0 listens there"
                ) from None
            time.sleep(0.2)


def _fall_silent() -> None:
    """What the first process says too is said once; an error of this one is still told."""
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stderr = nowhere

    def told(*error: Any) -> None:
        traceback.print_exception(*error, file=sys.__stderr__)

    sys.excepthook = told
