"""Checkpoints of a training run: written beside the work, sealed by a hash, and taken up again where one is whole.

A checkpoint holds what steps change; the model, the data and the settings are named in it by their hashes, so that a run
goes on only with what it began with. The position in the data and the key follow from the step.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp

from vatjax import errors, store
from vatjax.models import fingerprint, hosts, sharding
from vatjax.train.steps import Progress

T = TypeVar("T")

Array = jax.Array
Told = Callable[[str], None]


class Checkpoints:
    """The checkpoints of one run in a folder; a context that waits for the last one to be written.

    Args:
        where: the folder, local or in a bucket.
        about: what the run began with, by name: hashes and settings.
        last: how many of the newest are kept.
        best: whether the one with the least validation loss is kept too.
    """

    def __init__(self, where: store.Path, about: Mapping[str, str], last: int = 2, best: bool = True) -> None:
        if last < 1:
            raise errors.InputError(f"checkpoints: at least 1 is kept, found {last}")
        from orbax.checkpoint import v1 as ocp

        # What matters is said by whoever calls; what they say of a damaged checkpoint would be pages of tracebacks.
        self._loud = {name: logging.getLogger(name).level for name in ("absl", "asyncio")}
        for name in self._loud:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        keep = ocp.training.preservation_policies
        policies = [keep.LatestN(last)]
        if best:
            policies.append(
                keep.BestN(get_metric_fn=lambda own: -own["loss"], n=1, keep_checkpoints_without_metrics=False)
            )
        self._about = dict(about)
        self._where = _absolute(where)
        self._aside(_unreadable(self._where))
        with self._readable():
            self._series = ocp.training.Checkpointer(
                self._where,
                preservation_policy=keep.AnyPreservationPolicy(policies),
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with self._readable():
                self._series.close()
        finally:
            for name, level in self._loud.items():
                logging.getLogger(name).setLevel(level)

    def save(self, progress: Progress, loss: float | None = None) -> None:
        """Begins to write a checkpoint; waits for the one before, and for no more.

        Args:
            progress: of the run.
            loss: on what is kept for validation.
        """
        with self._readable():
            plain = _plain(progress)
            self._series.save_async(
                int(progress.step),
                plain,
                overwrite=True,  # a damaged one, which was passed over
                metrics=None if loss is None else {"loss": loss},
                custom_metadata={
                    "about": self._about,
                    "named": store.address(self._about),
                    "sealed": fingerprint(plain),
                },
            )

    def wait(self) -> None:
        """Until everything is written."""
        with self._readable():
            self._series.wait()

    @property
    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, oldest first."""
        return [int(one.step) for one in self._series.checkpoints]

    def latest(self, like: Progress, told: Told = lambda _: None) -> Progress | None:
        """The newest checkpoint that is whole; None where there is none.

        Damaged ones that are newer are put aside under another name, so that the run writes its own in their place.

        Args:
            like: a progress of the same shapes and placements.
            told: is told of each that is damaged and passed over.

        Raises:
            InputError: where checkpoints are of another run, and where all are damaged.
        """
        steps = self.steps[::-1]
        for number, step in enumerate(steps):
            found = self.load(step, like)
            if found is not None:
                self._aside(steps[:number])
                self._series.reload()
                return found
            told(f"{self._where}: the checkpoint of step {step} is damaged; going on from the one before")
        if steps:
            raise errors.InputError(
                f"{self._where}: every checkpoint is damaged (steps {', '.join(map(str, reversed(steps)))}); remove the folder "
                "to begin anew"
            )
        return None

    def best(self, like: Progress) -> Progress:
        """The checkpoint of the least validation loss.

        Args:
            like: a progress of the same shapes and placements.

        Raises:
            InputError: where there is none, and where it is damaged.
        """
        losses = {int(one.step): one.metrics["loss"] for one in self._series.checkpoints if one.metrics}
        if not losses:
            raise errors.InputError(f"{self._where}: no checkpoint there was validated")
        step = min(losses, key=lambda own: losses[own])
        found = self.load(step, like)
        if found is None:
            raise errors.InputError(f"{self._where}: the best checkpoint, that of step {step}, is damaged")
        return found

    def load(self, step: int, like: Progress) -> Progress | None:
        """The checkpoint of a step; None where it is damaged.

        Raises:
            InputError: where it is of another run.
        """
        facts = self._read(lambda: self._facts(step))
        if facts is None:
            return None
        about, named, sealed = facts
        if store.address(about) != named:
            return None
        differs = [name for name in dict.fromkeys([*self._about, *about]) if self._about.get(name) != about.get(name)]
        if differs:
            told = ", ".join(f"{name} ({about.get(name)} there, {self._about.get(name)} here)" for name in differs)
            raise errors.InputError(
                f"{self._where}: the checkpoints there are of another run; what differs: {told}; give the same, or another folder"
            )
        plain = _plain(like)
        wanted = {name: sharding.shape_of(x, x.sharding) for name, x in plain.items()}
        found = self._read(lambda: self._series.load(step, wanted))
        if found is None or fingerprint(found) != sealed:
            return None
        return _progress(found, like)

    def _facts(self, step: int) -> tuple[Any, ...]:
        facts = self._series.metadata(step).custom_metadata
        return tuple(facts[key] for key in ("about", "named", "sealed"))

    def _read(self, work: Callable[[], T]) -> T | None:
        """What work gives; None, in every process, where one of them finds damage."""
        found: T | None = None
        beyond: Exception | None = None
        try:
            found = work()
        except Exception as error:  # of many kinds, by what is damaged: tensorstore, JSON and Orbax each have their own
            beyond = error
        whole = hosts.everywhere(found is not None)
        if beyond is not None:
            self._beyond(beyond)
        return found if whole else None

    def _beyond(self, error: Exception) -> None:
        """Raises what is no damage: a checkpoint that may be whole, and can't be read for another reason."""
        if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
            raise errors.InputError(f"{self._where}: the checkpoints can't be read: permission denied") from None
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise error

    def _aside(self, steps: Sequence[int]) -> None:
        """Gives damaged checkpoints a name that is no step."""
        for step in steps if store.writes() else ():
            names = (self._where / f"damaged-{step}-{number}" for number in itertools.count(1))
            (self._where / str(step)).rename(next(name for name in names if not name.exists()))
        hosts.meet("damaged checkpoints are aside")

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.LocalError(f"{self._where}: the checkpoint can't be written: {store.reason(error)}") from None
        except ValueError as error:  # tensorstore's, with the system's own reason in it
            found = re.search(r"os_error_code='(\d+)'", str(error))
            if found is None:
                raise
            why = os.strerror(int(found[1])).lower()
            raise errors.LocalError(f"{self._where}: the checkpoint can't be written: {why}") from None


def _unreadable(where: Any) -> list[int]:
    """The steps of checkpoints whose validation loss can't be read, which no series could be opened with."""
    found = []
    for place in where.iterdir() if where.exists() else ():
        metrics = place / "metrics" / "metrics"
        if place.name.isdigit() and metrics.exists():
            try:
                json.loads(metrics.read_text())["loss"]
            except (ValueError, KeyError, TypeError):
                found.append(int(place.name))
    return found


def _absolute(where: store.Path) -> Any:
    """The folder as Orbax wants it, which knows of the disk and of `gs://`."""
    folder = store.path(where)
    if isinstance(folder, pathlib.Path):
        return folder.absolute()
    if not str(where).startswith("gs://"):
        raise errors.InputError(f"{where}: checkpoints go to a local folder or to gs://")
    return folder


def _plain(progress: Progress) -> dict[str, Array]:
    """Every array by its path; keys as the numbers that they are."""
    return {
        jax.tree_util.keystr(path): jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for path, x in jax.tree_util.tree_leaves_with_path(progress)
    }


def _progress(plain: Mapping[str, Array], like: Progress) -> Progress:
    def one(path: Any, x: Array) -> Array:
        found = plain[jax.tree_util.keystr(path)]
        return jax.random.wrap_key_data(found) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else found

    made: Progress = jax.tree_util.tree_map_with_path(one, like)
    return made
