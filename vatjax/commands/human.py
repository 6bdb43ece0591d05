"""`vatjax human sample` and `vatjax human score`."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Annotated, Any

from tyro.conf import Positional

from vatjax import store
from vatjax.commands import show
from vatjax.human import Annotator, Interval, QuestionScore, Scores
from vatjax.items import Source, open_source
from vatjax.items.table import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Draws a proportionally stratified sample of items, and writes a sheet for each human annotator: CSV, and a page
    that works offline and saves to such a file."""

    out: str
    """A folder for the sample and the sheets."""
    annotators: tuple[str, ...]
    """Names of the annotators; all see the same cases, each in another order."""
    cases: int = 60
    """Number of items."""
    strata: tuple[Key, ...] = ("country", "topic", "polarity")
    """Keys that divide items into strata."""
    draw: int = 0
    """Seed of the draw."""
    items: Source = dataclasses.field(default_factory=Source)
    """The items: --items FILE is short for --items.file FILE."""
    json: bool = False
    """Print one JSON document instead of the names of the files."""

    def run(self) -> int:
        from vatjax import human
        from vatjax.errors import InputError

        folder = store.path(self.out)
        if (folder / "sample.json").exists():
            raise InputError(f"{self.out}: a sample already exists; give another folder to keep its entries")
        drawn = human.sample(open_source(self.items), self.cases, self.strata, self.draw)
        written = human.write(drawn, self.annotators, folder, self.draw)
        human.save(drawn, folder)
        written.append(str(folder / "sample.json"))
        show.print_json({"cases": len(drawn.cases), "files": written}) if self.json else show.print_text(
            "\n".join(written)
        )
        return 0


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores completed sheets: the agreement of annotators on each question, and outliers. Intervals are over cases."""

    sheets: Annotated[tuple[str, ...], Positional]
    """The sheets, as CSV."""
    sample: str
    """The folder that `vatjax human sample` wrote."""
    resamples: int = 2000
    """Draws of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        from vatjax import human

        answers = human.read(human.load(self.sample), self.sheets)
        scored = human.score(answers, self.resamples, self.seed)
        if self.json:
            content = {
                "cases": len(answers.cases),
                "questions": [_plain(entry) for entry in scored.questions],
                "annotators": [_plain(entry) for entry in scored.annotators],
            }
            show.print_json(store.nonfinite_to_none(content))
        else:
            _print(scored)
        if len(scored.annotators) < 2:
            print("vatjax: one annotator: agreement needs two", file=sys.stderr)
        for entry in scored.annotators:
            for remark in entry.remarks:
                print(f"vatjax: {entry.name}: {remark}", file=sys.stderr)
        return 0


def _plain(record: QuestionScore | Annotator) -> dict[str, Any]:
    return {key: x._asdict() if isinstance(x, Interval) else x for key, x in record._asdict().items()}


def _print(scored: Scores) -> None:
    rows = [
        (
            entry.name,
            f"{entry.twice:,}",
            *map(_interval, (entry.two_agree, entry.alpha, entry.ac2, entry.mean)),
        )
        for entry in scored.questions
    ]
    show.print_table(("question", "by two", "two agree", "alpha", "AC2", "mean"), rows)
    stances = [
        (entry.name, entry.same_stance.estimate)
        for entry in scored.questions
        if not math.isnan(entry.same_stance.estimate)
    ]
    print("at least two agree on for, against or neutral: " + ", ".join(f"{n} {x:.0%}" for n, x in stances))
    print("by two: cases that at least two annotators rated")
    print("alpha: Krippendorff's, ordinal   AC2: Gwet's, ordinal weights")
    if any(math.isnan(x.low) and not math.isnan(x.estimate) for entry in scored.questions for x in entry[3:]):
        print("a number without an interval: in too many draws of the cases all ratings are equal")
    print()
    rows = [
        (
            entry.name,
            f"{entry.answered:.0%}",
            _interval(entry.distance),
            _interval(entry.leaning),
            "-" if entry.alike != entry.alike else f"{entry.alike:.0%}",
            "-" if entry.alpha_without != entry.alpha_without else f"{entry.alpha_without:+.2f}",
        )
        for entry in scored.annotators
    ]
    show.print_table(("annotator", "answered", "from the others", "above the median", "alike", "alpha without"), rows)


def _interval(x: Interval) -> str:
    if x.estimate != x.estimate:  # NaN: all ratings are equal, or no case is rated twice
        return "-"
    shown = [f"{number:.2f}".replace("0.", ".") if abs(number) < 1 else f"{number:.2f}" for number in x[:3]]
    return shown[0] if x.low != x.low else f"{shown[0]} [{shown[1]}, {shown[2]}]"
