"""Computes batches of a study: with a worker for each model, in halves where memory is short, and records failures."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

import vatjax
from vatjax import errors, store
from vatjax.runtime import processes
from vatjax.runtime.memory import is_out_of_memory
from vatjax.runtime.progress import OnProgress, ignore_progress
from vatjax.store.artifacts import Artifact
from vatjax.study import failures, statistics
from vatjax.study.batches import Batch
from vatjax.study.planning import LoadModel, Plan
from vatjax.study.status import ArtifactStatus
from vatjax.study.worker import Worker

OnMessage = Callable[[str], None]
Make = Callable[[Sequence[Artifact]], None]


class Progress(NamedTuple):
    """Progress of a run.

    Attributes:
        done, of: number of finished artifacts, and of all that were missing.
        artifact: the last one computed.
        seconds: its compute time.
    """

    done: int
    of: int
    artifact: Artifact
    seconds: float


class Callbacks(NamedTuple):
    """Callbacks of `run`."""

    on_message: OnMessage = lambda _: None
    on_artifact: Callable[[Progress], None] = lambda _: None
    on_batch: Callable[[Sequence[Artifact]], None] = lambda _: None
    on_progress: OnProgress = ignore_progress


class Executor:
    """Executor of batches; only one model is loaded at a time.

    Args:
        planned: the plan of the study.
        status: of its artifacts, which is kept up to date.
        load: opens a model.
        callbacks: of the run.
    """

    def __init__(self, planned: Plan, status: ArtifactStatus, load: LoadModel, callbacks: Callbacks) -> None:
        self.planned, self.status, self.load, self.callbacks = planned, status, load, callbacks
        self.artifact_store = status.artifact_store
        self.workers: dict[int, Worker] = {}
        self.leases: store.Leases | None = None
        self.label = ""

    def compute(self, batch: Batch, leases: store.Leases | None = None) -> None:
        """Computes a batch; an artifact that fails is recorded, and the others are computed.

        Args:
            batch: of artifacts.
            leases: on the batch, in the process that writes; one that lost them completes nothing.

        Raises:
            store.LeaseLost: if another process has taken the batch over.
        """
        self.leases, self.label = leases, batch.artifacts[0].label
        make = self._make_statistics
        if batch.needs_model:
            try:
                make = self._worker(batch.model).make
            except Exception as error:
                failures.raise_if_local(error)
                for artifact in batch.artifacts:
                    self._fail(artifact, error)
                return
        if batch.joint:
            self._attempt(batch.artifacts, make)
            return
        for artifact in batch.artifacts:
            if batch.needs_model or processes.is_first_process():
                self._attempt([artifact], make)

    def _worker(self, model: int) -> Worker:
        """Returns the worker of a model."""
        if model not in self.workers:
            planned, callbacks = self.planned, self.callbacks
            self.workers.clear()
            self.workers[model] = Worker(
                planned.design,
                self.load(planned.graphs[model].model),
                planned.items,
                planned.test_items,
                self.artifact_store,
                callbacks.on_message,
                callbacks.on_progress,
                self.load,
                planned.graphs[model].context,
            )
        return self.workers[model]

    def _make_statistics(self, batch: Sequence[Artifact]) -> None:
        """Computes statistics, which need states but no model, and so one process."""
        make = {
            "result": statistics.arm_statistics,
            "placebo": statistics.against_placebo,
            "comparison": statistics.compare_interventions,
        }
        for artifact in batch:
            content = make[artifact.kind](artifact, self.artifact_store, self.planned.design, self.planned.items)
            store.commit_json(self.artifact_store.path(artifact) / "numbers.json", content)

    def _attempt(self, batch: Sequence[Artifact], make: Make) -> None:
        """Computes artifacts that belong together; splits them in halves if they do not fit in memory."""
        present = self.status.present
        ready = [artifact for artifact in batch if self._has_dependencies(artifact)]
        if all(artifact.address in present for artifact in ready):
            return
        start = time.monotonic()
        self.callbacks.on_batch([artifact for artifact in ready if artifact.address not in present])
        try:
            for artifact in ready:
                self.artifact_store.remove_links(artifact)
            with store.guard_writes(self._check_leases) as guard:
                make(ready)
        except Exception as error:
            self._handle(error, ready, make)
            return
        seconds = (time.monotonic() - start) / len(ready)
        generation = 0
        if self.leases is not None:
            self.leases.check_generation(self.label)
            generation = self.leases.generation()
        for artifact in ready:
            if artifact.address not in present:
                self._check_leases()
                if not self.artifact_store.mark_complete(artifact, seconds, _environment(), generation, guard):
                    self.callbacks.on_message(f"{artifact.label}: another process completed it first")
                self.status.record_success(artifact)
                settled, total = self.status.settled, self.status.total
                self.callbacks.on_artifact(Progress(settled, total, artifact, seconds))

    def _check_leases(self) -> None:
        """Raises LeaseLost if another process has taken the batch over."""
        if self.leases is not None:
            self.leases.check(self.label)

    def _handle(self, error: Exception, batch: Sequence[Artifact], make: Make) -> None:
        """Tries the halves of a batch that failed; records the failure of a single artifact."""
        self._check_leases()  # the error may be that another process has removed this one's files
        failures.raise_if_local(error)
        if isinstance(error, OSError) and error.errno in failures.FATAL:
            raise errors.InputError(f"{error.filename or self.artifact_store.folder}: {store.reason(error)}") from error
        if len(batch) > 1:
            memory = is_out_of_memory(error)
            reason = "out of memory" if memory else f"not computed together ({failures.first_line(error)})"
            half = len(batch) // 2
            self.callbacks.on_message(f"{len(batch)} artifacts at once: {reason}; trying two halves")
            self._attempt(batch[:half], make)
            self._attempt(batch[half:], make)
        elif batch[0].address not in self.status.present:  # else it was computed again only for its batch
            self._fail(batch[0], error)

    def _has_dependencies(self, artifact: Artifact) -> bool:
        """Returns True if no dependency of an artifact has failed; otherwise the artifact has failed too."""
        failed = [need for need in artifact.dependencies.values() if need.address in self.status.failed]
        if failed:
            self.status.record_failure(artifact, failures.dependency_failed(artifact.label, failed[0].label))
        return not failed

    def _fail(self, artifact: Artifact, error: Exception) -> None:
        self._check_leases()
        reason = failures.describe(error, self.artifact_store.path(artifact))
        message = reason if reason.startswith(artifact.label) else f"{artifact.label}: {reason}"
        self.status.failures.add(artifact.address, message)
        self.status.record_failure(artifact, message)
        self.callbacks.on_message(message)


def _environment() -> dict[str, Any]:
    """Returns versions and hardware."""
    device = jax.devices()[0]
    return {
        "vatjax": vatjax.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "system": f"{platform.system()} {platform.machine()}",
    }
