"""The first table of a report: of each target the best arm of every intervention, and what can be concluded from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from vatjax.report import words
from vatjax.report.chosen import Aim, Row, Spread, front_mark
from vatjax.study import Study

COLUMNS = ("", "amount", "gain (points)", "beyond placebo", "others' shift (points)", "mass", "verdict")


def rows(aims: Sequence[Aim]) -> Iterator[tuple[str, Sequence[object]]]:
    """Yields the rows of the table: a heading for each aim, then its interventions, sorted by their gain beyond the placebo."""
    for aim in aims:
        yield "aim", [f"{aim.title} ({aim.level})"]
        best = aim.spokesmen()
        for name in sorted(best, key=lambda name: -_left(best[name])):
            row = best[name]
            yield (
                "broken" if row["broken"] else "",
                [
                    name + (" BROKEN" if row["broken"] else "") + front_mark(row),
                    words.amount(row),
                    words.interval(row, "gain") + ("" if row["resolved"] else " ~"),
                    words.interval(row, "over_placebo_gain"),
                    words.interval(row, "off_target_shift"),
                    words.masses(row),
                    verdict(row),
                ],
            )


def _left(row: Row) -> float:
    """Returns the gain beyond the placebo; the gain itself without a placebo."""
    left = row["over_placebo_gain"] if row["over_placebo_gain"] is not None else row["gain"]
    return float("-inf") if left is None or row["broken"] else left


def beyond(row: Row) -> bool | None:
    """Returns whether a gain is beyond that of its placebo; None where nothing says how much a placebo varies."""
    low = row["over_placebo_gain_low"]
    return None if low is None else low > 0


def gains_itself(row: Row) -> bool:
    """Returns whether a gain is the intervention's own: beyond that of its placebo, or of one draw at least twice as large."""
    known = beyond(row)
    if known is not None:
        return known
    return row["over_placebo_gain"] is None or row["over_placebo_gain"] >= 0.5 * row["gain"]


def verdict(row: Row) -> str:
    """Returns what an arm did, in a few words."""
    if row["broken"]:
        return f"broken: {words.how_broken(row)}"
    if not row["resolved"]:
        return "no gain that can be distinguished from 0"
    if row["gain"] < 0:
        return f"moved {row['target']} the wrong way"
    known = beyond(row)
    if known is False:
        return _like(row)
    if not gains_itself(row):
        return "gains, most of it under its placebo too (1 draw)"
    text = "gains" if known is None else "gains beyond its placebo"
    if row["off_target"] is None:
        return text
    return f"{text}; others move by {row['off_target']:.2f} a point"


def _like(row: Row) -> str:
    """Says of a gain that is not shown to be beyond its placebo how far beyond it may be."""
    draws = words.several(row["over_placebo_draws"], "draw")
    high = row["over_placebo_gain_high"]
    if high is not None and high < row["gain"]:
        return f"not shown to gain more than its placebo: beyond it by at most {words.number(high)} ({draws})"
    return f"cannot be distinguished from its placebo by {draws}"


def sentences(aims: Sequence[Aim]) -> list[str]:
    """Returns what can be concluded about each aim."""
    return [_sentence(aim) for aim in aims]


def _sentence(aim: Aim) -> str:
    every = [row for rows in aim.real.values() for row in rows]
    whole = [row for row in every if not row["broken"]]
    gained = [row for row in whole if row["resolved"] and row["gain"] > 0]
    good = [row for row in gained if gains_itself(row)]
    start = f"{aim.title}: "
    if not good:
        why = (
            "a gain that can be distinguished from 0"
            if not gained
            else "a gain that is shown to be more than its placebo's"
        )
        text = f"{start}no intervention that leaves the model whole has {why}"
        half = words.widest(whole)
        text += "" if gained or half is None else f" (95 % intervals are up to \N{PLUS-MINUS SIGN}{half:.2f} points)"
        return text + _broken_gains(every) + "."
    most = max(good, key=lambda row: float(row["gain"]))
    text = f"{start}{_name(most)} gains most, {words.interval(most, 'gain')} points"
    if most["over_placebo_gain"] is None:
        text += " (without a placebo to compare with)"
    elif most["over_placebo_gain_low"] is None:
        text += " (one draw of its placebo: how much that varies is unknown)"
    cheap = [row for row in good if row["off_target"] is not None]
    if len(cheap) > 1:
        least = min(cheap, key=lambda row: float(row["off_target"]))
        who = "of those that gain it" if least is most else _name(least)
        text += f"; {who} moves the others least for each point of gain, by {least['off_target']:.2f}"
    return text + "."


def _broken_gains(rows: Sequence[Row]) -> str:
    """Names the arm with the most gain among those that break the model."""
    broken = [row for row in rows if row["broken"] and row["resolved"] and (row["gain"] or 0) > 0]
    if not broken:
        return ""
    most = max(broken, key=lambda row: float(row["gain"]))
    return f"; {_name(most)} gains {words.interval(most, 'gain')} and breaks it"


def _name(row: Row) -> str:
    return words.named(row["intervention"], row)


def matrix(study: Study, aim: Aim) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the columns and rows of the comparisons at the same gain: the row's GND of the others minus the column's."""
    found: dict[tuple[str, str], str] = {}
    for row in study.comparisons:
        same = all(row[key] == getattr(aim, key) for key in ("model", "target", "direction", "seed"))
        if same and row["at"] == "same gain" and row["off_target"] is not None:
            found[row["one"], row["other"]] = _difference(row, 1)
            found[row["other"], row["one"]] = _difference(row, -1)
    names = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    return ["", *names], [("", [one, *(found.get((one, other), "") for other in names)]) for one in names]


def _difference(row: Row, sign: int) -> str:
    low, high = row["off_target_low"], row["off_target_high"]
    clear = low is not None and high is not None and low * high > 0
    return f"{sign * row['off_target']:+.2f}{'*' if clear else ''} at {row['same_gain']:.2f}"


def of_seeds(found: Iterable[Spread]) -> list[tuple[str, list[str]]]:
    """Returns a row for every arm over seeds: mean and standard deviation."""
    lines = []
    for one in found:
        numbers = [one.gain, one.off_target_shift, one.nvat_debiased]
        cells = ["-" if pair is None else f"{pair[0]:.2f} \N{PLUS-MINUS SIGN} {pair[1]:.2f}" for pair in numbers]
        lines.append(("", [one.intervention, words.amount(one._asdict()), f"{one.seeds}", *cells]))
    return lines
