"""What a run or a shard does next: the order of batches, and whether one is ready, finished, or another process's."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np

from vatjax import errors, store
from vatjax.runtime import processes
from vatjax.study.batches import Batch
from vatjax.study.locks import ShardSpec
from vatjax.study.status import ArtifactStatus


class Readiness(enum.IntEnum):
    """State of a batch: blocked by a missing dependency or another process's lease, finished, or ready to compute."""

    BLOCKED = 0
    FINISHED = 1
    READY = 2


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


def acquire(batch: Batch, status: ArtifactStatus) -> tuple[Readiness, store.Leases | None]:
    """Decides, for all processes alike, what to do with a batch; returns the leases, in process 0, if it is ready."""
    readiness, leases = processes.run_on_first(lambda: _acquire(batch, status)) or (Readiness.BLOCKED, None)
    return Readiness(int(processes.broadcast(np.int32(readiness)))), leases


def _acquire(batch: Batch, status: ArtifactStatus) -> tuple[Readiness, store.Leases | None]:
    addresses = {artifact.address for artifact in batch.artifacts}
    dependencies = [
        dependency
        for artifact in batch.artifacts
        for dependency in artifact.dependencies.values()
        if dependency.address not in addresses
    ]
    if not all(status.is_settled(dependency) for dependency in dependencies):
        return Readiness.BLOCKED, None
    if _is_finished(batch, status):
        return Readiness.FINISHED, None
    folder = status.artifact_store.folder
    try:
        leases = store.acquire_all(status.artifact_store.claims, batch.lease_names())
    except Exception as error:  # of many types, by the bucket's client
        why = store.reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise errors.InputError(f"{folder}: {why}") from None
    if leases is None:
        return Readiness.BLOCKED, None
    if _is_finished(batch, status):  # another process finished it before the lease was acquired
        leases.release()
        return Readiness.FINISHED, None
    return Readiness.READY, leases


def _is_finished(batch: Batch, status: ArtifactStatus) -> bool:
    """Returns True if nothing is left to do for a batch."""
    settled = [status.is_settled(artifact) for artifact in batch.artifacts]  # each one: the call counts them
    return all(settled)
