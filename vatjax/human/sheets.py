"""Annotation sheets: one for each annotator, as CSV and as a page that works without a network."""

from __future__ import annotations

import html
import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.human.questions import HIGH, LOW, questions
from vatjax.human.sample import Case, Sample

_ABOUT = ("case", "annotator", "country", "topic", "scene", "value", "definition", "polarity", "action")
_NAME = re.compile(r"[\w][\w.-]{0,63}")
FORMULA = ("=", "+", "-", "@")  # what spreadsheets take for the beginning of one
_PAGE = pathlib.Path(__file__).parent / "page.html"


def write(sample: Sample, annotators: Sequence[str], folder: store.Path, seed: int = 0) -> list[str]:
    """Writes a sheet for each annotator, the cases in an order of their own; which files these are.

    Raises:
        InputError: for a name that no file can have, and one that is given twice.
    """
    if not annotators or len({name.casefold() for name in annotators}) < len(annotators):
        raise errors.InputError(f"annotators: expected at least one, and none twice, found {names.listed(annotators)}")
    for name in annotators:
        if not _NAME.fullmatch(name):
            raise errors.InputError(
                f"annotators: expected names of letters, digits and '._-', at most 64, found {names.shown(name)}"
            )
    written = []
    for number, name in enumerate(annotators):
        order = np.random.default_rng((seed, number)).permutation(len(sample.cases))
        cases = [sample.cases[i] for i in order]
        rows = ((case.name, name, *map(_cell, case[1:]), *[""] * len(questions().names)) for case in cases)
        sheet = store.path(folder) / f"sheet-{name}.csv"
        tables.write(sheet, (*_ABOUT, *questions().names), iter(rows), mark=True)
        page = store.path(folder) / f"sheet-{name}.html"
        store.commit(page, _page(name, cases).encode())
        written += [str(sheet), str(page)]
    return written


def _cell(text: str) -> str:
    """A text that a spreadsheet takes for none of its formulas; `answers` reads it back as it was."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _page(annotator: str, cases: Sequence[Case]) -> str:
    """A page that holds everything it needs."""
    own = questions()
    content = {
        "annotator": annotator,
        "columns": [*_ABOUT, *own.names],
        "formula": FORMULA,
        "low": LOW,
        "high": HIGH,
        "questions": [
            {"name": name, "about": one.about, "asked": one.asked, "low": one.low, "high": one.high}
            for name, one in own.questions.items()
        ],
        "cases": [case._asdict() for case in cases],
    }
    # In a script's text "</script>" would end it, and "<!--" begin a comment.
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    text = _PAGE.read_text(encoding="utf-8")
    return text.replace("{{annotator}}", html.escape(annotator)).replace("{{data}}", data)
