"""What `vatjax steer` prints: the sweep, the trials beside their placebos, and how far the target is controlled."""

from __future__ import annotations

import textwrap
from typing import Any

from vatjax.commands import show


def report(content: dict[str, Any], chosen: Any) -> None:
    """Everything that `steer.json` has.

    Args:
        content: of that file.
        chosen: the point of the sweep that was taken; None where there was no sweep.
    """
    if chosen is not None:
        _found(content["found"])
        sweep(content, chosen)
    _trials(content)
    for one in content["placebos"]:
        told = "told from 0: no placebo here" if one["resolved"] else "not told from 0"
        print(f"{one['name']}, {one['draws']} draws together: gain {_interval(one['gain'])}, {told}")


def _found(facts: dict[str, Any]) -> None:
    """How the edit was found, in a line or two."""
    numbers = [(key, facts.get(key)) for key in ("pairs", "probability", "threshold", "f1", "loss", "margin")]
    print("   ".join(f"{key} {x:.3g}" for key, x in numbers if x is not None))
    for key, what in (("accuracy", "kept pairs told apart"), ("gate_accuracy", "gate")):
        if facts.get(key) is not None:
            shares = " ".join("-" if x is None else f"{x:.0%}" for x in facts[key])
            print(textwrap.fill(f"{what}, by layer: {shares}", 99))


def sweep(content: dict[str, Any], chosen: Any) -> None:
    """Layers times strengths, and a random edit of the same norm beside them."""
    rows = []
    for point in content["sweep"]:
        mine = chosen is not None and (tuple(point["layers"]), point["strength"]) == (chosen.layers, chosen.strength)
        rows.append(_point(point, "", " *" if mine else ""))
    rows += [_point(point, "random ", "") for point in content.get("random", ())]
    columns = ("layers", "strength", "gain", "others", "nVAT", "preference", "utility", "mass", "perplexity", "")
    show.table(columns, rows)
    for curve in content["curves"]:
        low, high = curve["useful"]
        place = "+".join(map(str, curve["layers"]))
        print(
            f"layers {place}: useful from {low:.2g} to {high:.2g}; R2 of the fits {_number(curve['preference_r2'])} "
            f"(preference), {_number(curve['utility_r2'])} (utility)"
        )
    if chosen is not None:
        print("* the highest gain that leaves the model whole   others: their mean absolute shift, in points")
        print("random: an edit of the same norm that knows nothing of the target")
    if all(point["perplexity"] is None for point in content["sweep"]):
        print("perplexity -: on neutral text no better than by chance; the mass alone tells a broken model")
    print()


def _point(point: dict[str, Any], name: str, mark: str) -> tuple[str, ...]:
    keys = ("gain", "off_target", "nvat", "preference", "utility", "mass", "perplexity")
    mark += " BROKEN" if point["broken"] else ""
    place = name + "+".join(map(str, point["layers"]))
    return (place, f"{point['strength']:g}", *[_number(point[key]) for key in keys], mark.strip())


def _trials(content: dict[str, Any]) -> None:
    """What each push did on the test side, and how far it controls its target."""
    rows, control = [], []
    for one in content["trials"]:
        broken = " BROKEN" if one["broken"] else ""
        rows.append(
            (
                one["name"],
                _interval(one["gain"]) + ("" if one["resolved"] else " ~"),
                _interval(one["off_target"]),
                _number(one["nvat"]["estimate"]),
                f"{one['mass']:.2f}",
                _number(one["perplexity"]) + broken,
            )
        )
        control.append(
            (
                one["name"],
                "-" if one["success_before"] is None else f"{one['success_before']:.0%}",
                _interval(one["success"], "{:.0%}"),
                _interval(one["leakage"]),
                _interval(one["utility_loss"], "{:.1%}"),
            )
        )
    show.table(("test side", "gain", "off target", "nVAT", "mass", "perplexity"), rows)
    print("~ not told from 0   off target: mean absolute GND of the other types   perplexity: times unedited\n")
    show.table(("control", "unedited", "success", "leak", "utility loss"), control)
    print("success: where the target is leaned to as wanted   leak: rise of others' success over the target's")


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


def _interval(estimate: dict[str, float | None], form: str = "{:.2f}") -> str:
    three = [estimate[key] for key in ("estimate", "low", "high")]
    if any(x is None for x in three):
        return "-" if three[0] is None else form.format(three[0])
    middle, low, high = (form.format(x) for x in three)
    return f"{middle} [{low}, {high}]"
