"""Cost of a study before it is run: the tokens of each artifact, and a lower bound on its seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vatjax import elicit, errors, prefix, train
from vatjax.edits.candidates import sample_target_scenes
from vatjax.elicit.ask import PLAIN
from vatjax.elicit.free import FREE_ANSWER_TOKENS
from vatjax.interventions import Arm, Cell, FoundEdit, TrainedIntervention, display_name
from vatjax.items import Items
from vatjax.models import Model
from vatjax.prompts import ElicitConfig
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


_WORDS = 8  # words of a text that are counted as one step of its length


class Meter:
    """Counter of the cost of artifacts; a cost that many share is counted once.

    Args:
        planned: from `plan`.
        model: the model of the artifacts; an abstract model is enough.
        size: amount computed at once.
    """

    nothing = NOTHING

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
            condition = self._known_condition(arm)
            text = " ".join([condition.instruction, *(turn["content"] for turn in condition.turns)])
            # Texts of about the same length cost about the same, and are counted once.
            key = ("state", wording, len(condition.shots), len(text.split()) // _WORDS)
            return self._cached(key, lambda: self.rating(self.planned.test_items, self._how(wording), condition))
        if artifact.kind == "texts":
            return self._cached(("texts",), lambda: self._free_text(artifact.inputs["items"]))
        maker = artifact.maker
        if maker is None:
            return NOTHING
        return self._cached(("made", artifact.address), lambda: maker.cost(artifact, self))

    def _known_condition(self, arm: Arm | None) -> elicit.Condition:
        """Returns the part of an arm's condition that is known before anything is made."""
        contexts = [graph.context for graph in self.planned.graphs if graph.context is not None]
        if arm is None or not contexts:
            return elicit.Condition()
        return arm.cell.intervention.known_condition(arm, contexts[0])

    def disk_bytes(self, artifact: Artifact) -> int:
        """Returns the bytes of checkpoints that an artifact keeps; edits and states are small."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.model.arrays))
        return int(artifact.maker.disk_bytes(size)) if artifact.maker is not None else 0

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

    def rating(self, items: Items, how: ElicitConfig, condition: elicit.Condition = PLAIN) -> Work:
        """Returns the cost of rating items once."""
        shots, instruction, turns = condition.shots, condition.instruction, condition.turns
        cost = elicit.cost(self.model, items, how, shots=shots, instruction=instruction, turns=turns, size=self.size)
        return self._forward(cost.computed, cost.full / max(1, cost.prompts), cost.prompts)

    def _free_text(self, items: int) -> Work:
        """Counts both prompts of each cell rated, and one of them continued, before and after."""
        cost = elicit.cost(self.model, self.planned.test_items, self._how(""), size=self.size)
        mean = cost.full // max(1, cost.prompts)
        return self._forward(items * 2 * (3 * mean + FREE_ANSWER_TOKENS), mean, 6 * items)

    def training_steps(self, intervention: TrainedIntervention, cell: Cell, draw: int | None) -> Work:
        """Returns the cost of a training."""
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

    def edit_search(self, intervention: FoundEdit, cell: Cell, exchanged: int | None) -> Work:
        """Counts the contrast pairs and, for a real edit, the places tried."""
        design = self.planned.design
        side, _ = self.planned.items.split(design.items.test, design.items.seed)
        mask = side.taxonomy.mask(cell.target)[side.value]
        some = side.take(mask.nonzero()[0][: 2 * intervention.pairs])
        pairs = self._cached(
            ("pairs", cell.target, intervention.pairs), lambda: self.rating(some, design.how.of_pairs())
        )
        if exchanged is not None:
            return pairs if intervention.placebo_asks else NOTHING
        places = intervention.tried_places(self.model.config.layers)
        if places < 2:
            return pairs
        tried = sample_target_scenes(side, cell.target, intervention.scenes, design.items.seed)
        swept = self._cached(
            ("swept", cell.target, intervention.scenes), lambda: self.rating(tried, design.how.of_pairs())
        )
        return pairs + swept * (places * len(intervention.strengths))
