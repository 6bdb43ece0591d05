"""Progress of long work, as a fraction from 0 to 1, so that stages nest."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[float], None]
"""Callback that takes the completed fraction of the work; it starts again if a device runs out of memory."""


def ignore_progress(_: float) -> None:
    """Ignores progress."""


def stage_progress(on_progress: OnProgress, start: float, stop: float) -> OnProgress:
    """Returns the callback of a stage that takes from `start` to `stop` of the whole."""
    return (
        ignore_progress
        if on_progress is ignore_progress
        else lambda fraction: on_progress(start + (stop - start) * fraction)
    )


def count_progress(on_progress: OnProgress, total: int) -> Callable[[int], None]:
    """Returns a callback that takes the number of further units, of `total`, that are complete."""
    completed = 0

    def advance(more: int) -> None:
        nonlocal completed
        completed += more
        on_progress(min(1.0, completed / max(1, total)))

    return advance
