"""The first table of a report: for each target the best arm of every intervention, and the conclusions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from vatjax.report import sentences as wording
from vatjax.study import Study
from vatjax.study.arm_groups import ArmGroup, Spread, front_mark
from vatjax.study.columns import Row

COLUMNS = ("", "amount", "gain (points)", "beyond placebo", "others' shift (points)", "mass", "verdict")


def verdict_rows(groups: Sequence[ArmGroup]) -> Iterator[tuple[str, Sequence[object]]]:
    """Yields the rows of the table: a heading for each group, then its interventions by gain beyond the placebo."""
    for group in groups:
        yield "aim", [f"{group.title} ({group.level})"]
        best = group.best_arms()
        for name in sorted(best, key=lambda name: -_gain_over_placebo(best[name])):
            row = best[name]
            yield (
                "broken" if row["broken"] else "",
                [
                    name + (" BROKEN" if row["broken"] else "") + front_mark(row),
                    wording.amount(row),
                    wording.interval(row, "gain") + ("" if row["resolved"] else " ~"),
                    wording.interval(row, "over_placebo_gain"),
                    wording.interval(row, "off_target_shift"),
                    wording.masses(row),
                    verdict(row),
                ],
            )


def _gain_over_placebo(row: Row) -> float:
    """Returns the gain beyond the placebo; the gain itself without a placebo."""
    left = row["over_placebo_gain"] if row["over_placebo_gain"] is not None else row["gain"]
    return float("-inf") if left is None or row["broken"] else left


def exceeds_placebo(row: Row) -> bool | None:
    """Returns True if a gain exceeds its placebo's; None if the variation of the placebo is unknown."""
    low = row["over_placebo_gain_low"]
    return None if low is None else low > 0


def gains_itself(row: Row) -> bool:
    """Returns True if a gain exceeds its placebo's; with a single draw, if it is at least twice as large."""
    known = exceeds_placebo(row)
    if known is not None:
        return known
    return row["over_placebo_gain"] is None or row["over_placebo_gain"] >= 0.5 * row["gain"]


def verdict(row: Row) -> str:
    """Returns an arm's effect in a few words."""
    if row["broken"]:
        return f"broken: {wording.how_broken(row)}"
    if not row["resolved"]:
        return "no gain that can be distinguished from 0"
    if row["gain"] < 0:
        return f"moved {row['target']} the wrong way"
    known = exceeds_placebo(row)
    if known is False:
        return _like(row)
    if not gains_itself(row):
        return "gains, most of it under its placebo too (1 draw)"
    text = "gains" if known is None else "gains beyond its placebo"
    if row["off_target"] is None:
        return text
    return f"{text}; others move by {row['off_target']:.2f} a point"


def _like(row: Row) -> str:
    """Returns by how much a gain that is not shown to exceed its placebo's may exceed it."""
    draws = wording.pluralize(row["over_placebo_draws"], "draw")
    high = row["over_placebo_gain_high"]
    if high is not None and high < row["gain"]:
        return f"not shown to gain more than its placebo: beyond it by at most {wording.number(high)} ({draws})"
    return f"cannot be distinguished from its placebo by {draws}"


def sentences(groups: Sequence[ArmGroup]) -> list[str]:
    """Returns the conclusions about each group."""
    return [_sentence(group) for group in groups]


def _sentence(group: ArmGroup) -> str:
    every = [row for rows in group.real.values() for row in rows]
    whole = [row for row in every if not row["broken"]]
    gained = [row for row in whole if row["resolved"] and row["gain"] > 0]
    good = [row for row in gained if gains_itself(row)]
    start = f"{group.title}: "
    if not good:
        why = (
            "a gain that can be distinguished from 0"
            if not gained
            else "a gain that is shown to be more than its placebo's"
        )
        text = f"{start}no intervention that leaves the model whole has {why}"
        half = wording.widest_half_interval(whole)
        text += "" if gained or half is None else f" (95 % intervals are up to \N{PLUS-MINUS SIGN}{half:.2f} points)"
        return text + _broken_gains(every) + "."
    most = max(good, key=lambda row: float(row["gain"]))
    others = [row for row in gained if row not in good and row["gain"] > most["gain"]]
    who = "of the arms that gain more than their placebos " if others else ""
    text = f"{start}{who}{_name(most)} gains most, {wording.interval(most, 'gain')} points"
    if most["over_placebo_gain"] is None:
        text += " (without a placebo to compare with)"
    elif most["over_placebo_gain_low"] is None:
        text += " (one draw of its placebo: how much that varies is unknown)"
    # Given ratings of fewer contexts than the others' cannot be ranked with them.
    cheap = [row for row in good if row["off_target"] is not None and row.get("n") == most.get("n")]
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
    return f"; {_name(most)} gains {wording.interval(most, 'gain')} and breaks it"


def _name(row: Row) -> str:
    return wording.arm_name(row["intervention"], row)


def comparison_matrix(study: Study, group: ArmGroup) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns the columns and rows of the comparisons at the same gain: the row's GND of the others minus the column's."""
    differences: dict[tuple[str, str], str] = {}
    for row in study.comparisons:
        same = all(row[key] == getattr(group, key) for key in ("model", "target", "direction", "seed"))
        if same and row["at"] == "same gain" and row["off_target"] is not None:
            differences[row["one"], row["other"]] = _difference(row, 1)
            differences[row["other"], row["one"]] = _difference(row, -1)
    names = list(dict.fromkeys(itertools.chain.from_iterable(differences)))
    return ["", *names], [("", [name, *(differences.get((name, other), "") for other in names)]) for name in names]


def _difference(row: Row, sign: int) -> str:
    low, high = row["off_target_low"], row["off_target_high"]
    clear = low is not None and high is not None and low * high > 0
    return f"{sign * row['off_target']:+.2f}{'*' if clear else ''} at {row['same_gain']:.2f}"


def spread_rows(spreads: Iterable[Spread]) -> list[tuple[str, list[str]]]:
    """Returns a row for the spread of every arm: mean and standard deviation over seeds."""
    lines = []
    for spread in spreads:
        numbers = [spread.gain, spread.off_target_shift, spread.nvat_debiased]
        cells = ["-" if pair is None else f"{pair[0]:.2f} \N{PLUS-MINUS SIGN} {pair[1]:.2f}" for pair in numbers]
        lines.append(("", [spread.intervention, wording.amount(spread._asdict()), f"{spread.seeds}", *cells]))
    return lines
