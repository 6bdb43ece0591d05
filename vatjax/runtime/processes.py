"""Multi-process runs: each process runs the same program, and holds a part of the arrays on the devices of all.

Arrays that leave the devices are gathered on every process. Facts that depend on one machine, such as its memory or its
disk, are agreed upon before any process acts on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from vatjax import errors

T = TypeVar("T")


def is_multiprocess() -> bool:
    """Returns True if this run has more than one process."""
    return bool(jax.process_count() > 1)


def is_first_process() -> bool:
    """Returns True in process 0, the one that writes files and messages."""
    return bool(jax.process_index() == 0)


def fetch(tree: Any) -> Any:
    """Copies the arrays of a pytree to this process's memory, wherever their parts lie."""
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return x
    assert isinstance(x.sharding, NamedSharding)
    everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    return jax.jit(lambda array: array, out_shardings=everywhere)(x)


def put(tree: Any, sharding: Sharding) -> Any:
    """Distributes arrays that every process has in its memory, so that each process holds its part."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put_leaf(x: Any) -> Any:
        if isinstance(x, jax.Array):  # also PRNG keys, which numpy does not know
            return jax.jit(lambda array: array, out_shardings=sharding)(x)
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put_leaf, tree)


def broadcast(x: Any) -> Any:
    """Returns process 0's numbers in all processes."""
    if not is_multiprocess():
        return x
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(x)


def global_max(x: int) -> int:
    """Returns the largest of all processes' numbers."""
    return -global_min(-x)


def global_min(x: int) -> int:
    """Returns the smallest of all processes' numbers."""
    if not is_multiprocess():
        return x
    from jax.experimental import multihost_utils

    halves = np.array([x >> 31, x & 0x7FFFFFFF], np.int32)  # 64 bits are not enabled
    every = np.asarray(multihost_utils.process_allgather(halves)).astype(np.int64)
    return int(((every[:, 0] << 31) | every[:, 1]).min())


def global_all(here: bool) -> bool:
    """Returns True if `here` is true in all processes."""
    return bool(global_min(int(here)))


def run_on_first(work: Callable[[], T]) -> T | None:
    """Runs `work` in process 0 alone; if it fails there, all processes stop.

    Returns:
        The result of `work` in process 0; None in the others.

    Raises:
        InputError: in the other processes, if process 0 has failed.
    """
    result: T | None = None
    failure: BaseException | None = None
    if is_first_process():
        try:
            result = work()
        except BaseException as error:
            failure = error
    failed = bool(broadcast(np.int32(failure is not None)))
    if failure is not None:
        raise failure
    if failed:
        raise errors.InputError("process 0 failed; see its output for the reason")
    return result


def barrier(name: str) -> None:
    """Waits until all processes have arrived."""
    if is_multiprocess():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
