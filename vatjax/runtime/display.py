"""Display of progress: a bar on a terminal, elsewhere a line every 20 seconds; both from the first second."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from vatjax.names import printable
from vatjax.runtime.progress import OnProgress, ignore_progress

_EVERY = 20.0  # seconds between two lines without a terminal


def print_message(line: str) -> None:
    """Prints a line on standard error, apart from the results."""
    print(f"vatjax: {printable(line)}", file=sys.stderr)


def format_duration(seconds: float) -> str:
    """Returns a time in a few characters."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """Display of one stage of work after another, each with its time left.

    Until a stage with an estimate reports its first fraction it compiles its programs, and the display says so.

    Args:
        every: seconds between two lines where standard error is not a terminal.
    """

    def __init__(self, every: float = _EVERY) -> None:
        self.terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._label, self._fraction, self._note, self._compiles = "", 0.0, "", False
        self._start = self._first = time.monotonic()
        self._at_first = 0.0
        self._every = every
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def stage(self, label: str, estimate: str = "", quiet: bool = False) -> None:
        """Starts a stage.

        Args:
            label: its name.
            estimate: its expected time.
            quiet: True for a stage so short that a log mentions it only if it takes longer than expected.
        """
        with self._lock:
            self._label, self._fraction, self._note = label, 0.0, ""
            self._compiles = bool(estimate)
            self._start = self._first = time.monotonic()
            self._at_first = 0.0
            line = f"{label} ({estimate})" if estimate else label
            if self.terminal:
                self._draw(line)
            elif not quiet:
                print_message(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def progress(self, fraction: float) -> None:
        """Updates the completed fraction of the stage."""
        with self._lock:
            if not self._fraction and fraction:
                self._first, self._at_first = time.monotonic(), fraction
            # Work that is repeated in smaller passes starts again.
            self._fraction = max(self._fraction, min(1.0, fraction))

    def note(self, text: str) -> None:
        """Sets the text next to the time left, such as a loss."""
        with self._lock:
            self._note = text

    def message(self, line: str) -> None:
        """Prints a line above the bar."""
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(printable(line), markup=False, highlight=False)
            else:
                print_message(line)

    def close(self) -> None:
        """Removes the bar; a later stage shows another one."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._thread, self._label = None, ""
            self._ended.clear()
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def status(self) -> str:
        """Returns the stage's completed fraction and its time left."""
        now = time.monotonic()
        note = f", {self._note}" if self._note else ""
        if not self._fraction:
            work = "compiling and running its first part, " if self._compiles else ""
            return f"{work}{format_duration(now - self._start)} so far{note}"
        if self._fraction >= 1:
            return f"finishing{note}"
        if self._fraction == self._at_first:  # the pace without compiling is not known yet
            return f"{self._fraction:.0%}{note}"
        pace = (self._fraction - self._at_first) / max(now - self._first, 1e-9)
        return f"{self._fraction:.0%}, about {format_duration((1 - self._fraction) / pace)} left{note}"

    def _watch(self) -> None:
        """Updates the display until it is closed."""
        while not self._ended.wait(0.5 if self.terminal else self._every):
            with self._lock:
                if not self._label:
                    continue
                if self.terminal:
                    self._bar.update(self._task, completed=self._fraction, status=self.status())
                elif time.monotonic() - self._start >= self._every:
                    print_message(f"{self._label}: {self.status()}")

    def _draw(self, line: str) -> None:
        """Shows a stage on the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if self._bar is None:
            columns = (BarColumn(bar_width=20), TextColumn("{task.fields[status]}"), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=1.0, status="")
            self._bar.start()
        self._bar.update(self._task, completed=0.0, description=line.replace("[", r"\["), status="")


@contextlib.contextmanager
def display_progress(on_progress: OnProgress | None, label: str) -> Iterator[OnProgress]:
    """Yields a callback for progress: the given one, or one that shows it where a person looks on.

    Args:
        on_progress: of the caller; None shows a bar on a terminal and lines in a notebook, and nothing in a script.
        label: of the work.
    """
    if on_progress is not None:
        yield on_progress
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        with Display() as display:
            display.stage(label)
            yield display.progress
    else:
        yield ignore_progress
