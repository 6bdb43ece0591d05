"""An analysis in words: the tables and sentences that `vatjax tax` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vatjax.text_table import format_table

WIDTH = 100  # characters of a line

# With fewer clusters the power of a coupling is not printed: the null's quantiles are too coarse.
_FEW = 12
# With a larger share of the ratings at the ends of the scale a common style is cut off there, and what is left of it looks like coupling.
_MANY_AT_ENDS = 0.1


_LEGEND = (
    "* target; ~ not above the noise, all types tested together; hub: more coupled than the other types, all of them at equal "
    "size and tested together. Each interval is of one type by itself."
)


def tax_text(content: dict[str, Any], default_scale: bool = False, table: Callable[..., str] = format_table) -> str:
    """Returns the tables and sentences of a tax, as `vatjax tax` prints them.

    Args:
        content: of `analysis.as_json`, and optionally `placebo`, `margin`, `resamples` and `numerical_noise`.
        default_scale: True if the scale of the ratings was not given; the header says so.
        table: formats columns and rows; by default for a file.
    """
    level = content["levels"]["types"]
    parts = [*(textwrap.fill(line, WIDTH) for line in header(content, default_scale)), ""]
    parts.append(table(("type", "shift", "GND", "VAT", "floor", "hub"), _type_rows(level)).rstrip("\n"))
    parts += [textwrap.fill(_LEGEND, WIDTH), ""]
    columns = ("level", "shifts", "gain", "nVAT", "floor", "debiased", "p", "Gini", "points")
    parts.append(table(columns, _level_rows(content)).rstrip("\n"))
    if content.get("numerical_noise") is not None:
        parts.append(f"Numerical noise of a rating, by the size of a pass: sd {content['numerical_noise']:.4f} points.")
    parts += [textwrap.fill(sentence, WIDTH) for sentence in sentences(content)]
    return "\n".join(parts)


def _type_rows(level: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in level["names"]:
        hub, p = (level["hub"] or {}).get(name), (level["hub_p"] or {}).get(name)
        together = level["p"]["vat_together"][name]
        below = level["vat"][name] is not None and (together is None or together > 0.05)
        rows.append(
            (
                name + (" *" if name in level["target_names"] else ""),
                format_interval(level["shift"][name]),
                format_interval(level["gnd"][name]),
                _number(level["vat"][name]) + (" ~" if below else ""),
                _number(level["floor"]["vat"][name]),
                "yes" if hub is not None and p is not None and p <= 0.05 and hub["estimate"] > 0 else "no",
            )
        )
    return rows


def _level_rows(content: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for which in ("types", "values"):
        level = content["levels"][which]
        label = f"{len(level['names'])} {which}"
        for kind, part in (("raw", level), ("ipsatised", level["ipsatised"])):
            rows.append(
                (
                    label,
                    kind,
                    format_interval(part["gain"]),
                    _number(part["nvat"]["estimate"]),
                    _number(part["floor"]["nvat"]),
                    format_interval(part["nvat_debiased"]),
                    format_p(part["p"]["nvat"], content.get("resamples")),
                    _number(part["gini"]),
                    _number(part["coupling_points"]["estimate"]),
                )
            )
    return rows


def header(content: dict[str, Any], default_scale: bool = False) -> list[str]:
    """Returns the basis of the numbers: contexts, clusters, the scale, missing ratings."""
    lines = [
        f"{content['n']:,} contexts in {content['clusters']:,} clusters; target {content['target']}, {content['direction']}"
    ]
    if not content["cluster_keys"] and content["clusters"] < content["n"]:
        lines[0] += "; clusters by scene"
    if content["cluster_keys"]:
        lines[0] += f"; clusters by {content['cluster_keys']}" + (
            " (two-way)" if "+" in content["cluster_keys"] else ""
        )
    alike = {key: x for key, x in content["intraclass"].items() if x is not None}
    if alike:
        effects = [x for x in content["levels"]["types"]["design_effect"].values() if x is not None]
        effect = f"; median design effect of types {np.median(effects):.1f}" if effects else ""
        correlated = ", ".join(f"{key} {x:.2f}" for key, x in alike.items())
        lines.append(f"Intraclass correlation of shifts: {correlated}{effect}.")
    if content["scale"] and content["ratings_found"]:
        (low, high), (least, most) = content["scale"], content["ratings_found"]
        default = " (the default)" if default_scale else ""
        lines.append(
            f"Ratings {least:g} to {most:g} found, read on {low:g}:{high:g}{default}: {low:g} is the weakest agreement."
        )
    lost = content["missing"]
    if lost["cells"]:
        lines.append(f"{lost['cells']:,} of {lost['of']:,} shifts are missing.")
    return lines


def sentences(content: dict[str, Any]) -> list[str]:
    """Returns sentences on what moved, what cannot be distinguished from noise, and the choices of the numbers."""
    level = content["levels"]["types"]
    target_level = content["levels"][content["target_level"]]  # a value's gain, not that of its type
    return [
        *_first_order(content, target_level, level),
        *_second_order(content, level),
        *_choices(content, level),
    ]


def _first_order(content: dict[str, Any], target_level: dict[str, Any], level: dict[str, Any]) -> list[str]:
    gain, unit = target_level["gain"], "points" if content["unit"] == "points" else "(-1 to 1)"
    if not content["changed"]:
        return ["No rating changed."]
    least = target_level["detectable"]["gain"]
    if target_level["resolved"]:
        verb = "rose" if gain["estimate"] * (1 if content["direction"] == "express" else -1) > 0 else "fell"
        lines = [f"{content['target']} {verb} by {abs(gain['estimate']):.2f}, a gain of {format_interval(gain)}."]
    elif gain["low"] is None:
        lines = [
            f"The gain on {content['target']} is {format_interval(gain)}; too few clusters, or one that holds too many of the "
            "contexts, leave it without an interval."
        ]
    else:
        lines = [f"The gain on {content['target']} cannot be distinguished from 0: {format_interval(gain)}."]
        if least:
            lines.append(f"With these contexts a gain of {least:.2f} {unit} would be found in four of five cases.")
    others = [name for name in level["names"] if name not in level["target_names"]]
    clear = [
        n for n in others if (level["p"]["shift_holm"][n] if level["p"]["shift_holm"][n] is not None else 1) < 0.05
    ]
    if clear:
        moved = ", ".join(f"{n} ({level['shift'][n]['estimate']:+.2f})" for n in clear)
        lines.append(f"Other types whose shift is clear of 0, all {len(others)} tested together: {moved}.")
    elif not others:
        lines.append("No other type is rated.")
    # A bound as wide as the scale says nothing.
    if others and level["bound"] is not None and level["bound"] < content["width"]:
        lines.append(
            f"None of the other {len(others)} types moved by more than {level['bound']:.2f} {unit} (95 %, all together)."
        )
    margin = content.get("margin")
    if margin and others and margin["p"] is not None:
        verdict = (
            "all other types moved by less"
            if margin["p"] <= 0.05
            else "it is not shown that all other types moved by less"
        )
        lines.append(f"Margin {margin['margin']:g}: {verdict} (p {format_p(margin['p'])}).")
    return lines


def _second_order(content: dict[str, Any], level: dict[str, Any]) -> list[str]:
    p, style, placebo = level["p"]["nvat"], level["ipsatised"]["p"]["nvat"], content.get("placebo")
    lines = []
    numbers = (
        f"(nVAT {_number(level['nvat']['estimate'])}, floor {_number(level['floor']['nvat'])}, p {format_p(p, content.get('resamples'))}; ipsatised p "
        f"{format_p(style, content.get('resamples'))})"
    )
    if p is None:
        why = "no two of them vary over the contexts"
        if content["n"] < 3:
            why = "a correlation of two contexts is 1 or -1 whatever their ratings are"
        elif content["largest_cluster"] is not None:
            why = f"one cluster holds {content['largest_cluster']:.0%} of the contexts"
        return [f"Whether types move together cannot be tested: {why}."]
    if p >= 0.05:
        least = level["detectable"]["nvat"]
        power = (
            ""
            if least is None or content["clusters"] < _FEW
            else f" A coupling of {least:.2f} beyond noise would be found in four of five cases."
        )
        lines.append(
            f"That types move together from context to context cannot be distinguished from noise {numbers}.{power}"
        )
    elif style is None or style >= 0.05:
        lines.append(
            f"Types move together, but a style that answers everything higher or lower may explain it {numbers}."
        )
    elif content["clusters"] < _FEW:
        lines.append(
            f"Types move together from context to context {numbers}, in {content['clusters']} clusters: too few to tell it "
            "from chance."
        )
    elif placebo is None and (content.get("at_ends") or 0) > _MANY_AT_ENDS:
        lines.append(
            f"Types move together, but a style that answers everything higher or lower may explain it {numbers}: "
            f"{content['at_ends']:.0%} of the ratings lie at an end of the scale, where such a style is cut off."
        )
    elif placebo is None:
        lines.append(
            f"Types move together from context to context more than independent ones would {numbers}. Without a placebo "
            "(--placebo) it cannot be attributed to this intervention: any intervention may do so."
        )
    else:
        beyond = "more than under the placebo" if _exceeds(placebo) else "not shown to be more than under the placebo"
        lines.append(
            f"Types move together from context to context {numbers}, {beyond} (p {format_p(placebo['p_nvat'])}; ipsatised p "
            f"{format_p(placebo['ipsatised_p_nvat'])})."
        )
    if placebo is not None:
        single_draw = "; one draw, so that its own variance is unknown" if placebo["draws"] < 2 else ""
        lines.append(
            f"Beyond the placebo: gain {format_interval(placebo['gain'])}, nVAT {format_interval(placebo['nvat'])}{single_draw}."
        )
    tests = [
        (name, test)
        for name, test in (
            ("types of equal size", level["order_test"]),
            ("ipsatised types", level["ipsatised"]["order_test"]),
        )
        if test is not None and test["p"] is not None
    ]
    if tests:
        follow = (
            "Coupling follows" if all(test["p"] < 0.05 for _, test in tests) else "Nothing shows that coupling follows"
        )
        shown = "; ".join(f"{name}: index {test['index']:.2f}, p {format_p(test['p'])}" for name, test in tests)
        lines.append(f"{follow} the order of the circle ({shown}).")
    return lines


def _exceeds(placebo: dict[str, Any]) -> bool:
    """Returns whether coupling goes beyond each draw of the placebo, raw and ipsatised, and beyond what another draw may give."""
    known = all(placebo[key] is not None and placebo[key] < 0.05 for key in ("p_nvat", "ipsatised_p_nvat"))
    lows = [placebo[key]["low"] for key in ("nvat", "ipsatised_nvat")]
    return known and all(low is None or low > 0 for low in lows)


def _choices(content: dict[str, Any], level: dict[str, Any]) -> list[str]:
    mechanical = level["ipsatised"]["mechanical_gnd"]
    line = (
        f"Coupling does not see a shift that is the same in every context. nVAT is read as {content['reading']}; `points` is the "
        "coupling in rating points. Ipsatised shifts are judged against their own null, which includes a style that moves all values "
        "alike; one that moves some values more looks like coupling."
    )
    if mechanical is not None:
        line += (
            f" If only the target moved, ipsatising alone would give every other type a GND of {_number(mechanical)}."
        )
    return [line]


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def format_p(x: float | None, draws: int | None = None) -> str:
    """Formats a p-value; the smallest that so many draws can give is shown as a bound."""
    if x is None:
        return "-"
    if draws and x <= 1.5 / (draws + 1):
        return "<.001" if draws >= 999 else f"<={1 / (draws + 1):.3f}"
    return "<.001" if x < 0.001 else f"{x:.3f}"


def format_interval(estimate: Mapping[str, float | None]) -> str:
    """Returns an estimate with its interval, such as "0.50 [0.31, 0.69]"; "-" without an estimate."""
    if estimate["estimate"] is None:
        return "-"
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return _two(estimate["estimate"])
    return f"{_two(estimate['estimate'])} [{_two(low)}, {_two(high)}]"


def _two(x: float) -> str:
    text = f"{x:.2f}"
    return "0.00" if text == "-0.00" else text
