"""Rows from files that people bring: JSON lines, JSON arrays and CSV, each also gzipped, every row with its line.

No record may be longer than a limit, so a line of a gigabyte is an error and not a full memory. Reading goes on after a
bad row and collects what was wrong with file and line; the caller decides whether that ends the work. Where it can't go
on (a quote that never closes, a broken archive) it says that the rest is lost. Every line is a row, blank, or a problem.
"""

from vatjax.tables.files import RECORD_LIMIT, read, write
from vatjax.tables.table import Table

__all__ = ["RECORD_LIMIT", "Table", "read", "write"]
