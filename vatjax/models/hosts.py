"""Several processes as one: each runs the same program, and holds a part of what lies on the devices of all.

What leaves the devices comes to every process; what hangs on one machine, such as its memory or its disk, is agreed upon
before anything follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from vatjax import errors

T = TypeVar("T")


def several() -> bool:
    """Whether this run has more than one process."""
    return bool(jax.process_count() > 1)


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return bool(jax.process_index() == 0)


def fetch(tree: Any) -> Any:
    """The arrays of a pytree in this process's memory, wherever their parts lie."""
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return x
    assert isinstance(x.sharding, NamedSharding)
    everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    return jax.jit(lambda own: own, out_shardings=everywhere)(x)


def put(tree: Any, where: Sharding) -> Any:
    """Arrays that every process has in its memory, laid where each process holds its part."""
    if where.is_fully_addressable:
        return jax.device_put(tree, where)

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array):  # also keys, which numpy knows nothing of
            return jax.jit(lambda own: own, out_shardings=where)(x)
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    return jax.tree.map(one, tree)


def agreed(x: Any) -> Any:
    """The first process's numbers, in all of them."""
    if not several():
        return x
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(x)


def most(x: int) -> int:
    """The largest of all processes' numbers."""
    return -least(-x)


def least(x: int) -> int:
    """The least of all processes' numbers."""
    if not several():
        return x
    from jax.experimental import multihost_utils

    halves = np.array([x >> 31, x & 0x7FFFFFFF], np.int32)  # 64 bits are not enabled
    every = np.asarray(multihost_utils.process_allgather(halves)).astype(np.int64)
    return int(((every[:, 0] << 31) | every[:, 1]).min())


def everywhere(here: bool) -> bool:
    """Whether something holds in all processes."""
    return bool(least(int(here)))


def on_first(work: Callable[[], T]) -> T | None:
    """Done by the first process alone; where it fails there, all of them stop.

    Returns:
        What the work gave, in the first process.

    Raises:
        InputError: in the other processes, where the first one has failed.
    """
    found: T | None = None
    failure: BaseException | None = None
    if first():
        try:
            found = work()
        except BaseException as error:
            failure = error
    failed = bool(agreed(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if failed:
        raise errors.InputError("the first process has stopped; it says why")
    return found


def meet(name: str) -> None:
    """Waits until all processes are here."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
