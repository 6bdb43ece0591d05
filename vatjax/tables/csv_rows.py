"""Rows from CSV as spreadsheets write it: quoted cells may hold line breaks, quotes are doubled, the header names columns.

Python's csv module tells neither where a record began nor how to go on after a bad one, and its limit on the length of a
cell belongs to the whole process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from vatjax import errors
from vatjax.tables.table import Table, encoding_problem, lines_of

_TOLD = re.compile("sep=(.)", re.IGNORECASE)  # a first line by which Excel is told the sign between cells


def read_csv(file: BinaryIO, table: Table, limit: int, delimiter: str | None) -> None:
    """CSV as spreadsheets write it: quoted cells may hold line breaks, quotes are doubled, the header names columns."""
    lines = lines_of(file, limit)
    header: list[str] | None = None
    for begin, first, size in lines:
        if first is None:
            table.stop(begin, f"the line is {size:,} bytes long; at most {limit:,} are read as one record")
            return
        if not first.strip():
            continue
        if header is None and (told := _TOLD.fullmatch(first.strip("\r\n"))):
            delimiter = told[1]
            continue
        delimiter = delimiter or _delimiter(first)
        record = _whole_record(first, lines, delimiter, limit)
        if record is None:
            message = f"a quote that opens in this record isn't closed within {limit:,} bytes"
            if header is None:
                raise errors.InputError(f"{table.source}:{begin}: the header: {message}")
            table.stop(begin, message)
            return
        cells = _cells(record.rstrip("\n").removesuffix("\r"), delimiter)
        problem = encoding_problem(record) or (cells if isinstance(cells, str) else None)
        if header is None:
            if problem is not None or isinstance(cells, str):
                raise errors.InputError(f"{table.source}:{begin}: the header: {problem}")
            header = _header(cells, table.source, begin)
            table.columns, table.delimiter = tuple(header), delimiter
        elif problem is not None or isinstance(cells, str):
            table.bad(begin, str(problem))
        elif not any(cell.strip() for cell in cells):
            table.bad(begin, "every cell of the row is empty")
        elif len(cells) != len(header):
            table.bad(begin, f"expected {len(header)} cells as in the header, found {len(cells)}")
        else:
            table.rows.append(dict(zip(header, cells, strict=True)))
            table.lines.append(begin)


def _delimiter(header: str) -> str:
    """The sign that a header separates its names by: a comma, or what stands there instead."""
    return next((sign for sign in (",", ";", "\t", "|") if sign in header), ",")


def _whole_record(first: str, lines: Iterator[tuple[int, str | None, int]], delimiter: str, limit: int) -> str | None:
    """A line with the lines after it that its open quote takes in; None where that has no end."""
    parts, size = [first], len(first)
    open_quote = _ends_quoted(first, delimiter, False)
    while open_quote:
        _, text, _ = next(lines, (0, None, 0))
        if text is None or size + len(text) > limit:
            return None
        parts.append(text)
        size += len(text)
        open_quote = _ends_quoted(text, delimiter, True)
    return "".join(parts)


def _ends_quoted(line: str, delimiter: str, quoted: bool) -> bool:
    """Whether a quoted cell is still open at the end of a line."""
    place = 0
    if not quoted and '"' not in line:
        return False
    while place < len(line):
        if quoted:
            close = line.find('"', place)
            if close < 0:
                return True
            place = close + 2 if line[close + 1 : close + 2] == '"' else close + 1
            quoted = line[close + 1 : close + 2] == '"'
        elif line[place] == '"' and (place == 0 or line[place - 1] == delimiter):
            quoted, place = True, place + 1
        else:
            following = line.find(delimiter, place)
            if following < 0:
                return False
            place = following + 1
    return quoted


def _cells(record: str, delimiter: str) -> list[str] | str:
    """A record's cells, or the sentence that says why it has none."""
    if '"' not in record:
        return record.split(delimiter)
    cells: list[str] = []
    place = 0
    while True:
        if record[place : place + 1] == '"':
            parts = []
            while True:
                close = record.find('"', place + 1)
                parts.append(record[place + 1 : close])
                place = close + 1
                if record[place : place + 1] != '"':
                    break
                parts.append('"')
            cells.append("".join(parts))
            if place < len(record) and record[place] != delimiter:
                return f"invalid CSV: {record[place]!r} after the closing quote of cell {len(cells)}"
            end = place if place < len(record) else -1
        else:
            end = record.find(delimiter, place)
            cells.append(record[place:] if end < 0 else record[place:end])
        if end < 0:
            return cells
        place = end + 1


def _header(cells: list[str], source: str, line: int) -> list[str]:
    """The columns' names; one without a name (a spreadsheet's row numbers) is called by its place."""
    if any("\r" in cell for cell in cells):
        raise errors.InputError(f"{source}:{line}: lines end in lone carriage returns; save the file with \\n")
    header = [cell.strip() or f"column {i + 1}" for i, cell in enumerate(cells)]
    for name in header:
        if header.count(name) > 1:
            raise errors.InputError(f"{source}:{line}: the header names the column {name!r} twice")
    return header
