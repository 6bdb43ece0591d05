"""What a user's mistake looks like: one readable error, never a traceback.

`InputError` carries a complete sentence for the person who made the mistake; the command line prints it and ends with
status 2. Readers collect `Problem`s, so that one run names everything that is wrong with a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_SHOWN = 20


class InputError(ValueError):
    """The input is wrong: what was found, where, what was expected, and the nearest right thing."""


class LocalError(InputError):
    """What is wrong in this process, and need not be in others that compute the same: a full disk, a network that is away."""


class Problem(NamedTuple):
    """One thing that is wrong at one place of a file."""

    source: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.message}"


def all_of(problems: Sequence[Problem], hint: str = "") -> InputError:
    """One error for many problems: the first twenty in full, the rest counted.

    Args:
        problems: at least one problem, in the order of the file.
        hint: a last sentence that says what the user can do.
    """
    lines = [str(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"... and {len(problems) - _SHOWN} more problems")
    if hint:
        lines.append(hint)
    return InputError("\n".join(lines))
