"""The loop around a step: checkpoints, validation, early stopping, a log, and errors that name the batch.

What a step does follows from the settings, the data and the number of the step. So a run that was killed goes on from its
last checkpoint and ends, on one device whose sums have an order, with the same bytes.

    run(state, data, train.dpo(), Course(steps=500, save=100), folder="run")

    run/checkpoints/        the last ones, and the best
    run/metrics.jsonl       a line for the first step and for every few
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

from vatjax import errors, stopping, store
from vatjax.models import computed_as, fingerprint, hosts, sharding
from vatjax.train import steps as stepping
from vatjax.train.checkpoints import Checkpoints
from vatjax.train.evaluation import evaluate
from vatjax.train.forward import Memory
from vatjax.train.log import Board, Log, Metrics
from vatjax.train.losses import Loss
from vatjax.train.rows import Batch, Data, at, batch, tokens_until
from vatjax.train.steps import KEEP, Penalty, State

# A loss that stays so many times above where it began is one that a too high rate has driven away.
_LOST, _WINDOW = 3.0, 20
_SOLVED = 1e-4  # a loss with nothing left to learn


@dataclasses.dataclass(frozen=True)
class Course:
    """How a run goes on."""

    steps: int = 100
    parts: int = 1
    """In how many parts a batch is taken, one after the other: more take less memory."""
    seed: int = 0
    """Of the order of the data."""
    log: int = 10
    """Every so many steps a line is logged, beside that of the first."""
    boards: tuple[Board, ...] = ()
    """What is told every line besides: tensorboard, wandb."""
    save: int = 100
    """Every so many steps a checkpoint is written; 0 writes one at the end."""
    keep: int = 2
    """How many of the newest checkpoints are kept, beside the best."""
    validate: int = 0
    """Every so many steps the loss on the validation examples is taken; 0 never."""
    patience: int = 0
    """After so many validations without a better one the run ends; 0 goes on."""
    best: bool = False
    """Whether a run gives the state of its best validation, and not the last one."""
    penalise: int = 1
    """Every so many steps the penalty is added."""
    probe: int = 0
    """Every so many steps the probes are rated; 0 never."""

    def check(self) -> None:
        """Refuses numbers that no run can go by."""
        for name, least in (("steps", 1), ("parts", 1), ("log", 1), ("keep", 1), ("penalise", 1)):
            if getattr(self, name) < least:
                raise errors.InputError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        for name in ("save", "validate", "patience", "probe"):
            if getattr(self, name) < 0:
                raise errors.InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.patience and not self.validate:
            raise errors.InputError("patience: without validation there is nothing to wait for; set validate")
        if self.best and not self.validate:
            raise errors.InputError("best: without validation no state is the best one; set validate")


class Diverged(errors.InputError):
    """A loss that is no number, or that has run away.

    Attributes:
        state: the last one that a step could be taken to.
    """

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


class Finished(NamedTuple):
    """A run that has ended.

    Attributes:
        state: after the last step; with `Course.best`, that of the least validation loss.
        metrics: the lines of the log.
        begun: the step that it went on from.
        why: "steps", or "patience".
    """

    state: State
    metrics: list[Metrics]
    begun: int
    why: str


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
    memory: Memory = KEEP,
    about: Mapping[str, Any] | None = None,
    done: Callable[[Metrics, float], None] = lambda *_: None,
    told: Callable[[str], None] = lambda _: None,
    held: bool = False,
) -> Finished:
    """Trains until the course is run, from the newest checkpoint in the folder if there is one.

    A run that is asked to stop (`stopping.listened`) writes a checkpoint and ends behind the step that it is at.

    Args:
        state: before the first step; its arrays can't be used any more afterwards.
        data: what is trained on.
        loss: what is lessened.
        course: how it goes on.
        folder: for checkpoints and the log; without one nothing is kept.
        penalty: what is added to the loss.
        validation: examples that are not trained on.
        probe: is called with the state, before the first step and after every few.
        memory: what the backward pass keeps.
        about: what else decides the outcome, as plain data: checkpoints belong to it.
        done: is told the metrics of every step, and its seconds.
        told: is told what is unusual.
        held: whether the caller sees to it that nobody else trains in the folder.

    Raises:
        InputError: for checkpoints of another run, a folder that somebody else trains in, and a full disk.
        Diverged: for a loss that is no number or runs away.
    """
    course.check()
    if course.validate and validation is None:
        raise errors.InputError("validate: there are no validation examples")
    for name in ("best", "boards") if folder is None else ():
        if getattr(course, name):
            raise errors.InputError(f"{name}: a run without a folder has nowhere to keep what that needs")
    if probe is not None:  # also where a run goes on, that had none
        probe(state, int(state.progress.step))
    if folder is None:
        return _Run(state, data, loss, course, penalty, validation, probe, memory, None, None, done).run()
    named = _named(state, data, loss, course, penalty, validation, about or {})
    where = store.path(folder)
    with (
        contextlib.nullcontext() if held else _held(where, told),
        Checkpoints(where / "checkpoints", named, course.keep, best=bool(course.validate)) as checkpoints,
    ):
        found = checkpoints.latest(state.progress, told)
        if found is not None:
            state = dataclasses.replace(state, progress=found)
            told(f"{folder}: going on from the checkpoint of step {int(found.step):,}")
        log = Log(where, int(state.progress.step), course.boards, named)
        try:
            return _Run(state, data, loss, course, penalty, validation, probe, memory, checkpoints, log, done).run()
        finally:
            log.close()


@contextlib.contextmanager
def _held(folder: Any, told: Callable[[str], None]) -> Iterator[None]:
    """Nobody else trains in a folder meanwhile."""
    held = hosts.on_first(lambda: store.alone(folder, told=told))
    try:
        yield
    finally:
        if held is not None:
            held.end()


def _named(
    state: State,
    data: Data,
    loss: Loss,
    course: Course,
    penalty: Penalty | None,
    validation: Data | None,
    about: Mapping[str, Any],
) -> dict[str, str]:
    """What decides the outcome, each by its name, for a message that says which one is another."""
    settings = {
        "loss": [loss.name, dict(loss.options)],
        "what": [type(state.what).__name__, dataclasses.asdict(state.what)],
        **dataclasses.asdict(state.adam),
        "rate": float(str(state.progress.pace.rate)),  # the shortest number that is this float32
        "steps": int(state.progress.pace.steps),
        "seed": course.seed,
        "rows": list(data.shape),
        "parts": course.parts,
        "penalise": course.penalise,
        "validate": course.validate,
        "patience": course.patience,
        **(about or {}),
    }
    # What a price is made of: its arrays, and what is static in it.
    priced = "none" if penalty is None else store.address([fingerprint(penalty), str(jax.tree.structure(penalty))])
    return {
        "model": fingerprint(state.base.arrays),
        "computed": computed_as(state.base),
        "data": _examples(data),
        "validation": "none" if validation is None else _examples(validation),
        "penalty": priced,
        **{name: json.dumps(x) for name, x in settings.items()},
    }


def _examples(data: Data) -> str:
    """A hash of examples and of how they lie in rows."""
    return store.address(
        {"examples": [[one.prompt, *one.behind, one.good] for one in data.examples], "rows": data.rows}
    )


@dataclasses.dataclass
class _Run:
    """One run's position, and what it is told by."""

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
    done: Callable[[Metrics, float], None]

    def __post_init__(self) -> None:
        self.begun = int(self.state.progress.step)
        self.tokens = tokens_until(self.data, self.begun, self.course.seed)
        self.lines: list[Metrics] = [] if self.log is None else self.log.lines["metrics"]
        self.recent: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self.first = _unpriced(self.lines[0]) if self.lines else float("nan")
        self.still = 0

    def run(self) -> Finished:
        course, begun = self.course, self.begun
        losses = [line["eval_loss"] for line in self.lines if line.get("eval_loss") is not None]
        ready = self._batch(begun) if begun < course.steps else None
        why = "steps"
        for step in range(begun, course.steps):
            if self._waited(losses):
                why = "patience"
                break
            if stopping.wanted():
                self._keep()
                stopping.point()
            assert ready is not None
            start = time.perf_counter()
            penalty = self.penalty if step % course.penalise == 0 else None
            self.state, logs = stepping.step(
                self.state, ready, self.loss, penalty, course.parts, self.memory, donate=True
            )
            ready = self._batch(step + 1) if step + 1 < course.steps else None  # made while the device is at work
            self._after(step, hosts.fetch(logs), start, losses)
        self._keep()
        if course.best and self.checkpoints is not None:
            self.state = dataclasses.replace(self.state, progress=self.checkpoints.best(self.state.progress))
        return Finished(self.state, self.lines, begun, why)

    def _after(self, step: int, logs: Mapping[str, Any], start: float, losses: list[float]) -> None:
        """What follows a step: the guard, the log, the validation, the probe and the checkpoint."""
        course, number = self.course, step + 1
        self._guard(step, logs)
        self.tokens += self._size(step)
        seconds = time.perf_counter() - start
        metrics: Metrics = {"step": number, "epoch": number / self.data.steps}
        metrics |= {name: float(x) for name, x in logs.items() if name not in ("finite", "empty", "tokens")}
        metrics["num_tokens"] = self.tokens
        last = number == course.steps
        if self.validation is not None and course.validate and (number % course.validate == 0 or last):
            found = evaluate(self.state, self.validation, self.loss, self.memory)
            metrics |= {f"eval_{name}": x for name, x in found.items()}
            losses.append(metrics["eval_loss"])
        self.done(metrics, seconds)
        if number == 1 or number % course.log == 0 or last or "eval_loss" in metrics:
            timing = {"step": number, "seconds": seconds, "tokens_per_second": self._size(step) / seconds}
            if self.log is None:
                self.lines.append(metrics)
            else:
                self.log.add(metrics, timing)
        if self.probe is not None and course.probe and (number % course.probe == 0 or last):
            self.probe(self.state, number)
        better = "eval_loss" in metrics and metrics["eval_loss"] <= min(losses)
        if self.checkpoints is not None and (last or better or (course.save and number % course.save == 0)):
            self.checkpoints.save(self.state.progress, metrics.get("eval_loss"))

    def _guard(self, step: int, logs: Mapping[str, Any]) -> None:
        """Ends the run where a step could not be taken, or the loss runs away; the state is the last good one."""
        found = float(logs["loss"])
        if logs["empty"]:
            raise errors.InputError(f"step {step + 1}: no token of the batch is learned ({self._members(step)})")
        if not logs["finite"]:
            self._keep()
            raise Diverged(
                f"step {step + 1}: the loss is {found} and its gradient {float(logs['grad_norm'])} at a learning rate of "
                f"{float(logs['learning_rate']):.3g}, on {self._members(step)}; lower the rate, or look at these examples",
                self.state,
            )
        found = _unpriced(logs)
        self.first = found if np.isnan(self.first) else self.first
        self.recent.append(found)
        now = float(np.mean(self.recent))
        if len(self.recent) == _WINDOW and now > max(_LOST * self.first, self.first + 1):
            raise self._diverged(step, f"the loss has gone from {self.first:.3g} to {now:.3g}")
        # Exactly none, while there is something to learn: what is trained has been thrown where nothing reaches it.
        self.still = self.still + 1 if float(logs["grad_norm"]) == 0 and abs(found) > _SOLVED else 0
        if self.still == _WINDOW:
            raise self._diverged(step, f"the gradient has been 0 for {_WINDOW} steps, at a loss of {found:.3g}")

    def _diverged(self, step: int, what: str) -> Diverged:
        """A run that is lost, and what is left of it."""
        kept = [] if self.checkpoints is None else self.checkpoints.steps
        there = f"; checkpoints are kept of step {', '.join(map(str, kept))}" if kept else ""
        rate = float(self.state.progress.pace.rate)
        return Diverged(
            f"step {step + 1}: {what}, on {self._members(step)}: the learning rate, {rate:.3g} at its highest, is too "
            f"high{there}",
            self.state,
        )

    def _keep(self) -> None:
        """Writes the last good state, where it is not written yet, and waits for what is being written."""
        if self.checkpoints is None:
            return
        if int(self.state.progress.step) not in self.checkpoints.steps:
            self.checkpoints.save(self.state.progress)
        self.checkpoints.wait()

    def _waited(self, losses: list[float]) -> bool:
        patience = self.course.patience
        return bool(patience) and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def _rows(self, step: int) -> tuple[int, ...]:
        return at(self.data, step, self.course.seed)

    def _size(self, step: int) -> int:
        """Tokens of a step, without padding."""
        return sum(self.data.examples[i].length for row in self._rows(step) for i in self.data.rows[row])

    def _batch(self, step: int) -> Batch:
        made: Batch = sharding.shared(batch(self.data, self._rows(step)), self.state.base.arrays)
        return made

    def _members(self, step: int) -> str:
        """The examples of a step, for a message."""
        own = [
            self.data.examples[i].where or f"example {i + 1}" for row in self._rows(step) for i in self.data.rows[row]
        ]
        return ", ".join(own[:6]) + (f" and {len(own) - 6} more" if len(own) > 6 else "")


def _unpriced(logs: Mapping[str, Any]) -> float:
    """The loss without the penalty that was added to it."""
    return float(logs["loss"]) - float(logs.get("penalty", 0.0))
