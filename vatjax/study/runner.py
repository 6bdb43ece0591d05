"""Runs a study: computes missing artifacts in order, reuses present ones, and records failures."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import platform
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import vatjax
from vatjax import errors, store
from vatjax.runtime import peer_failure, preemption, processes
from vatjax.runtime.memory import is_out_of_memory
from vatjax.runtime.progress import OnProgress, ignore_progress
from vatjax.store.artifacts import Artifact, ArtifactStore
from vatjax.study import statistics
from vatjax.study.batches import Batch, load_or_create_batches
from vatjax.study.folder import write_design
from vatjax.study.locks import ShardSpec, exclusive_access
from vatjax.study.planning import LoadModel, Plan, loader, open_artifact_store
from vatjax.study.worker import Worker

OnMessage = Callable[[str], None]


class RunResult(NamedTuple):
    """Outcome of a run.

    Attributes:
        planned: the plan of the study.
        computed, reused: number of artifacts computed here, and of those already present or computed by other shards.
        failed: the reason of each failure, by address.
    """

    planned: Plan
    computed: int
    reused: int
    failed: dict[str, str]

    def content_hash(self) -> str:
        """Returns a content hash of the outcome."""
        return store.address(self.planned.content_hash(), sorted(self.failed))


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


def run(
    planned: Plan,
    on_message: OnMessage = lambda _: None,
    on_artifact: Callable[[Progress], None] = lambda _: None,
    load: LoadModel | None = None,
    shard: ShardSpec | None = None,
    on_batch: Callable[[Sequence[Artifact]], None] = lambda _: None,
    on_progress: OnProgress = ignore_progress,
) -> RunResult:
    """Computes all missing artifacts; a failure is reported, and the run continues with the rest.

    Args:
        planned: from `plan`.
        on_message: called with lines for the user.
        on_artifact: called after each computed artifact.
        load: opens a model.
        shard: this run's part, if the study is shared; each shard computes batches that no other has leased, and all
            end when no work is left.
        on_batch: called with the artifacts of the next batch.
        on_progress: called with the completed fraction of that batch.

    Raises:
        InputError: if the design cannot be run, the folder contains another study, or another run is at work in it.
    """
    design = planned.design
    folder = store.path(design.out)
    with exclusive_access(folder, shard, on_message) as leases:
        processes.run_on_first(lambda: write_design(design, folder))
        calls = _Calls(on_message, on_artifact, on_batch, on_progress)
        study_run = _StudyRun(planned, open_artifact_store(design), load or loader(design), shard, calls, leases)
        study_run.run()
        leases.raise_if_lost(design.out)
        reused = len(study_run.artifacts) - study_run.computed - len(study_run.failed)
        return RunResult(planned, study_run.computed, reused, study_run.failed)


class _Calls(NamedTuple):
    """Callbacks of `run`."""

    on_message: OnMessage
    on_artifact: Callable[[Progress], None]
    on_batch: Callable[[Sequence[Artifact]], None]
    on_progress: OnProgress


@dataclasses.dataclass
class _StudyRun:
    """A run in progress, or one of its shards."""

    planned: Plan
    artifact_store: ArtifactStore
    load: LoadModel
    shard: ShardSpec | None
    calls: _Calls
    claim: store.Leases

    def __post_init__(self) -> None:
        self.artifacts = self.planned.artifacts()
        self.failed: dict[str, str] = {}
        self.present = self._present_artifacts() if processes.is_first_process() else set()
        self.total = len(self.artifacts) - len(self.present)
        self.computed = self.settled = 0
        self.failures = Failures(store.path(self.planned.design.out) / "failed")
        self.workers: dict[int, Worker] = {}
        self._broadcast_status()

    def _present_artifacts(self) -> set[str]:
        """Returns the addresses of present artifacts; removes damaged ones, so that they are computed again."""
        present, damaged = self.artifact_store.status(self.artifacts)
        for artifact in damaged:
            self.calls.on_message(
                f"{artifact.label}: {self.artifact_store.path(artifact)} is damaged: it is computed again"
            )
            self.artifact_store.drop(artifact)
        return present

    def run(self) -> None:
        """Computes all batches; retries the remaining ones until other shards have finished theirs."""
        pause = _PAUSE
        left = order_for_shard(load_or_create_batches(self.planned, self.present), self.shard)
        while left:
            before = len(left)
            left = [batch for batch in left if not self.compute_if_ready(batch)]
            preemption.stop_if_requested()
            pause = _PAUSE if len(left) < before else min(2 * pause, _LONGEST)
            if left and len(left) == before:
                self._wait(left, pause)

    def _wait(self, left: Sequence[Batch], pause: float) -> None:
        if pause == 2 * _PAUSE:
            self.calls.on_message(f"waiting for other shards: {len(left)} batches are left")
        time.sleep(pause)
        self.claim.raise_if_lost(self.planned.design.out)

    def compute_if_ready(self, batch: Batch) -> bool:
        """Computes a batch if it is ready. Returns False if a dependency is missing or another process holds its
        lease."""
        action, leases = processes.run_on_first(lambda: self._lease_batch(batch)) or (_LATER, None)
        action = int(processes.broadcast(np.int32(action)))
        if action == _NOW:
            try:
                preemption.stop_if_requested()
                self._broadcast_status()
                self._compute(batch)
                self._broadcast_status()
            finally:
                if leases is not None:
                    leases.release(done=all(artifact.address in self.present for artifact in batch.artifacts))
            self.claim.raise_if_lost(self.planned.design.out)
        elif action == _OVER:
            self._broadcast_status()
        return action != _LATER

    def _lease_batch(self, batch: Batch) -> tuple[int, store.Leases | None]:
        """Decides what to do with a batch now; returns the leases if it is to be computed."""
        addresses = {artifact.address for artifact in batch.artifacts}
        dependencies = [
            dependency
            for artifact in batch.artifacts
            for dependency in artifact.dependencies.values()
            if dependency.address not in addresses
        ]
        if not all(self._is_settled(dependency) for dependency in dependencies):
            return _LATER, None
        if self._is_finished(batch):
            return _OVER, None
        try:
            leases = store.acquire_all(self.artifact_store.folder / "claims", batch.lease_names())
        except OSError as error:
            raise errors.InputError(f"{self.artifact_store.folder}: {store.reason(error)}") from None
        if leases is None:
            return _LATER, None
        if self._is_finished(batch):  # another process finished it before the lease was acquired
            leases.release(done=True)
            return _OVER, None
        return _NOW, leases

    def _broadcast_status(self) -> None:
        """Broadcasts process 0's artifact status to all processes."""
        if not processes.is_multiprocess():
            return
        known = [0 if p.address not in self.present else 1 for p in self.artifacts]
        known = [2 if p.address in self.failed else k for p, k in zip(self.artifacts, known, strict=True)]
        for artifact, status in zip(
            self.artifacts, processes.broadcast(np.array(known, np.int32)).tolist(), strict=True
        ):
            if status == 1 and artifact.address in self.failed:
                raise RuntimeError(
                    f"{artifact.label}: computed by process 0, but failed here: {self.failed[artifact.address]}"
                )
            if status == 1:
                self.present.add(artifact.address)
            elif status == 2:
                self.failed.setdefault(artifact.address, artifact.label)

    def _is_finished(self, batch: Batch) -> bool:
        """Returns True if nothing is left to do for a batch."""
        known = [
            self._is_settled(artifact) for artifact in batch.artifacts
        ]  # checks each one: the call counts settled artifacts
        return all(known)

    def _is_settled(self, artifact: Artifact) -> bool:
        """Returns True if an artifact is present or has failed; counts those that another shard has settled."""
        if artifact.address in self.present or artifact.address in self.failed:
            return True
        if self.artifact_store.has(artifact):
            self.present.add(artifact.address)
            self.settled += 1
            return True
        why = self.failures.why(artifact.address)
        if why is not None:
            self._record_failure(artifact, why)
        return why is not None

    def _compute(self, batch: Batch) -> None:
        make = self._compute_statistics
        if batch.needs_model:
            try:
                make = self._worker(batch.model).make
            except Exception as error:
                _raise_local(error)
                for artifact in batch.artifacts:
                    self._fail(artifact, error)
                return
        if batch.joint:
            self.compute_batch(batch.artifacts, make)
            return
        for artifact in batch.artifacts:
            if batch.needs_model or processes.is_first_process():
                self.compute_batch([artifact], make)

    def _worker(self, model: int) -> Worker:
        """Returns the worker of a model; only one model is loaded at a time."""
        if model not in self.workers:
            planned = self.planned
            self.workers.clear()
            loaded = self.load(planned.graphs[model].model)
            self.workers[model] = Worker(
                planned.design,
                loaded,
                planned.items,
                planned.test_items,
                self.artifact_store,
                self.calls.on_message,
                self.calls.on_progress,
                self.load,
            )
        return self.workers[model]

    def _compute_statistics(self, batch: Sequence[Artifact]) -> None:
        """Computes statistics, which need states but no model, and so one process."""
        make = {
            "result": statistics.arm_statistics,
            "placebo": statistics.against_placebo,
            "comparison": statistics.compare_interventions,
        }
        for artifact in batch:
            content = make[artifact.kind](artifact, self.artifact_store, self.planned.design, self.planned.items)
            store.commit_json(self.artifact_store.path(artifact) / "numbers.json", content)

    def compute_batch(self, batch: Sequence[Artifact], make: Callable[[Sequence[Artifact]], None]) -> None:
        """Computes artifacts that belong together; splits them in halves if they do not fit in memory."""
        ready = [artifact for artifact in batch if self._has_dependencies(artifact)]
        if all(artifact.address in self.present for artifact in ready):
            return
        start = time.monotonic()
        self.calls.on_batch([artifact for artifact in ready if artifact.address not in self.present])
        try:
            make(ready)
        except Exception as error:
            _raise_local(error)
            if isinstance(error, OSError) and error.errno in _FATAL:
                raise errors.InputError(
                    f"{error.filename or self.artifact_store.folder}: {store.reason(error)}"
                ) from error
            if len(ready) > 1:
                why = "out of memory" if is_out_of_memory(error) else f"not computed together ({_first_line(error)})"
                half = len(ready) // 2
                self.calls.on_message(f"{len(ready)} artifacts at once: {why}; trying two halves")
                self.compute_batch(ready[:half], make)
                self.compute_batch(ready[half:], make)
                return
            if ready[0].address not in self.present:  # one already present was computed again only for its batch
                self._fail(ready[0], error)
            return
        seconds = (time.monotonic() - start) / len(ready)
        for artifact in ready:
            if artifact.address in self.present:
                continue
            self.artifact_store.mark_complete(artifact, seconds, _environment())
            self.failures.forget(artifact.address)
            self.present.add(artifact.address)
            self.computed += 1
            self.settled += 1
            self.calls.on_artifact(Progress(self.settled, self.total, artifact, seconds))

    def _has_dependencies(self, artifact: Artifact) -> bool:
        """Returns True if no dependency of an artifact has failed; otherwise the artifact has failed too."""
        failed = [dependency for dependency in artifact.dependencies.values() if dependency.address in self.failed]
        if failed:
            self._record_failure(artifact, f"{artifact.label}{_DEPENDENCY_FAILED}{failed[0].label}")
        return not failed

    def _fail(self, artifact: Artifact, error: Exception) -> None:
        if isinstance(error, errors.InputError):
            why = str(error)
        elif is_out_of_memory(error):
            why = "out of memory; reduce `scenes`, use a larger device, or set `dtype: bfloat16`"
        else:
            path = self.artifact_store.path(artifact) / "error.txt"
            store.commit(path, "".join(traceback.format_exception(error)).encode())
            why = f"{type(error).__name__}: {_first_line(error)} (in full in {path})"
        message = why if why.startswith(artifact.label) else f"{artifact.label}: {why}"
        self.failures.add(artifact.address, message)
        self._record_failure(artifact, message)
        self.calls.on_message(message)

    def _record_failure(self, artifact: Artifact, why: str) -> None:
        self.failed[artifact.address] = why
        self.settled += 1


def order_for_shard(batches: Sequence[Batch], shard: ShardSpec | None) -> list[Batch]:
    """Orders batches by dependencies; each shard starts at a different place."""
    if shard is None:
        return list(batches)
    groups: dict[Any, list[Batch]] = {}
    for batch in batches:
        groups.setdefault((batch.model, batch.kind), []).append(batch)
    ordered = []
    for group in groups.values():
        first = len(group) * (shard.number - 1) // shard.of
        ordered += group[first:] + group[:first]
    return ordered


class Failures:
    """Failures of artifacts, shared with other shards; failures from before this run are retried.

    Args:
        folder: for a file of each failure.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        before = list(folder.iterdir()) if folder.exists() else []
        self.before = {file.name: self._read(file) for file in before if file.suffix == ".json"}

    def add(self, address: str, why: str) -> None:
        """Records why an artifact failed."""
        content = {"why": why, "when": secrets.token_hex(8)}
        with contextlib.suppress(OSError):  # full disk: the other shards notice it themselves
            store.commit_json(self.folder / f"{address}.json", content)

    def forget(self, address: str) -> None:
        """Removes the failure, from before this run, of an artifact that is now complete."""
        if f"{address}.json" in self.before:
            with contextlib.suppress(OSError):
                (self.folder / f"{address}.json").unlink()

    def why(self, address: str) -> str | None:
        """Returns why an artifact has failed since this run began; None if it has not."""
        path = self.folder / f"{address}.json"
        text = self._read(path) if path.exists() else ""
        return str(json.loads(text)["why"]) if text and text != self.before.get(path.name) else None

    def _read(self, path: Any) -> str:
        """Returns the text of a failure; empty if another shard has just resolved it."""
        try:
            return store.read_text(path)
        except errors.InputError:
            if path.exists():
                raise
            return ""


# Errors that would affect every other artifact too.
_FATAL = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_DEPENDENCY_FAILED = ": not computed: dependency failed: "
_LATER, _OVER, _NOW = range(3)
_PAUSE, _LONGEST = 0.5, 20.0  # seconds between two checks of other shards


def _raise_local(error: Exception) -> None:
    """Raises an error that affects only this process: of several, none can continue alone. All processes see an
    `InputError` alike."""
    if peer_failure.is_peer_failure(error):
        raise error
    if processes.is_multiprocess() and (
        not isinstance(error, errors.InputError) or isinstance(error, errors.LocalError)
    ):
        raise error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


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


def failure_lines(ran: RunResult) -> list[str]:
    """Returns the reasons of failures, with a count of the artifacts that depend on failed ones."""
    lines = [line for line in ran.failed.values() if _DEPENDENCY_FAILED not in line]
    rest = len(ran.failed) - len(lines)
    return [*lines, *([f"{rest} artifacts that depend on them"] if rest else [])]
