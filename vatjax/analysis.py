"""From two value states to the numbers of a report: the tax at the level of types and of values, as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from scipy import special

from vatjax import errors, metrics, names, states
from vatjax.metrics import Estimate, Inference, OrderTest, Reading
from vatjax.values import Taxonomy

Level = Literal["types", "values"]
LEVELS: tuple[Level, ...] = ("types", "values")
Unit = Literal["points", "paper"]
UNITS: tuple[Unit, ...] = ("points", "paper")
# Below this many clusters intervals of coupling cover less often than they say (scripts/calibrate.py).
FEW_CLUSTERS = 30
# Shifts are rounded to this share of the scale before they are ranked, so that equal shifts are ties.
_STEP = 1e-6
# Up to this many contexts types are given as many columns as values: both then share one compiled program.
_SHARED = 2048


@dataclasses.dataclass(frozen=True)
class Analysed:
    """One level of analysis.

    Attributes:
        names: the columns.
        target: which of them are the target, [columns] bool.
        inference: everything `metrics.infer` finds.
        order_test: the randomisation test of the circle on types of equal size; None without a circle, where a type is
            missing, or values are not analysed.
        ipsatised_order_test: the same on ipsatised types, without what ipsatising itself makes.
        reliability: of each type's score, Cronbach's alpha over its member values, [columns]; None for values.
    """

    names: tuple[str, ...]
    target: np.ndarray
    inference: Inference
    order_test: OrderTest | None
    ipsatised_order_test: OrderTest | None
    reliability: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The tax of one intervention at both levels.

    Attributes:
        target, direction: what was pushed, and +1 or -1.
        levels: "types", "values", or both.
        joined: the two states on their common contexts.
        blank: how many common contexts were left out because no value is rated in both.
        reading: of nVAT.
        unit: of shifts: "points" of the scale, or the published -1 to 1.
        clusters: the keys that clusters are made of; two crossed ones are joined by "+".
        shift: post minus pre of each value, [contexts, values of the taxonomy].
        labelled: whether the states are labelled.
        target_is_values: whether the target is made of values alone, and no type.
    """

    target: str
    direction: int
    levels: dict[Level, Analysed]
    joined: states.Joined
    blank: int
    reading: Reading
    unit: Unit
    clusters: str
    shift: np.ndarray
    labelled: bool
    target_is_values: bool

    @property
    def level_of_target(self) -> Level:
        """The level at which the target is judged: values where it is made of values alone, else types."""
        if "types" not in self.levels or (self.target_is_values and "values" in self.levels):
            return "values"
        return "types"

    @property
    def finest(self) -> Analysed:
        """The level of values, or that of types where only that was asked for."""
        return self.levels["values"] if "values" in self.levels else self.levels["types"]

    def warnings(self) -> list[str]:
        """Returns what a reader must know before believing a number."""
        found = []
        inference = self.finest.inference
        if inference.clusters < FEW_CLUSTERS:
            found.append(
                f"only {inference.clusters} clusters: the 95 % intervals of coupling are too narrow below {FEW_CLUSTERS} clusters "
                "(with 12 they hold the truth in 83 to 90 % of cases, with fewer in less)"
            )
        if self.dominant is not None:
            found.append(
                f"one cluster holds {self.dominant:.0%} of the contexts: it decides every variance, so that no p of coupling is "
                "given, and intervals are wide or cannot be given; choose smaller clusters, or leave it out"
            )
        numeric = [key for key in self.joined.pre.meta.get("numeric_keys") or () if key in self.joined.keys]
        if numeric:
            rest = [key for key in self.joined.keys if key not in numeric]
            found.append(
                f"{names.listed(numeric)} is not a value of the taxonomy, and is taken as a context key although it holds "
                f"numbers on the scale: rows match only where it agrees; name the keys, such as --on {','.join(rest)}"
            )
        if self.unrated:
            found.append(f"values without a rating in both states: {names.listed(self.unrated)}")
        if self.joined.only_pre or self.joined.only_post:
            found.append(
                f"left out for want of a partner: {self.joined.only_pre} contexts of PRE, {self.joined.only_post} of POST"
            )
        if not self.joined.keys:
            found.append("rows were matched by their position, since no column is a context key")
        if self.blank:
            found.append(f"left out for want of any rating in both states: {self.blank} contexts")
        repeated = self._repeated()
        if repeated:
            found.append(
                f"every row is its own cluster, yet {' and '.join(repeated)} repeat: rows that share one may not be "
                f"independent; name it with --clusters {repeated[0]}"
            )
        if not bool(inference.resolved):
            found.append("the gain cannot be distinguished from 0, so no GND is given")
        for level, analysed in self.levels.items():
            if bool(analysed.inference.resolved) != bool(inference.resolved):
                can = "can" if analysed.inference.resolved else "cannot"
                found.append(f"at the level of {level} the gain {can} be distinguished from 0")
            constant = [analysed.names[i] for i in np.flatnonzero(np.isnan(analysed.inference.raw.vat))]
            if constant:
                found.append(
                    f"{level} without a correlation (constant, too few ratings, or no other column): {', '.join(constant)}"
                )
        return found

    @property
    def dominant(self) -> float | None:
        """The share of the contexts in the largest cluster, where that is too much for the null."""
        units, _ = states.cluster_labels(self.joined.pre, self.clusters)
        ways = units.reshape(len(units), -1).T
        sizes: list[Any] = [np.unique(column, return_counts=True)[1] for column in ways]
        shares = [float(size.max() / size.sum()) for size in sizes if metrics.dominated(size[None, :])]
        return max(shares, default=None)

    @property
    def unrated(self) -> list[str]:
        """Values that both tables have a column for, without a rating in both."""
        rated = ~np.isnan(self.shift).all(0)
        both = [name for name in self.joined.pre.values if name in self.joined.post.values]
        taxonomy = self.levels["values"].names if "values" in self.levels else ()
        return [name for name in both if name not in taxonomy] if taxonomy and not rated.all() else []

    def _repeated(self) -> list[str]:
        """Context keys that repeat where each row is its own cluster."""
        state = self.joined.pre
        rows = len(state.clusters)
        if self.clusters or len(np.unique(state.clusters)) < rows:
            return []
        return list(_repeating(state))


def analyse(
    pre: states.ValueState,
    post: states.ValueState,
    taxonomy: Taxonomy,
    target: str | Sequence[str],
    direction: int = 1,
    on: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    reading: Reading = "rms",
    levels: Sequence[Level] = LEVELS,
    order: bool = True,
    clusters: str = "",
    unit: Unit = "points",
) -> Analysis:
    """Joins two states and measures the tax.

    Args:
        pre, post: the states before and after.
        taxonomy: of their values.
        target: a value, a type or a group, in any spelling, or several.
        direction: +1 where it was to be expressed, -1 where it was to be suppressed.
        on: context keys to join on; all common ones by default.
        resamples: draws of the null.
        seed: of the resampling.
        reading: of nVAT.
        levels: of values, of types, or both.
        order: whether the circle is tested, which goes through all its arrangements.
        clusters: context keys whose rows belong together, as in `states.cluster_labels`.
        unit: of shifts.

    Raises:
        InputError: for an unknown target, one that no column rates, states without a common context, one context only.
    """
    targets = [taxonomy.spelt(name) for name in ([target] if isinstance(target, str) else target)]
    target, member = ", ".join(targets), np.any([taxonomy.mask(name) for name in targets], 0)
    joined = states.join(pre, post, on)
    contexts = len(joined.pre.clusters)
    _check_clusters(joined.pre, clusters, f"found {contexts} common contexts in one cluster")
    before, after = states.align(joined.pre, taxonomy), states.align(joined.post, taxonomy)
    rated = (before.mask & after.mask).any(1)
    blank = int((~rated).sum())
    if blank:
        rows = np.flatnonzero(rated)
        if not len(rows):
            raise errors.InputError(f"none of {contexts} common contexts has a value that is rated in both")
        joined = joined._replace(pre=joined.pre.take(rows), post=joined.post.take(rows))
        before, after = before.take(rows), after.take(rows)
        _check_clusters(joined.pre, clusters, f"of {contexts} common contexts {blank} have no rating in both")
    mask = before.mask & after.mask
    if not mask[:, member].any():
        present = [taxonomy.names[i] for i in np.flatnonzero(mask.any(0))]
        raise errors.InputError(
            f"no value of the target {target!r} is rated in both; rated are {names.listed(present)}"
        )
    shift = shift_of(before, after, mask, unit)
    labels = _labels(before, after)
    own = _own_rows(joined.pre, taxonomy, member)
    units, keys = states.cluster_labels(joined.pre, clusters)
    analysed: dict[Level, Analysed] = {}
    for level in levels:
        x = aggregated(shift, taxonomy, level)
        columns, chosen = _columns(taxonomy, level, mask, targets)
        width = len(taxonomy.names) if len(shift) <= _SHARED and len(levels) > 1 else len(columns)
        key = jax.random.key(len(LEVELS) * seed + LEVELS.index(level))
        # Values stand at their own places, so that each keeps its type; types are filled up to as many columns.
        places = columns if width == len(taxonomy.names) and level == "values" else np.arange(len(columns))
        wide, member_of = np.full((len(shift), width), np.nan), np.zeros(width, bool)
        wide[:, places] = x[:, columns]
        member_of[places] = chosen
        inference = metrics.infer_shift(
            wide.astype(np.float32),
            member_of,
            units,
            key,
            direction=direction,
            resamples=resamples,
            labels=None
            if labels is None
            else _wide(taxonomy.aggregate(labels, mask, level)[:, columns], places, width),
            missing=bool((~mask[:, mask.any(0)]).any()),
            first_order=own,
            type_of=taxonomy.type_of if level == "values" and width == len(taxonomy.type_of) else None,
        )
        inference = _narrow(inference, places)
        labels_of = tuple(taxonomy.level_names(level)[i] for i in columns)
        reliability = _reliability(taxonomy, shift, columns) if level == "types" else None
        analysed[level] = Analysed(labels_of, chosen, inference, None, None, reliability)
    if order and labels is None:
        analysed = _with_order(analysed, taxonomy)
    return Analysis(
        target,
        direction,
        analysed,
        joined,
        blank,
        reading,
        unit,
        keys,
        shift,
        labels is not None,
        set(targets) <= set(taxonomy.names),
    )


def _check_clusters(state: states.ValueState, clusters: str, problem: str) -> None:
    units, _ = states.cluster_labels(state, clusters)
    fewest = min((len(np.unique(column)) for column in units.reshape(len(units), -1).T), default=0)
    if fewest < 2:
        raise errors.InputError(f"{problem}; intervals need at least two clusters")


def shift_of(
    before: states.ValueState, after: states.ValueState, mask: np.ndarray, unit: Unit = "points"
) -> np.ndarray:
    """Returns what an intervention did, [contexts, values] float64, NaN where one of the ratings is missing.

    The difference is taken before anything is averaged and rounded to a millionth of a point: means of float32 ratings differ
    in their last digit, and ranks would break ties by it.

    Args:
        before, after: states of the same contexts and values.
        mask: where both have a rating.
        unit: "paper" divides by half of the scale's width, so that a rating lies in -1 to 1.
    """
    gap = np.where(mask, np.float64(after.state) - np.float64(before.state), np.nan)
    if unit == "paper":
        gap = gap / half_width(before)
    return np.round(gap / _STEP) * _STEP


def half_width(state: states.ValueState) -> float:
    """Returns half the width of the rating scale of a state; 2 where it does not say."""
    how = state.meta.get("how")
    ends = (how.get("low"), how.get("high")) if isinstance(how, Mapping) else tuple(state.meta.get("scale", (1, 5)))
    return abs(float(ends[1]) - float(ends[0])) / 2 if None not in ends else 2.0


def _labels(before: states.ValueState, after: states.ValueState) -> np.ndarray | None:
    """The labels of labelled states; refuses states that have none, or different ones."""
    named = [state.meta.get("how", {}).get("protocol") == "labelled" for state in (before, after)]
    if before.labels is None and after.labels is None:
        if any(named):
            raise errors.InputError(
                "the states are labelled, but do not hold their labels, which alone create coupling; rate again"
            )
        return None
    if before.labels is None or after.labels is None or not np.array_equal(before.labels, after.labels):
        raise errors.InputError("the two states have different labels, so that their difference does not mean a shift")
    return before.labels.astype(np.float64)


def _own_rows(state: states.ValueState, taxonomy: Taxonomy, member: np.ndarray) -> np.ndarray | None:
    """The contexts of a dense state whose own value is in the target; None in other states.

    Raises:
        InputError: where there are none.
    """
    if state.meta.get("how", {}).get("protocol") != "dense" or "value" not in state.contexts:
        return None
    chosen = np.array([bool(member[taxonomy.index(value)]) for value in state.contexts["value"]])
    if not chosen.any():
        raise errors.InputError("no context is about a value of the target, so that no gain can be measured")
    return chosen


def _wide(x: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    wide = np.zeros((len(x), width), np.float32)
    wide[:, places] = x
    return wide


def _narrow(inference: Inference, places: np.ndarray) -> Inference:
    """The inference of the columns that are rated alone."""
    width = inference.raw.vat.shape[-1]
    equal = inference.equal

    def cut(x: Any) -> np.ndarray:
        x = np.asarray(x)
        for axis in range(x.ndim):
            if x.shape[axis] == width:
                x = x.take(places, axis)
        return x

    return jax.tree.map(cut, inference._replace(equal=None))._replace(
        contexts=inference.contexts, clusters=inference.clusters, equal=equal
    )


def _columns(
    taxonomy: Taxonomy, level: Level, mask: np.ndarray, targets: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The columns that have any rating, and which of them are the target; a value's type stands for it at that level."""
    columns = np.flatnonzero([mask[:, group].any() for group in taxonomy.members(level)])
    return columns, np.any([taxonomy.columns(name, level) for name in targets], 0)[columns]


def _reliability(taxonomy: Taxonomy, shift: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cronbach's alpha of each type's shift over its member values; NaN for a type of one value."""
    found = np.full(len(columns), np.nan)
    for place, column in enumerate(columns):
        group = taxonomy.members("types")[column]
        if len(group) > 1:
            found[place] = float(np.asarray(metrics.reliability(shift[:, group].T[:, :, None]))[0])
    return found


def _with_order(analysed: dict[Level, Analysed], taxonomy: Taxonomy) -> dict[Level, Analysed]:
    """Adds the test of the circle's order: on types of equal size, and on ipsatised types."""
    if "types" not in analysed or not taxonomy.circle or analysed["types"].names != taxonomy.types:
        return analysed
    if not 4 <= len(taxonomy.types) <= 10:
        return analysed
    own, sectors = analysed["types"], tuple(taxonomy.sector_of.tolist())
    identity = np.eye(len(own.names), dtype=bool)
    ipsatised = own.inference.ipsatised
    excess = np.where(identity, 1, ipsatised.coupling.estimate - ipsatised.expected).astype(np.float32)
    tests = [metrics.order_test(excess, sectors)]
    values = analysed.get("values")
    if values is not None and values.inference.equal is not None:
        tests.append(metrics.order_test(np.asarray(values.inference.equal.coupling), sectors))
    tests = [jax.tree.map(np.asarray, test) for test in tests]
    found = dataclasses.replace(own, ipsatised_order_test=tests[0], order_test=tests[1] if len(tests) > 1 else None)
    return {**analysed, "types": found}


def equivalence(analysis: Analysis, margin: float) -> dict[str, Any]:
    """Returns the test that every type off target moved by less than a margin, either way.

    Two one-sided tests a type; all of them must pass, so that the largest p is that of the whole.
    """
    own = analysis.levels.get("types", analysis.finest)
    first = own.inference.first
    off = ~np.asarray(own.target) & ~np.isnan(first.shift.estimate)
    if not off.any():
        return {"margin": margin, "p": None}
    half = (first.shift.high - first.shift.low)[off] / 2
    # The interval is t errors wide: its quantile gives the error back.
    units, _ = states.cluster_labels(analysis.joined.pre, analysis.clusters)
    freedom = max(1.0, metrics.freedom(units))
    error = np.maximum(half / special.stdtrit(freedom, 0.975), 1e-12)
    t = (margin - np.abs(first.shift.estimate[off])) / error
    p = float(special.stdtr(freedom, -t).max(initial=0.0))
    return {"margin": margin, "p": number(p)}


# Against a placebo --------------------------------------------------------------------------------------------------


def level_shift(
    before: states.ValueState, after: states.ValueState, taxonomy: Taxonomy, level: Level, unit: Unit = "points"
) -> np.ndarray:
    """Returns what an intervention did at a level, [contexts, all columns of the level] float32; NaN where nothing is rated.

    Args:
        before, after: states of the same contexts, in the same order.
        taxonomy: of their values.
        level: to aggregate to.
        unit: of the shift.
    """
    before, after = states.align(before, taxonomy), states.align(after, taxonomy)
    return aggregated(shift_of(before, after, before.mask & after.mask, unit), taxonomy, level).astype(np.float32)


def aggregated(shift: np.ndarray, taxonomy: Taxonomy, level: Level) -> np.ndarray:
    """Returns the shifts of a level from those of all values, [contexts, all columns of the level] float64, rounded for ranks."""
    aggregated: np.ndarray = np.round(taxonomy.aggregate(shift, ~np.isnan(shift), level) / _STEP) * _STEP
    return aggregated


def beyond(analysis: Analysis, placebos: Sequence[states.ValueState], taxonomy: Taxonomy) -> dict[str, Any]:
    """Returns how far an intervention goes beyond its placebo, as JSON data.

    Args:
        analysis: of the intervention.
        placebos: states after each draw of the placebo, in the same contexts.
        taxonomy: of the values.

    Raises:
        InputError: where a placebo lacks one of the contexts.
    """
    pre = analysis.joined.pre
    units, _ = states.cluster_labels(pre, analysis.clusters)
    level = analysis.level_of_target
    own = analysis.levels[level]
    columns = [taxonomy.level_names(level).index(name) for name in own.names]
    draws = []
    for placebo in placebos:
        joined = states.join(pre, placebo, analysis.joined.keys or None)
        if joined.only_pre:
            raise errors.InputError(
                f"the placebo lacks {joined.only_pre} of the {len(pre.clusters)} contexts of PRE and POST; it is needed in the same"
            )
        draws.append(level_shift(pre, joined.post, taxonomy, level, analysis.unit)[:, columns])
    moved = aggregated(analysis.shift, taxonomy, level)[:, columns].astype(np.float32)
    return beyond_draws(moved, draws, np.asarray(own.target), units, analysis.direction)


def beyond_draws(
    moved: np.ndarray, draws: Sequence[np.ndarray], target: np.ndarray, clusters: np.ndarray, direction: int
) -> dict[str, Any]:
    """Returns how far a shift goes beyond the draws of its placebo, as JSON data.

    Values move together under any intervention where answers are expectations: only the comparison with a placebo says
    whether these values do so because of this one.

    Args:
        moved: of the intervention, [contexts, columns].
        draws: of the placebo, likewise; none gives nothing.
        target: which columns are the target, [columns] bool.
        clusters: [contexts] or [contexts, 2] labels.
        direction: +1 or -1.
    """
    raw: list[metrics.Difference] = []
    ipsatised: list[metrics.Difference] = []
    for draw in draws:
        rated = ~np.isnan(moved).all(0) & ~np.isnan(draw).all(0)
        if not (rated & target).any():
            raise errors.InputError("the placebo rates no value of the target")
        pair: list[Any] = [x[:, rated] for x in (moved, draw)]
        for found, both in ((raw, pair), (ipsatised, [np.asarray(metrics.ipsatise(x)) for x in pair])):
            compared = metrics.difference(both[0], both[1], target[rated], clusters, direction)
            found.append(jax.tree.map(np.asarray, compared))
    return {
        "draws": len(draws),
        "gain": over_draws([one.gain for one in raw]),
        "off_target_shift": over_draws([one.off_target_shift for one in raw]),
        "nvat": over_draws([one.nvat for one in raw]),
        "p_nvat": _p_beyond(raw),
        "ipsatised_nvat": over_draws([one.nvat for one in ipsatised]),
        "ipsatised_p_nvat": _p_beyond(ipsatised),
    }


def _p_beyond(differences: Sequence[metrics.Difference]) -> float | None:
    """The p of the draw that comes nearest; 1 where a draw has as much coupling: then nothing goes beyond it."""
    p = [1.0 if float(one.nvat.estimate) <= 0 else float(one.p_nvat) for one in differences]
    return None if np.isnan(p).any() else number(max(p, default=math.nan))


def over_draws(differences: Sequence[Estimate]) -> dict[str, float | None]:
    """Returns the mean difference from the draws of a placebo, with a prediction interval for another draw.

    Another random vector, or other random examples, would have given another difference: the variance over draws joins that
    over scenes. One draw does not show it, and gives no interval.

    Args:
        differences: the intervention minus each draw. An empty list gives None.
    """
    if not differences:
        return {"estimate": None, "low": None, "high": None}
    estimates = np.array([float(one.estimate) for one in differences])
    mean, draws = float(estimates.mean()), len(estimates)
    if draws < 2:
        return {"estimate": number(mean), "low": None, "high": None}
    scenes = np.sqrt(np.mean([(float(one.high) - float(one.low)) ** 2 for one in differences])) / 2
    spread = special.stdtrit(draws - 1, 0.975) * estimates.std(ddof=1) * np.sqrt(1 + 1 / draws)
    half = float(np.hypot(scenes, spread))
    return {"estimate": number(mean), "low": number(mean - half), "high": number(mean + half)}


# As plain data ------------------------------------------------------------------------------------------------------


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Returns the analysis as JSON data: estimates as estimate, low and high, and null for a missing number.

    At the top level stand the numbers of the values, if they were asked for; all levels stand under `levels`.
    """
    levels = {level: _level(level, analysed, analysis) for level, analysed in analysis.levels.items()}
    finest = analysis.finest
    state, dominant = analysis.joined.pre, analysis.dominant
    found: dict[str, Any] = {
        "n": int(finest.inference.contexts),
        "clusters": int(finest.inference.clusters),
        "cluster_keys": analysis.clusters,
        "intraclass": {key: number(x) for key, x in intraclass(analysis).items()},
        "target": analysis.target,
        "target_level": analysis.level_of_target,
        "direction": "express" if analysis.direction > 0 else "suppress",
        "reading": analysis.reading,
        "unit": analysis.unit,
        "scale": state.meta.get("scale"),
        "width": number(2.0 if analysis.unit == "paper" else 2 * half_width(state)),
        "ratings_found": _found(state.meta, analysis.joined.post.meta),
        "changed": bool(np.nanmax(np.abs(analysis.shift)) > 0),
        "largest_cluster": dominant if dominant is None else number(dominant),
        "unrated": analysis.unrated,
        "missing": missing(analysis),
        **levels["values" if "values" in levels else "types"],
        "levels": levels,
        "left_out": {
            "pre": analysis.joined.only_pre,
            "post": analysis.joined.only_post,
            "blank": analysis.blank,
        },
        "warnings": analysis.warnings(),
    }
    for level, own in analysis.levels.items():
        found[level] = list(own.names)
    if "types" in levels:
        found["order_test"] = levels["types"]["order_test"]
    return found


def _found(*metas: Mapping[str, Any]) -> list[float] | None:
    """The lowest and the highest rating in both tables."""
    ends = [found for meta in metas if (found := meta.get("found"))]
    return [min(low for low, _ in ends), max(high for _, high in ends)] if ends else None


def missing(analysis: Analysis) -> dict[str, int]:
    """Returns how many cells of the rated columns have no rating in one of the states, of how many."""
    rated = analysis.shift[:, ~np.isnan(analysis.shift).all(0)]
    return {"cells": int(np.isnan(rated).sum()), "of": int(rated.size)}


def intraclass(analysis: Analysis) -> dict[str, float]:
    """Returns the intraclass correlation of shifts by each context key, the median over values.

    That is how much of a shift's variance contexts with the same country, topic or scene share: where it is not small,
    they are not independent.
    """
    found = {}
    for key, labels in _repeating(analysis.joined.pre).items():
        columns = intraclass_correlation(analysis.shift, labels)
        known = columns[~np.isnan(columns)]
        found[key] = float(np.median(known)) if known.size else float("nan")
    return found


def _repeating(state: states.ValueState) -> dict[str, np.ndarray]:
    """The context keys whose entries repeat."""
    rows = len(state.clusters)
    return {key: column for key, column in state.contexts.items() if 1 < len(set(column.tolist())) <= rows / 2}


def intraclass_correlation(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the one-way intraclass correlation of each column, `(B - W) / (B + (m - 1) W)`, [columns].

    B and W are the mean squares between and within labels, m the mean size corrected for unequal ones.
    """
    _, index = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    found = []
    for column in np.asarray(x, np.float64).T:
        present = ~np.isnan(column)
        size = np.bincount(index[present], minlength=index.max() + 1)
        size = size[size > 0]
        count, n = len(size), size.sum()
        if count < 2 or n <= count:
            found.append(np.nan)
            continue
        _, own = np.unique(index[present], return_inverse=True)
        mean = np.bincount(own, column[present]) / size
        within = ((column[present] - mean[own]) ** 2).sum() / (n - count)
        between = (size * (mean - column[present].mean()) ** 2).sum() / (count - 1)
        each = (n - (size**2).sum() / n) / (count - 1)
        bottom = between + (each - 1) * within
        found.append((between - within) / bottom if bottom > 0 else np.nan)
    return np.array(found)


def _level(level: Level, analysed: Analysed, analysis: Analysis) -> dict[str, Any]:
    inference, columns = analysed.inference, analysed.names
    raw_coupled, ipsatised_coupled = inference.raw, inference.ipsatised
    if inference.contexts < 3:  # a correlation of two points is 1 or -1, whatever they are
        raw_coupled, ipsatised_coupled = (
            jax.tree.map(lambda x: np.full(np.shape(x), np.nan), one) for one in (raw_coupled, ipsatised_coupled)
        )
    ipsatised = _kind(inference.ipsatised_first, ipsatised_coupled, columns, analysis.reading)
    for first_order in ("shift", "shift_holm", "off_target"):  # against 0, where ipsatising alone moves every value
        del ipsatised["p"][first_order]
    raw = _kind(inference.first, raw_coupled, columns, analysis.reading)
    if level == "types":
        raw |= _equal_hubs(analysed, analysis)
    return {
        "names": list(columns),
        "target_names": [name for name, chosen in zip(columns, analysed.target, strict=True) if chosen],
        **raw,
        "order_test": _order_json(analysed.order_test),
        "ipsatised": {
            **ipsatised,
            "mechanical_gnd": number(inference.mechanical) if inference.resolved else None,
            "order_test": _order_json(analysed.ipsatised_order_test),
        },
        "reliability": None
        if analysed.reliability is None
        else {name: number(x) for name, x in zip(columns, analysed.reliability, strict=True)},
        "coupling_disattenuated": None
        if analysed.reliability is None
        else [
            [number(x) for x in row]
            for row in np.asarray(metrics.disattenuate(inference.raw.coupling.estimate, analysed.reliability))
        ],
    }


def _equal_hubs(analysed: Analysed, analysis: Analysis) -> dict[str, Any]:
    """Hubs among types of equal size, which need the values: large types are less noisy and would look like hubs."""
    values = analysis.levels.get("values")
    equal = None if values is None else values.inference.equal
    if equal is None or len(equal.hub_p) != len(analysed.names):
        return {"hub": None, "hub_p": None}
    return {
        "hub": _by_name(analysed.names, equal.hub),
        "hub_p": {name: number(p) for name, p in zip(analysed.names, equal.hub_p, strict=True)},
    }


def _kind(first: metrics.Moved, coupled: metrics.Coupled, columns: tuple[str, ...], reading: Reading) -> dict[str, Any]:
    """The numbers of one kind of shifts, raw or ipsatised. The interval of `nvat` is that of `nvat_debiased`."""
    correlated = int(np.sum(~np.isnan(coupled.vat)))
    excess = np.where(np.eye(len(columns), dtype=bool), 1, coupled.coupling.estimate - coupled.expected)
    l2 = np.asarray(metrics.vat(excess, "l2"))

    def read(x: Any) -> float | None:
        return number(metrics.as_reading(np.asarray(x), correlated, reading))

    def named(x: Any) -> dict[str, float | None]:
        return {name: number(entry) for name, entry in zip(columns, x, strict=True)}

    def matrix(x: Any) -> list[list[float | None]]:
        return [[number(entry) for entry in row] for row in x]

    return {
        "gain": estimate(first.gain),
        "resolved": bool(first.resolved),
        "shift": _by_name(columns, first.shift),
        "shift_band": _by_name(columns, first.band),
        "gnd": _by_name(columns, first.gnd),
        "off_target": estimate(first.off_target),
        "off_target_shift": estimate(first.off_target_shift),
        "bound": number(first.bound),
        "detectable": {"gain": number(first.detectable), "nvat": read(coupled.detectable)},
        "design_effect": named(first.design_effect),
        "coupling": {part: matrix(value) for part, value in _parts(coupled.coupling)},
        "coupling_band": {"low": matrix(coupled.band.low), "high": matrix(coupled.band.high)},
        "coupling_points": estimate(coupled.covariance),
        "vat": named(coupled.vat),
        "vat_debiased": _by_name(columns, coupled.vat_debiased),
        "vat_l2": named(l2),
        "nvat": {part: read(value) for part, value in _parts(coupled.nvat)},
        "nvat_debiased": {part: read(value) for part, value in _parts(coupled.debiased)},
        "gini": number(coupled.gini),
        "gini_l2": number(metrics.gini(l2)),
        "floor": {
            "nvat": read(coupled.floor),
            "nvat_95": read(coupled.floor_high),
            "vat": named(coupled.vat_floor),
            "vat_95": named(coupled.vat_floor_high),
            "gini": number(coupled.gini_floor),
            "gini_95": number(coupled.gini_floor_high),
        },
        "p": {
            "gain": number(first.gain_p),
            "shift": named(first.shift_p),
            "shift_holm": named(first.shift_holm),
            "off_target": number(first.off_target_p),
            "nvat": number(coupled.p),
            "vat": named(coupled.vat_p),
            "vat_together": named(coupled.vat_together),
            "gini": number(coupled.gini_p),
        },
        "hub": _by_name(columns, coupled.hub),
        "hub_p": named(coupled.hub_p),
    }


def _parts(estimate: Estimate) -> tuple[tuple[str, Any], ...]:
    return tuple(estimate._asdict().items())


def estimate(one: Estimate) -> dict[str, float | None]:
    """Returns an estimate with its interval."""
    return {part: number(value) for part, value in _parts(one)}


def _by_name(columns: tuple[str, ...], estimate: Estimate) -> dict[str, dict[str, float | None]]:
    parts = _parts(estimate)
    return {name: {part: number(value[i]) for part, value in parts} for i, name in enumerate(columns)}


def _order_json(test: OrderTest | None) -> dict[str, Any] | None:
    if test is None:
        return None
    return {
        "index": number(test.correspondence),
        "p": number(test.p),
        "comparisons": int(test.comparisons),
        "arrangements": int(test.arrangements),
    }


def number(x: Any) -> float | None:
    """Returns a number with the seven digits that float32 has; None where there is none."""
    number = float(x) + 0.0  # no -0
    return float(f"{number:.7g}") if math.isfinite(number) else None
