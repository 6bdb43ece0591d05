"""A table of rows with their lines, and the line reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from vatjax import errors, names

_LOST = "what follows is lost"

# Signs that begin a formula in spreadsheets.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guard_formula(text: str) -> str:
    """Escapes a text so that a spreadsheet does not read it as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def unguard_formula(text: str) -> str:
    """Returns the text that `guard_formula` escaped; any other text as it is."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA) else text


_MOST_PROBLEMS = 100_000


class TooManyProblems(Exception):
    """A file in which so many rows are bad that it is another kind of file; with the line."""


@dataclasses.dataclass
class Table:
    """The rows of a file.

    Attributes:
        source: the file's name as the user gave it.
        columns: all columns of the rows, in order of appearance.
        rows: one mapping a row; CSV cells are text, JSON fields keep their types.
        lines: the line on which each row begins.
        problems: the rows that could not be read, in the order of the file.
        lost: True if reading stopped before the end of the file.
        delimiter: delimiter of a CSV file; empty for JSON.
    """

    source: str
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)
    problems: list[errors.Problem] = dataclasses.field(default_factory=list)
    lost: bool = False
    delimiter: str = ""

    def add_problem(self, line: int, message: str) -> None:
        """Records a problem; raises TooManyProblems for one too many."""
        self.problems.append(errors.Problem(self.source, line, message))
        if len(self.problems) >= _MOST_PROBLEMS and not self.lost:
            self.lost = True
            raise TooManyProblems(line)

    def missing_columns(self, columns: Iterable[str]) -> list[errors.Problem]:
        """Returns a problem for each of `columns` that is missing."""
        problems = []
        for column in columns:
            if column not in self.columns:
                near = names.nearest(column, self.columns)
                hint = f"; did you mean {near!r}?" if near else ""
                problems.append(errors.Problem(self.source, 1, f"no column {column!r}{hint}"))
        return problems

    def stop_reading(self, line: int, message: str) -> None:
        """Records a problem after which nothing can be read."""
        self.add_problem(line, f"{message}; {_LOST}")
        self.lost = True


def lines_of(file: BinaryIO, limit: int) -> Iterator[tuple[int, str | None, int]]:
    """Yields each line as (number, text, bytes); the text of a line over the limit is None. Bytes that are not UTF-8
    become surrogates, so that the whole record can be refused."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) <= limit or line.endswith(b"\n"):
            yield number, line.decode(errors="surrogateescape"), len(line)
            continue
        size = len(line)
        while not line.endswith(b"\n") and (line := file.readline(limit)):
            size += len(line)
        yield number, None, size


def encoding_problem(text: str) -> str | None:
    """Returns the encoding problem of a record's text, or None if it is valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        letter = ord(text[error.start])
        if 0xDC80 <= letter <= 0xDCFF:  # how undecodable bytes were marked
            return f"not UTF-8 text: byte 0x{letter - 0xDC00:02x} at column {error.start + 1}; save the file as UTF-8"
        return "half of a surrogate pair: this text can't be written as UTF-8"
    return None
