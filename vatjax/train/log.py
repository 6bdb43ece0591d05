"""Metric logs of a run: two files of JSON lines, and TensorBoard or Weights & Biases where they are installed.

metrics.jsonl       metrics with trl's names; the same bytes for the same run
timing.jsonl        seconds and tokens per second of the same steps
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
    """The log of a run, truncated to the step that the run resumes from.

    Args:
        folder: the run's folder.
        step: the step that the run resumes from.
        boards: other loggers that receive every line.
        about: what identifies the run, by name.
    """

    def __init__(
        self, folder: Any, step: int, boards: Sequence[Board] = (), about: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines: dict[str, list[Metrics]] = {}
        self._folder = folder
        self._boards: list[_Writer] = [
            _BOARDS[name](folder, step, about or {}) for name in boards if store.writes_enabled()
        ]
        for name in ("metrics", "timing"):
            path = folder / f"{name}.jsonl"
            self.lines[name] = [line for line in _lines(path) if line["step"] <= step]
            store.commit(path, b"".join(map(_bytes, self.lines[name])))

    def add(self, metrics: Metrics, timing: Metrics) -> None:
        """Appends a line to each file, and sends both to the boards."""
        for name, line in (("metrics", metrics), ("timing", timing)):
            self.lines[name].append(line)
            store.append(self._folder / f"{name}.jsonl", _bytes(line))
        for board in self._boards:
            board.add({name: x for name, x in (timing | metrics).items() if math.isfinite(x)})

    def close(self) -> None:
        """Flushes and closes the boards."""
        for board in self._boards:
            board.close()


def _lines(path: Any) -> list[Metrics]:
    """Reads the lines of a log, up to the first incomplete one."""
    lines: list[Metrics] = []
    for line in store.read_text(path).splitlines() if path.exists() else ():
        try:
            lines.append(store.parse_json(line))
        except ValueError:
            break
    return lines


def _bytes(line: Metrics) -> bytes:
    plain = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in line.items()}
    return (json.dumps(plain) + "\n").encode()


# Boards ----------------------------------------------------------------------------------------------------------------


class _Writer(Protocol):
    """A board that receives every line."""

    def add(self, metrics: Metrics) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files in the run's folder; events of repeated steps are purged."""

    def __init__(self, folder: Any, step: int, about: Mapping[str, str]) -> None:
        for name in ("tensorboardX", "torch.utils.tensorboard"):
            module = _import_if_installed(name)
            if module is not None:
                self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
                return
        raise _missing_package("tensorboard", "tensorboardX")

    def add(self, metrics: Metrics) -> None:
        for name, x in metrics.items():
            if name != "step":
                self._writer.add_scalar(name, x, int(metrics["step"]))

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A Weights & Biases run with an id derived from its settings, so that the same command resumes it."""

    def __init__(self, folder: Any, step: int, about: Mapping[str, str]) -> None:
        module = _import_if_installed("wandb")
        if module is None:
            raise _missing_package("wandb", "wandb")
        name = store.address([str(folder), dict(about)])[:16]
        self._run = module.init(project="vatjax", dir=str(folder), id=name, resume="allow", config=dict(about))

    def add(self, metrics: Metrics) -> None:
        self._run.log({name: x for name, x in metrics.items() if name != "step"}, step=int(metrics["step"]))

    def close(self) -> None:
        self._run.finish()


_BOARDS: Mapping[str, Any] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


def _import_if_installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _missing_package(board: str, package: str) -> errors.InputError:
    return errors.InputError(f"boards: {board} needs a package that is not installed: pip install {package}")
