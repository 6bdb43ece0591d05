"""Reads rows from user files: JSON lines, JSON arrays and CSV, each also gzipped, every row with its line.

Records have a maximum length, so that a line of a gigabyte gives an error instead of running out of memory. Reading
continues after a bad row and collects problems with file and line; the caller decides whether they are fatal. If it
cannot continue (a quote that never closes, a broken archive), the table is marked `lost`. Every line is a row, blank,
or a problem.
"""

from vatjax.tables.files import read, write
from vatjax.tables.frames import data_frame
from vatjax.tables.table import FORMULA, Table, guard_formula, unguard_formula

__all__ = ["FORMULA", "Table", "data_frame", "guard_formula", "read", "unguard_formula", "write"]
