"""When another process of a run is gone: it is said in our words, and nobody waits for ever.

JAX's runtime notices, and aborts the processes that are left (`devices.HEARTBEAT`); or a message between two of them fails.
Either way the same command goes on from what was written, so the status is that of a run that was taken away.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from typing import Any, NamedTuple, NoReturn

from vatjax.stopping import PREEMPTED

_GONE = (
    "another process of this run is gone; the same command, started again on all of them, goes on from what is written"
)
_NETWORK = re.compile(
    r"gloo|connection (reset|closed|refused)|socket closed|coordination service|heartbeat|broken pipe|barrier", re.I
)


class _Ending(NamedTuple):
    """What is said where the runtime aborts this process, and its status."""

    said: str
    status: int


_ending: _Ending | None = None
_before: Any = None  # who listened until then
_handler: Any = None  # a callback of C's must outlive the call that names it


def listen(said: str = _GONE, status: int = PREEMPTED) -> None:
    """Says why where the runtime aborts this process, which it does in a thread of its own, whatever Python is at."""
    global _ending, _handler, _before
    if _handler is None:
        _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_aborted)
    before = _handle(ctypes.cast(_handler, ctypes.c_void_p))
    _before = before if _ending is None else _before
    _ending = _Ending(said, status)


def stop_listening() -> None:
    """This process is alone: what aborts it is no other one."""
    global _ending, _before
    if _ending is not None:
        _ending = None
        _handle(_before)


def _handle(handler: Any) -> Any:
    """Puts a handler in the place of the one that is there, which is given back."""
    signal_of_c = ctypes.CDLL(None).signal
    signal_of_c.restype, signal_of_c.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return signal_of_c(int(signal.SIGABRT), handler)


def _aborted(_: int) -> None:
    ending = _ending or _Ending(_GONE, PREEMPTED)
    os.write(2, f"vatjax: {ending.said}\n".encode())
    os._exit(ending.status)


def one_of_several() -> bool:
    """Whether other processes take part in this run."""
    return _ending is not None


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process does not answer any more."""
    if not one_of_several():
        return False
    import jax

    said = str(error)
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        and "RESOURCE_EXHAUSTED" not in said
        and bool(_NETWORK.search(said))
    )


def leave(status: int, said: str = "") -> NoReturn:
    """Ends this process of several at once: at its end it would wait for others, which wait for it."""
    for line in filter(None, (said,)):
        print(f"vatjax: {line}", file=sys.__stderr__)
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(status)


def ended_by(error: BaseException) -> NoReturn:
    """Ends this process of several after an error, in the words that belong to it."""
    if is_lost(error):
        leave(PREEMPTED, _GONE)
    if "RESOURCE_EXHAUSTED" in str(error):
        leave(
            2,
            "this process has no memory for what all of them compute: give smaller passes, or more devices to a model",
        )
    import traceback

    traceback.print_exception(error, file=sys.__stderr__)
    leave(1)
