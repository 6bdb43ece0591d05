"""The report of a study: one page with everything in it, and its figures as files.

found = report.write(study.open_study("runs/quickstart"))    # runs/quickstart/report.html, runs/quickstart/figures/

First the verdict: the best arm of each intervention, and gain against tax. Then what cannot be distinguished from noise; of
each aim every arm, interventions at the same gain, answers in words before and after, and of each intervention how types move
together, where that puts them on the circle, and what each value does.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from vatjax import store
from vatjax.items.source import taxonomy_of
from vatjax.report import figures, page, verdict, words
from vatjax.report.chosen import Aim, Row, aims, front_mark, spreads
from vatjax.report.page import Figure
from vatjax.study import Study
from vatjax.study.results import is_placebo

PAGE = "report.html"
PORTRAITS = 24  # figures of single arms
_FILES = (
    "results.csv",
    "columns.csv",
    "comparisons.csv",
    "texts.jsonl",
    "states/",
    "figures/",
    "study.yaml",
    "time.csv",
)
_COLUMNS = (
    "",
    "amount",
    "gain (points)",
    "beyond placebo",
    "others' shift (points)",
    "GND of others",
    "nVAT debiased",
    "noise, 95 %",
    "p",
    "q",
    "success",
    "mass",
)


def write(study: Study, portraits: int = PORTRAITS) -> Any:
    """Writes `report.html` and `figures/` into a study's folder.

    Args:
        study: that was run.
        portraits: of how many arms there are figures of their own; those with the most co-movement have them.

    Returns:
        The page's path.
    """
    writer = _Writer(study, portraits)
    where = study.folder / PAGE
    store.commit(where, page.page(writer.title, writer.body()))
    return where


class _Writer:
    def __init__(self, study: Study, portraits: int) -> None:
        self.study = study
        self.taxonomy = taxonomy_of(study.design.items)
        self.aims = aims(study)
        self.looks = figures.looks(list(study.design.interventions))
        self.title = f"The tax of {words.several(len(study.design.interventions), 'intervention')}: {study.folder.name}"
        spoken = [row for aim in self.aims for row in aim.spokesmen().values()]
        spoken.sort(key=lambda row: -(row["nvat_debiased"] or 0))
        self.shown = [id(row) for row in spoken[:portraits]]
        self.left = len(spoken) - len(self.shown)
        self.count = 0

    def body(self) -> list[str]:
        """Everything on the page."""
        study = self.study
        parts = [page.heading(self.title, 1), page.paragraph(words.studied(study))]
        groups = self.groups()
        parts.append(
            page.links([*((own[0].group, own[0].without_seed) for own in groups), ("rests", "Choices and cost")])
        )
        parts.append(page.files(_FILES))
        if study.failed:
            parts += [page.heading("What failed", 2, "failed"), page.listed(study.failed)]
        if self.aims:
            parts += self.verdicts()
        untold = words.untold(self.aims)
        if untold:
            parts += [page.heading("What cannot be distinguished from noise", 2, "untold"), page.listed(untold)]
        if study.rows:
            parts.append(page.folded("How to read the tables", [page.listed(words.LEGEND)]))
        for own in groups:
            parts += self.group(own)
        if self.left:
            parts.append(page.paragraph(f"{self.left} more arms have no figure of their own here.", "dim"))
        return parts + self.rests()

    def groups(self) -> list[list[Aim]]:
        """The aims that differ in their seed alone."""
        found: dict[str, list[Aim]] = {}
        for aim in self.aims:
            found.setdefault(aim.group, []).append(aim)
        return list(found.values())

    def verdicts(self) -> list[str]:
        """The table of the best arms, what can be concluded, and gain against tax."""
        parts = [page.heading("Verdict", 2, "verdict"), page.listed(verdict.sentences(self.aims))]
        parts.append(
            page.table(verdict.COLUMNS, verdict.rows(self.aims), "the best arm of each intervention", texts=(6,))
        )
        parts.append(page.paragraph(words.CHOSEN, "dim"))
        return [*parts, *(self.plane(own[0]) for own in self.groups())]

    def plane(self, aim: Aim) -> str:
        """Gain against tax."""
        says = f"Gain against tax, {aim.title}; grey: placebos; hollow: the model is broken"
        return self.figure(figures.plane(aim, self.looks), f"plane {aim.name}", says)

    def group(self, own: list[Aim]) -> list[str]:
        """Everything about one direction of push; several seeds are one table, and each seed is folded after it."""
        first = own[0]
        parts = [page.heading(first.without_seed, 2, first.group)]
        if len(own) == 1:
            return parts + self.aim(first)
        found = [one for one in spreads(self.study) if one[:3] == (first.model, first.target, first.direction)]
        columns = ("", "amount", "seeds", "gain (points)", "others' shift (points)", "nVAT debiased")
        said = "Mean and standard deviation over the seeds, of examples, pairs and orders of training data."
        parts += [page.paragraph(said, "dim"), page.table(columns, verdict.of_seeds(found), "over seeds")]
        for aim in own:
            planes = [] if aim is first else [self.plane(aim)]
            parts.append(page.folded(f"seed {aim.seed}", [*planes, *self.aim(aim)]))
        return parts

    def aim(self, aim: Aim) -> list[str]:
        """Everything about one direction of push from one seed."""
        parts = [page.listed(words.moved(aim)), self.table(aim)]
        warned = {line for rows in aim.real.values() for row in rows for line in row["warnings"].split("; ") if line}
        parts.append(page.listed(sorted(warned)))
        columns, compared = verdict.matrix(self.study, aim)
        if compared:
            parts += [page.heading("At the same gain", 3), page.paragraph(words.MATRIX, "dim")]
            parts.append(page.table(columns, compared, f"interventions at the same gain, {aim.title}"))
        courses = figures.courses(aim, self.looks)
        if courses is not None:
            says = f"Gain, others' shift and nVAT along examples, strengths and steps, {aim.title}"
            parts.append(self.figure(courses, f"courses {aim.name}", says))
        parts.append(page.listed(words.drift(self.study, aim)))
        for name, row in aim.spokesmen().items():
            shown = [page.transcript(one) for one in self.study.texts(row)]
            if shown:
                parts.append(page.folded(f"{words.named(name, row)}: answers in words", shown))
            if id(row) in self.shown:
                parts.append(page.folded(f"{words.named(name, row)}: types and values", [self.portrait(aim, row)]))
        return parts

    def portrait(self, aim: Aim, row: Row) -> str:
        """The figure of one arm."""
        title = f"{aim.title}: {words.named(row['intervention'], row)}"
        drawn = figures.portrait(self.study.result(row), self.taxonomy, title, self.looks[row["intervention"]][0])
        says = (
            f"{title}: coupling of the types in the order of the circle, their places on it, each value's shift and VAT"
        )
        return self.figure(drawn, f"arm {aim.name} {row['intervention']}", says)

    def figure(self, drawn: Any, name: str, says: str) -> str:
        """Writes a figure as files, and gives it to the page."""
        png, svg = figures.written(drawn)
        place = self.study.folder / "figures" / re.sub(r"[^\w.+-]+", "-", name)
        for kind, content in (("png", png), ("svg", svg)):
            store.commit(place.parent / f"{place.name}.{kind}", content)
        self.count += 1
        return page.figure(Figure(svg, says), self.count)

    def table(self, aim: Aim) -> str:
        """Every arm, and behind each intervention its placebos."""
        draws = self.study.design.resamples
        rows = []
        for name, own in aim.real.items():
            rows += [("broken" if row["broken"] else "", _cells(row, draws)) for row in own]
            rows += [("blind", _cells(row, draws)) for row in aim.blind.get(name, ())]
        return page.table(_COLUMNS, rows, f"all arms, {aim.title}")

    def rests(self) -> list[str]:
        """What the numbers rest on, and what they took."""
        study = self.study
        parts = [page.heading("Choices and cost", 2, "rests"), page.listed(words.choices(study))]
        times = list(csv.DictReader(io.StringIO(store.read_text(study.folder / "time.csv"))))
        if times:
            first = times[0]
            spent = sum(float(row["seconds"]) for row in times)
            versions = f"vatjax {first['vatjax']}, jax {first['jax']}, Python {first['python']}, {first['device']}, {first['system']}"
            parts.append(
                page.paragraph(
                    f"{len(times):,} pieces took {spent:,.0f} s ({versions}); time.csv has each of them.", "dim"
                )
            )
        parts.append(
            page.folded(
                "The design, as it was resolved",
                [f"<pre>{page.escaped(store.read_text(study.folder / 'study.yaml'))}</pre>"],
            )
        )
        parts.append(
            page.paragraph(
                "results.csv has the numbers of the tables, columns.csv says what each column means, comparisons.csv has two "
                "interventions at the same gain, and the file that index.json names for an arm has everything else about it: "
                "coupling, values, floors.",
                "dim",
            )
        )
        return parts


def _cells(row: Row, draws: int) -> list[str]:
    blind = is_placebo(row)
    name = f"{row['placebo']} {row['draw'] + 1}" if blind else row["intervention"]
    return [
        name + (" BROKEN" if row["broken"] else "") + front_mark(row),
        words.amount(row),
        words.interval(row, "gain") + ("" if row["resolved"] else " ~"),
        _over(row),
        words.interval(row, "off_target_shift"),
        words.interval(row, "off_target"),
        words.interval(row, "nvat_debiased"),
        _shown(row["nvat_floor_95"]),
        words.p_value(row["nvat_p"], draws),
        words.q_value(row["nvat_q"]),
        "-" if row["success"] is None else f"{row['success']:.0%}",
        words.masses(row),
    ]


def _over(row: Row) -> str:
    """The gain beyond the placebo; why there is none."""
    if is_placebo(row):
        return ""
    if row["over_placebo_gain"] is not None:
        return words.interval(row, "over_placebo_gain")
    return "no draw counts" if row["over_placebo_draws"] is None or row["over_placebo_draws"] == 0 else "-"


def _shown(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


__all__ = ["write"]
