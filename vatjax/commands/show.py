"""Output of the commands: a table for a person, or one JSON document."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from vatjax.names import json_printable, printable
from vatjax.runtime.display import format_duration as format_duration
from vatjax.runtime.display import print_message as print_message
from vatjax.text_table import WIDTH, format_table


def print_json(content: Any) -> None:
    """Prints one JSON document on standard output; NaN is refused, since JSON has none."""
    print(json_printable(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)))


def power_sentence(detectable: Mapping[str, Any]) -> str:
    """Returns a sentence on the effects that a study can distinguish from noise."""
    nvat = detectable["nvat"]
    if detectable["gain_in_deviations"] is None:
        return f"{detectable['contexts']:,} contexts: too few to distinguish anything from noise"
    return (
        f"{detectable['contexts']:,} contexts find, in four of five cases, a gain of {detectable['gain_in_deviations']:.2f} standard "
        f"deviations of its shifts over contexts and an nVAT of {nvat['types']:.2f} of types and {nvat['values']:.2f} of values beyond noise, if no two "
        "contexts are correlated"
    )


def print_text(text: object, file: TextIO | None = None) -> None:
    """Prints text that may hold names, paths or a model's answer, without their control characters."""
    print(printable(str(text)), file=file)


def short_names(addresses: Iterable[str]) -> dict[str, str]:
    """Maps each model to the last part of its address; to the whole address if two would share it."""
    models = list(dict.fromkeys(addresses))
    last = {address: address.rstrip("/").rpartition("/")[2] for address in models}
    distinct = len(set(last.values())) == len(models)
    return last if distinct else {address: address for address in models}


def format_for_output(columns: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO | None = None) -> str:
    """Returns a table for standard output or `out`: as wide as a terminal, with its control codes."""
    out = out or sys.stdout
    terminal = out is not None and out.isatty()
    return format_table(columns, rows, shutil.get_terminal_size().columns if terminal else WIDTH, terminal)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], out: TextIO | None = None) -> None:
    """Prints a table, on standard output by default; columns whose entries are all numbers are right-aligned."""
    # Formatted first: on a closed pipe rich's console would end the process with its own status.
    print(format_for_output(columns, rows, out), end="", file=out or sys.stdout)
