"""Where a run's metrics go: two files of JSON lines, and TensorBoard or Weights & Biases where they are installed.

metrics.jsonl       under the names that trl gives them; the same bytes for the same run
timing.jsonl        the seconds and the tokens a second of the same steps
tensorboard/        with boards: [tensorboard]
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from vatjax import errors, store

Metrics = dict[str, float]
Board = Literal["tensorboard", "wandb"]


class Log:
    """The lines of a run, cut back to the step that it goes on from.

    Args:
        where: the run's folder.
        step: that it goes on from.
        boards: what else is told.
        about: what decides the run, by name.
    """

    def __init__(
        self, where: Any, step: int, boards: Sequence[Board] = (), about: Mapping[str, str] | None = None
    ) -> None:
        where.mkdir(parents=True, exist_ok=True)
        self.lines: dict[str, list[Metrics]] = {}
        self._where = where
        self._boards: list[_Writer] = [_BOARDS[name](where, step, about or {}) for name in boards if store.writes()]
        for name in ("metrics", "timing"):
            path = where / f"{name}.jsonl"
            self.lines[name] = [one for one in _lines(path) if one["step"] <= step]
            store.commit(path, b"".join(map(_bytes, self.lines[name])))

    def add(self, metrics: Metrics, timing: Metrics) -> None:
        """A line for each file, and the same for the boards."""
        for name, line in (("metrics", metrics), ("timing", timing)):
            self.lines[name].append(line)
            store.append(self._where / f"{name}.jsonl", _bytes(line))
        for board in self._boards:
            board.add({name: x for name, x in (timing | metrics).items() if math.isfinite(x)})

    def close(self) -> None:
        """Writes out what boards have not written yet."""
        for board in self._boards:
            board.close()


def _lines(path: Any) -> list[Metrics]:
    """The lines of a log; the last one may be torn."""
    found: list[Metrics] = []
    for line in store.read_text(path).splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _bytes(line: Metrics) -> bytes:
    plain = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
    return (json.dumps(plain) + "\n").encode()


# Boards ----------------------------------------------------------------------------------------------------------------


class _Writer(Protocol):
    """What is told every line."""

    def add(self, metrics: Metrics) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files in the run's folder; those of steps that are taken again count no more."""

    def __init__(self, where: Any, step: int, about: Mapping[str, str]) -> None:
        for name in ("tensorboardX", "torch.utils.tensorboard"):
            found = _installed(name)
            if found is not None:
                self._writer = found.SummaryWriter(str(where / "tensorboard"), purge_step=step + 1 if step else None)
                return
        raise _missing("tensorboard", "tensorboardX")

    def add(self, metrics: Metrics) -> None:
        for name, x in metrics.items():
            if name != "step":
                self._writer.add_scalar(name, x, int(metrics["step"]))

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases whose name follows from what decides it, so that the same command goes on with it."""

    def __init__(self, where: Any, step: int, about: Mapping[str, str]) -> None:
        found = _installed("wandb")
        if found is None:
            raise _missing("wandb", "wandb")
        name = store.address([str(where), dict(about)])[:16]
        self._run = found.init(project="vatjax", dir=str(where), id=name, resume="allow", config=dict(about))

    def add(self, metrics: Metrics) -> None:
        self._run.log({name: x for name, x in metrics.items() if name != "step"}, step=int(metrics["step"]))

    def close(self) -> None:
        self._run.finish()


_BOARDS: Mapping[str, Any] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _missing(board: str, package: str) -> errors.InputError:
    return errors.InputError(f"boards: {board} needs a package that is not installed: pip install {package}")
