"""Checkpoints of a training run: written asynchronously, verified by a content hash, resumed from the newest intact.

A checkpoint holds what steps change. It names the model, the data and the settings by their hashes: a run only resumes
from its own checkpoints. The position in the data and the key follow from the step.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp

from vatjax import errors, store
from vatjax.models import fingerprint, sharding
from vatjax.runtime import processes
from vatjax.runtime.memory import is_out_of_memory
from vatjax.train.steps import Progress

T = TypeVar("T")

Array = jax.Array
OnMessage = Callable[[str], None]


class Checkpoints:
    """Checkpoints of one run in a folder; a context manager that waits for pending writes.

    Args:
        path: the folder, local or in a bucket.
        about: what identifies the run, by name: hashes and settings.
        last: number of the newest checkpoints to keep.
        best: whether to keep the one with the lowest validation loss too.
    """

    def __init__(self, path: store.Path, about: Mapping[str, str], last: int = 2, best: bool = True) -> None:
        if last < 1:
            raise errors.InputError(f"checkpoints: expected to keep at least 1, found {last}")
        from orbax.checkpoint import v1 as ocp

        # The caller reports what matters; for a damaged checkpoint these loggers would print pages of tracebacks.
        self._log_levels = {name: logging.getLogger(name).level for name in ("absl", "asyncio")}
        for name in self._log_levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        keep = ocp.training.preservation_policies
        policies = [keep.LatestN(last)]
        if best:
            policies.append(
                keep.BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=1, keep_checkpoints_without_metrics=False)
            )
        self._about = dict(about)
        self._path = _absolute(path)
        self._set_aside(_steps_without_loss(self._path))
        with self._readable_io_errors():
            self._checkpointer = ocp.training.Checkpointer(
                self._path,
                preservation_policy=keep.AnyPreservationPolicy(policies),
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with self._readable_io_errors():
                self._checkpointer.close()
        finally:
            for name, level in self._log_levels.items():
                logging.getLogger(name).setLevel(level)

    def save(self, progress: Progress, loss: float | None = None) -> None:
        """Starts to write a checkpoint; waits only for the previous write.

        Args:
            progress: of the run.
            loss: the validation loss.
        """
        with self._readable_io_errors():
            arrays = _arrays_by_path(progress)
            self._checkpointer.save_async(
                int(progress.step),
                arrays,
                overwrite=True,  # a damaged one, which was skipped
                metrics=None if loss is None else {"loss": loss},
                custom_metadata={
                    "about": self._about,
                    "named": store.address(self._about),
                    "sealed": fingerprint(arrays),
                },
            )

    def wait(self) -> None:
        """Waits until all checkpoints are written."""
        with self._readable_io_errors():
            self._checkpointer.wait()

    @property
    def steps(self) -> list[int]:
        """Lists the steps that have a checkpoint, oldest first."""
        return [int(checkpoint.step) for checkpoint in self._checkpointer.checkpoints]

    def latest(self, like: Progress, on_message: OnMessage = lambda _: None) -> Progress | None:
        """Loads the newest intact checkpoint; returns None if the folder has no checkpoints.

        Newer damaged ones are renamed, so that the run can write these steps again.

        Args:
            like: a progress of the same shapes and shardings.
            on_message: is called with a line for each damaged checkpoint that is skipped.

        Raises:
            InputError: if the checkpoints belong to another run, or all are damaged.
        """
        steps = self.steps[::-1]
        for number, step in enumerate(steps):
            progress = self.load(step, like)
            if progress is not None:
                self._set_aside(steps[:number])
                self._checkpointer.reload()
                return progress
            on_message(f"{self._path}: the checkpoint of step {step} is damaged; resuming from the one before")
        if steps:
            raise errors.InputError(
                f"{self._path}: every checkpoint is damaged (steps {', '.join(map(str, reversed(steps)))}); remove the folder "
                "to start again"
            )
        return None

    def best(self, like: Progress) -> Progress:
        """Loads the checkpoint with the lowest validation loss.

        Args:
            like: a progress of the same shapes and shardings.

        Raises:
            InputError: if no checkpoint was validated, or the best one is damaged.
        """
        losses = {
            int(checkpoint.step): checkpoint.metrics["loss"]
            for checkpoint in self._checkpointer.checkpoints
            if checkpoint.metrics
        }
        if not losses:
            raise errors.InputError(f"{self._path}: no checkpoint has a validation loss")
        step = min(losses, key=lambda saved: losses[saved])
        progress = self.load(step, like)
        if progress is None:
            raise errors.InputError(f"{self._path}: the best checkpoint, of step {step}, is damaged")
        return progress

    def load(self, step: int, like: Progress) -> Progress | None:
        """Loads the checkpoint of a step; returns None if it is damaged.

        Raises:
            InputError: if it belongs to another run.
        """
        metadata = self._read(lambda: self._custom_metadata(step))
        if metadata is None:
            return None
        about, named, sealed = metadata
        if store.address(about) != named:
            return None
        differs = [name for name in dict.fromkeys([*self._about, *about]) if self._about.get(name) != about.get(name)]
        if differs:
            differences = ", ".join(
                f"{name} (checkpoint {about.get(name)}, run {self._about.get(name)})" for name in differs
            )
            raise errors.InputError(
                f"{self._path}: checkpoints of another run, which differs in {differences}; give the same, or another folder"
            )
        arrays = _arrays_by_path(like)
        shapes = {name: sharding.shape_of(x, x.sharding) for name, x in arrays.items()}
        loaded = self._read(lambda: self._checkpointer.load(step, shapes))
        if loaded is None or fingerprint(loaded) != sealed:
            return None
        return _progress(loaded, like)

    def _custom_metadata(self, step: int) -> tuple[Any, ...]:
        facts = self._checkpointer.metadata(step).custom_metadata
        return tuple(facts[key] for key in ("about", "named", "sealed"))

    def _read(self, work: Callable[[], T]) -> T | None:
        """Returns `work()`, or None in every process if it fails in any of them."""
        loaded: T | None = None
        failure: Exception | None = None
        try:
            loaded = work()
        except Exception as error:  # the type depends on the damage: tensorstore, JSON and Orbax each raise their own
            failure = error
        intact = processes.global_all(loaded is not None)
        if failure is not None:
            self._reraise_unless_damage(failure)
        return loaded if intact else None

    def _reraise_unless_damage(self, error: Exception) -> None:
        """Re-raises errors other than damage: the checkpoint may be intact and unreadable for another reason."""
        if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
            raise errors.InputError(f"{self._path}: the checkpoints can't be read: permission denied") from None
        if is_out_of_memory(error):
            raise error

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Renames damaged checkpoints, so that their names are not steps."""
        for step in steps if store.writes_enabled() else ():
            names = (self._path / f"damaged-{step}-{number}" for number in itertools.count(1))
            (self._path / str(step)).rename(next(name for name in names if not name.exists()))
        processes.barrier("damaged checkpoints are renamed")

    @contextlib.contextmanager
    def _readable_io_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.LocalError(f"{self._path}: the checkpoint can't be written: {store.reason(error)}") from None
        except ValueError as error:  # raised by tensorstore, with the system's error code in its text
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None:
                raise
            why = os.strerror(int(code[1])).lower()
            raise errors.LocalError(f"{self._path}: the checkpoint can't be written: {why}") from None


def _steps_without_loss(folder: Any) -> list[int]:
    """Lists the steps whose validation loss can't be read; Orbax can't open a folder that has one."""
    steps = []
    for path in folder.iterdir() if folder.exists() else ():
        metrics = path / "metrics" / "metrics"
        if path.name.isdigit() and metrics.exists():
            try:
                store.parse_json(metrics.read_text())["loss"]
            except (ValueError, KeyError, TypeError):
                steps.append(int(path.name))
    return steps


def _absolute(path: store.Path) -> Any:
    """Converts the folder to a path that Orbax accepts: absolute and local, or `gs://`."""
    folder = store.path(path)
    if isinstance(folder, pathlib.Path):
        return folder.absolute()
    if not str(path).startswith("gs://"):
        raise errors.InputError(f"{path}: expected a local folder or gs:// for checkpoints")
    return folder


def _arrays_by_path(progress: Progress) -> dict[str, Array]:
    """Maps tree paths to arrays; PRNG keys become their key data."""
    return {
        jax.tree_util.keystr(path): jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for path, x in jax.tree_util.tree_leaves_with_path(progress)
    }


def _progress(arrays: Mapping[str, Array], like: Progress) -> Progress:
    def restore(path: Any, x: Array) -> Array:
        array = arrays[jax.tree_util.keystr(path)]
        return jax.random.wrap_key_data(array) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else array

    progress: Progress = jax.tree_util.tree_map_with_path(restore, like)
    return progress
