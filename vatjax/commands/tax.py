"""`vatjax tax`."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from vatjax import analysis, errors, states, values
from vatjax.commands import show


@dataclasses.dataclass(frozen=True)
class Tax:
    """Compares ratings before and after an intervention: how far the target moved, what happened to the other values,
    and whether values move together. Ratings are tables (CSV, TSV, JSONL, JSON, each also gzipped; one row a context, one
    column a value, every other column a key on which the two are joined) or value states (.npz)."""

    pre: Annotated[str, Positional]
    """Ratings before."""
    post: Annotated[str, Positional]
    """Ratings after."""
    target: str
    """What was pushed: a value, a type or a group of the taxonomy."""
    direction: Literal["express", "suppress"] = "express"
    """Which way."""
    clusters: str = ""
    """Columns, separated by commas, whose rows belong together; by default `scene` where there is one."""
    on: str = ""
    """Columns, separated by commas, to join on; by default all that both tables have."""
    scale: str = "1:5"
    """Ratings at the weak and at the strong end of agreement; 4:1 means that 1 is the strongest."""
    taxonomy: str = "schwartz"
    """The values: "schwartz", or the path of a taxonomy in YAML."""
    reading: Literal["rms", "offdiag", "full"] = "rms"
    """How nVAT is read: rms = |R_off| / sqrt(V(V-1)), offdiag = |R_off| / sqrt(V), full = |R| / sqrt(V)."""
    resamples: int = 2000
    """Draws of the bootstrap and of the null."""
    seed: int = 0
    """Of the resampling."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if self.resamples < 100:
            raise errors.InputError(f"resamples: at least 100 are needed, found {self.resamples}")
        taxonomy = values.schwartz() if self.taxonomy == "schwartz" else values.load(self.taxonomy)
        pre, post = (self._read(where, taxonomy) for where in (self.pre, self.post))
        result = analysis.analyse(
            pre,
            post,
            taxonomy,
            self.target,
            1 if self.direction == "express" else -1,
            _names(self.on) or None,
            self.resamples,
            self.seed,
            self.reading,
        )
        for warning in result.warnings():
            print(f"vatjax: {warning}", file=sys.stderr)
        content = analysis.as_json(result)
        if self.json:
            show.as_json(content)
        else:
            _print(content)
        return 0

    def _read(self, where: str, taxonomy: values.Taxonomy) -> states.ValueState:
        if where.endswith(".npz"):
            state = states.load(where)
            return states.recluster(state, _names(self.clusters)) if self.clusters else state
        return states.read_ratings(where, taxonomy, _scale(self.scale), _names(self.clusters) or None)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _scale(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise errors.InputError(f"scale: expected LOW:HIGH such as 1:5, found {text!r}") from None


# For a person -------------------------------------------------------------------------------------------------------


def _print(content: dict[str, Any]) -> None:
    print(
        f"{content['n']:,} contexts in {content['clusters']:,} clusters; target {content['target']}, "
        f"{content['direction']}\n"
    )
    level = content["levels"]["types"]
    rows = []
    for name in level["names"]:
        below = _below(level["vat"][name]["estimate"], level["floor"]["vat_95"][name])
        rows.append(
            (
                name + (" *" if name in level["target_names"] else ""),
                _interval(level["shift"][name]),
                _interval(level["gnd"][name]),
                _number(level["vat"][name]["estimate"]) + (" <" if below else ""),
                _number(level["floor"]["vat"][name]),
                f"{level['hub_share'][name]:.0%}",
            )
        )
    show.table(("type", "shift", "GND", "VAT", "floor", "hub"), rows)
    print("* target   < not above the noise's 95th percentile   hub: share of resamples in the top three\n")
    summary = []
    for which in ("types", "values"):
        own = content["levels"][which]
        label = f"{len(own['names'])} {which}"
        for kind, part in (("raw", own), ("ipsatised", own["ipsatised"])):
            summary.append(
                (
                    label,
                    kind,
                    _interval(part["gain"]),
                    _number(part["nvat"]["estimate"]),
                    _number(part["floor"]["nvat"]),
                    _interval(part["nvat_debiased"]),
                    _p(part["p"]["nvat"]),
                    _number(part["gini"]["estimate"]),
                )
            )
    show.table(("level", "shifts", "gain", "nVAT", "floor", "debiased", "p", "Gini"), summary)
    for sentence in sentences(content):
        print(textwrap.fill(sentence, 100))


def sentences(content: dict[str, Any]) -> list[str]:
    """What moved, what can't be told from noise, and which choices the numbers rest on, in words."""
    level = content["levels"]["types"]
    own = content["levels"]["values"] if content["target"] in content["values"] else level  # a value's gain is its own
    gain = own["gain"]
    verb = "rose" if (gain["estimate"] or 0) * (1 if content["direction"] == "express" else -1) > 0 else "fell"
    lines = []
    if own["resolved"]:
        lines.append(f"{content['target']} {verb} by {abs(gain['estimate']):.2f}, a gain of {_interval(gain)}.")
        others = [name for name in level["names"] if name not in level["target_names"]]
        several = f"all {len(others)} tested together"
        clear = [n for n in others if (level["p"]["shift_holm"][n] or 1) < 0.05]
        moved = [f"{n} ({level['shift'][n]['estimate']:+.2f})" for n in clear]
        if moved:
            lines.append(f"Other types whose shift is clear of 0, {several}: {', '.join(moved)}.")
        elif others:
            lines.append(f"No shift of another type can be told from 0, {several}.")
        else:
            lines.append("No other type is rated.")
    else:
        lines.append(f"Whether {content['target']} moved can't be told from noise: {_interval(gain)}.")
    p = level["p"]["nvat"]
    numbers = f"(nVAT {_number(level['nvat']['estimate'])}, floor {_number(level['floor']['nvat'])}, p {_p(p)})"
    if p is None:
        lines.append("Whether types move together can't be said: no two of them vary over the contexts.")
    elif p < 0.05:
        lines.append(f"Types move together from context to context more than independent ones would {numbers}.")
    else:
        lines.append(f"Whether types move together from context to context can't be told from noise {numbers}.")
    test = level["order_test"]
    if test is not None and test["p"] is not None:
        follow = "Their coupling follows" if test["p"] < 0.05 else "Nothing shows that their coupling follows"
        lines.append(f"{follow} the order of the circle (index {test['index']:.2f}, p {_p(test['p'])}).")
    mechanical = level["ipsatised"]["mechanical_gnd"]
    lines.append(
        f"Coupling does not see a shift that is the same in every context. nVAT is read as {content['reading']}; "
        "ipsatised shifts are judged against their own null."
        + (
            ""
            if mechanical is None
            else f" If only the target moved, ipsatising alone would give every other type a GND of {_number(mechanical)}."
        )
    )
    return lines


def _below(vat: float | None, floor: float | None) -> bool:
    return vat is not None and floor is not None and vat <= floor


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _p(x: float | None) -> str:
    return "<.001" if x is not None and x < 0.001 else _number(x)


def _interval(estimate: dict[str, float | None]) -> str:
    if estimate["estimate"] is None:
        return "-"
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return _two(estimate["estimate"])
    return f"{_two(estimate['estimate'])} [{_two(low)}, {_two(high)}]"


def _two(x: float) -> str:
    text = f"{x:.2f}"
    return "0.00" if text == "-0.00" else text
