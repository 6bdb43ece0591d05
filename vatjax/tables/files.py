"""Opens files, detects their format, reads and writes them."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from vatjax import errors, store
from vatjax.tables.csv_rows import read_csv
from vatjax.tables.json_rows import CHUNK, read_array, read_lines
from vatjax.tables.table import Table, TooManyProblems, guard_formula

Format = Literal["jsonl", "json", "csv", "tsv"]

RECORD_LIMIT = 1 << 20
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def read(path: store.Path, record_limit: int = RECORD_LIMIT) -> Table:
    """Reads a file's rows.

    The format follows the name (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, each also with `.gz`) and, where the name
    has no known suffix, the first character. Compression is recognised by content.

    Args:
        path: local path or bucket URI.
        record_limit: maximum length of a line or record in bytes; a longer one is a problem of its line.

    Raises:
        InputError: if no row can be read at all: a missing file, a folder, another encoding, a bad header.
    """
    table = Table(str(path))
    with _open(path) as file:
        form = _format(table.source, file)
        try:
            if form == "json":
                read_array(file, table, record_limit)
            elif form == "jsonl":
                read_lines(file, table, record_limit)
            else:
                read_csv(file, table, record_limit, "\t" if form == "tsv" else None)
        except TooManyProblems as error:
            table.stop_reading(error.args[0], f"{len(table.problems):,} rows are bad")
        except _BROKEN_GZIP as error:
            line = table.lines[-1] + 1 if table.lines else 1
            table.stop_reading(line, f"the compressed file is damaged or ends early ({error})")
    if form in ("json", "jsonl"):
        table.columns = tuple(dict.fromkeys(column for row in table.rows for column in row))
    return table


@contextlib.contextmanager
def _open(path: store.Path) -> Iterator[io.BufferedReader]:
    """Opens a file for reading, decompressed if gzipped and positioned after a byte-order mark."""
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(store.open_binary(path))
        file = io.BufferedReader(raw, CHUNK)
        if file.peek(2)[:2] == b"\x1f\x8b":
            packed = stack.enter_context(gzip.GzipFile(fileobj=file))
            file = io.BufferedReader(_Limited(packed, str(path)), CHUNK)
        try:
            mark = file.peek(3)[:3]
        except _BROKEN_GZIP as error:
            raise errors.InputError(f"{path}: the compressed file is damaged or ends early ({error})") from None
        if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise errors.InputError(f"{path}: this is UTF-16 text; save it as UTF-8")
        if mark[:2] == b"PK":
            raise errors.InputError(f"{path}: this is a zip archive (a spreadsheet?); save it as CSV")
        if mark == codecs.BOM_UTF8:
            file.read(3)
        yield file


class _Limited(io.RawIOBase):
    """A compressed file that may expand to `store.expanded_limit` bytes."""

    def __init__(self, packed: gzip.GzipFile, source: str) -> None:
        self._packed, self._source, self._left = packed, source, store.expanded_limit()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._packed.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise errors.InputError(
                f"{self._source}: expands to more than {store.expanded_limit() / 1e9:g} GB; raise the limit with "
                "VATJAX_EXPANDED_GB"
            )
        return count


def _format(source: str, file: io.BufferedReader) -> Format:
    name = source.lower().removesuffix(".gz")
    form = _SUFFIXES.get("." + name.rpartition(".")[2])
    if form in ("csv", "tsv", "jsonl"):
        return form
    try:
        first = file.peek(CHUNK).lstrip()[:1]
    except _BROKEN_GZIP:
        first = b""
    if first == b"[":
        return "json"
    return "jsonl" if first == b"{" or form == "json" else "csv"


# Writing ------------------------------------------------------------------------------------------------------------


def write(path: store.Path, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]], mark: bool = False) -> None:
    """Writes rows in the format of the path's suffix; equal rows give equal bytes.

    In CSV and TSV, text is written verbatim and other content as JSON, since cells have no types.

    Args:
        path: local path or bucket URI.
        columns: names of the columns.
        rows: an entry for each column.
        mark: begin with a byte-order mark, without which spreadsheets guess the encoding.

    Raises:
        InputError: for a suffix of no known format.
    """
    name = str(path).lower().removesuffix(".gz")
    form = _SUFFIXES.get("." + name.rpartition(".")[2])
    if form is None:
        raise errors.InputError(f"{path}: the name must end in {', '.join(_SUFFIXES)} (or one of these and .gz)")

    def content(file: BinaryIO) -> None:
        file.write(codecs.BOM_UTF8 if mark else b"")
        if not str(path).lower().endswith(".gz"):
            _write(file, form, columns, rows)
            return
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
            _write(packed, form, columns, rows)  # type: ignore[arg-type]

    store.commit(path, content)


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
    text = (
        guard_formula(entry) if isinstance(entry, str) else "" if entry is None else json.dumps(entry, allow_nan=False)
    )
    if any(sign in text for sign in (delimiter, '"', "\n", "\r")):
        return '"' + text.replace('"', '""') + '"'
    return text
