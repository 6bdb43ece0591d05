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
from vatjax.names import printable

_ABOUT = ("case", "annotator", "country", "topic", "scene", "value", "definition", "polarity", "action")
_NAME = re.compile(r"[\w][\w.-]{0,63}")
_PAGE = pathlib.Path(__file__).parent / "page.html"


def write(sample: Sample, annotators: Sequence[str], folder: store.Path, seed: int = 0) -> list[str]:
    """Writes a sheet for each annotator, each with its own order of the cases; returns the files' paths.

    Raises:
        InputError: for a name that is invalid in a file name, and for a duplicate name.
    """
    if not annotators or len({name.casefold() for name in annotators}) < len(annotators):
        raise errors.InputError(
            f"annotators: expected at least one, without duplicates, found {names.short_list(annotators)}"
        )
    for name in annotators:
        if not _NAME.fullmatch(name):
            raise errors.InputError(
                f"annotators: expected names of letters, digits and '._-', at most 64, found {names.short_repr(name)}"
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
    """Escapes a text so that a spreadsheet does not read it as a formula; `answers` removes the quote again."""
    return tables.guard_formula(printable(text))


def _page(annotator: str, cases: Sequence[Case]) -> str:
    """Renders a self-contained HTML page."""
    all_questions = questions()
    content = {
        "annotator": annotator,
        "columns": [*_ABOUT, *all_questions.names],
        "formula": tables.FORMULA,
        "low": LOW,
        "high": HIGH,
        "questions": [
            {"name": name, "about": question.about, "asked": question.asked, "low": question.low, "high": question.high}
            for name, question in all_questions.questions.items()
        ],
        "cases": [case._asdict() for case in cases],
    }
    # In a script's text "</script>" would end it, and "<!--" begin a comment.
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    text = _PAGE.read_text(encoding="utf-8")
    return text.replace("{{annotator}}", html.escape(annotator)).replace("{{data}}", data)
