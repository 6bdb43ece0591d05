"""Reads JSON lines and JSON arrays, one record after the other."""

from __future__ import annotations

import codecs
import json
from typing import Any, BinaryIO

from vatjax.tables.table import Table, encoding_problem, lines_of

CHUNK = 1 << 16

# JSON lines ---------------------------------------------------------------------------------------------------------


class _Repeated(ValueError):
    """A JSON object with a duplicate key, of which a parser would silently keep the last value."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Repeated(f"the key {key!r} is given twice")
            seen.add(key)
    return content


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)


def read_lines(file: BinaryIO, table: Table, limit: int) -> None:
    """Adds the rows of JSON lines to the table; a bad line is recorded as a problem and skipped."""
    for number, text, size in lines_of(file, limit):
        if text is None:
            table.add_problem(number, f"the line is {size:,} bytes long; at most {limit:,} are read as one record")
        elif problem := encoding_problem(text):
            table.add_problem(number, problem)
        elif text.strip():
            try:
                content = _DECODER.decode(text)
            except json.JSONDecodeError as error:
                table.add_problem(
                    number, f"invalid JSON at column {error.colno}: {error.msg.lower().removesuffix(' at')}"
                )
            except (RecursionError, ValueError) as error:
                table.add_problem(number, _json_problem(error))
            else:
                _add(content, number, table)


def _json_problem(error: Exception) -> str:
    if isinstance(error, _Repeated):
        return str(error)
    if isinstance(error, RecursionError):
        return "invalid JSON: nested too deeply"
    return "invalid JSON: a number with thousands of digits"


def _add(content: Any, line: int, table: Table) -> None:
    if not isinstance(content, dict):
        hint = "; a JSON array over several lines is read from a .json file" if isinstance(content, list) else ""
        table.add_problem(line, f"expected a JSON object, found {_kind(content)}{hint}")
        return
    problem = encoding_problem(json.dumps(content, ensure_ascii=False))
    if problem:
        table.add_problem(line, problem)
        return
    table.rows.append(content)
    table.lines.append(line)


def _kind(content: Any) -> str:
    if content is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return kinds[type(content)]


# JSON arrays --------------------------------------------------------------------------------------------------------


class _Window:
    """The part of a JSON text that is being parsed, refilled from the file, with the number of its first line."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = ""
        self.position = 0
        self.line = 1
        self.ended = False

    def refill(self) -> None:
        self.advance(self.position)
        chunk = self.file.read(max(CHUNK, len(self.text)))  # doubling: a long record is parsed again few times
        self.ended = not chunk
        self.text += self.decode.decode(chunk, final=self.ended)

    def advance(self, position: int) -> None:
        self.line += self.text.count("\n", 0, position)
        self.text = self.text[position:]
        self.position = 0

    def peek(self) -> str:
        """Returns the next character that is not whitespace, or "" at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self.refill()

    def here(self) -> int:
        """Returns the line of the current position."""
        return self.line + self.text.count("\n", 0, self.position)


def read_array(file: BinaryIO, table: Table, limit: int) -> None:
    """Adds the rows of a JSON array to the table; reading stops at broken syntax."""
    window = _Window(file)
    window.peek()
    window.position += 1  # the opening bracket
    if window.peek() == "]":
        window.position += 1
    else:
        while True:
            window.peek()
            window.advance(window.position)
            if not _record(window, table, limit, window.line):
                return
            separator = window.peek()
            window.position += 1
            if separator == "]":
                break
            if separator != ",":
                token = repr(separator) if separator else "the end of the file"
                table.stop_reading(window.here(), f"expected ',' or ']' between records, found {token}")
                return
    if window.peek():
        table.stop_reading(window.here(), "text after the end of the JSON array")


def _record(window: _Window, table: Table, limit: int, line: int) -> bool:
    """Parses the record at the window's start; returns False if parsing cannot continue after it."""
    while True:
        try:
            content, end = _DECODER.raw_decode(window.text)
        except json.JSONDecodeError as error:
            if not window.ended and len(window.text) <= limit:
                window.refill()
                continue
            if len(window.text) > limit and not window.ended:
                table.stop_reading(line, f"invalid JSON: no record ends within {limit:,} characters")
            else:
                table.stop_reading(
                    line + window.text.count("\n", 0, error.pos),
                    f"invalid JSON: {error.msg.lower().removesuffix(' at')}",
                )
            return False
        except (RecursionError, ValueError) as error:
            table.stop_reading(line, _json_problem(error))
            return False
        if end == len(window.text) and not window.ended:  # a number may go on in the next chunk
            window.refill()
            continue
        window.position = end
        _add(content, line, table)
        return True
