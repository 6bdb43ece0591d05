"""Rows from files that people bring: JSON lines, JSON arrays and CSV, each also gzipped, every row with its line.

No record may be longer than a limit, so a line of a gigabyte is an error and not a full memory. Reading goes on after a
bad row and collects what was wrong with file and line; the caller decides whether that ends the work. Where it can't go
on (a quote that never closes, a broken archive) it says that the rest is lost. Every line is a row, blank, or a problem.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from vatjax import errors, store

Format = Literal["jsonl", "json", "csv", "tsv"]

RECORD_LIMIT = 1 << 20
_CHUNK = 1 << 16
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
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
    """

    source: str
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)
    problems: list[errors.Problem] = dataclasses.field(default_factory=list)
    lost: bool = False

    def bad(self, line: int, message: str) -> None:
        """Records a problem."""
        self.problems.append(errors.Problem(self.source, line, message))

    def stop(self, line: int, message: str) -> None:
        """Records a problem behind which nothing can be read."""
        self.bad(line, f"{message}; {_LOST}")
        self.lost = True


def read(where: store.Path, record_limit: int = RECORD_LIMIT) -> Table:
    """Reads a file's rows.

    The format follows the name (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, each also with `.gz`) and, where the name
    tells nothing, the first character. Compression is recognised by content.

    Args:
        where: local path or bucket URI.
        record_limit: the longest line or record in bytes; a longer one is a problem of its line.

    Raises:
        InputError: where no row can be read at all: no such file, a folder, another encoding, a bad header.
    """
    table = Table(str(where))
    with _opened(where) as file:
        form = _format(table.source, file)
        try:
            if form == "json":
                _read_array(file, table, record_limit)
            elif form == "jsonl":
                _read_lines(file, table, record_limit)
            else:
                _read_csv(file, table, record_limit, "\t" if form == "tsv" else None)
        except _BROKEN_GZIP as error:
            line = table.lines[-1] + 1 if table.lines else 1
            table.stop(line, f"the compressed file is damaged or ends early ({error})")
    if form in ("json", "jsonl"):
        table.columns = tuple(dict.fromkeys(column for row in table.rows for column in row))
    return table


@contextlib.contextmanager
def _opened(where: store.Path) -> Iterator[io.BufferedReader]:
    """A file open for reading: unpacked if it is gzipped, behind the byte-order mark if it has one."""
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(store.open_binary(where))
        file = io.BufferedReader(raw, _CHUNK)
        if file.peek(2)[:2] == b"\x1f\x8b":
            packed = stack.enter_context(gzip.GzipFile(fileobj=file))
            file = io.BufferedReader(packed, _CHUNK)
        try:
            mark = file.peek(3)[:3]
        except _BROKEN_GZIP as error:
            raise errors.InputError(f"{where}: the compressed file is damaged or ends early ({error})") from None
        if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise errors.InputError(f"{where}: this is UTF-16 text; save it as UTF-8")
        if mark[:2] == b"PK":
            raise errors.InputError(f"{where}: this is a zip archive (a spreadsheet?); save it as CSV")
        if mark == codecs.BOM_UTF8:
            file.read(3)
        yield file


def _format(source: str, file: io.BufferedReader) -> Format:
    name = source.lower().removesuffix(".gz")
    form = _SUFFIXES.get("." + name.rpartition(".")[2])
    if form in ("csv", "tsv", "jsonl"):
        return form
    try:
        first = file.peek(_CHUNK).lstrip()[:1]
    except _BROKEN_GZIP:
        first = b""
    if first == b"[":
        return "json"
    return "jsonl" if first == b"{" or form == "json" else "csv"


def _lines(file: BinaryIO, limit: int) -> Iterator[tuple[int, str | None, int]]:
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


def _encoding_problem(text: str) -> str | None:
    """What is wrong with the text of a record as UTF-8, if anything."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        letter = ord(text[error.start])
        if 0xDC80 <= letter <= 0xDCFF:  # how undecodable bytes were marked
            return f"not UTF-8 text: byte 0x{letter - 0xDC00:02x} at column {error.start + 1}; save the file as UTF-8"
        return "half of a surrogate pair: this text can't be written as UTF-8"
    return None


# JSON lines ---------------------------------------------------------------------------------------------------------


class _Repeated(ValueError):
    """A JSON object with one key twice, of which a parser would keep the last in silence."""


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


def _read_lines(file: BinaryIO, table: Table, limit: int) -> None:
    for number, text, size in _lines(file, limit):
        if text is None:
            table.bad(number, f"the line is {size:,} bytes long; at most {limit:,} are read as one record")
        elif problem := _encoding_problem(text):
            table.bad(number, problem)
        elif text.strip():
            try:
                content = _DECODER.decode(text)
            except json.JSONDecodeError as error:
                table.bad(number, f"invalid JSON at column {error.colno}: {error.msg.lower()}")
            except (RecursionError, ValueError) as error:
                table.bad(number, _json_problem(error))
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
        table.bad(line, f"expected a JSON object, found {_kind(content)}{hint}")
        return
    problem = _encoding_problem(json.dumps(content, ensure_ascii=False))
    if problem:
        table.bad(line, problem)
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
        chunk = self.file.read(max(_CHUNK, len(self.text)))  # doubling: a long record is parsed again few times
        self.ended = not chunk
        self.text += self.decode.decode(chunk, final=self.ended)

    def advance(self, position: int) -> None:
        self.line += self.text.count("\n", 0, position)
        self.text = self.text[position:]
        self.position = 0

    def peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self.refill()

    def here(self) -> int:
        """The line of the current position."""
        return self.line + self.text.count("\n", 0, self.position)


def _read_array(file: BinaryIO, table: Table, limit: int) -> None:
    window = _Window(file)
    window.peek()
    window.position += 1  # the bracket by which the format was told
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
                found = repr(separator) if separator else "the end of the file"
                table.stop(window.here(), f"expected ',' or ']' between records, found {found}")
                return
    if window.peek():
        table.stop(window.here(), "text after the end of the JSON array")


def _record(window: _Window, table: Table, limit: int, line: int) -> bool:
    """Parses the record at the window's start; False where parsing can't go on after it."""
    while True:
        try:
            content, end = _DECODER.raw_decode(window.text)
        except json.JSONDecodeError as error:
            if not window.ended and len(window.text) <= limit:
                window.refill()
                continue
            if len(window.text) > limit and not window.ended:
                table.stop(line, f"invalid JSON: no record ends within {limit:,} characters")
            else:
                table.stop(line + window.text.count("\n", 0, error.pos), f"invalid JSON: {error.msg.lower()}")
            return False
        except (RecursionError, ValueError) as error:
            table.stop(line, _json_problem(error))
            return False
        if end == len(window.text) and not window.ended:  # a number may go on in the next chunk
            window.refill()
            continue
        window.position = end
        _add(content, line, table)
        return True


# CSV ----------------------------------------------------------------------------------------------------------------
# Python's csv module tells neither where a record began nor how to go on after a bad one, and its limit on the length of
# a cell belongs to the whole process.


def _read_csv(file: BinaryIO, table: Table, limit: int, delimiter: str | None) -> None:
    """CSV as spreadsheets write it: quoted cells may hold line breaks, quotes are doubled, the header names columns."""
    lines = _lines(file, limit)
    header: list[str] | None = None
    for begin, first, size in lines:
        if first is None:
            table.stop(begin, f"the line is {size:,} bytes long; at most {limit:,} are read as one record")
            return
        if not first.strip():
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
        problem = _encoding_problem(record) or (cells if isinstance(cells, str) else None)
        if header is None:
            if problem is not None or isinstance(cells, str):
                raise errors.InputError(f"{table.source}:{begin}: the header: {problem}")
            header = _header(cells, table.source, begin)
            table.columns = tuple(header)
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


# Writing ------------------------------------------------------------------------------------------------------------


def write(where: store.Path, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    """Writes rows in the format that the name asks for; equal rows give equal bytes.

    In CSV and TSV, text is written as it is and other content as JSON, since cells have no types.

    Raises:
        InputError: for a name that stands for no format.
    """
    name = str(where).lower().removesuffix(".gz")
    form = _SUFFIXES.get("." + name.rpartition(".")[2])
    if form is None:
        raise errors.InputError(f"{where}: the name must end in {', '.join(_SUFFIXES)} (or one of these and .gz)")

    def content(file: BinaryIO) -> None:
        if not str(where).lower().endswith(".gz"):
            _write(file, form, columns, rows)
            return
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
            _write(packed, form, columns, rows)  # type: ignore[arg-type]

    store.commit(where, content)


def _write(file: BinaryIO, form: Format, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    if form in ("csv", "tsv"):
        delimiter = "\t" if form == "tsv" else ","
        for row in (columns, *rows):
            file.write((delimiter.join(_cell(entry, delimiter) for entry in row) + "\n").encode())
        return
    before, between, after = (b"[\n", b",\n", b"\n]\n") if form == "json" else (b"", b"\n", b"\n")
    file.write(before)
    first = True
    for row in rows:
        line = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, allow_nan=False)
        file.write((b"" if first else between) + line.encode())
        first = False
    file.write(b"" if first and form == "jsonl" else after)


def _cell(entry: Any, delimiter: str) -> str:
    text = entry if isinstance(entry, str) else "" if entry is None else json.dumps(entry, allow_nan=False)
    if any(sign in text for sign in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text
