"""Errors for a user's mistakes: one readable message, never a traceback.

`InputError` carries a complete sentence for the person who made the mistake; the command line prints it and ends with
status 2. Readers collect `Problem`s, so that one run reports every problem of a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_SHOWN = 20


class InputError(ValueError):
    """Error in the input: the place, what was expected, what was found, and the nearest valid name."""


class LocalError(InputError):
    """Error of this process that others with the same work need not have: a full disk, an unreachable network."""


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Puts a name before the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise (type(error) if isinstance(error, LocalError) else InputError)(f"{name}: {error}") from None


class Problem(NamedTuple):
    """One problem at one place of a file."""

    source: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.message}"


def all_of(problems: Sequence[Problem], hint: str = "") -> InputError:
    """Returns one error for many problems: the first twenty in full, the rest counted.

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
