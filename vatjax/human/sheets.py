"""Annotation sheets: one for each annotator, as CSV and as a page that works without a network; and how they come back."""

from __future__ import annotations

import html
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.human.questions import HIGH, LOW, questions
from vatjax.human.sample import Case, Sample

_ABOUT = ("case", "annotator", "country", "topic", "scene", "value", "definition", "polarity", "action")
_NAME = re.compile(r"[\w][\w.-]{0,63}")
_PAGE = pathlib.Path(__file__).parent / "page.html"


class Answers(NamedTuple):
    """What annotators have said.

    Attributes:
        cases: names, in the order of the sample.
        annotators: names, in the order in which they were read.
        ratings: [questions, cases, annotators] float64, NaN where nothing was said.
    """

    cases: tuple[str, ...]
    annotators: tuple[str, ...]
    ratings: np.ndarray


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
        rows = ((case.name, name, *case[1:], *[""] * len(questions().names)) for case in cases)
        sheet = store.path(folder) / f"sheet-{name}.csv"
        tables.write(sheet, (*_ABOUT, *questions().names), iter(rows))
        page = store.path(folder) / f"sheet-{name}.html"
        store.commit(page, _page(name, cases).encode())
        written += [str(sheet), str(page)]
    return written


def _page(annotator: str, cases: Sequence[Case]) -> str:
    """A page that holds everything it needs."""
    own = questions()
    content = {
        "annotator": annotator,
        "columns": [*_ABOUT, *own.names],
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


def read(sample: Sample, files: Sequence[store.Path]) -> Answers:
    """Reads sheets back.

    A cell that is empty is a rating that is missing.

    Raises:
        InputError: with everything that is wrong in all of them: a column that is not there, a rating that is none, a case
            that is not in the sample, two rows of one annotator for one case.
    """
    if not files:
        raise errors.InputError("no sheets are given")
    places = {case.name: i for i, case in enumerate(sample.cases)}
    problems: list[errors.Problem] = []
    seen: dict[tuple[str, str], str] = {}
    found: dict[str, np.ndarray] = {}
    for file in files:
        if str(file).lower().endswith((".html", ".htm")):
            problems.append(errors.Problem(str(file), None, "this is the page; give the CSV that it saves"))
            continue
        table = tables.read(file)
        problems += [one for one in table.problems if "every cell of the row is empty" not in one.message]
        lacking = table.lacking(("case", "annotator", *questions().names))
        problems += lacking
        if lacking:
            continue
        for row, line in zip(table.rows, table.lines, strict=True):
            message = _taken(row, f"{table.source}:{line}", sample, places, seen, found)
            problems += [errors.Problem(table.source, line, one) for one in message]
    if problems:
        raise errors.all_of(problems, "Nothing was scored; mend the sheets and run it again.")
    annotators = tuple(found)
    return Answers(tuple(places), annotators, np.stack([found[name] for name in annotators], -1))


def _same(row: Mapping[str, Any], case: Case, key: str) -> bool:
    """Whether a row shows what a case says, where it has such a column."""
    return key not in row or " ".join(str(row[key]).split()) == " ".join(str(getattr(case, key)).split())


def _taken(
    row: Mapping[str, Any],
    place: str,
    sample: Sample,
    places: Mapping[str, int],
    seen: dict[tuple[str, str], str],
    found: dict[str, np.ndarray],
) -> list[str]:
    """Puts a row's ratings where they belong; what is wrong with it."""
    case, annotator = str(row["case"]).strip(), str(row["annotator"]).strip()
    if not annotator:
        return ["no annotator is named"]
    if case not in places:
        near = names.nearest(case, places, 0.8)
        return [f"the case {names.shown(case)} is not in the sample" + (f"; did you mean {near!r}?" if near else "")]
    other = [key for key in ("scene", "value", "polarity", "action") if not _same(row, sample.cases[places[case]], key)]
    if other:
        return [f"{', '.join(other)}: not what the case {case} has in the sample; sheets must stay as they are"]
    annotator = next((name for name in found if name.casefold() == annotator.casefold()), annotator)
    before = seen.setdefault((case, annotator), place)
    if before != place:
        return [f"{annotator} has rated the case {case} already, in {before}"]
    wrong = []
    own = found.setdefault(annotator, np.full((len(questions().names), len(places)), np.nan))
    for number, name in enumerate(questions().names):
        text = str(row[name] if row[name] is not None else "").strip()
        if not text:
            continue
        if re.fullmatch(r"\d+(\.0+)?", text) and LOW <= int(float(text)) <= HIGH:
            own[number, places[case]] = int(float(text))
        else:
            wrong.append(f"{name}: expected a whole number from {LOW} to {HIGH}, or nothing; found {names.shown(text)}")
    return wrong
