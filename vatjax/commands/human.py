"""`vatjax human sample` and `vatjax human score`."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional

from vatjax import store
from vatjax.commands import show
from vatjax.human import Annotator, Asked, Interval, Scored
from vatjax.items import Source, open_source
from vatjax.items.table import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Draws items for people to look at, each stratum with its share, and writes a sheet for each annotator: CSV, and a page
    that works without a network and saves to such a file."""

    out: str
    """A folder for the sample and the sheets."""
    annotators: tuple[str, ...]
    """Who will look at them; everybody sees the same cases, in another order."""
    cases: int = 60
    """How many items."""
    strata: tuple[Key, ...] = ("country", "topic", "polarity")
    """What divides items into strata."""
    draw: int = 0
    """Another number, another draw."""
    items: Annotated[Source, OmitArgPrefixes] = dataclasses.field(default_factory=Source)
    """Which items, and how to read them."""
    json: bool = False
    """Print one JSON document instead of the names of the files."""

    def run(self) -> int:
        from vatjax import human
        from vatjax.errors import InputError

        folder = store.path(self.out)
        if (folder / "sample.json").exists():
            raise InputError(f"{self.out}: a sample is there already; give another folder, and keep what was entered")
        drawn = human.sample(open_source(self.items), self.cases, self.strata, self.draw)
        written = human.write(drawn, self.annotators, folder, self.draw)
        human.save(drawn, folder)
        written.append(str(folder / "sample.json"))
        show.as_json({"cases": len(drawn.cases), "files": written}) if self.json else print("\n".join(written))
        return 0


@dataclasses.dataclass(frozen=True)
class Score:
    """Reads sheets back: how far annotators agree on each question, and which of them stand out. Intervals are over cases."""

    sheets: Annotated[tuple[str, ...], Positional]
    """The sheets, as CSV."""
    sample: str
    """The folder that `vatjax human sample` wrote."""
    resamples: int = 2000
    """Draws of the bootstrap."""
    seed: int = 0
    """Of the bootstrap."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        from vatjax import human

        answers = human.read(human.load(self.sample), self.sheets)
        found = human.score(answers, self.resamples, self.seed)
        if self.json:
            content = {
                "cases": len(answers.cases),
                "questions": [_plain(one) for one in found.questions],
                "annotators": [_plain(one) for one in found.annotators],
            }
            show.as_json(store.finite(content))
        else:
            _print(found)
        if len(found.annotators) < 2:
            print("vatjax: one annotator: agreement needs two", file=sys.stderr)
        for one in found.annotators:
            for remark in one.remarks:
                print(f"vatjax: {one.name}: {remark}", file=sys.stderr)
        return 0


def _plain(one: Asked | Annotator) -> dict[str, Any]:
    return {key: x._asdict() if isinstance(x, Interval) else x for key, x in one._asdict().items()}


def _print(found: Scored) -> None:
    rows = [
        (
            one.name,
            f"{one.twice:,}",
            *map(_interval, (one.two_agree, one.alpha, one.ac2, one.mean)),
        )
        for one in found.questions
    ]
    show.table(("question", "by two", "two agree", "alpha", "AC2", "mean"), rows)
    stances = [
        (one.name, one.same_stance.estimate) for one in found.questions if not math.isnan(one.same_stance.estimate)
    ]
    print("at least two for it, against it or in the middle alike: " + ", ".join(f"{n} {x:.0%}" for n, x in stances))
    print("by two: cases that at least two have rated")
    print("alpha: Krippendorff's, ordinal   AC2: Gwet's, ordinal weights")
    if any(math.isnan(x.low) and not math.isnan(x.estimate) for one in found.questions for x in one[3:]):
        print("a number without an interval: in too many draws of the cases all ratings are one")
    print()
    rows = [
        (
            one.name,
            f"{one.answered:.0%}",
            _interval(one.distance),
            _interval(one.leaning),
            "-" if one.alike != one.alike else f"{one.alike:.0%}",
            "-" if one.alpha_without != one.alpha_without else f"{one.alpha_without:+.2f}",
        )
        for one in found.annotators
    ]
    show.table(("annotator", "answered", "from the others", "above the middle", "alike", "alpha without"), rows)


def _interval(x: Interval) -> str:
    if x.estimate != x.estimate:  # no number: all ratings are one, or nobody has rated the same case
        return "-"
    shown = [f"{number:.2f}".replace("0.", ".") if abs(number) < 1 else f"{number:.2f}" for number in x[:3]]
    return shown[0] if x.low != x.low else f"{shown[0]} [{shown[1]}, {shown[2]}]"
