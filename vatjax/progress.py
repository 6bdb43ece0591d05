"""Progress of long work, as a fraction from 0 to 1, so that stages nest."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[float], None]
"""Is called with the completed fraction of the work; it starts again where a device runs out of memory for it."""


def silent(_: float) -> None:
    """Ignores progress."""


def within(on_progress: OnProgress, start: float, stop: float) -> OnProgress:
    """Returns the callback of a stage that takes from `start` to `stop` of the whole."""
    return silent if on_progress is silent else lambda fraction: on_progress(start + (stop - start) * fraction)


def counted(on_progress: OnProgress, total: int) -> Callable[[int], None]:
    """Returns a callback that is called with how many more of `total` units are complete."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        on_progress(min(1.0, done / max(1, total)))

    return advance
