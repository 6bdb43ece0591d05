"""Batches of artifacts that are computed together.

The last bits of an artifact depend on its batch. So the batches of a study are fixed, in a file, before the first is
computed. Every process that works on the study reads this file: one that restarts after a kill, or many in parallel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from typing import Any, NamedTuple

from vatjax import errors, store
from vatjax.interventions.trained import SMALL
from vatjax.prefix import score_edits
from vatjax.runtime import processes
from vatjax.store.artifacts import Artifact, topological_order
from vatjax.study.graph import ArtifactGraph
from vatjax.study.planning import Plan

_FEW = 4  # states of a larger model per batch: more would save little, and leave other shards without work
_RATED = ("state", "texts")
_NUMBERS = ("result", "placebo", "comparison")
_STATISTICS_PER_BATCH = 16  # statistics per batch, and so per lease


class Batch(NamedTuple):
    """Artifacts that are computed together, in topological order.

    Attributes:
        model: index of their model in the study.
        artifacts: one or more, of one kind.
    """

    model: int
    artifacts: tuple[Artifact, ...]

    @property
    def kind(self) -> str:
        """Returns the kind of its artifacts."""
        return self.artifacts[0].kind

    @property
    def needs_model(self) -> bool:
        """Returns True if computing it needs the model itself."""
        return self.kind not in _NUMBERS

    @property
    def joint(self) -> bool:
        """Returns True if its artifacts are computed jointly, and not only by the same worker."""
        maker = self.artifacts[0].maker
        return self.kind == "state" or (maker is not None and maker.joint)

    def lease_names(self) -> list[str]:
        """Returns the names to lease before it is computed.

        What interventions make is leased one by one; any other batch takes one lease, on its first address. Two studies
        that batch the same artifacts differently may compute some twice: wasteful, not wrong.
        """
        addresses = sorted(artifact.address for artifact in self.artifacts)
        return addresses if self.artifacts[0].maker is not None else addresses[:1]


def load_or_create_batches(planned: Plan, present: Set[str]) -> list[Batch]:
    """Returns the batches of the artifacts that were missing when the study began; the first caller fixes them.

    Artifacts that were present then and are missing now come last, one per batch.

    Args:
        planned: the study.
        present: addresses of the artifacts that are present now.

    Raises:
        InputError: if the file is damaged.
    """
    artifacts = {
        artifact.address: (index, artifact)
        for index, graph in enumerate(planned.graphs)
        for artifact in _all_artifacts(graph)
    }
    path = store.path(planned.design.out) / f"batches-{planned.content_hash()[:16]}.json"
    if processes.is_first_process() and not path.exists():
        missing = set(artifacts) - present
        new_batches = [
            batch for index, graph in enumerate(planned.graphs) for batch in group_artifacts(index, graph, missing)
        ]
        store.create(path, json.dumps(_as_json(new_batches), indent=1).encode())
    processes.barrier("batches are fixed")
    try:
        lines = [line["pieces"] for line in store.read_json(path)]
        batches = [Batch(artifacts[line[0]][0], tuple(artifacts[address][1] for address in line)) for line in lines]
    except (ValueError, KeyError, TypeError, IndexError):
        raise errors.InputError(f"{path}: damaged; remove it, and run the study again") from None
    known = {artifact.address for batch in batches for artifact in batch.artifacts}
    lost = [(index, artifact) for address, (index, artifact) in artifacts.items() if address not in known | present]
    return [*batches, *(Batch(index, (artifact,)) for index, artifact in lost)]


def _as_json(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Returns each batch as JSON data, with the batches that it depends on."""
    place = {artifact.address: number for number, batch in enumerate(batches) for artifact in batch.artifacts}
    content = []
    for number, batch in enumerate(batches):
        dependencies = {
            place.get(dependency.address, number)
            for artifact in batch.artifacts
            for dependency in artifact.dependencies.values()
        }
        addresses = [artifact.address for artifact in batch.artifacts]
        labels = [artifact.label for artifact in batch.artifacts]
        content.append(
            {"kind": batch.kind, "after": sorted(dependencies - {number}), "pieces": addresses, "labels": labels}
        )
    return content


def _all_artifacts(graph: ArtifactGraph) -> list[Artifact]:
    return topological_order(graph.final_artifacts())


def group_artifacts(model: int, graph: ArtifactGraph, missing: Iterable[str]) -> list[Batch]:
    """Groups the missing artifacts of a model: edits, adapters trained jointly, states under similar edits,
    statistics."""
    requested = set(missing)
    artifacts = [artifact for artifact in _all_artifacts(graph) if artifact.address in requested]
    batches: list[Batch] = []
    artifact_kinds = sorted({artifact.kind for artifact in artifacts if artifact.maker is not None})
    for kind in (*artifact_kinds, *_RATED, *_NUMBERS):
        groups: dict[Any, list[Artifact]] = {}
        for artifact in artifacts:
            if artifact.kind == kind:
                groups.setdefault(_batch_key(artifact, graph.weights), []).append(artifact)
        for group in groups.values():
            size = _STATISTICS_PER_BATCH
            if kind == "state":
                size = score_edits.MAX_EDITS if graph.weights < SMALL else _FEW
            elif group[0].maker is not None and group[0].maker.joint:
                size = len(group)
            batches += [Batch(model, tuple(group[start : start + size])) for start in range(0, len(group), size)]
    return batches


def _batch_key(artifact: Artifact, weights: int) -> Any:
    """Returns a key that is equal for artifacts that can be computed together."""
    if artifact.kind in _NUMBERS:
        return artifact.kind
    if artifact.kind == "texts":
        return artifact.address
    if artifact.maker is not None:
        return artifact.maker.batch_key(artifact, weights)
    arm, wording = artifact.task
    form = None if arm is None else arm.cell.intervention.state_key(arm, weights)
    return artifact.address if form is None else (form, wording)
