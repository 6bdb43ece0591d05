"""Sheets that come back: every rating where it belongs, or what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.human.questions import HIGH, LOW, questions
from vatjax.human.sample import Case, Sample
from vatjax.human.sheets import FORMULA


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
        if not table.rows:
            problems.append(errors.Problem(table.source, 1, "a header, and no rows"))
        for row, line in zip(table.rows, table.lines, strict=True):
            message = _taken(row, f"{table.source}:{line}", sample, places, seen, found)
            problems += [errors.Problem(table.source, line, one) for one in message]
    if problems:
        raise errors.all_of(problems, "Nothing was scored; mend the sheets and run it again.")
    annotators = tuple(found)
    return Answers(tuple(places), annotators, np.stack([found[name] for name in annotators], -1))


def _same(row: Mapping[str, Any], case: Case, key: str) -> bool:
    """Whether a row shows what a case says, where it has such a column."""
    return key not in row or _plain(row[key]) == _plain(getattr(case, key))


def _plain(entry: Any) -> str:
    """A text without what a sheet and a spreadsheet add to it."""
    text = " ".join(str(entry).split())
    return text.removeprefix("'") if text.removeprefix("'").startswith(FORMULA) else text


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
    own = found.setdefault(annotator, np.full((len(questions().names), len(places)), np.nan))
    said = {name: str(row[name] if row[name] is not None else "").strip() for name in questions().names}
    if not any(said.values()):
        return []  # a row that is left out is no second rating
    before = seen.setdefault((case, annotator), place)
    if before != place:
        return [f"{annotator} has rated the case {case} already, in {before}"]
    wrong = []
    for number, (name, text) in enumerate(said.items()):
        if not text:
            continue
        if re.fullmatch(r"[0-9](\.0*)?", text) and LOW <= int(text[0]) <= HIGH:
            own[number, places[case]] = int(text[0])
        else:
            wrong.append(f"{name}: expected a whole number from {LOW} to {HIGH}, or nothing; found {names.shown(text)}")
    return wrong
