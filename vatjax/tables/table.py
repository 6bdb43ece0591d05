"""Rows with their lines, and the lines of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from vatjax import errors, names

_LOST = "what follows is lost"


@dataclasses.dataclass
class Table:
    """The rows of a file.

    Attributes:
        source: the file's name as the user gave it.
        columns: every column that some row has, in order of appearance.
        rows: one mapping a row; CSV cells are text, JSON fields what they are.
        lines: the line on which each row begins.
        problems: what could not be read, in the order of the file.
        lost: whether reading had to stop before the end of the file.
        delimiter: the sign between cells of a CSV file; empty for JSON.
    """

    source: str
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)
    problems: list[errors.Problem] = dataclasses.field(default_factory=list)
    lost: bool = False
    delimiter: str = ""

    def bad(self, line: int, message: str) -> None:
        """Records a problem."""
        self.problems.append(errors.Problem(self.source, line, message))

    def lacking(self, columns: Iterable[str]) -> list[errors.Problem]:
        """A problem for each of some columns that is not there."""
        found = []
        for column in columns:
            if column not in self.columns:
                near = names.nearest(column, self.columns)
                hint = f"; did you mean {near!r} by it?" if near else ""
                found.append(errors.Problem(self.source, 1, f"no column {column!r}{hint}"))
        return found

    def stop(self, line: int, message: str) -> None:
        """Records a problem behind which nothing can be read."""
        self.bad(line, f"{message}; {_LOST}")
        self.lost = True


def lines_of(file: BinaryIO, limit: int) -> Iterator[tuple[int, str | None, int]]:
    """Each line as (number, text, bytes); the text of a line over the limit is None. Bytes that are no UTF-8 become
    surrogates, so that the record they belong to can be refused as a whole."""
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
    """What is wrong with the text of a record as UTF-8, if anything."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        letter = ord(text[error.start])
        if 0xDC80 <= letter <= 0xDCFF:  # how undecodable bytes were marked
            return f"not UTF-8 text: byte 0x{letter - 0xDC00:02x} at column {error.start + 1}; save the file as UTF-8"
        return "half of a surrogate pair: this text can't be written as UTF-8"
    return None
