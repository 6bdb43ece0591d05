"""Tables as text."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence

from vatjax.names import printable

WIDTH = 99  # characters, for a file or a pipe


def format_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], width: int = WIDTH, terminal: bool = False
) -> str:
    """Returns a table as text; columns whose entries are all numbers are right-aligned.

    Args:
        columns: their headings.
        rows: an entry for each column.
        width: characters of a line; longer entries are folded.
        terminal: True to include control codes for colour and weight.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns, rows = [*map(printable, columns)], [tuple(map(printable, row)) for row in rows]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(row[i].replace(",", "").replace(".", "").lstrip("-").isdigit() for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=terminal, highlight=False, markup=False, emoji=False).print(grid)
    return text.getvalue()


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table as HTML, for notebooks; every entry is escaped."""

    def line(tag: str, cells: Sequence[str]) -> str:
        texts = (html.escape(printable(str(cell))) for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    return "<table>" + line("th", columns) + "".join(line("td", row) for row in rows) + "</table>"
