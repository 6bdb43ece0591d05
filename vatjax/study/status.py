"""Which artifacts of a run are present and which have failed: one answer for all its processes and shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vatjax.runtime import processes
from vatjax.store.artifacts import Artifact, ArtifactStore
from vatjax.study.failures import Failures


class ArtifactStatus:
    """Status of all artifacts of a run.

    Args:
        artifacts: all of them.
        artifact_store: where they are.
        failures: of this run and its other shards.

    Attributes:
        present: addresses of those that are complete.
        failed: reason of each failure, by address.
        computed: number of those that this process has computed.
        settled: number of those that were missing at the start, and are complete or have failed now.
        total: number of those that were missing at the start.
    """

    def __init__(self, artifacts: Sequence[Artifact], artifact_store: ArtifactStore, failures: Failures) -> None:
        self.artifacts, self.artifact_store, self.failures = artifacts, artifact_store, failures
        self.failed: dict[str, str] = {}
        self.present: set[str] = set()
        self.damaged: list[Artifact] = []
        if processes.is_first_process():
            self.present, self.damaged = artifact_store.status(artifacts)
        self.total = len(artifacts) - len(self.present)
        self.computed = self.settled = 0

    def is_settled(self, artifact: Artifact) -> bool:
        """Returns True if an artifact is present or has failed; counts those that another shard has settled."""
        if artifact.address in self.present or artifact.address in self.failed:
            return True
        if self.artifact_store.has(artifact):
            self.present.add(artifact.address)
            self.settled += 1
            return True
        reason = self.failures.why(artifact.address)
        if reason is not None:
            self.record_failure(artifact, reason)
        return reason is not None

    def record_success(self, artifact: Artifact) -> None:
        """Counts an artifact that was computed here."""
        self.failures.forget(artifact.address)
        self.present.add(artifact.address)
        self.computed += 1
        self.settled += 1

    def record_failure(self, artifact: Artifact, reason: str) -> None:
        """Counts an artifact that has failed."""
        self.failed[artifact.address] = reason
        self.settled += 1

    def broadcast(self) -> None:
        """Broadcasts process 0's status to all processes."""
        if not processes.is_multiprocess():
            return
        codes = [
            _FAILED if artifact.address in self.failed else int(artifact.address in self.present)
            for artifact in self.artifacts
        ]
        received = processes.broadcast(np.array(codes, np.int32)).tolist()
        for artifact, code in zip(self.artifacts, received, strict=True):
            if code == _PRESENT and artifact.address in self.failed:
                raise RuntimeError(
                    f"{artifact.label}: computed by process 0, but failed here: {self.failed[artifact.address]}"
                )
            if code == _PRESENT:
                self.present.add(artifact.address)
            elif code == _FAILED:
                self.failed.setdefault(artifact.address, artifact.label)


_PRESENT, _FAILED = 1, 2
