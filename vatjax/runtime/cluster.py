"""Devices and processes of a run: the mesh that a model is sharded over, and the processes that take part.

Every process of a run is started with the same command. They connect through the cluster's launcher, or through the
address of process 0. Process 0 writes files and prints; all of them compute.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import time
import traceback
from typing import Any

from vatjax import errors, store
from vatjax.runtime import peer_failure

# Seconds without a heartbeat after which the other processes end. JAX's default is 100.
HEARTBEAT = 30
WAIT = 300  # seconds that the processes wait for each other at the start

_NOT_CONNECTED = (
    "distributed: not all processes connected within {} seconds; give each its own index, from 0 to one less than "
    "their number, and the same coordinator"
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run."""

    coordinator: str = "auto"
    """auto: detected from the cluster (Cloud TPU, GKE, Slurm, Open MPI); off: a single process; or the address of
    process 0, host:port."""
    processes: int = 0
    """With an address: the number of processes."""
    index: int = -1
    """With an address: the index of this process, from 0."""

    def __post_init__(self) -> None:
        if self.coordinator in ("auto", "off"):
            if self.processes or self.index >= 0:
                raise errors.InputError(
                    f"coordinator: {self.coordinator} takes neither processes nor index; with these, give host:port"
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
        """Returns the cluster that a word in place of a mapping means: auto or off."""
        return cls(text)


def start(cluster: Cluster) -> None:
    """Connects this process to the others; must be called before any computation.

    From then on only process 0 writes files and prints.

    Raises:
        InputError: if the others can't be reached.
    """
    if cluster.coordinator == "off":
        return
    import jax

    if jax.distributed.is_initialized():
        return
    if "cpu" in (os.environ.get("JAX_PLATFORMS") or ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
        # Programs that don't depend on each other would run at once, and their messages arrive in any order.
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]
    given: dict[str, Any] = {}
    if cluster.coordinator != "auto":
        if cluster.index:
            _wait_for_coordinator(cluster.coordinator)
        given = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.index,
        }
    peer_failure.install_abort_handler(_NOT_CONNECTED.format(WAIT), 2)
    try:
        jax.distributed.initialize(**given, initialization_timeout=WAIT, heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:
        peer_failure.remove_abort_handler()
        if not given and "should be defined" in str(error):  # no cluster: a single process
            return
        raise errors.InputError(f"distributed: {error}") from None
    except RuntimeError as error:
        peer_failure.remove_abort_handler()
        if not given and "before any JAX" in str(error):  # a single-process program that has already computed
            return
        raise errors.InputError(f"distributed: the processes did not connect: {error}") from None
    peer_failure.install_abort_handler() if jax.process_count() > 1 else peer_failure.remove_abort_handler()
    if jax.process_index():
        store.disable_writes()
        _silence_output()


def _wait_for_coordinator(address: str) -> None:
    """Waits until a process listens at an address."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise errors.InputError(
                    f"distributed: no answer from {address} ({store.reason(error)}); process 0 listens there"
                ) from None
            time.sleep(0.2)


def _silence_output() -> None:
    """Discards this process's output, which process 0 prints too; uncaught errors still go to standard error."""
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stderr = nowhere

    def print_error(*error: Any) -> None:
        traceback.print_exception(*error, file=sys.__stderr__)

    sys.excepthook = print_error
