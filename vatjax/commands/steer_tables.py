"""Tables of `vatjax steer`: the sweep, the trials and their placebos, and the control of the target."""

from __future__ import annotations

import textwrap
from typing import Any

from vatjax.commands import show


def print_report(content: dict[str, Any], chosen: Any) -> None:
    """Prints the contents of `steer.json`.

    Args:
        content: the contents.
        chosen: the point of the sweep that was selected; None without a sweep.
    """
    if chosen is not None:
        _print_facts(content["found"])
        print_sweep(content, chosen)
    _print_trials(content)
    for placebo in content["placebos"]:
        verdict = "differs from 0: not a placebo here" if placebo["resolved"] else "cannot be distinguished from 0"
        show.print_text(
            f"{placebo['name']}, {placebo['draws']} draws together: gain {_interval(placebo['gain'])}, {verdict}"
        )


def _print_facts(facts: dict[str, Any]) -> None:
    """Prints facts on how the edit was found, in a line or two."""
    numbers = [(key, facts.get(key)) for key in ("pairs", "probability", "threshold", "f1", "loss", "margin")]
    print("   ".join(f"{key} {x:.3g}" for key, x in numbers if x is not None))
    for key, what in (("accuracy", "accuracy on held-out pairs"), ("gate_accuracy", "accuracy of the gate")):
        if facts.get(key) is not None:
            shares = " ".join("-" if x is None else f"{x:.0%}" for x in facts[key])
            print(textwrap.fill(f"{what}, by layer: {shares}", 99))


def print_sweep(content: dict[str, Any], chosen: Any) -> None:
    """Prints layers times strengths, and below them a random edit of the same norm."""
    rows = []
    for point in content["sweep"]:
        mine = chosen is not None and (tuple(point["layers"]), point["strength"]) == (chosen.layers, chosen.strength)
        rows.append(_point(point, "", " *" if mine else ""))
    rows += [_point(point, "random ", "") for point in content.get("random", ())]
    columns = ("layers", "strength", "gain", "others", "nVAT", "preference", "utility", "mass", "perplexity", "")
    show.print_table(columns, rows)
    for curve in content["curves"]:
        low, high = curve["useful"]
        place = "+".join(map(str, curve["layers"]))
        print(
            f"layers {place}: useful from {low:.2g} to {high:.2g}; R2 of the fits {_number(curve['preference_r2'])} "
            f"(preference), {_number(curve['utility_r2'])} (utility)"
        )
    if chosen is not None:
        print("* the highest gain that does not break the model   others: their mean absolute shift, in points")
        print("random: a random edit of the same norm")
    if all(point["perplexity"] is None for point in content["sweep"]):
        print("perplexity -: no better than chance on neutral text; only the mass shows a broken model")
    print()


def _point(point: dict[str, Any], name: str, mark: str) -> tuple[str, ...]:
    keys = ("gain", "off_target", "nvat", "preference", "utility", "mass", "perplexity")
    mark += " BROKEN" if point["broken"] else ""
    place = name + "+".join(map(str, point["layers"]))
    return (place, f"{point['strength']:g}", *[_number(point[key]) for key in keys], mark.strip())


def _print_trials(content: dict[str, Any]) -> None:
    """Prints the effect of each push on the test side, and its control of the target."""
    rows, control = [], []
    for trial in content["trials"]:
        broken = " BROKEN" if trial["broken"] else ""
        rows.append(
            (
                trial["name"],
                _interval(trial["gain"]) + ("" if trial["resolved"] else " ~"),
                _interval(trial["off_target"]),
                _number(trial["nvat"]["estimate"]),
                f"{trial['mass']:.2f}",
                _number(trial["perplexity"]) + broken,
            )
        )
        control.append(
            (
                trial["name"],
                "-" if trial["success_before"] is None else f"{trial['success_before']:.0%}",
                _interval(trial["success"], "{:.0%}"),
                _interval(trial["leakage"]),
                _interval(trial["utility_loss"], "{:.1%}"),
            )
        )
    show.print_table(("test side", "gain", "off target", "nVAT", "mass", "perplexity"), rows)
    print("~ cannot be distinguished from 0   off target: mean absolute GND of the other types")
    print("perplexity: times unedited\n")
    show.print_table(("control", "unedited", "success", "leak", "utility loss"), control)
    print("success: share of contexts that lean as requested   leak: rise of others' success over the target's")


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


def _interval(estimate: dict[str, float | None], form: str = "{:.2f}") -> str:
    three = [estimate[key] for key in ("estimate", "low", "high")]
    if any(x is None for x in three):
        return "-" if three[0] is None else form.format(three[0])
    middle, low, high = (form.format(x) for x in three)
    return f"{middle} [{low}, {high}]"
