"""Cost of a study before it is run: the tokens of each artifact, and a lower bound on its seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from vatjax import elicit, errors, prefix, prompts, train
from vatjax.edits.candidates import sample_target_scenes
from vatjax.elicit.free import FREE_ANSWER_TOKENS
from vatjax.interventions import Arm, Cell, FoundEdit, TrainedIntervention, display_name
from vatjax.items import Items
from vatjax.models import Model
from vatjax.prompts import ElicitConfig, Shot
from vatjax.runtime.progress import OnProgress, ignore_progress
from vatjax.store.artifacts import Artifact, topological_order
from vatjax.study.planning import Plan, detectable, loader, open_artifact_store

_BACKWARD = 3  # a step of training takes about three forward passes of its tokens


class Work(NamedTuple):
    """Cost of an artifact.

    Attributes:
        tokens: tokens that pass through the model, padding included; for a training, three times those of its steps
            plus once those of its reference. The price on a training is not counted.
        operations: multiplications and additions of matrix products.
    """

    tokens: int
    operations: float

    def __mul__(self, times: int) -> Work:  # type: ignore[override]
        return Work(times * self.tokens, times * self.operations)

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(self.tokens + other.tokens, self.operations + other.operations)


NOTHING = Work(0, 0.0)


def costs(
    planned: Plan, load: Callable[[str], Model] | None = None, on_progress: OnProgress = ignore_progress
) -> dict[str, Any]:
    """Lists the artifacts of a study in topological order, each with its cost.

    Args:
        planned: from `plan`.
        load: opens a model.
        on_progress: called with the completed fraction.

    Returns:
        Plain data: for each artifact its address, the addresses of its dependencies, its group, kind and label, whether
        it is already present, the tokens that pass through the model, the operations of their products, and a lower
        bound on the seconds that the tokens take on this device. If an artifact is sure to fail, `fails` gives the
        reason. `detectable` gives the smallest effects that the contexts of the study can distinguish from noise.
    """
    design = planned.design
    load, artifact_store = load or loader(design), open_artifact_store(design)
    artifacts: list[dict[str, Any]] = []
    total = sum(len(topological_order(graph.final_artifacts())) for graph in planned.graphs)
    for graph in planned.graphs:
        model = load(graph.model)
        meter = Meter(planned, model, prefix.size_for(model))  # computed once: all processes agree on it
        for artifact in topological_order(graph.final_artifacts()):
            on_progress(len(artifacts) / max(1, total))
            present = artifact_store.has(artifact)
            work, reason = NOTHING, ""
            try:
                work = NOTHING if present else meter.work(artifact)
            except errors.InputError as error:
                reason = str(error)
            artifacts.append(
                {
                    "address": artifact.address,
                    "needs": [dependency.address for dependency in artifact.dependencies.values()],
                    "fails": reason,
                    "group": _group(artifact, graph.model),
                    "kind": artifact.kind,
                    "label": artifact.label,
                    "present": present,
                    "tokens": work.tokens,
                    "operations": work.operations,
                    "seconds": prefix.seconds_for(meter.model, work.tokens),
                    "disk_bytes": meter.disk_bytes(artifact),
                }
            )
    power = detectable(design, planned.test_items)
    return {
        "out": design.out,
        "artifact_store": str(artifact_store.folder),
        "artifacts": artifacts,
        "detectable": power,
    }


def _group(artifact: Artifact, model: str) -> str:
    """Returns the model and intervention that an artifact belongs to."""
    task = artifact.task
    first = task[0] if isinstance(task, tuple) and task and not isinstance(task, (Arm, Cell)) else task
    cell = first.cell if isinstance(first, Arm) else first
    if artifact.kind == "comparison":
        return f"{display_name(model)}: comparisons"
    name = cell.name if isinstance(cell, Cell) else "unedited" if artifact.maker is None else artifact.maker.kind
    return f"{display_name(model)}: {name}"


class Meter:
    """Counter of the cost of artifacts; a cost that many share is counted once.

    Args:
        planned: from `plan`.
        model: the model of the artifacts; an abstract model is enough.
        size: amount computed at once.
    """

    def __init__(self, planned: Plan, model: Model, size: prefix.Size | None = None) -> None:
        self.planned, self.model, self.size = planned, model, size
        self.weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
        self.known: dict[Any, Work] = {}

    def work(self, artifact: Artifact) -> Work:
        """Returns the cost of one artifact; zero if it does not need the model."""
        if artifact.kind == "state":
            arm, wording = artifact.task
            if arm is not None and not arm.cell.intervention.elicited:
                return NOTHING
            shots = 0 if arm is None else arm.cell.intervention.examples(arm.level)
            demonstrations = self._shots(arm.cell, shots) if shots else []
            return self._cached(
                ("state", shots, wording),
                lambda: self._rating(self.planned.test_items, self._how(wording), demonstrations),
            )
        maker = artifact.maker
        if isinstance(maker, TrainedIntervention):
            cell, draw = artifact.task
            return self._cached(("training", artifact.address), lambda: self._training_steps(maker, cell, draw))
        if artifact.kind == "texts":
            return self._cached(("texts",), lambda: self._free_text(artifact.inputs["items"]))
        if isinstance(maker, FoundEdit):
            cell, exchanged = artifact.task
            return self._cached(("edit", artifact.address), lambda: self._edit_search(maker, cell, exchanged))
        return NOTHING

    def disk_bytes(self, artifact: Artifact) -> int:
        """Returns the bytes of checkpoints that an artifact keeps; edits and states are small."""
        maker = artifact.maker
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.model.arrays))
        return maker.disk_bytes(size) if isinstance(maker, TrainedIntervention) else 0

    def _cached(self, key: Any, count: Callable[[], Work]) -> Work:
        if key not in self.known:
            self.known[key] = count()
        return self.known[key]

    def _forward(self, tokens: int, seen: float, read: int) -> Work:
        """Returns the cost of one pass: layer weights, attention to visible tokens, and the vocabulary where answers
        are read."""
        config = self.model.config
        attention = 4 * config.layers * config.heads * config.head_size * seen
        return Work(tokens, tokens * (2 * self.weights + attention) + 2 * read * config.width * config.vocabulary)

    def _how(self, wording: str) -> ElicitConfig:
        return dataclasses.replace(self.planned.design.how, wording=wording)

    def _rating(self, items: Items, how: ElicitConfig, shots: Sequence[Shot] = ()) -> Work:
        cost = elicit.cost(self.model, items, how, shots=shots, size=self.size)
        return self._forward(cost.computed, cost.full / max(1, cost.prompts), cost.prompts)

    def _free_text(self, items: int) -> Work:
        """Counts both prompts of each cell rated, and one of them continued, before and after."""
        cost = elicit.cost(self.model, self.planned.test_items, self._how(""), size=self.size)
        mean = cost.full // max(1, cost.prompts)
        return self._forward(items * 2 * (3 * mean + FREE_ANSWER_TOKENS), mean, 6 * items)

    def _shots(self, cell: Cell, count: int) -> list[Shot]:
        source = self.planned.design.items
        return prompts.demonstrations(
            self.planned.items, cell.target, cell.sign, count, test=source.test, seed=source.seed
        )

    def _training_steps(self, intervention: TrainedIntervention, cell: Cell, draw: int | None) -> Work:
        run = intervention.run(cell, self.planned.design, draw)
        prepared = train.prepare_data(self.model, run)
        data, shape = prepared.data, prepared.data.shape
        seen = data.tokens / max(1, len(data.examples))
        rows = run.course.steps * shape.rows
        steps = self._forward(rows * shape.time, seen, rows * shape.learned) * _BACKWARD
        if not prepared.loss.reference:
            return steps
        every = len(train.rows_drawn(data, run.course.steps, run.course.seed))
        return steps + self._forward(every * shape.time, seen, every * shape.learned)

    def _edit_search(self, intervention: FoundEdit, cell: Cell, exchanged: int | None) -> Work:
        """Counts the contrast pairs and, for a real edit, the places tried."""
        design = self.planned.design
        side, _ = self.planned.items.split(design.items.test, design.items.seed)
        mask = side.taxonomy.mask(cell.target)[side.value]
        some = side.take(mask.nonzero()[0][: 2 * intervention.pairs])
        pairs = self._cached(
            ("pairs", cell.target, intervention.pairs), lambda: self._rating(some, design.how.of_pairs())
        )
        if exchanged is not None:
            return pairs if intervention.placebo_asks else NOTHING
        places = intervention.tried_places(self.model.config.layers)
        if places < 2:
            return pairs
        tried = sample_target_scenes(side, cell.target, intervention.scenes, design.items.seed)
        swept = self._cached(
            ("swept", cell.target, intervention.scenes), lambda: self._rating(tried, design.how.of_pairs())
        )
        return pairs + swept * (places * len(intervention.strengths))
