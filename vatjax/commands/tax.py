"""`vatjax tax`."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from vatjax import analysis, errors, names, states, values
from vatjax.commands import show
from vatjax.values import Taxonomy


@dataclasses.dataclass(frozen=True)
class Tax:
    """Compares ratings before and after an intervention: how far the target moved, what happened to the other values,
    and whether values move together. Ratings are tables (CSV, TSV, JSONL, JSON, each also gzipped; one row a context, one
    column a value, every other column a key on which the two are joined; or long tables with the columns `value` and
    `rating`) or value states (.npz). `vatjax example ratings` writes two to try."""

    pre: Annotated[str, Positional, arg(metavar="PRE")]
    """Ratings before."""
    post: Annotated[str, Positional, arg(metavar="POST")]
    """Ratings after."""
    target: str
    """What was pushed: a value, a type or a group of the taxonomy, or several separated by commas."""
    direction: Literal["express", "suppress"] = "express"
    """Which way."""
    placebo: tuple[str, ...] = ()
    """Ratings after a placebo, in the same contexts; several files are draws of one placebo."""
    clusters: str = ""
    """Columns, separated by commas, whose rows belong together; two such choices joined by + are two-way clusters. By default
    country+topic where both are there and cross, else `scene`."""
    on: str = ""
    """Columns, separated by commas, to join on; by default all that both tables have."""
    scale: str = ""
    """Ratings at the weak and at the strong end of agreement; 4:1 means that 1 is the strongest. By default 1:5."""
    missing: str = ""
    """Further spellings of a missing rating, separated by commas, such as "don't know,-"."""
    duplicates: Literal["refuse", "mean"] = "refuse"
    """What happens to several rows of one context."""
    values: Literal["all", "common"] = "all"
    """Whether both tables must have the same values, or those that both have are compared."""
    taxonomy: str = "schwartz"
    """The values: "schwartz", or the path of a taxonomy in YAML."""
    reading: Literal["rms", "offdiag", "full"] = "rms"
    """How nVAT is read: rms = |R_off| / sqrt(V(V-1)), offdiag = |R_off| / sqrt(V), full = |R| / sqrt(V)."""
    unit: Literal["points", "paper"] = "points"
    """Of shifts: points of the scale, or ratings mapped to -1 to 1 as published."""
    margin: float | None = None
    """A shift that does not matter, in the unit of shifts; tests whether every other type moved by less."""
    resamples: int = 2000
    """Draws of the null."""
    seed: int = 0
    """Of the resampling."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if self.resamples < 100:
            raise errors.InputError(f"--resamples: at least 100 are needed, found {self.resamples}")
        if self.margin is not None and not (0 < self.margin < float("inf")):
            raise errors.InputError(f"--margin: expected a number above 0, found {self.margin:g}")
        taxonomy = values.schwartz() if self.taxonomy == "schwartz" else values.load(self.taxonomy)
        pre, post, *placebos = (self._read(path, taxonomy) for path in (self.pre, self.post, *self.placebo))
        if self.values == "common":
            every = {name for state in (pre, post, *placebos) for name in state.values}
            pre, post, *placebos = states.common_values(pre, post, *placebos)
            gone = sorted(every - set(pre.values))
            if gone:
                show.told(f"left out, not in every table: {names.listed(gone)}")
        if not self.json:
            show.told("measuring; the first time on a machine this takes up to ten seconds, to compile")
        result = analysis.analyse(
            pre,
            post,
            taxonomy,
            _names(self.target) or [self.target],
            1 if self.direction == "express" else -1,
            _names(self.on) or None,
            self.resamples,
            self.seed,
            self.reading,
            clusters=self.clusters,
            unit=self.unit,
        )
        content = analysis.as_json(result)
        content["resamples"] = self.resamples
        noise = [(one.meta.get("numerical_noise") or {}).get("sd") for one in (pre, post)]
        content["numerical_noise"] = max((sd for sd in noise if sd is not None), default=None)
        content["placebo"] = self._beyond(result, placebos, taxonomy) if placebos else None
        content["margin"] = None if self.margin is None else analysis.equivalence(result, self.margin)
        content["warnings"] += self._doubts(pre, post)
        for warning in content["warnings"]:
            print(f"vatjax: {warning}", file=sys.stderr)
        if self.json:
            show.as_json(content)
        else:
            _print(content, not self.scale and not self.pre.endswith(".npz"))
        return 0

    def _beyond(
        self, result: analysis.Analysis, placebos: list[states.ValueState], taxonomy: Taxonomy
    ) -> dict[str, Any]:
        for path, placebo in zip(self.placebo, placebos, strict=True):
            try:  # each by itself: an error names its file
                states.join(result.joined.pre, placebo, result.joined.keys or None)
            except errors.InputError as error:
                raise errors.InputError(f"--placebo {path}: against {self.pre}: {error}") from None
        try:
            return analysis.beyond(result, placebos, taxonomy)
        except errors.InputError as error:
            raise errors.InputError(f"--placebo {', '.join(self.placebo)}: {error}") from None

    def _read(self, path: str, taxonomy: Taxonomy) -> states.ValueState:
        if path.endswith(".npz"):
            for flag, given in (("--scale", self.scale), ("--missing", self.missing)):
                if given:
                    raise errors.InputError(f"{flag}: {path} is a value state, which has its own; it is for tables")
            return states.load(path)
        state = states.read_ratings(
            path, taxonomy, _scale(self.scale or "1:5"), missing=_names(self.missing), keys=_names(self.on)
        )
        if self.duplicates == "refuse":
            return state
        averaged = states.average_duplicates(state, _names(self.on))
        if len(averaged.clusters) < len(state.clusters):
            show.told(f"{path}: {len(state.clusters):,} rows are averaged to {len(averaged.clusters):,} contexts")
        return averaged

    def _doubts(self, pre: states.ValueState, post: states.ValueState) -> list[str]:
        """What may be wrong with how the tables were read."""
        doubts = []
        found = [state.meta.get("found") for state in (pre, post)]
        if not self.scale and all(found):
            highest = max(float(ends[1]) for ends in found if ends)
            if highest < 5:
                doubts.append(
                    f"no rating is above {highest:g}, read on the default scale 1:5: if {highest:g} is the top, or 1 the "
                    f"strongest, say --scale 1:{highest:g} or {highest:g}:1"
                )
        if pre.values == post.values and np.array_equal(pre.state, post.state, equal_nan=True):
            doubts.append("the two files hold the same ratings")
        for what, path in (("wording", ("how", "wording")), ("dtype", ("model", "dtype"))):
            first, second = (states.at(state.meta, path) for state in (pre, post))
            if first != second and first is not None and second is not None:
                first, second = (", ".join(x) if isinstance(x, list) else x for x in (first, second))
                more = ", and with it the cue that the answer begins with" if what == "wording" else ""
                doubts.append(
                    f"the {what} differs{more}: {first} before, {second} after; part of the shift may be that"
                )
        return doubts


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _scale(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise errors.InputError(f"--scale: expected LOW:HIGH such as 1:5, found {text!r}") from None


# With fewer clusters the power of a coupling is not said: the null's quantiles are too coarse.
_FEW = 12


# For a person -------------------------------------------------------------------------------------------------------


_LEGEND = (
    "* target; < not above the noise, all types tested together; hub: more coupled than the other types, all of them at equal "
    "size and tested together. Each interval is of one type by itself."
)


def _print(content: dict[str, Any], default_scale: bool) -> None:
    for line in header(content, default_scale):
        print(textwrap.fill(line, 100))
    print()
    level = content["levels"]["types"]
    rows = []
    for name in level["names"]:
        hub, p = (level["hub"] or {}).get(name), (level["hub_p"] or {}).get(name)
        together = level["p"]["vat_together"][name]
        below = level["vat"][name] is not None and (together is None or together > 0.05)
        rows.append(
            (
                name + (" *" if name in level["target_names"] else ""),
                _interval(level["shift"][name]),
                _interval(level["gnd"][name]),
                _number(level["vat"][name]) + (" <" if below else ""),
                _number(level["floor"]["vat"][name]),
                "yes" if hub is not None and p is not None and p <= 0.05 and hub["estimate"] > 0 else "no",
            )
        )
    show.table(("type", "shift", "GND", "VAT", "floor", "hub"), rows)
    print(textwrap.fill(_LEGEND, 100), end="\n\n")
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
                    _p(part["p"]["nvat"], content),
                    _number(part["gini"]),
                    _number(part["coupling_points"]["estimate"]),
                )
            )
    show.table(("level", "shifts", "gain", "nVAT", "floor", "debiased", "p", "Gini", "points"), summary)
    if content["numerical_noise"] is not None:
        print(f"Numerical noise of a rating, by the size of a pass: sd {content['numerical_noise']:.4f} points.")
    for sentence in sentences(content):
        print(textwrap.fill(sentence, 100))


def header(content: dict[str, Any], default_scale: bool = False) -> list[str]:
    """Returns what the numbers rest on: contexts, clusters, the scale, missing ratings."""
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
    """Returns what moved, what cannot be distinguished from noise, and which choices the numbers rest on, in words."""
    level = content["levels"]["types"]
    own = content["levels"][content["target_level"]]  # a value's gain is its own
    return [
        *_first_order(content, own, level),
        *_second_order(content, level),
        *_choices(content, level),
    ]


def _first_order(content: dict[str, Any], own: dict[str, Any], level: dict[str, Any]) -> list[str]:
    gain, unit = own["gain"], "points" if content["unit"] == "points" else "(-1 to 1)"
    if not content["changed"]:
        return ["No rating changed."]
    least = own["detectable"]["gain"]
    if own["resolved"]:
        verb = "rose" if gain["estimate"] * (1 if content["direction"] == "express" else -1) > 0 else "fell"
        lines = [f"{content['target']} {verb} by {abs(gain['estimate']):.2f}, a gain of {_interval(gain)}."]
    elif gain["low"] is None:
        lines = [
            f"The gain on {content['target']} is {_interval(gain)}; too few clusters, or one that holds too many of the "
            "contexts, leave it without an interval."
        ]
    else:
        lines = [f"The gain on {content['target']} cannot be distinguished from 0: {_interval(gain)}."]
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
        said = (
            "all other types moved by less"
            if margin["p"] <= 0.05
            else "it is not shown that all other types moved by less"
        )
        lines.append(f"Margin {margin['margin']:g}: {said} (p {_p(margin['p'], {})}).")
    return lines


def _second_order(content: dict[str, Any], level: dict[str, Any]) -> list[str]:
    p, style, placebo = level["p"]["nvat"], level["ipsatised"]["p"]["nvat"], content.get("placebo")
    lines = []
    numbers = (
        f"(nVAT {_number(level['nvat']['estimate'])}, floor {_number(level['floor']['nvat'])}, p {_p(p, content)}; ipsatised p "
        f"{_p(style, content)})"
    )
    if p is None:
        why = "no two of them vary over the contexts"
        if content["n"] < 3:
            why = "a correlation of two contexts is 1 or -1 whatever their ratings are"
        elif content["largest_cluster"] is not None:
            why = f"one cluster holds {content['largest_cluster']:.0%} of the contexts"
        return [f"Whether types move together cannot be said: {why}."]
    if p >= 0.05:
        least = level["detectable"]["nvat"]
        found = (
            ""
            if least is None or content["clusters"] < _FEW
            else f" A coupling of {least:.2f} beyond noise would be found in four of five cases."
        )
        lines.append(
            f"That types move together from context to context cannot be distinguished from noise {numbers}.{found}"
        )
    elif style is None or style >= 0.05:
        lines.append(
            f"Types move together, but a style that answers everything higher or lower may explain it {numbers}."
        )
    elif placebo is None:
        lines.append(
            f"Types move together from context to context more than independent ones would {numbers}. Without a placebo "
            "(--placebo) nothing says that this intervention is why: any intervention may do so."
        )
    else:
        beyond = "more than under the placebo" if _exceeds(placebo) else "not shown to be more than under the placebo"
        lines.append(
            f"Types move together from context to context {numbers}, {beyond} (p {_p(placebo['p_nvat'], {})}; ipsatised p "
            f"{_p(placebo['ipsatised_p_nvat'], {})})."
        )
    if placebo is not None:
        one = "; one draw, so that its own variance is unknown" if placebo["draws"] < 2 else ""
        lines.append(f"Beyond the placebo: gain {_interval(placebo['gain'])}, nVAT {_interval(placebo['nvat'])}{one}.")
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
        shown = "; ".join(f"{name}: index {test['index']:.2f}, p {_p(test['p'], {})}" for name, test in tests)
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
        "coupling in rating points. Ipsatised shifts are judged against their own null, which knows a style that moves all values "
        "alike; one that moves some values more looks like coupling."
    )
    if mechanical is not None:
        line += (
            f" If only the target moved, ipsatising alone would give every other type a GND of {_number(mechanical)}."
        )
    return [line]


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"


def _p(x: float | None, content: dict[str, Any]) -> str:
    """A p; the smallest that draws can give is a bound."""
    if x is None:
        return "-"
    draws = content.get("resamples")
    if draws and x <= 1.5 / (draws + 1):
        return "<.001" if draws >= 999 else f"<={1 / (draws + 1):.3f}"
    return "<.001" if x < 0.001 else f"{x:.3f}"


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
