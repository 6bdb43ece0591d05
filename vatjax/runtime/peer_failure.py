"""Handles the loss of a peer process: prints a clear message and exits with status 75 instead of hanging.

JAX's runtime detects the loss and aborts the remaining processes (`cluster.HEARTBEAT`), or a message between two of
them fails. The same command continues from the files on disk, so the status is that of a preempted run.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from typing import Any, NamedTuple, NoReturn

from vatjax.runtime.memory import is_out_of_memory
from vatjax.runtime.preemption import PREEMPTED

_PEER_GONE = "another process of this run is gone; start the same command again on all of them to continue from the files on disk"
_NETWORK = re.compile(
    r"gloo|connection (reset|closed|refused)|socket closed|coordination service|heartbeat|broken pipe|barrier", re.I
)


class _AbortExit(NamedTuple):
    """Message and exit status for an abort by the runtime."""

    message: str
    status: int


_abort_exit: _AbortExit | None = None
_previous_handler: Any = None  # the handler that it replaced
_c_handler: Any = None  # a C callback must outlive the call that installs it


def install_abort_handler(message: str = _PEER_GONE, status: int = PREEMPTED) -> None:
    """Installs a C-level SIGABRT handler that prints `message` and exits with `status`.

    JAX aborts from its own thread, where a Python handler would not run.
    """
    global _abort_exit, _c_handler, _previous_handler
    if _c_handler is None:
        _c_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)
    previous = _set_handler(ctypes.cast(_c_handler, ctypes.c_void_p))
    _previous_handler = previous if _abort_exit is None else _previous_handler
    _abort_exit = _AbortExit(message, status)


def remove_abort_handler() -> None:
    """Removes the handler: this run has a single process."""
    global _abort_exit, _previous_handler
    if _abort_exit is not None:
        _abort_exit = None
        _set_handler(_previous_handler)


def _set_handler(handler: Any) -> Any:
    """Installs a C handler for SIGABRT and returns the previous one."""
    signal_of_c = ctypes.CDLL(None).signal
    signal_of_c.restype, signal_of_c.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return signal_of_c(int(signal.SIGABRT), handler)


def _on_abort(_: int) -> None:
    abort_exit = _abort_exit or _AbortExit(_PEER_GONE, PREEMPTED)
    os.write(2, f"vatjax: {abort_exit.message}\n".encode())
    os._exit(abort_exit.status)


def has_peers() -> bool:
    """Returns whether other processes take part in this run."""
    return _abort_exit is not None


def is_peer_failure(error: BaseException) -> bool:
    """Returns whether an error means that another process no longer answers."""
    if not has_peers():
        return False
    import jax

    message = str(error)
    return (
        isinstance(error, jax.errors.JaxRuntimeError) and not is_out_of_memory(error) and bool(_NETWORK.search(message))
    )


def exit_now(status: int, message: str = "") -> NoReturn:
    """Exits at once: a regular exit would wait for the other processes, which wait for this one."""
    for line in filter(None, (message,)):
        print(f"vatjax: {line}", file=sys.__stderr__)
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(status)


def exit_after_error(error: BaseException) -> NoReturn:
    """Exits after an error, with the message and status that belong to it."""
    if is_peer_failure(error):
        exit_now(PREEMPTED, _PEER_GONE)
    if is_out_of_memory(error):
        exit_now(
            2,
            "out of memory in this process: use smaller passes, or more devices for a model",
        )
    import traceback

    traceback.print_exception(error, file=sys.__stderr__)
    exit_now(1)
