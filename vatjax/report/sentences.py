"""Sentences about a study: its effects, those that cannot be distinguished from noise, and its analysis choices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vatjax.edits.outcome import MOST_PERPLEXITY
from vatjax.interventions import display_name
from vatjax.study import Study
from vatjax.study.arm_groups import ArmGroup
from vatjax.study.columns import Row, is_placebo

LEGEND = (
    "gain: how far the target moved the way it was pushed, in rating points; ~ after it: cannot be distinguished from 0.",
    "beyond placebo: gain minus the gain of its placebo, for the placebo that leaves least. The interval includes how much the "
    "placebo varies from draw to draw; one draw gives no interval. Draws that break the model or change nothing are excluded.",
    "others' shift: root mean square shift of everything but the target, without the noise's share, in points; GND of others: the "
    "same for each point of gain.",
    "nVAT debiased: how far values move together from context to context, without the noise's share; noise: the nVAT, not "
    "debiased, that 95 % of sign flips of whole clusters stay under; p: of that test; q: of moving together more than under the "
    "placebo, corrected for all arms of the study at this level.",
    "success: contexts in which the model leans to the target as wanted; mass: its probability for the options of the "
    "scale, before and after; the model is broken if it falls below half.",
    "* on the front: nothing else with the same aim has more gain at less shift of the others. The percentage is how often "
    "that holds when gains and shifts are drawn anew within their uncertainty; below 95 % it may be noise.",
)
CHOSEN = (
    "Each intervention's arm with the most gain among those that leave the model whole, sorted by the "
    "gain beyond the placebo. A * after the name marks the front of gain and shift, with the share of draws in which the arm "
    "is on it. The tables below have every arm."
)
MATRIX = (
    "GND of the others under the row's intervention minus that under the column's, at the gain that both reach: below 0 the "
    "row's moves the others less for each point of gain. * : the 95 % interval excludes 0; the comparisons are not corrected for "
    "their number. What an intervention does between two of its levels, and between none and the first, is interpolated."
)


def describe_study(study: Study) -> str:
    """Returns a sentence about the design of a study."""
    design = study.design
    first = study.rows[0] if study.rows else {}
    real = {(row["intervention"], row["amount"]) for row in study.rows if not is_placebo(row)}
    return (
        f"{pluralize(len(design.models), 'model')} under {pluralize(len(design.interventions), 'intervention')} "
        f"({pluralize(len(real), 'level')} in all), judged by {first.get('n', 0):,} contexts of the test side, which no "
        "intervention was made from."
    )


def describe_arms(group: ArmGroup) -> Iterator[str]:
    """Yields a sentence about each intervention's best arm."""
    for name, row in group.best_arms().items():
        yield f"{arm_name(name, row)}: {_did(row, group.target)}"


def _did(row: Row, target: str) -> str:
    if row["gain"] is None:
        return "no gain could be measured."
    gain = interval(row, "gain")
    if not row["resolved"]:
        return f"the gain, {gain}, cannot be distinguished from 0, so nothing is said about its price."
    if row["gain"] < 0:
        return f"{target} moved the wrong way, {gain} points of gain."
    verb = "rose" if row["direction"] == "express" else "fell"
    text = f"{target} {verb} by {gain} points"
    if row["off_target_shift"] is not None:
        text += f"; the others moved by {row['off_target_shift']:.2f} (root mean square)"
    if row["off_target"] is not None:
        text += f", {row['off_target']:.2f} for each point of gain"
    text += ". " + _beyond(row)
    text += _together(row)
    if row["broken"]:
        text += f" The model is broken: {how_broken(row)}."
    return text


def how_broken(row: Row) -> str:
    """Returns the reason why an arm counts as broken."""
    if row["perplexity"] is not None and row["perplexity"] > MOST_PERPLEXITY:
        return f"neutral text has {row['perplexity']:,.0f} times the perplexity it had"
    if row["mass"] is None or row["mass_before"] is None:
        return "no rating of the target is left"
    return f"the options have {row['mass']:.0%} of the probability, {row['mass_before']:.0%} before"


def _beyond(row: Row) -> str:
    """Returns a sentence about the gain beyond the placebo."""
    over, low = row["over_placebo_gain"], row["over_placebo_gain_low"]
    if row["over_placebo_draws"] is None:
        return "It has no placebo, so that any such push may gain as much. "
    if over is None:
        return "No draw of a placebo counts next to it. "
    remainder = interval(row, "over_placebo_gain")
    most = " and so most of the gain is what any such push does" if over < 0.5 * row["gain"] else ""
    if low is None:
        most += " (one draw of it: how much it varies is unknown)"
    return (
        f"Beyond its placebo ({row['over_placebo']}) that is {remainder} of gain{',' * most.startswith(' and')}{most}. "
    )


def _together(row: Row) -> str:
    """Returns a sentence on whether values moved together: raw, ipsatised and against the placebo."""
    p, style, placebo = row["nvat_p"], row["ipsatised_nvat_p"], row["over_placebo_nvat_p"]
    if p is None or p > 0.05:
        return "That values moved together cannot be distinguished from noise."
    size = f"nVAT {row['nvat_debiased']:.2f} without noise, {row['coupling_points']:.2f} points"
    if style is None or style > 0.05:
        return f"Values moved together ({size}), but a common style of answering may explain it."
    if placebo is None:
        return f"Values moved together ({size}); without a placebo nothing says that this intervention is why."
    if placebo > 0.05:
        return f"Values moved together no more than under the placebo {row['over_placebo_nvat']} ({size})."
    return f"Values moved together more than under the placebo {row['over_placebo_nvat']} ({size}, p {_p(placebo)})."


def describe_inconclusive(groups: Sequence[ArmGroup]) -> list[str]:
    """Returns sentences about effects that cannot be distinguished from noise, or are among many tests."""
    # An instruction is the same arm from every seed.
    rows = list({id(row): row for group in groups for arm_rows in group.real.values() for row in arm_rows}.values())
    lines = []
    gains = [row for row in rows if not row["resolved"]]
    if gains:
        lines.append(f"In {len(gains)} of {len(rows)} arms the gain cannot be distinguished from 0.")
    together = [row for row in rows if row["nvat_q"] is not None and row["nvat_q"] > 0.05]
    if together:
        lines.append(
            f"In {len(together)} of {len(rows)} arms it cannot be shown that values moved together more than under the "
            "placebo, at a false discovery rate of 5 % over all arms."
        )
    bounded = [row for row in rows if row["over_placebo_gain_low"] is not None]
    like = [row for row in bounded if row["over_placebo_gain_low"] <= 0]
    if like:
        lines.append(
            f"The gain of {pluralize(len(like), 'arm')} cannot be distinguished from the placebo's: {_names(like)}."
        )
    single = [row for row in rows if row["over_placebo_gain"] is not None and row["over_placebo_gain_low"] is None]
    if single:
        lines.append(
            f"One draw of a placebo counts for {pluralize(len(single), 'arm')}, so that nothing says how much it varies: set "
            "`placebos` to 3 or more."
        )
    empty = [
        row
        for group in groups
        for arm_rows in group.blind.values()
        for row in arm_rows
        if "nothing was found" in row["warnings"]
    ]
    if empty:
        lines.append(
            f"{pluralize(len(empty), 'placebo')} changed nothing, since a finder found nothing in shuffled labels: no "
            f"evidence: {_names(empty)}."
        )
    broken = [row for row in rows if row["broken"]]
    if broken:
        verb = "leaves" if len(broken) == 1 else "leave"
        lines.append(f"{pluralize(len(broken), 'arm')} {verb} the model broken: {_names(broken)}.")
    return lines


def describe_choices(study: Study) -> list[str]:
    """Returns sentences about the choices that the numbers depend on."""
    design = study.design
    how = design.how
    wording = "all wordings, averaged" if how.wording == "all" else f"the wording {design.wordings()[0]}"
    lines = [
        f"Protocol {how.protocol}, {wording}, scale {how.low} to {how.high}"
        + (", also reversed" if how.counterbalance else "")
        + f"; ratings are {'expected values' if how.reading == 'expected' else 'the likeliest options'}.",
        f"nVAT is read as {design.reading}; its floor and p come from {design.resamples:,} sign flips of whole clusters, its "
        f"interval from leaving out one cluster at a time.{_clusters(study)}",
        "Others' shift is the root mean square over the types that have no part in the target, or over the other values where it is one value, in rating points. GND divides shifts by the "
        "gain, and is given where the gain can be distinguished from 0.",
        "R measures variation from context to context: a shift that is the same in all of them raises the gain and leaves R "
        "unchanged.",
        f"Scenes are divided by the seed {design.items.seed}: {1 - design.items.test:.0%} to make interventions from, "
        f"{design.items.test:.0%} to judge them.",
    ]
    lines += [f"{display_name(model)} answers after the prefill {text!r}." for model, text in _prefills(study).items()]
    noise = {row["model"]: row["numerical_noise"] for row in study.rows if row.get("numerical_noise") is not None}
    lines += [
        f"Numerical noise of {display_name(model)}: with the size of a pass one rating varies by {sd:.4f} points (standard deviation)."
        for model, sd in noise.items()
    ]
    spread = [row for row in study.rows if row["wording_nvat_sd"] is not None and not is_placebo(row)]
    if spread:
        gain, nvat = (max(row[f"wording_{key}_sd"] or 0 for row in spread) for key in ("gain", "nvat"))
        lines.append(
            f"Over the wordings gains differ by up to {gain:.2f} and nVAT by up to {nvat:.2f} (standard deviations)."
        )
    levels = [row["agreement_levels"] for row in study.rows if row["agreement_levels"] is not None]
    if levels:
        lines.append(
            f"Types ranked by their own VAT agree with types ranked by that of their values by {min(levels):.2f} to "
            f"{max(levels):.2f} (rank correlation)."
        )
    firm = [row for row in study.rows if row["agreement_kendall"] is not None]
    if firm:
        least = [
            min((row[key] for row in firm if row[key] is not None), default=float("nan"))
            for key in ("agreement_80", "agreement_kendall")
        ]
        lines.append(
            f"Rankings by VAT agree with those on 80 % of the scenes by at least {least[0]:.2f}, and with those by Kendall's "
            f"tau-b by at least {least[1]:.2f} (rank correlations)."
        )
    return lines


def _prefills(study: Study) -> dict[str, str]:
    """Returns the prefill of each model's answers, if its states record one."""
    prefills = {}
    for row in study.rows if study.index else ():
        if row["model"] not in prefills:
            how = study.states(row)[0].meta.get("how", {})
            taken = how.get("prefill", "none")
            prefills[row["model"]] = (how.get("text") or {}).get("answer", "") if taken == "cue" else taken
    return {model: text for model, text in prefills.items() if text not in ("none", "auto", "")}


def _clusters(study: Study) -> str:
    """Returns a sentence about the clusters."""
    row = next(iter(study.rows), None)
    keys = study.result(row)["cluster_keys"] if row is not None else ""
    if not keys:
        return " Clusters are scenes."
    return f" Clusters are by {keys.replace('+', ' and by ')}" + (", two-way." if "+" in keys else ".")


def describe_drift(study: Study, group: ArmGroup) -> Iterator[str]:
    """Yields for each training with several checkpoints when the values reached 95 % of their last shift."""
    import numpy as np

    from vatjax import train

    for name, rows in group.real.items():
        rows = sorted(rows, key=lambda row: float(row["amount"]))
        if rows[0]["unit"] != "steps" or len(rows) < 3:
            continue
        levels = [study.result(row)["levels"]["values"] for row in rows]
        names, target = levels[0]["names"], set(levels[0]["target_names"])
        shift = np.array([[_nan(level["shift"][n]["estimate"]) for n in names] for level in levels])
        arrived = train.drift_time([int(row["amount"]) for row in rows], shift)
        on_target = np.array([n in target for n in names])
        middle = [np.nanmedian(arrived[side]) if side.any() else np.nan for side in (on_target, ~on_target)]
        yield (
            f"{name}: half of the target's values had 95 % of their last shift by step {middle[0]:.0f}, half of the others by "
            f"step {middle[1]:.0f} of {rows[-1]['amount']:.0f}."
        )


def _nan(x: float | None) -> float:
    return float("nan") if x is None else x


def arm_name(name: str, row: Row) -> str:
    """Returns the name of an arm: its intervention and amount."""
    return f"{name}, {amount(row)}" if row["unit"] else name


def amount(row: Row) -> str:
    """Returns the amount of an intervention with its unit; "" for one without levels."""
    if row["unit"] == "strength":
        return f"strength {row['amount']:g}"
    unit = row["unit"].removesuffix("s") if row["amount"] == 1 else row["unit"]
    return f"{row['amount']:g} {unit}" if unit else ""


def _names(rows: Sequence[Mapping[str, Any]]) -> str:
    texts = [
        arm_name(f"{row['intervention']} {'+' if row['direction'] == 'express' else '-'}{row['target']}", dict(row))
        for row in rows[:8]
    ]
    return "; ".join(texts) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")


def interval(row: Mapping[str, Any], key: str) -> str:
    """Returns a number of a row with its interval, if it has one."""
    middle, low, high = (row[name] for name in (key, f"{key}_low", f"{key}_high"))
    if middle is None:
        return "-"
    return number(middle) + ("" if low is None or high is None else f" [{number(low)}, {number(high)}]")


def masses(row: Mapping[str, Any]) -> str:
    """Returns the option mass before and after."""
    before, after = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("mass_before", "mass"))
    return f"{before} → {after}"


def p_value(p: float | None, draws: int) -> str:
    """Formats the p of a test with `draws` draws; the smallest possible p is shown as a bound."""
    if p is None:
        return "-"
    digits = max(3, math.ceil(math.log10(draws + 1)))
    least = math.ceil(10**digits / (draws + 1)) / 10**digits
    return f"≤ {least:.{digits}f}" if p <= 1.01 / (draws + 1) else f"{p:.{digits}f}"


def q_value(q: float | None) -> str:
    """Formats a false discovery rate."""
    return "-" if q is None else "< 0.001" if q < 0.001 else f"{q:.3f}"


def widest_half_interval(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns half of the widest interval of a gain; None without any interval."""
    wide = [0.5 * (row["gain_high"] - row["gain_low"]) for row in rows if row["gain_high"] is not None]
    return max(wide, default=None)


def number(x: float) -> str:
    """Formats a number with two digits, without a sign if it rounds to 0."""
    text = f"{x:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "below .001"


def pluralize(count: int, what: str) -> str:
    """Returns a count with its noun, in the plural unless it is 1."""
    return f"{count} {what}{'s' * (count != 1)}"
