"""Runs a study: computes missing artifacts in order, reuses present ones, and records failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vatjax import errors, store
from vatjax.runtime import preemption, processes
from vatjax.runtime.progress import OnProgress, ignore_progress
from vatjax.store.artifacts import Artifact
from vatjax.study.batches import Batch, load_or_create_batches
from vatjax.study.executor import Callbacks, Executor, OnMessage, Progress
from vatjax.study.failures import Failures
from vatjax.study.folder import write_design
from vatjax.study.locks import ShardSpec, exclusive_access
from vatjax.study.planning import LoadModel, Plan, loader, open_artifact_store
from vatjax.study.scheduler import Readiness, acquire, order_for_shard
from vatjax.study.status import ArtifactStatus

_PAUSE, _LONGEST = 0.5, 20.0  # seconds between two checks of other shards


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
        artifact_store, artifacts = open_artifact_store(design), planned.artifacts()
        status = ArtifactStatus(artifacts, artifact_store, Failures(folder / "failed"))
        for artifact in status.damaged:
            on_message(f"{artifact.label}: {artifact_store.path(artifact)} is damaged: it is computed again")
            artifact_store.drop(artifact)
        status.broadcast()
        callbacks = Callbacks(on_message, on_artifact, on_batch, on_progress)
        executor = Executor(planned, status, load or loader(design), callbacks)
        _run_batches(order_for_shard(load_or_create_batches(planned, status.present), shard), executor, leases)
        leases.retain(design.out)
        reused = len(artifacts) - status.computed - len(status.failed)
        return RunResult(planned, status.computed, reused, status.failed)


def _run_batches(batches: Sequence[Batch], executor: Executor, folder_lease: store.Leases) -> None:
    """Computes all batches; retries the remaining ones until other shards have finished theirs."""
    pause, left, out = _PAUSE, list(batches), executor.planned.design.out
    while left:
        before = len(left)
        left = [batch for batch in left if not _compute_if_ready(batch, executor, folder_lease)]
        preemption.stop_if_requested()
        pause = _PAUSE if len(left) < before else min(2 * pause, _LONGEST)
        if left and len(left) == before:
            if pause == 2 * _PAUSE:
                executor.callbacks.on_message(f"waiting for other shards: {len(left)} batches are left")
            time.sleep(pause)
            folder_lease.retain(out)


def _compute_if_ready(batch: Batch, executor: Executor, folder_lease: store.Leases) -> bool:
    """Computes a batch if it is ready. Returns False if it is blocked."""
    status = executor.status
    readiness, leases = acquire(batch, status)
    if readiness == Readiness.READY:
        try:
            preemption.stop_if_requested()
            status.broadcast()
            executor.compute(batch, leases)
            status.broadcast()
        except store.LeaseLost as error:
            if processes.is_multiprocess():  # the others of this run wait for its answer
                raise errors.LocalError(str(error)) from None
            executor.callbacks.on_message(f"{error}; it is left to that one")
            return False
        finally:
            if leases is not None:
                leases.release()
        folder_lease.retain(executor.planned.design.out)
    elif readiness == Readiness.FINISHED:
        status.broadcast()
    return readiness != Readiness.BLOCKED
