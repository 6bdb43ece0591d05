"""The report of a study: one self-contained page, and its figures as files.

path = report.write(study.open_study("runs/quickstart"))    # runs/quickstart/report.html, runs/quickstart/figures/

The page starts with the verdict: the best arm of each intervention, and gain against tax. Effects that cannot be
distinguished from noise follow. Then, for each push of a target: every arm, interventions at the same gain, answers in
words before and after, and for each intervention the coupling of types, their places on the circle and each value's
shift.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from vatjax import drawing, store
from vatjax.items.source import taxonomy_of
from vatjax.report import figures, page, sentences, verdict
from vatjax.report.page import Figure
from vatjax.study import Study, plots
from vatjax.study.arm_groups import ArmGroup, arm_groups, front_mark, spreads
from vatjax.study.columns import Row, is_placebo

PAGE = "report.html"
PORTRAITS = 24  # most figures of single arms
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
        study: after its run.
        portraits: most arms with their own figure; those with the most co-movement are chosen.

    Returns:
        The page's path.
    """
    writer = _Writer(study, portraits)
    path = study.folder / PAGE
    store.commit(path, page.page(writer.title, writer.body()))
    return path


class _Writer:
    def __init__(self, study: Study, portraits: int) -> None:
        self.study = study
        self.taxonomy = taxonomy_of(study.design.items)
        self.arm_groups = arm_groups(study)
        self.intervention_styles = plots.intervention_styles(list(study.design.interventions))
        self.title = (
            f"The tax of {sentences.pluralize(len(study.design.interventions), 'intervention')}: {study.folder.name}"
        )
        best = [row for group in self.arm_groups for row in group.best_arms().values()]
        best.sort(key=lambda row: -(row["nvat_debiased"] or 0))
        self.shown = [id(row) for row in best[:portraits]]
        self.left = len(best) - len(self.shown)
        self.count = 0

    def body(self) -> list[str]:
        """Returns all parts of the page."""
        study = self.study
        parts = [page.heading(self.title, 1), page.paragraph(sentences.describe_study(study))]
        groups = self.by_push()
        parts.append(
            page.links(
                [
                    *((same_push[0].anchor, same_push[0].without_seed) for same_push in groups),
                    ("rests", "Choices and cost"),
                ]
            )
        )
        parts.append(page.file_links(_FILES))
        if study.failed:
            parts += [page.heading("What failed", 2, "failed"), page.bullet_list(study.failed)]
        if self.arm_groups:
            parts += self.verdicts()
        inconclusive = sentences.describe_inconclusive(self.arm_groups)
        if inconclusive:
            parts += [
                page.heading("What cannot be distinguished from noise", 2, "untold"),
                page.bullet_list(inconclusive),
            ]
        if study.rows:
            parts.append(page.collapsible("How to read the tables", [page.bullet_list(sentences.LEGEND)]))
        for same_push in groups:
            parts += self.push_section(same_push)
        if self.left:
            parts.append(page.paragraph(f"{self.left} more arms have no figure of their own here.", "dim"))
        return parts + self.choices_and_cost()

    def by_push(self) -> list[list[ArmGroup]]:
        """Returns the arm groups, those that differ only in their seed together."""
        by_anchor: dict[str, list[ArmGroup]] = {}
        for group in self.arm_groups:
            by_anchor.setdefault(group.anchor, []).append(group)
        return list(by_anchor.values())

    def verdicts(self) -> list[str]:
        """Returns the table of the best arms, the conclusions, and gain against tax."""
        parts = [page.heading("Verdict", 2, "verdict"), page.bullet_list(verdict.sentences(self.arm_groups))]
        parts.append(
            page.table(
                verdict.COLUMNS, verdict.verdict_rows(self.arm_groups), "the best arm of each intervention", texts=(6,)
            )
        )
        parts.append(page.paragraph(sentences.CHOSEN, "dim"))
        return [*parts, *(self.plane(same_push[0]) for same_push in self.by_push())]

    def plane(self, group: ArmGroup) -> str:
        """Returns the figure of gain against tax."""
        says = f"Gain against tax, {group.title}; grey: placebos; hollow: the model is broken"
        return self.figure(plots.plot_gain_tax(group, self.intervention_styles), f"plane {group.name}", says)

    def push_section(self, same_push: list[ArmGroup]) -> list[str]:
        """Returns the section of one push; several seeds share a table, and each seed is collapsed after it."""
        first = same_push[0]
        parts = [page.heading(first.without_seed, 2, first.anchor)]
        if len(same_push) == 1:
            return parts + self.seed_section(first)
        matching = [
            spread for spread in spreads(self.study) if spread[:3] == (first.model, first.target, first.direction)
        ]
        columns = ("", "amount", "seeds", "gain (points)", "others' shift (points)", "nVAT debiased")
        caption = "Mean and standard deviation over the seeds, of examples, pairs and orders of training data."
        parts += [page.paragraph(caption, "dim"), page.table(columns, verdict.spread_rows(matching), "over seeds")]
        for group in same_push:
            planes = [] if group is first else [self.plane(group)]
            parts.append(page.collapsible(f"seed {group.seed}", [*planes, *self.seed_section(group)]))
        return parts

    def seed_section(self, group: ArmGroup) -> list[str]:
        """Returns the section of one push from one seed."""
        parts = [page.bullet_list(sentences.describe_arms(group)), self.table(group)]
        warned = {line for rows in group.real.values() for row in rows for line in row["warnings"].split("; ") if line}
        parts.append(page.bullet_list(sorted(warned)))
        columns, compared = verdict.comparison_matrix(self.study, group)
        if compared:
            parts += [page.heading("At the same gain", 3), page.paragraph(sentences.MATRIX, "dim")]
            parts.append(page.table(columns, compared, f"interventions at the same gain, {group.title}"))
        ordered = {name for name, mine in self.study.design.interventions.items() if mine.ordered}
        courses = figures.plot_levels(group, self.intervention_styles, ordered)
        if courses is not None:
            says = f"Gain, others' shift and nVAT along examples, strengths and steps, {group.title}"
            parts.append(self.figure(courses, f"courses {group.name}", says))
        parts.append(page.bullet_list(sentences.describe_drift(self.study, group)))
        for name, row in group.best_arms().items():
            shown = [page.transcript(transcript) for transcript in self.study.texts(row)]
            if shown:
                parts.append(page.collapsible(f"{sentences.arm_name(name, row)}: answers in words", shown))
            if id(row) in self.shown:
                parts.append(
                    page.collapsible(f"{sentences.arm_name(name, row)}: types and values", [self.portrait(group, row)])
                )
        return parts

    def portrait(self, group: ArmGroup, row: Row) -> str:
        """Returns the figure of one arm."""
        title = f"{group.title}: {sentences.arm_name(row['intervention'], row)}"
        drawn = figures.plot_arm(
            self.study.result(row), self.taxonomy, title, self.intervention_styles[row["intervention"]][0]
        )
        says = (
            f"{title}: coupling of the types in the order of the circle, their places on it, each value's shift and VAT"
        )
        return self.figure(drawn, f"arm {group.name} {row['intervention']}", says)

    def figure(self, drawn: Any, name: str, says: str) -> str:
        """Writes a figure as files, and returns its HTML."""
        png, svg = drawing.render(drawn)
        place = self.study.folder / "figures" / re.sub(r"[^\w.+-]+", "-", name)
        for kind, content in (("png", png), ("svg", svg)):
            store.commit(place.parent / f"{place.name}.{kind}", content)
        self.count += 1
        return page.figure(Figure(svg, says), self.count)

    def table(self, group: ArmGroup) -> str:
        """Returns the table of all arms, each intervention followed by its placebos."""
        draws = self.study.design.resamples
        rows = []
        for name, arm_rows in group.real.items():
            rows += [("broken" if row["broken"] else "", _cells(row, draws)) for row in arm_rows]
            rows += [("blind", _cells(row, draws)) for row in group.blind.get(name, ())]
        return page.table(_COLUMNS, rows, f"all arms, {group.title}")

    def choices_and_cost(self) -> list[str]:
        """Returns the section on analysis choices, time and design."""
        study = self.study
        parts = [page.heading("Choices and cost", 2, "rests"), page.bullet_list(sentences.describe_choices(study))]
        times = list(csv.DictReader(io.StringIO(store.read_text(study.folder / "time.csv"))))
        if times:
            first = times[0]
            spent = sum(float(row["seconds"]) for row in times)
            versions = f"vatjax {first['vatjax']}, jax {first['jax']}, Python {first['python']}, {first['device']}, {first['system']}"
            parts.append(
                page.paragraph(
                    f"{len(times):,} artifacts took {spent:,.0f} s ({versions}); time.csv lists each.", "dim"
                )
            )
        parts.append(
            page.collapsible(
                "The design, as it was resolved",
                [f"<pre>{page.escape(store.read_text(study.folder / 'study.yaml'))}</pre>"],
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
        sentences.amount(row),
        sentences.interval(row, "gain") + ("" if row["resolved"] else " ~"),
        _over(row),
        sentences.interval(row, "off_target_shift"),
        sentences.interval(row, "off_target"),
        sentences.interval(row, "nvat_debiased"),
        _shown(row["nvat_floor_95"]),
        sentences.p_value(row["nvat_p"], draws),
        sentences.q_value(row["nvat_q"]),
        "-" if row["success"] is None else f"{row['success']:.0%}",
        sentences.masses(row),
    ]


def _over(row: Row) -> str:
    """Returns the gain beyond the placebo, or the reason why it is missing."""
    if is_placebo(row):
        return ""
    if row["over_placebo_gain"] is not None:
        return sentences.interval(row, "over_placebo_gain")
    return {None: "no placebo", 0: "no draw counts"}.get(row["over_placebo_draws"], "-")


def _shown(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


__all__ = ["write"]
