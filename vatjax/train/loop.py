"""The training loop: checkpoints, validation, early stopping, a log, and errors that name the batch.

A step depends only on the settings, the data and the step number. A killed run therefore resumes from its last
checkpoint and ends with the same bytes, on one device that sums in a fixed order.

    run(state, data, train.dpo(), Course(steps=500, save=100), folder="run")

    run/checkpoints/        the newest ones, and the best
    run/metrics.jsonl       a line for the first step and every `log` steps
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vatjax import errors, store
from vatjax.models import computation_key, fingerprint, sharding
from vatjax.runtime import preemption, processes
from vatjax.train import steps as stepping
from vatjax.train.checkpoints import Checkpoints
from vatjax.train.evaluation import evaluate
from vatjax.train.forward import Memory
from vatjax.train.log import Board, Log, Metrics
from vatjax.train.losses import Loss
from vatjax.train.rows import Batch, Data, batch, rows_at_step, tokens_until
from vatjax.train.steps import DEFAULT_MEMORY, Penalty, State

# A mean loss over _WINDOW steps that exceeds the first one by this factor has diverged: the rate is too high.
_DIVERGED_FACTOR, _WINDOW = 3.0, 20
_SOLVED_LOSS = 1e-4  # at a loss below this, a gradient of 0 is not a sign of failure


@dataclasses.dataclass(frozen=True)
class Course:
    """Settings of the training loop."""

    steps: int = 100
    parts: int = 1
    """Number of equal parts that a batch is split into, computed in turn: more take less memory."""
    seed: int = 0
    """Seed of the data order."""
    log: int = 10
    """Steps between logged lines; the first step is logged too."""
    boards: tuple[Board, ...] = ()
    """Other loggers that receive every line: tensorboard, wandb."""
    save: int = 100
    """Steps between checkpoints; 0 writes one at the end."""
    keep: int = 2
    """Number of the newest checkpoints to keep, in addition to the best."""
    validate: int = 0
    """Steps between validations; 0 never validates."""
    patience: int = 0
    """Validations without improvement after which the run ends; 0 never ends it early."""
    best: bool = False
    """Whether to return the state with the lowest validation loss instead of the last one."""
    penalise: int = 1
    """Steps between additions of the penalty."""
    probe: int = 0
    """Steps between ratings of the probes; 0 never rates them."""

    def check(self) -> None:
        """Raises InputError if a setting is out of range."""
        for name, least in (("steps", 1), ("parts", 1), ("log", 1), ("keep", 1), ("penalise", 1)):
            if getattr(self, name) < least:
                raise errors.InputError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        for name in ("save", "validate", "patience", "probe"):
            if getattr(self, name) < 0:
                raise errors.InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.patience and not self.validate:
            raise errors.InputError("patience: needs validation; set validate")
        if self.best and not self.validate:
            raise errors.InputError("best: needs validation; set validate")


class Diverged(errors.InputError):
    """A loss or gradient that is not finite, a diverging loss, or a gradient that stays 0.

    Attributes:
        state: the last good state.
    """

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


class Finished(NamedTuple):
    """Result of a run.

    Attributes:
        state: after the last step; with `Course.best`, the one with the lowest validation loss.
        metrics: the lines of the log.
        start_step: the step that the run started or resumed from.
        stop_reason: "steps", or "patience".
    """

    state: State
    metrics: list[Metrics]
    start_step: int
    stop_reason: str


Probe = Callable[[State, int], None]


def run(
    state: State,
    data: Data,
    loss: Loss,
    course: Course,
    folder: store.Path | None = None,
    penalty: Penalty | None = None,
    validation: Data | None = None,
    probe: Probe | None = None,
    memory: Memory = DEFAULT_MEMORY,
    about: Mapping[str, Any] | None = None,
    on_step: Callable[[Metrics, float], None] = lambda *_: None,
    on_message: Callable[[str], None] = lambda _: None,
    locked: bool = False,
) -> Finished:
    """Trains for `course.steps` steps, resuming from the newest checkpoint in the folder if there is one.

    On a handled stop signal the run finishes the current step, writes a checkpoint and ends.

    Args:
        state: before the first step; its arrays are donated and can't be used afterwards.
        data: training examples.
        loss: training loss.
        course: settings of the loop.
        folder: for checkpoints and the log; without one nothing is saved.
        penalty: added to the loss.
        validation: held-out examples.
        probe: is called with the state and the step, before the first step and every `course.probe` steps.
        memory: rematerialisation settings.
        about: plain data that the outcome also depends on; part of the identity of checkpoints.
        on_step: is called after every step with its metrics and seconds.
        on_message: is called with unusual events, a line each.
        locked: whether the caller already holds the lease on the folder.

    Raises:
        InputError: for checkpoints of another run, a folder in which another process trains, or a full disk.
        Diverged: for a loss that is not finite or diverges, or a gradient that stays 0.
    """
    course.check()
    if course.validate and validation is None:
        raise errors.InputError("validate: needs validation examples; none were given")
    for name in ("best", "boards") if folder is None else ():
        if getattr(course, name):
            raise errors.InputError(f"{name}: needs a run folder")
    if probe is not None:  # also for a resumed run that had no probe before
        probe(state, int(state.progress.step))
    if folder is None:
        return _Run(state, data, loss, course, penalty, validation, probe, memory, None, None, on_step).run()
    identity = _identity(state, data, loss, course, penalty, validation, about or {})
    path = store.path(folder)
    store.refuse_links(path)
    with (
        contextlib.nullcontext() if locked else _exclusive_access(path, on_message),
        Checkpoints(path / "checkpoints", identity, course.keep, best=bool(course.validate)) as checkpoints,
    ):
        checkpoint = checkpoints.latest(state.progress, on_message)
        if checkpoint is not None:
            state = dataclasses.replace(state, progress=checkpoint)
            on_message(f"{folder}: resuming from the checkpoint of step {int(checkpoint.step):,}")
        log = Log(path, int(state.progress.step), course.boards, identity)
        try:
            return _Run(state, data, loss, course, penalty, validation, probe, memory, checkpoints, log, on_step).run()
        finally:
            log.close()
            preemption.mark_unsaved(False)


@contextlib.contextmanager
def _exclusive_access(folder: Any, on_message: Callable[[str], None]) -> Iterator[None]:
    """Holds a lease on the folder, so that no other process trains in it."""
    lease = processes.run_on_first(lambda: store.acquire_exclusive(folder, on_message=on_message))
    try:
        yield
    finally:
        if lease is not None:
            lease.release()


def _identity(
    state: State,
    data: Data,
    loss: Loss,
    course: Course,
    penalty: Penalty | None,
    validation: Data | None,
    about: Mapping[str, Any],
) -> dict[str, str]:
    """Returns everything that decides the outcome, by name, so that an error can name what differs."""
    settings = {
        "loss": [loss.name, dict(loss.options)],
        "what": [type(state.what).__name__, dataclasses.asdict(state.what)],
        **dataclasses.asdict(state.adam),
        "rate": float(str(state.progress.pace.rate)),  # the shortest decimal that is this float32
        "steps": int(state.progress.pace.steps),
        "seed": course.seed,
        "rows": list(data.shape),
        "parts": course.parts,
        "penalise": course.penalise,
        "validate": course.validate,
        "patience": course.patience,
        **(about or {}),
    }
    # The penalty's arrays and its static fields.
    penalty_hash = (
        "none" if penalty is None else store.address([fingerprint(penalty), str(jax.tree.structure(penalty))])
    )
    return {
        "model": fingerprint(state.base.arrays),
        "computed": computation_key(state.base),
        "data": _hash_examples(data),
        "validation": "none" if validation is None else _hash_examples(validation),
        "penalty": penalty_hash,
        **{name: json.dumps(x) for name, x in settings.items()},
    }


def _hash_examples(data: Data) -> str:
    """Hashes the examples and their arrangement in rows."""
    return store.address(
        {
            "examples": [[example.prompt, *example.completions, example.good] for example in data.examples],
            "rows": data.rows,
        }
    )


@dataclasses.dataclass
class _Run:
    """A run in progress: its state, its inputs and its outputs."""

    state: State
    data: Data
    loss: Loss
    course: Course
    penalty: Penalty | None
    validation: Data | None
    probe: Probe | None
    memory: Memory
    checkpoints: Checkpoints | None
    log: Log | None
    on_step: Callable[[Metrics, float], None]

    def __post_init__(self) -> None:
        self.start_step = int(self.state.progress.step)
        self.tokens = tokens_until(self.data, self.start_step, self.course.seed)
        self.lines: list[Metrics] = [] if self.log is None else self.log.lines["metrics"]
        self.recent: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self.first = _without_penalty(self.lines[0]) if self.lines else float("nan")
        self.zero_gradients = 0

    def run(self) -> Finished:
        course, start_step = self.course, self.start_step
        losses = [line["eval_loss"] for line in self.lines if line.get("eval_loss") is not None]
        next_batch = self._batch(start_step) if start_step < course.steps else None
        stop_reason = "steps"
        for step in range(start_step, course.steps):
            if self._out_of_patience(losses):
                stop_reason = "patience"
                break
            if preemption.requested_signal():
                self._save_last()
                preemption.stop_if_requested()
            assert next_batch is not None
            start = time.perf_counter()
            penalty = self.penalty if step % course.penalise == 0 else None
            self.state, logs = stepping.step(
                self.state, next_batch, self.loss, penalty, course.parts, self.memory, donate=True
            )
            next_batch = self._batch(step + 1) if step + 1 < course.steps else None  # while the device computes
            self._finish_step(step, processes.fetch(logs), start, losses)
        self._save_last()
        if course.best and self.checkpoints is not None:
            self.state = dataclasses.replace(self.state, progress=self.checkpoints.best(self.state.progress))
        return Finished(self.state, self.lines, start_step, stop_reason)

    def _finish_step(self, step: int, logs: Mapping[str, Any], start: float, losses: list[float]) -> None:
        """Checks a step for divergence, then validates, logs, probes and saves a checkpoint as due."""
        course, number = self.course, step + 1
        self._check_divergence(step, logs)
        self.tokens += self._count_tokens(step)
        seconds = time.perf_counter() - start
        metrics: Metrics = {"step": number, "epoch": number / self.data.steps}
        metrics |= {name: float(x) for name, x in logs.items() if name not in ("finite", "empty", "tokens")}
        metrics["num_tokens"] = self.tokens
        last = number == course.steps
        if self.validation is not None and course.validate and (number % course.validate == 0 or last):
            evaluated = evaluate(self.state, self.validation, self.loss, self.memory)
            metrics |= {f"eval_{name}": x for name, x in evaluated.items()}
            losses.append(metrics["eval_loss"])
        preemption.mark_unsaved(self.checkpoints is not None)
        self.on_step(metrics, seconds)
        if number == 1 or number % course.log == 0 or last or "eval_loss" in metrics:
            timing = {"step": number, "seconds": seconds, "tokens_per_second": self._count_tokens(step) / seconds}
            if self.log is None:
                self.lines.append(metrics)
            else:
                self.log.add(metrics, timing)
        if self.probe is not None and course.probe and (number % course.probe == 0 or last):
            self.probe(self.state, number)
        better = "eval_loss" in metrics and metrics["eval_loss"] <= min(losses)
        if self.checkpoints is not None and (last or better or (course.save and number % course.save == 0)):
            self.checkpoints.save(self.state.progress, metrics.get("eval_loss"))

    def _check_divergence(self, step: int, logs: Mapping[str, Any]) -> None:
        """Raises if a step was not finite or the loss diverges; the state is then the last good one."""
        loss = float(logs["loss"])
        if logs["empty"]:
            raise errors.InputError(f"step {step + 1}: the batch has no tokens to learn ({self._example_names(step)})")
        if not logs["finite"]:
            self._save_last()
            raise Diverged(
                f"step {step + 1}: the loss is {loss} and its gradient {float(logs['grad_norm'])} at a learning rate of "
                f"{float(logs['learning_rate']):.3g}, on {self._example_names(step)}; lower the rate, or look at these examples",
                self.state,
            )
        loss = _without_penalty(logs)
        self.first = loss if np.isnan(self.first) else self.first
        self.recent.append(loss)
        now = float(np.mean(self.recent))
        if len(self.recent) == _WINDOW and now > max(_DIVERGED_FACTOR * self.first, self.first + 1):
            raise self._diverged(step, f"the loss has gone from {self.first:.3g} to {now:.3g}")
        # A gradient of exactly 0 with something left to learn: the parameters have left the range that has gradients.
        self.zero_gradients = (
            self.zero_gradients + 1 if float(logs["grad_norm"]) == 0 and abs(loss) > _SOLVED_LOSS else 0
        )
        if self.zero_gradients == _WINDOW:
            raise self._diverged(step, f"the gradient has been 0 for {_WINDOW} steps, at a loss of {loss:.3g}")

    def _diverged(self, step: int, what: str) -> Diverged:
        """Builds the error for a diverged run, with the checkpoints that remain."""
        saved = [] if self.checkpoints is None else self.checkpoints.steps
        remaining = f"; checkpoints remain for step {', '.join(map(str, saved))}" if saved else ""
        rate = float(self.state.progress.pace.rate)
        return Diverged(
            f"step {step + 1}: {what}, on {self._example_names(step)}: the learning rate, {rate:.3g} at its highest, is too "
            f"high{remaining}",
            self.state,
        )

    def _save_last(self) -> None:
        """Saves the last good state if it is not saved yet, and waits for pending writes."""
        if self.checkpoints is None:
            return
        if int(self.state.progress.step) not in self.checkpoints.steps:
            self.checkpoints.save(self.state.progress)
        self.checkpoints.wait()

    def _out_of_patience(self, losses: list[float]) -> bool:
        patience = self.course.patience
        return bool(patience) and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def _rows(self, step: int) -> tuple[int, ...]:
        return rows_at_step(self.data, step, self.course.seed)

    def _count_tokens(self, step: int) -> int:
        """Counts the tokens of a step, without padding."""
        return sum(self.data.examples[i].length for row in self._rows(step) for i in self.data.rows[row])

    def _batch(self, step: int) -> Batch:
        rows: Batch = sharding.shard_batch(batch(self.data, self._rows(step)), self.state.base.arrays)
        return rows

    def _example_names(self, step: int) -> str:
        """Names the examples of a step, for a message."""
        sources = [
            self.data.examples[i].source or f"example {i + 1}" for row in self._rows(step) for i in self.data.rows[row]
        ]
        return ", ".join(sources[:6]) + (f" and {len(sources) - 6} more" if len(sources) > 6 else "")


def _without_penalty(logs: Mapping[str, Any]) -> float:
    """Returns the loss without the penalty that was added to it."""
    return float(logs["loss"]) - float(logs.get("penalty", 0.0))
