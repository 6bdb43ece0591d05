"""What every command does with its results: a table for a person, or one JSON document."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

_WIDTH = 99  # where the output goes to a file or a pipe


def as_json(content: Any) -> None:
    """Prints one JSON document on standard output; NaN is refused, since JSON has none."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def told(line: str) -> None:
    """A line on standard error, beside the results."""
    print(f"vatjax: {line}", file=sys.stderr)


def power(found: Mapping[str, Any]) -> str:
    """What a study can tell from noise, in a sentence."""
    nvat = found["nvat"]
    if found["gain_in_deviations"] is None:
        return f"{found['contexts']:,} contexts: too few to tell anything from noise"
    return (
        f"{found['contexts']:,} contexts find, in four of five cases, a gain of {found['gain_in_deviations']:.2f} standard "
        f"deviations of its shifts over contexts and an nVAT of {nvat['types']:.2f} of types and {nvat['values']:.2f} of values beyond noise, if no two "
        "contexts are alike"
    )


def duration(seconds: float) -> str:
    """A time in a few characters."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def shortened(places: Iterable[str]) -> dict[str, str]:
    """Models by the last part of where they are; in full where two would share it."""
    every = list(dict.fromkeys(places))
    last = {place: place.rstrip("/").rpartition("/")[2] for place in every}
    alone = len(set(last.values())) == len(every)
    return last if alone else {place: place for place in every}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO | None = None) -> None:
    """Prints a table, on standard output by default; columns whose entries are all numbers are set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = [tuple(row) for row in rows]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(row[i].replace(",", "").replace(".", "").lstrip("-").isdigit() for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    out = out or sys.stdout
    terminal = out is not None and out.isatty()
    width = shutil.get_terminal_size().columns if terminal else _WIDTH
    # Printed by us: a console that writes itself ends the process with a status of its own where a pipe is closed.
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=terminal, highlight=False, markup=False, emoji=False).print(grid)
    print(text.getvalue(), end="", file=out)
