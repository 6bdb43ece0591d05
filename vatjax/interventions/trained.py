"""Trainings on the train side, of low-rank changes or of whole weights: what their kinds share.

Steps are the levels: a training is measured at evenly spaced steps. The placebo trains in the same way on neutral text,
or on pairs whose labels are shuffled. Adapters of small models are trained together, in one compiled step. A training of
whole weights leaves a checkpoint in Hugging Face's layout for each measured step.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from vatjax import config, errors, models, store, train
from vatjax.elicit import Condition
from vatjax.interventions.base import CostMeter, Intervention, PlanContext, RunContext, WorkContext
from vatjax.models import Edit, Model
from vatjax.runtime import processes
from vatjax.runtime.progress import ignore_progress
from vatjax.store.artifacts import REFERENCE, RUN, Artifact
from vatjax.train import Adam, Course, Memory, Training
from vatjax.train.settings import Placebo, Price, Trained

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm, Cell

# Below this number of weights adapters are trained jointly; above it one by one, with checkpoints to resume from.
SMALL = 500_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Training settings of an intervention; `vatjax train` has the same ones."""

    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Parameters of the loss, such as beta."""
    file: str = ""
    """Training examples, in place of those generated from items."""
    lesson: Literal["", "actions", "judgements", "preferences"] = ""
    """Examples generated from items: actions, judgements, or preferences; by default the kind that the loss takes."""
    steps: int = 120
    """Number of steps."""
    checkpoints: int = 1
    """Number of evenly spaced training states to measure; the last is the end of the training."""
    rows: int = 16
    """Rows of a batch."""
    length: int = 0
    """Tokens of a row; by default those of the longest example."""
    pack: bool = False
    """Pack as many examples into a row as fit."""
    parts: int = 1
    """Number of parts that a batch is split into."""
    trained: Trained = dataclasses.field(default_factory=Trained)
    """Low-rank changes: rank, alpha, targets, layers; with `what: whole` all weights, or those of the layers."""
    adam: Adam = dataclasses.field(default_factory=Adam)
    """Settings of the optimizer."""
    memory: Memory = dataclasses.field(default_factory=Memory)
    """Activations that the backward pass stores."""
    placebo: Literal["", "neutral text", "shuffled labels"] = ""
    """Training data of the placebo; by default neutral text for sft and shuffled labels for the rest."""

    def __post_init__(self) -> None:
        if not 1 <= self.checkpoints <= self.steps or self.steps % self.checkpoints:
            raise errors.InputError(
                f"checkpoints: expected a number that divides the steps ({self.steps}), found {self.checkpoints}"
            )

    @classmethod
    def hint_for(cls, key: str) -> str:
        """Returns what to write instead of a key that only another kind has, for configurations."""
        return {
            "loss": "the kind names the loss; kind: tax-aware takes one here",
            "price": "this kind has no price; use kind: tax-aware",
        }.get(key, "")

    def measured_steps(self) -> tuple[int, ...]:
        """Returns the measured steps."""
        every = self.steps // self.checkpoints
        return tuple(range(every, self.steps + 1, every))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedIntervention(Intervention):
    """Settings that all kinds of trainings have."""

    unit: ClassVar[str] = "steps"
    joint: ClassVar[bool] = True

    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    """Settings of the training."""

    def __post_init__(self) -> None:
        expected = "neutral text" if self.loss == "sft" else "shuffled labels"
        if self.training.placebo not in ("", expected):
            raise errors.InputError(
                f"training.placebo: that of {self.loss} is {expected}, found {self.training.placebo}"
            )

    @property
    def loss(self) -> str:
        """Returns the training loss, without a price."""
        return self.kind

    @property
    def price(self) -> Price:
        """Returns the price of moving other values."""
        return Price()

    @property
    def placebo_data(self) -> str:
        """Returns the training data of its placebo."""
        return self.training.placebo or ("neutral text" if self.loss == "sft" else "shuffled labels")

    @property
    def whole(self) -> bool:
        """Returns True if weights themselves are trained, and not an adapter."""
        return self.training.trained.what == "whole"

    def disk_bytes(self, weights: int) -> int:
        """Returns the bytes that the checkpoints of one training take, for a model of so many bytes."""
        return weights * self.training.checkpoints if self.whole else 0

    def levels(self) -> tuple[float, ...]:
        """Returns the measured steps."""
        return self.training.measured_steps()

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the name of its placebo: the data that it trains on."""
        return (self.placebo_data,)

    def run(self, cell: Cell, context: RunContext, draw: int | None = None) -> Training:
        """Returns the settings of the training run of a cell, or of a draw of its placebo."""
        settings, loss, seed = self.training, cast(Any, self.loss), cell.seed
        if draw is not None:  # neutral text is the same for all targets: trained once
            seed = cell.seed + 1000 * draw if self.placebo_data == "neutral text" else cell.draw_seed(draw)
        return Training(
            cell.model,
            cell.target,
            cell.direction,
            loss,
            settings.settings,
            settings.file,
            settings.lesson,
            "none" if draw is None else cast(Placebo, self.placebo_data),
            rows=settings.rows,
            length=settings.length,
            pack=settings.pack,
            trained=settings.trained,
            adam=settings.adam,
            course=Course(settings.steps, settings.parts, seed),
            memory=settings.memory,
            price=self.price if draw is None else Price(),
            items=context.source,
            how=context.how.of_pairs(),
            dtype=context.dtype,
        )

    def dependencies(self, arm: Arm, plan: PlanContext) -> dict[str, Artifact]:
        """Returns the training run, with an edit for each measured step."""
        from vatjax.interventions.arms import display_name

        cell, draw = arm.cell, arm.draw if arm.placebo else None
        run = self.run(cell, plan, draw)
        inputs = {key: value for key, value in config.to_dict(run).items() if key not in ("model", "items", "dtype")}
        if run.file:
            inputs["file"] = store.file_address(run.file)
        inputs |= {**plan.train_inputs, "marks": list(self.training.measured_steps())}
        label = f"{cell}: training" if draw is None else f"{cell}: training on {run.placebo} {draw + 1}"
        if run.placebo == "neutral text":  # the same for every target
            inputs |= {"target": "", "direction": ""}
            number = draw + 1 if draw is not None else ""
            label = f"{display_name(cell.model)}: {cell.name}, training on neutral text {number}"
        return {"training": Artifact("training", label, inputs, task=(cell, draw), maker=self)}

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the step."""
        del plan
        return {"step": arm.level}

    def edit_folder(self, arm: Arm, state: Artifact) -> tuple[Artifact, str] | None:
        """Returns the trained change at the arm's step; None for whole weights."""
        return None if self.whole else (state.dependencies["training"], step_folder(arm.level))

    def rated_model(self, arm: Arm, state: Artifact, work: WorkContext) -> Model:
        """Returns the trained checkpoint, or the study's model, to which an adapter is applied."""
        if not self.whole:
            return work.model
        return work.load(str(work.artifact_store.path(state.dependencies["training"]) / step_folder(arm.level)))

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the trained change at the arm's step."""
        if self.whole:
            return Condition()
        folder = work.artifact_store.path(state.dependencies["training"]) / step_folder(arm.level)
        return Condition(edit=models.load_edit(folder, work.model))

    def batch_key(self, artifact: Artifact, weights: int) -> Any:
        """Returns a key that is equal for runs that differ in their data and their order alone."""
        cell, draw = artifact.task
        priced = bool(self.price.weight)
        jointly = weights < SMALL and not priced and not self.whole
        return (cell.name, draw is None) if jointly else artifact.address

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for low-rank changes of the same shapes; those of a large model are rated alone,
        since changes of all layers share no layers that could be computed once."""
        del arm
        return self.training.trained if weights < SMALL and not self.whole else None

    def cost(self, artifact: Artifact, meter: CostMeter) -> Any:
        """Returns the cost of the training."""
        cell, draw = artifact.task
        return meter.training_steps(self, cell, draw)

    # Training -------------------------------------------------------------------------------------------------------

    def make(self, batch: Sequence[Artifact], work: WorkContext) -> None:
        """Trains one run, or several jointly."""
        if len(batch) > 1:
            _train_jointly(batch, work)
            return
        artifact = batch[0]
        cell, draw = artifact.task
        run, folder = self.run(cell, work, draw), work.artifact_store.path(artifact)
        prepared = train.prepare(work.model, run, folder / REFERENCE, on_message=work.on_message)
        every = min(self.training.measured_steps())
        course = dataclasses.replace(run.course, probe=every, save=every, log=max(1, every // 10))

        def keep(state: train.State, step: int) -> None:
            written = "config.json" if self.whole else "edit.json"
            if step and not processes.global_all((folder / step_folder(step) / written).exists()):
                _save_step(state, artifact, step, work)

        ended = train.run(
            prepared.state,
            prepared.data,
            prepared.loss,
            course,
            folder / RUN,
            prepared.penalty,
            probe=keep,
            memory=run.memory,
            on_step=lambda metrics, _: work.on_progress(metrics["step"] / course.steps),
            on_message=work.on_message,
            locked=True,  # by the lease on its batch
        )
        _commit_lines(folder / "metrics.jsonl", ended.metrics)


def _train_jointly(batch: Sequence[Artifact], work: WorkContext) -> None:
    """Trains adapters on one model, each with its own data and order, in one compiled step."""
    tasks = [artifact.task for artifact in batch]
    runs = [cell.intervention.run(cell, work, draw) for cell, draw in tasks]
    prepared = [
        train.prepare(work.model, run, work.artifact_store.path(artifact) / REFERENCE, on_message=work.on_message)
        for run, artifact in zip(runs, batch, strict=True)
    ]
    data = train.pad_to_common_shape([run_inputs.data for run_inputs in prepared])
    state = train.stack([run_inputs.state for run_inputs in prepared])
    marks = tasks[0][0].intervention.training.measured_steps()
    lines: list[list[dict[str, float]]] = [[] for _ in batch]
    course, loss, memory = runs[0].course, prepared[0].loss, runs[0].memory
    unread: collections.deque[Any] = collections.deque()
    for step in range(course.steps):
        rows = [
            train.batch(adapter_data, train.rows_at_step(adapter_data, step, run.course.seed))
            for adapter_data, run in zip(data, runs, strict=True)
        ]
        state, logs = train.step_many(
            state, train.stack_batches(rows), loss, parts=course.parts, memory=memory, donate=True
        )
        number = step + 1
        unread.append(logs["loss"])
        if work.on_progress is not ignore_progress and len(unread) > 2:  # two steps after the device: it is never idle
            unread.popleft().block_until_ready()
            work.on_progress((number - 2) / course.steps)
        if number == 1 or number in marks or number % max(1, min(marks) // 10) == 0:
            _log_step(batch, number, processes.fetch(logs), lines)
        if number in marks:
            for artifact, adapter in zip(batch, train.unstack(state), strict=True):
                _save_step(adapter, artifact, number, work)
    for artifact, metric_lines in zip(batch, lines, strict=True):
        if not work.artifact_store.has(artifact):
            _commit_lines(work.artifact_store.path(artifact) / "metrics.jsonl", metric_lines)


def _log_step(batch: Sequence[Artifact], step: int, logs: Any, lines: list[list[dict[str, float]]]) -> None:
    for i, artifact in enumerate(batch):
        if not logs["finite"][i]:
            rate = artifact.task[0].intervention.training.adam.rate
            raise errors.InputError(
                f"{artifact.label}: the loss is not finite at step {step}; lower the rate, {rate:g}"
            )
        metrics = {name: float(x[i]) for name, x in logs.items() if name not in ("finite", "empty", "tokens")}
        lines[i].append({"step": step, **metrics})


def _save_step(state: train.State, artifact: Artifact, step: int, work: WorkContext) -> None:
    if work.artifact_store.has(artifact):
        return
    trained, folder = train.export(state), work.artifact_store.path(artifact) / step_folder(step)
    if isinstance(trained, Edit):
        models.save_edit(trained, work.model, folder, {"step": step})
    else:
        models.save(trained, folder, overwrite=True)


def _commit_lines(path: Any, lines: Sequence[Any]) -> None:
    store.commit(path, "".join(json.dumps(store.nonfinite_to_none(dict(line))) + "\n" for line in lines).encode())


def step_folder(step: float) -> str:
    """Returns the folder of the edit of a training step, relative to its artifact."""
    return f"step-{int(step):06d}"
