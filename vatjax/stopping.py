"""A run that is asked to stop, by a person or by a machine that is about to be taken away.

It ends at the next point where nothing is lost: behind a step, a shard of answers, a piece of a study. Of several processes
all end at the same point. What is written until then is where the same command goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

PREEMPTED = 75  # the exit status that asks schedulers to start the same command again

_asked = 0


class Stopped(BaseException):
    """A run has ended before its end, since it was asked to; `status` is what its process exits with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number if number == signal.SIGINT else PREEMPTED


@contextlib.contextmanager
def listened() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end what runs inside at its next point; a second Ctrl-C ends it at once."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        if _asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        _asked = number
        # Written by hand: a signal may come while standard error is being written to.
        again = "; Ctrl-C again ends it at once, and loses what is being computed" if number == signal.SIGINT else ""
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):
            os.write(2, f"vatjax: {name}: stopping where nothing is lost{again}\n".encode())

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    _asked = 0
    try:
        yield
    finally:
        _asked = 0
        for number, old in before.items():
            signal.signal(number, old)


def wanted() -> int:
    """The signal by which this run, in any of its processes, was asked to stop; 0 for none."""
    from vatjax.models import hosts

    return hosts.most(_asked)


def point() -> None:
    """Ends the run here if it was asked to.

    Raises:
        Stopped: where it was.
    """
    number = wanted()
    if number:
        raise Stopped(number)
