"""Reads completed annotation sheets and validates every rating."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.human.questions import HIGH, LOW, questions
from vatjax.human.sample import Case, Sample


class Answers(NamedTuple):
    """The annotators' ratings.

    Attributes:
        cases: names, in the order of the sample.
        annotators: names, in the order in which they were read.
        ratings: [questions, cases, annotators] float64, NaN if missing.
    """

    cases: tuple[str, ...]
    annotators: tuple[str, ...]
    ratings: np.ndarray


def read(sample: Sample, files: Sequence[store.Path]) -> Answers:
    """Reads completed sheets.

    An empty cell is a missing rating.

    Raises:
        InputError: with all problems of all sheets: a missing column, an invalid rating, a case outside the sample, two
            rows of one annotator for one case.
    """
    if not files:
        raise errors.InputError("sheets: expected at least one, found none")
    places = {case.name: i for i, case in enumerate(sample.cases)}
    problems: list[errors.Problem] = []
    seen: dict[tuple[str, str], str] = {}
    ratings: dict[str, np.ndarray] = {}
    for file in files:
        if str(file).lower().endswith((".html", ".htm")):
            problems.append(errors.Problem(str(file), None, "this is the page; give the CSV that it saves"))
            continue
        table = tables.read(file)
        problems += [problem for problem in table.problems if "every cell of the row is empty" not in problem.message]
        lacking = table.missing_columns(("case", "annotator", *questions().names))
        problems += lacking
        if lacking:
            continue
        if not table.rows:
            problems.append(errors.Problem(table.source, 1, "a header without rows"))
        for row, line in zip(table.rows, table.lines, strict=True):
            messages = _add_row(row, f"{table.source}:{line}", sample, places, seen, ratings)
            problems += [errors.Problem(table.source, line, text) for text in messages]
    if problems:
        raise errors.all_of(problems, "Nothing was scored; correct the sheets and run again.")
    annotators = tuple(ratings)
    return Answers(tuple(places), annotators, np.stack([ratings[name] for name in annotators], -1))


def _matches_case(row: Mapping[str, Any], case: Case, key: str) -> bool:
    """Returns True if a row's cell equals the case's field, or if the row has no such column."""
    return key not in row or _normalise(row[key]) == _normalise(getattr(case, key))


def _normalise(entry: Any) -> str:
    """Removes what a sheet and a spreadsheet add to a text: extra spaces, and the quote before a formula sign."""
    text = " ".join(str(entry).split())
    return tables.unguard_formula(text)


def _add_row(
    row: Mapping[str, Any],
    place: str,
    sample: Sample,
    places: Mapping[str, int],
    seen: dict[tuple[str, str], str],
    ratings: dict[str, np.ndarray],
) -> list[str]:
    """Adds a row's ratings to `ratings`; returns the row's problems."""
    case, annotator = str(row["case"]).strip(), str(row["annotator"]).strip()
    if not annotator:
        return ["annotator: expected a name, found nothing"]
    if case not in places:
        near = names.nearest(case, places, 0.8)
        return [
            f"the case {names.short_repr(case)} is not in the sample" + (f"; did you mean {near!r}?" if near else "")
        ]
    other = [
        key
        for key in ("scene", "value", "polarity", "action")
        if not _matches_case(row, sample.cases[places[case]], key)
    ]
    if other:
        return [f"{', '.join(other)}: differs from the case {case} of the sample; only ratings may be edited"]
    annotator = next((name for name in ratings if name.casefold() == annotator.casefold()), annotator)
    annotator_ratings = ratings.setdefault(annotator, np.full((len(questions().names), len(places)), np.nan))
    entries = {name: str(row[name] if row[name] is not None else "").strip() for name in questions().names}
    if not any(entries.values()):
        return []  # an empty row does not count as a second rating
    before = seen.setdefault((case, annotator), place)
    if before != place:
        return [f"{annotator} has rated the case {case} already, in {before}"]
    wrong = []
    for number, (name, text) in enumerate(entries.items()):
        if not text:
            continue
        if re.fullmatch(r"[0-9](\.0*)?", text) and LOW <= int(text[0]) <= HIGH:
            annotator_ratings[number, places[case]] = int(text[0])
        else:
            wrong.append(
                f"{name}: expected a whole number from {LOW} to {HIGH}, or nothing; found {names.short_repr(text)}"
            )
    return wrong
