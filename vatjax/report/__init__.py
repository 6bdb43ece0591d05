"""The report of a study: one page with everything in it, and its figures as files.

found = report.write(study.open_study("runs/quickstart"))    # runs/quickstart/report.html, runs/quickstart/figures/

In words what moved and what can't be told from noise; the gain-tax plane; the table; two interventions at the same gain;
and of each intervention how types move together, where that puts them on the circle, and what each value does.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from vatjax import store
from vatjax.items.source import taxonomy_of
from vatjax.report import figures, page, words
from vatjax.report.chosen import Aim, Row, Spread, aims, front_mark, spreads
from vatjax.report.page import Figure
from vatjax.study import Study

PAGE = "report.html"
PORTRAITS = 24  # figures of single arms


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
        parts.append(page.links([*((aim.name, aim.title) for aim in self.aims), ("rests", "Choices and cost")]))
        untold = words.untold(self.aims)
        if untold:
            parts += [page.heading("What can't be told", 2, "untold"), page.listed(untold)]
        if study.failed:
            parts += [page.heading("What failed", 2, "failed"), page.listed(study.failed)]
        if study.rows:
            parts.append(page.folded("How to read the tables", [page.listed(words.LEGEND)]))
        for aim in self.aims:
            parts += self.aim(aim)
        parts += self.seeds()
        if self.left:
            parts.append(page.paragraph(f"{self.left} more arms have no figure of their own here.", "dim"))
        return parts + self.rests()

    def aim(self, aim: Aim) -> list[str]:
        """Everything about one direction of push."""
        parts = [page.heading(aim.title, 2, aim.name), page.listed(words.moved(aim))]
        says = f"Gain against tax of {aim.title}; grey: placebos; hollow: the model is broken"
        parts.append(self.figure(figures.plane(aim, self.looks), f"plane {aim.name}", says))
        parts.append(self.table(aim))
        warned = {line for rows in aim.real.values() for row in rows for line in row["warnings"].split("; ") if line}
        parts.append(page.listed(sorted(warned)))
        contests = list(words.contests(self.study, aim))
        if contests:
            parts += [page.heading("At the same gain", 3), page.listed(contests)]
        courses = figures.courses(aim, self.looks)
        if courses is not None:
            says = f"Gain, others' shift and nVAT along examples, strengths and steps, {aim.title}"
            parts.append(self.figure(courses, f"courses {aim.name}", says))
        parts.append(page.listed(words.drift(self.study, aim)))
        for name, row in aim.spokesmen().items():
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
        columns = (
            "",
            "amount",
            "gain",
            "beyond placebo",
            "others' shift",
            "GND of others",
            "nVAT debiased",
            "noise",
            "p",
            "q",
            "success",
            "mass",
        )
        rows = []
        for name, own in aim.real.items():
            rows += [("", _cells(row)) for row in own]
            rows += [("blind", _cells(row)) for row in aim.blind.get(name, ())]
        return page.table(columns, rows, f"all arms, {aim.title}")

    def seeds(self) -> list[str]:
        """Every arm over the seeds of the study."""
        found = spreads(self.study)
        if not found:
            return []
        rows = [("", _over_seeds(one)) for one in found]
        columns = ("", "amount", "seeds", "gain", "others' shift", "nVAT debiased")
        said = "Mean and standard deviation over what is drawn: examples, pairs, orders of training data."
        return [page.heading("Over seeds", 2, "seeds"), page.paragraph(said), page.table(columns, rows, "over seeds")]

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
                "results.csv has the numbers of the tables, comparisons.csv those of two interventions at the same gain, and "
                "the file that index.json names for an arm everything else about it: coupling, values, floors.",
                "dim",
            )
        )
        return parts


def _cells(row: Row) -> list[str]:
    name = f"{row['placebo']} {row['draw'] + 1}" if row["placebo"] else row["intervention"] + front_mark(row)
    over = _interval(row, "over_placebo_gain") if row["over_placebo"] else "-"
    return [
        name,
        f"{row['amount']:g}",
        _interval(row, "gain") + ("" if row["resolved"] else " ~"),
        over,
        _interval(row, "off_target_shift"),
        _interval(row, "off_target"),
        _interval(row, "nvat_debiased"),
        _shown(row["nvat_floor_95"]),
        _shown(row["nvat_p"], 3),
        _shown(row["nvat_q"], 3),
        "-" if row["success"] is None else f"{row['success']:.0%}",
        f"{_shown(row['mass_before'])} to {_shown(row['mass'])}" + (" broken" if row["broken"] else ""),
    ]


def _over_seeds(one: Spread) -> list[str]:
    way = "+" if one.direction == "express" else "-"
    numbers = [one.gain, one.off_target_shift, one.nvat_debiased]
    told = ["-" if pair is None else f"{pair[0]:.2f} \N{PLUS-MINUS SIGN} {pair[1]:.2f}" for pair in numbers]
    return [f"{one.model}: {one.intervention} {way}{one.target}", f"{one.amount:g}", f"{one.seeds}", *told]


def _interval(row: Row, key: str) -> str:
    middle, low, high = (row[name] for name in (key, f"{key}_low", f"{key}_high"))
    if middle is None:
        return "-"
    return f"{middle:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def _shown(x: float | None, digits: int = 2) -> str:
    return "-" if x is None else f"{x:.{digits}f}"


__all__ = ["write"]
