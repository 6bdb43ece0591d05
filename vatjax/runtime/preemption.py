"""Preemption: a run stops when a person (Ctrl-C) or the machine (SIGTERM) asks for it.

It ends at the next point where no work is lost: after a step, a shard of answers, an artifact of a study. If there is
none within seconds of a SIGTERM, as while a program compiles, it ends there: files are complete or absent at any moment.
Of several processes all end at the same point. The same command continues from the files written until then.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

PREEMPTED = 75  # the exit status that asks schedulers to start the same command again

_DEADLINE = 4.0  # seconds from a SIGTERM to the end of the process
_DEADLINE_UNSAVED = 25.0  # while a training has steps to save; schedulers kill after 30

_signal_number = 0
_unsaved = False
_reached = False  # a safe point: the run is ending by itself


class Stopped(BaseException):
    """Early end of a run that was asked to stop; `status` is the exit status of its process."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number if number == signal.SIGINT else PREEMPTED


@contextlib.contextmanager
def handle_stop_signals() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C stop the enclosed run at its next safe point; a second Ctrl-C stops it at once."""
    from vatjax.runtime import peer_failure

    global _signal_number, _reached
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        global _signal_number
        if _signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        _signal_number = number
        # os.write, not print: a signal may arrive while Python writes to standard error.
        again = "; Ctrl-C again stops at once and loses the work in progress" if number == signal.SIGINT else ""
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):
            os.write(2, f"vatjax: {name}: stopping at the next safe point{again}\n".encode())

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    _signal_number, _reached = 0, False
    # Python's handlers wait for the end of a call into compiled code; the byte in this pipe does not.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader, peer_failure.has_peers), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watch.join()
        os.close(reader)
        _signal_number = 0
        for number, old in before.items():
            signal.signal(number, old)


def mark_unsaved(unsaved: bool) -> None:
    """Says whether the run has work that it would save at its next safe point, and that is worth waiting for."""
    global _unsaved
    _unsaved = unsaved


def _seconds(default: float) -> float:
    """Returns the time that a process may take after a SIGTERM: that of VATJAX_STOP_SECONDS, if it is set."""
    with contextlib.suppress(ValueError):
        return float(os.environ["VATJAX_STOP_SECONDS"]) if "VATJAX_STOP_SECONDS" in os.environ else default
    return default


def _watch(reader: int, has_peers: Callable[[], bool]) -> None:
    """Waits for a SIGTERM, and then ends the process if it does not end by itself. With peers all end together."""
    while (received := os.read(reader, 1)) != bytes([signal.SIGTERM]):
        if not received:
            return
    start, waited, reached = time.monotonic(), _DEADLINE, False
    while time.monotonic() - start < waited:
        if _reached and not reached:  # it ends now: logs, checkpoints and leases are closed
            start, reached = time.monotonic(), True
        waited = _seconds(_DEADLINE_UNSAVED if _unsaved or reached else _DEADLINE)
        if select.select([reader], [], [], 0.05)[0] and not os.read(reader, 1):
            return
    if has_peers():
        return
    where = "the end takes too long" if reached else "no safe point within seconds"
    with contextlib.suppress(OSError):
        os.write(2, f"vatjax: {where}; stopped by SIGTERM: the same command continues from here\n".encode())
    os._exit(PREEMPTED)


def requested_signal() -> int:
    """Returns the signal by which this run, in any of its processes, was asked to stop; 0 for none."""
    from vatjax.runtime import processes

    return processes.global_max(_signal_number)


def stop_if_requested() -> None:
    """Ends the run here if it was asked to stop.

    Raises:
        Stopped: if a process of this run received a stop signal.
    """
    global _reached
    number = requested_signal()
    if number:
        _reached = True
        raise Stopped(number)
