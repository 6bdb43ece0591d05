"""Rows from files that people bring: JSON lines, JSON arrays and CSV, each also gzipped, every row with its line.

The reader never holds more than one record of a file at a time, so a line of a gigabyte is an error and not a full
memory. It goes on after a bad row and collects what was wrong with file and line; the caller decides whether that ends
the work.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, Literal

from vatjax import errors, store

Format = Literal["jsonl", "json", "csv", "tsv"]

RECORD_LIMIT = 1 << 20
_CHUNK = 1 << 16
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclasses.dataclass
class Table:
    """The rows of a file.

    Attributes:
        source: the file's name as the user gave it.
        columns: every column that some row has, in order of appearance.
        rows: one mapping a row; CSV cells are text, JSON fields what they are.
        lines: the line on which each row begins.
        problems: what could not be read, in the order of the file.
    """

    source: str
    columns: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lines: list[int] = dataclasses.field(default_factory=list)
    problems: list[errors.Problem] = dataclasses.field(default_factory=list)

    def bad(self, line: int, message: str) -> None:
        """Records a problem."""
        self.problems.append(errors.Problem(self.source, line, message))


def read(where: store.Path, record_limit: int = RECORD_LIMIT) -> Table:
    """Reads a file's rows.

    The format follows the name (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, each also with `.gz`) and, where the name
    tells nothing, the first character. Compression is recognised by content.

    Args:
        where: local path or bucket URI.
        record_limit: the longest line or record in bytes; a longer one is a problem of its line.

    Raises:
        InputError: where no row can be read at all: no such file, a folder, another encoding.
    """
    source = str(where)
    table = Table(source)
    with _opened(where) as file:
        form = _format(source, file)
        try:
            if form == "json":
                _read_array(file, table, record_limit)
            elif form == "jsonl":
                _read_lines(file, table, record_limit)
            else:
                _read_csv(file, table, record_limit, "\t" if form == "tsv" else None)
        except _BROKEN_GZIP as error:
            line = table.lines[-1] + 1 if table.lines else 1
            table.bad(line, f"the compressed file is damaged or ends early ({error}); what follows is lost")
    if form in ("json", "jsonl"):
        table.columns = tuple(dict.fromkeys(column for row in table.rows for column in row))
    return table


@contextlib.contextmanager
def _opened(where: store.Path) -> Iterator[IO[bytes]]:
    """A file open for reading: unpacked if it is gzipped, behind the byte-order mark if it has one."""
    with contextlib.ExitStack() as stack:
        try:
            path = store.path(where)
            if path.is_dir():
                raise errors.InputError(f"{where}: is a folder; expected a file")
            file: Any = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise errors.InputError(f"{where}: {(error.strerror or str(error)).lower()}") from None
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            file = stack.enter_context(io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=file))))
        try:
            mark = file.read(3)
        except _BROKEN_GZIP as error:
            raise errors.InputError(f"{where}: the compressed file is damaged or ends early ({error})") from None
        if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise errors.InputError(f"{where}: this is UTF-16 text; save it as UTF-8")
        if mark != codecs.BOM_UTF8:
            file.seek(0)
        yield file


def _format(source: str, file: IO[bytes]) -> Format:
    name = source.lower().removesuffix(".gz")
    suffix = "." + name.rpartition(".")[2]
    form = _SUFFIXES.get(suffix)
    if form in ("csv", "tsv", "jsonl"):
        return form
    start = file.tell()
    try:
        first = file.read(_CHUNK).lstrip()[:1]
    except _BROKEN_GZIP:
        first = b""
    file.seek(start)
    if first == b"[":
        return "json"
    return "jsonl" if first == b"{" or form == "json" else "csv"


# Lines --------------------------------------------------------------------------------------------------------------


def _lines(file: IO[bytes], table: Table, limit: int) -> Iterator[tuple[int, str]]:
    """Each line with its number; a line too long or not UTF-8 is a problem and is left out."""
    number = 0
    while True:
        line = file.readline(limit + 1)
        if not line:
            return
        number += 1
        if len(line) > limit and not line.endswith(b"\n"):
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = file.readline(limit)
                size += len(line)
            table.bad(number, f"the line is {size:,} bytes long; at most {limit:,} are read as one record")
            continue
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            table.bad(number, f"not UTF-8 text: byte 0x{byte:02x} at column {error.start + 1}; save the file as UTF-8")


def _read_lines(file: IO[bytes], table: Table, limit: int) -> None:
    for number, line in _lines(file, table, limit):
        if line.strip():
            _add_json(line, number, table)


def _add_json(text: str, line: int, table: Table) -> None:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        table.bad(line, f"invalid JSON at column {error.colno}: {error.msg.lower()}")
    except RecursionError:
        table.bad(line, "invalid JSON: nested too deeply")
    except ValueError as error:  # a number of thousands of digits
        table.bad(line, f"invalid JSON: {error}")
    else:
        _add_object(content, line, table)


def _add_object(content: Any, line: int, table: Table) -> None:
    if not isinstance(content, dict):
        table.bad(line, f"expected a JSON object, found {_kind(content)}")
        return
    for text in (*content.keys(), *content.values()):
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                table.bad(line, "half of a surrogate pair: this text can't be written as UTF-8")
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

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.decode = codecs.getincrementaldecoder("utf-8")()
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


def _read_array(file: IO[bytes], table: Table, limit: int) -> None:
    """One record after the other, so that a large array needs no more memory than its largest record."""
    window = _Window(file)
    try:
        _array(window, table, limit)
    except UnicodeDecodeError as error:
        line = window.here() + bytes(error.object[: error.start]).count(b"\n")
        table.bad(line, f"not UTF-8 text: byte 0x{error.object[error.start]:02x}; save the file as UTF-8")


def _array(window: _Window, table: Table, limit: int) -> None:
    decoder = json.JSONDecoder()
    window.peek()
    window.position += 1  # the bracket by which the format was told
    if window.peek() == "]":
        window.position += 1
    else:
        while True:
            window.peek()
            window.advance(window.position)
            line = window.line
            if not _record(window, decoder, table, limit, line):
                return
            separator = window.peek()
            window.position += 1
            if separator == "]":
                break
            if separator != ",":
                found = repr(separator) if separator else "the end of the file"
                table.bad(window.here(), f"expected ',' or ']' between records, found {found}; what follows is lost")
                return
    if window.peek():
        table.bad(window.here(), "text after the end of the JSON array")


def _record(window: _Window, decoder: json.JSONDecoder, table: Table, limit: int, line: int) -> bool:
    """Parses the record at the window's start; False where parsing can't go on after it."""
    while True:
        try:
            content, end = decoder.raw_decode(window.text)
        except json.JSONDecodeError as error:
            if not window.ended and len(window.text) <= limit:
                window.refill()
                continue
            too_long = len(window.text) > limit and not window.ended
            reason = f"no record ends within {limit:,} characters" if too_long else error.msg.lower()
            at = line if too_long else line + window.text.count("\n", 0, error.pos)
            table.bad(at, f"invalid JSON: {reason}; what follows is lost")
            return False
        except (RecursionError, ValueError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            table.bad(line, f"invalid JSON: {reason}; what follows is lost")
            return False
        if end == len(window.text) and not window.ended:  # a number may go on in the next chunk
            window.refill()
            continue
        window.position = end
        _add_object(content, line, table)
        return True


# CSV ----------------------------------------------------------------------------------------------------------------


def _read_csv(file: IO[bytes], table: Table, limit: int, delimiter: str | None) -> None:
    """CSV as spreadsheets write it: quoted cells may hold line breaks; the header names the columns."""
    last = 0

    def text() -> Iterator[str]:
        nonlocal last
        for number, line in _lines(file, table, limit):
            last = number
            yield line

    source = text()
    header_line = next((line for line in source if line.strip()), None)
    if header_line is None:
        return
    if delimiter is None:
        delimiter = ";" if ";" in header_line and "," not in header_line else ","
    header = _header(header_line, source, delimiter, table.source, last)
    table.columns = tuple(header)
    records = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        begin = last + 1
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            table.bad(begin, f"invalid CSV: {error} (in the record that begins here)")
            continue
        if not any(cell.strip() for cell in cells):
            if len(cells) > 1:
                table.bad(begin, "every cell of the row is empty")
        elif len(cells) != len(header):
            table.bad(begin, f"expected {len(header)} cells as in the header, found {len(cells)}")
        else:
            table.rows.append(dict(zip(header, cells, strict=True)))
            table.lines.append(begin)


def _header(first: str, rest: Iterator[str], delimiter: str, source: str, line: int) -> list[str]:
    def lines() -> Iterator[str]:
        yield first
        yield from rest

    try:
        header = [name.strip() for name in next(csv.reader(lines(), delimiter=delimiter, strict=True))]
    except csv.Error as error:
        raise errors.InputError(f"{source}:{line}: invalid CSV header: {error}") from None
    for name in header:
        if not name:
            raise errors.InputError(f"{source}:{line}: the header has a column without a name")
        if header.count(name) > 1:
            raise errors.InputError(f"{source}:{line}: the header names the column {name!r} twice")
    return header


# Writing ------------------------------------------------------------------------------------------------------------


def write(where: store.Path, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    """Writes rows in the format that the name asks for; equal rows give equal bytes.

    Raises:
        InputError: for a name that stands for no format.
    """
    name = str(where).lower().removesuffix(".gz")
    form = _SUFFIXES.get("." + name.rpartition(".")[2])
    if form is None:
        raise errors.InputError(f"{where}: the name must end in {', '.join(_SUFFIXES)} (or one of these and .gz)")

    def content(file: BinaryIO) -> None:
        if not str(where).lower().endswith(".gz"):
            _write(io.TextIOWrapper(file, "utf-8", newline="", write_through=True), form, columns, rows)
            return
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
            _write(io.TextIOWrapper(packed, "utf-8", newline=""), form, columns, rows)

    store.commit(where, content)


def _write(file: io.TextIOWrapper, form: Format, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    if form in ("csv", "tsv"):
        writer = csv.writer(file, delimiter="\t" if form == "tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        if form == "json":
            file.write("[\n" + ",\n".join(lines) + "\n]\n")
        else:
            file.writelines(line + "\n" for line in lines)
    file.detach()  # flushes, and leaves the file underneath open for its owner
