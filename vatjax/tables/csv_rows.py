"""Reads CSV as spreadsheets write it: quoted cells may hold line breaks, quotes are doubled, the header names columns.

Python's csv module does not report the line on which a record begins, cannot continue after a bad record, and has one
limit on cell length for the whole process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from vatjax import errors
from vatjax.tables.table import Table, encoding_problem, lines_of, unguard_formula

_SEP_LINE = re.compile("sep=(.)", re.IGNORECASE)  # optional first line that names the delimiter for Excel


def read_csv(file: BinaryIO, table: Table, limit: int, delimiter: str | None) -> None:
    """Adds the rows of a CSV file to the table; quoted cells may hold line breaks and doubled quotes."""
    lines = lines_of(file, limit)
    header: list[str] | None = None
    for begin, first, size in lines:
        if first is None:
            table.stop_reading(begin, f"the line is {size:,} bytes long; at most {limit:,} are read as one record")
            return
        if not first.strip():
            continue
        if header is None and (sep_line := _SEP_LINE.fullmatch(first.strip("\r\n"))):
            delimiter = sep_line[1]
            continue
        delimiter = delimiter or _delimiter(first)
        record = _whole_record(first, lines, delimiter, limit)
        if record is None:
            message = f"a quote that opens in this record isn't closed within {limit:,} bytes"
            if header is None:
                raise errors.InputError(f"{table.source}:{begin}: the header: {message}")
            table.stop_reading(begin, message)
            return
        cells = _cells(record.rstrip("\n").removesuffix("\r"), delimiter)
        problem = encoding_problem(record) or (cells if isinstance(cells, str) else None)
        if header is None:
            if problem is not None or isinstance(cells, str):
                raise errors.InputError(f"{table.source}:{begin}: the header: {problem}")
            header = _header(cells, table.source, begin)
            table.columns, table.delimiter = tuple(header), delimiter
        elif problem is not None or isinstance(cells, str):
            table.add_problem(begin, str(problem))
        elif not any(cell.strip() for cell in cells):
            table.add_problem(begin, "every cell of the row is empty")
        elif len(cells) != len(header):
            table.add_problem(begin, f"expected {len(header)} cells as in the header, found {len(cells)}")
        else:
            table.rows.append(dict(zip(header, map(unguard_formula, cells), strict=True)))
            table.lines.append(begin)


def _delimiter(header: str) -> str:
    """Returns a header's delimiter: the first of comma, semicolon, tab and bar that it contains, else a comma."""
    return next((sign for sign in (",", ";", "\t", "|") if sign in header), ",")


def _whole_record(first: str, lines: Iterator[tuple[int, str | None, int]], delimiter: str, limit: int) -> str | None:
    """Reads a record: a line, and further lines while a quote is open; None if the quote never closes."""
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
    """Returns True if a quoted cell is still open at the end of a line."""
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
    """Splits a record into cells, or returns an error message."""
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
    """Returns the column names; an unnamed column (a spreadsheet's row numbers) is named by its position."""
    if any("\r" in cell for cell in cells):
        raise errors.InputError(f"{source}:{line}: lines end in lone carriage returns; save the file with \\n")
    header = [cell.strip() or f"column {i + 1}" for i, cell in enumerate(cells)]
    for name in header:
        if header.count(name) > 1:
            raise errors.InputError(f"{source}:{line}: the header names the column {name!r} twice")
    return header
