"""Analysis of two value states: the tax at the level of types and of values, as plain data for reports."""

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
RESAMPLES = 2000  # draws of the null
Unit = Literal["points", "paper"]
UNITS: tuple[Unit, ...] = ("points", "paper")
# Below this many clusters intervals of coupling have less than nominal coverage (scripts/calibrate.py).
FEW_CLUSTERS = 30
# Shifts are rounded to this share of the scale before they are ranked, so that equal shifts are ties.
_STEP = 1e-6
# Up to this many contexts types are padded to as many columns as values: both then share one compiled program.
_SHARED = 2048


@dataclasses.dataclass(frozen=True)
class LevelAnalysis:
    """Results at one level of analysis.

    Attributes:
        names: the columns.
        target: whether each column is in the target, [columns] bool.
        inference: the output of `metrics.infer_shift`.
        order_test: the randomisation test of the circle on types of equal size; None without a circle, if a type is
            missing, or if values are not analysed.
        ipsatised_order_test: the same on ipsatised types, without the coupling that ipsatising itself creates.
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
    """Tax of one intervention at both levels.

    Attributes:
        target, direction: the names of the target, and +1 or -1.
        levels: "types", "values", or both.
        joined: the two states on their common contexts.
        blank: number of common contexts left out because no value is rated in both.
        reading: of nVAT.
        unit: of shifts: "points" of the scale, or the published -1 to 1.
        clusters: the context keys that define clusters; two crossed ones are joined by "+".
        shift: post minus pre of each value, [contexts, values of the taxonomy].
        labelled: whether the states are labelled.
        target_is_values: whether the target is made of values alone, and no type.
    """

    target: str
    direction: int
    levels: dict[Level, LevelAnalysis]
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
        """Returns the level at which the target is judged: values if it consists of values alone, else types."""
        if "types" not in self.levels or (self.target_is_values and "values" in self.levels):
            return "values"
        return "types"

    @property
    def finest(self) -> LevelAnalysis:
        """Returns the results for values, or those for types if values were not analysed."""
        return self.levels["values"] if "values" in self.levels else self.levels["types"]

    def warnings(self) -> list[str]:
        """Returns the warnings that a reader needs to interpret the numbers."""
        messages = []
        inference = self.finest.inference
        if inference.clusters < FEW_CLUSTERS:
            messages.append(
                f"only {inference.clusters} clusters: the 95 % intervals of coupling are too narrow below "
                f"{FEW_CLUSTERS} clusters (with 12 their coverage is 83 to 90 %, with fewer it is lower)"
            )
        if self.dominant is not None:
            messages.append(
                f"one cluster holds {self.dominant:.0%} of the contexts and dominates every variance: p of coupling "
                "cannot be given, and intervals are wide or cannot be given; choose smaller clusters, or leave it out"
            )
        numeric = [key for key in self.joined.pre.meta.get("numeric_keys") or () if key in self.joined.keys]
        if numeric:
            rest = [key for key in self.joined.keys if key not in numeric]
            messages.append(
                f"{names.short_list(numeric)} is not a value of the taxonomy, and is used as a context key although it "
                f"holds numbers on the scale: rows match only where it agrees; name the keys, such as "
                f"--on {','.join(rest)}"
            )
        if self.unrated:
            messages.append(f"values without a rating in both states: {names.short_list(self.unrated)}")
        if self.joined.only_pre or self.joined.only_post:
            messages.append(
                f"left out without a match: {self.joined.only_pre} contexts of PRE, {self.joined.only_post} of POST"
            )
        if not self.joined.keys:
            messages.append("rows were matched by position, since no column is a context key")
        if self.blank:
            messages.append(f"left out without any rating in both states: {self.blank} contexts")
        repeated = self._repeated()
        if repeated:
            messages.append(
                f"every row is its own cluster, yet {' and '.join(repeated)} repeat: rows with the same key may not be "
                f"independent; name it with --clusters {repeated[0]}"
            )
        if not bool(inference.resolved):
            messages.append("the gain cannot be distinguished from 0, so no GND is given")
        for level, analysed in self.levels.items():
            if bool(analysed.inference.resolved) != bool(inference.resolved):
                can = "can" if analysed.inference.resolved else "cannot"
                messages.append(f"at the level of {level} the gain {can} be distinguished from 0")
            constant = [analysed.names[i] for i in np.flatnonzero(np.isnan(analysed.inference.raw.vat))]
            if constant:
                messages.append(
                    f"{level} without a correlation (constant, too few ratings, or no other column): {', '.join(constant)}"
                )
        return messages

    @property
    def dominant(self) -> float | None:
        """Returns the share of contexts in the largest cluster if it is too large for the null, else None."""
        units, _ = states.cluster_labels(self.joined.pre, self.clusters)
        ways = units.reshape(len(units), -1).T
        sizes: list[Any] = [np.unique(column, return_counts=True)[1] for column in ways]
        shares = [float(size.max() / size.sum()) for size in sizes if metrics.has_dominant_cluster(size[None, :])]
        return max(shares, default=None)

    @property
    def unrated(self) -> list[str]:
        """Returns the values with a column in both tables, but without a rating in both."""
        rated = ~np.isnan(self.shift).all(0)
        both = [name for name in self.joined.pre.values if name in self.joined.post.values]
        taxonomy = self.levels["values"].names if "values" in self.levels else ()
        return [name for name in both if name not in taxonomy] if taxonomy and not rated.all() else []

    def _repeated(self) -> list[str]:
        """Returns context keys that repeat, if each row is its own cluster."""
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
    resamples: int = RESAMPLES,
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
        order: whether to test the order of the circle, over all its arrangements.
        clusters: context keys whose rows belong together, as in `states.cluster_labels`.
        unit: of shifts.

    Raises:
        InputError: for an unknown target, one that no column rates, states without a common context, one context only.
    """
    targets = [taxonomy.spelling(name) for name in ([target] if isinstance(target, str) else target)]
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
            f"no value of the target {target!r} is rated in both; rated are {names.short_list(present)}"
        )
    shift = shift_of(before, after, mask, unit)
    labels = _labels(before, after)
    first_order = _own_rows(joined.pre, taxonomy, member)
    units, keys = states.cluster_labels(joined.pre, clusters)
    analysed: dict[Level, LevelAnalysis] = {}
    for level in levels:
        x = aggregate_shift(shift, taxonomy, level)
        columns, chosen = _columns(taxonomy, level, mask, targets)
        width = len(taxonomy.names) if len(shift) <= _SHARED and len(levels) > 1 else len(columns)
        key = jax.random.key(len(LEVELS) * seed + LEVELS.index(level))
        # Values keep their places in the taxonomy, and so their types; types are padded to as many columns.
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
            else _pad_columns(taxonomy.aggregate(labels, mask, level)[:, columns], places, width),
            missing=bool((~mask[:, mask.any(0)]).any()),
            first_order=first_order,
            type_of=taxonomy.type_of if level == "values" and width == len(taxonomy.type_of) else None,
        )
        inference = _drop_padding(inference, places)
        labels_of = tuple(taxonomy.level_names(level)[i] for i in columns)
        reliability = _reliability(taxonomy, shift, columns) if level == "types" else None
        analysed[level] = LevelAnalysis(labels_of, chosen, inference, None, None, reliability)
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
    """Returns the shift of each rating, [contexts, values] float64, NaN where one of the ratings is missing.

    The difference is taken before averaging and rounded to a millionth of a point: means of float32 ratings differ in
    their last digit, and ranks would break ties by it.

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
    """Returns half the width of the rating scale of a state; 2 if its metadata do not give the scale."""
    how = state.meta.get("how")
    ends = (how.get("low"), how.get("high")) if isinstance(how, Mapping) else tuple(state.meta.get("scale", (1, 5)))
    return abs(float(ends[1]) - float(ends[0])) / 2 if None not in ends else 2.0


def share_at_ends(before: states.ValueState, after: states.ValueState) -> float:
    """Returns the share of the ratings, before or after, that lie at an end of the scale; NaN without ratings."""
    ends = []
    for state in (before, after):
        width = half_width(state)
        ends.append(np.abs(state.state[state.mask]) >= width * (1 - 1e-6))
    return float(np.mean(np.concatenate(ends))) if sum(map(len, ends)) else math.nan


def _labels(before: states.ValueState, after: states.ValueState) -> np.ndarray | None:
    """Returns the labels of labelled states; raises InputError if they are missing or differ."""
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
    """Returns the mask of a dense state's contexts whose own value is in the target; None for other states.

    Raises:
        InputError: if the mask is empty.
    """
    if state.meta.get("how", {}).get("protocol") != "dense" or "value" not in state.contexts:
        return None
    chosen = np.array([bool(member[taxonomy.index(value)]) for value in state.contexts["value"]])
    if not chosen.any():
        raise errors.InputError("no context is about a value of the target, so that no gain can be measured")
    return chosen


def _pad_columns(x: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    wide = np.zeros((len(x), width), np.float32)
    wide[:, places] = x
    return wide


def _drop_padding(inference: Inference, places: np.ndarray) -> Inference:
    """Removes the padding columns from an inference."""
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
    """Returns the columns with any rating, and whether each is in the target; a value counts through its type there."""
    columns = np.flatnonzero([mask[:, group].any() for group in taxonomy.members(level)])
    return columns, np.any([taxonomy.column_mask(name, level) for name in targets], 0)[columns]


def _reliability(taxonomy: Taxonomy, shift: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Computes Cronbach's alpha of each type's shift over its member values; NaN for a type of one value."""
    alphas = np.full(len(columns), np.nan)
    for place, column in enumerate(columns):
        group = taxonomy.members("types")[column]
        if len(group) > 1:
            alphas[place] = float(np.asarray(metrics.reliability(shift[:, group].T[:, :, None]))[0])
    return alphas


def _with_order(analysed: dict[Level, LevelAnalysis], taxonomy: Taxonomy) -> dict[Level, LevelAnalysis]:
    """Adds the test of the circle's order: on types of equal size, and on ipsatised types."""
    if "types" not in analysed or not taxonomy.circle or analysed["types"].names != taxonomy.types:
        return analysed
    if not 4 <= len(taxonomy.types) <= 10:
        return analysed
    type_level, sectors = analysed["types"], tuple(taxonomy.sector_of.tolist())
    identity = np.eye(len(type_level.names), dtype=bool)
    ipsatised = type_level.inference.ipsatised
    excess = np.where(identity, 1, ipsatised.coupling.estimate - ipsatised.expected).astype(np.float32)
    tests = [metrics.order_test(excess, sectors)]
    values = analysed.get("values")
    if values is not None and values.inference.equal is not None:
        tests.append(metrics.order_test(np.asarray(values.inference.equal.coupling), sectors))
    tests = [jax.tree.map(np.asarray, test) for test in tests]
    tested = dataclasses.replace(
        type_level, ipsatised_order_test=tests[0], order_test=tests[1] if len(tests) > 1 else None
    )
    return {**analysed, "types": tested}


def equivalence_test(analysis: Analysis, margin: float) -> dict[str, Any]:
    """Tests that every type off target moved by less than a margin in either direction.

    Each type takes two one-sided tests. All must pass, so the largest p is that of the whole.
    """
    analysed = analysis.levels.get("types", analysis.finest)
    first = analysed.inference.first
    off = ~np.asarray(analysed.target) & ~np.isnan(first.shift.estimate)
    if not off.any():
        return {"margin": margin, "p": None}
    half = (first.shift.high - first.shift.low)[off] / 2
    # Half an interval is the quantile of t times the error.
    units, _ = states.cluster_labels(analysis.joined.pre, analysis.clusters)
    freedom = max(1.0, metrics.degrees_of_freedom(units))
    error = np.maximum(half / special.stdtrit(freedom, 0.975), 1e-12)
    t = (margin - np.abs(first.shift.estimate[off])) / error
    p = float(special.stdtr(freedom, -t).max(initial=0.0))
    return {"margin": margin, "p": json_number(p)}


# Against a placebo --------------------------------------------------------------------------------------------------


def level_shift(
    before: states.ValueState, after: states.ValueState, taxonomy: Taxonomy, level: Level, unit: Unit = "points"
) -> np.ndarray:
    """Returns the shifts at a level, [contexts, all columns of the level] float32; NaN where nothing is rated.

    Args:
        before, after: states of the same contexts, in the same order.
        taxonomy: of their values.
        level: to aggregate to.
        unit: of the shift.
    """
    before, after = states.align(before, taxonomy), states.align(after, taxonomy)
    return aggregate_shift(shift_of(before, after, before.mask & after.mask, unit), taxonomy, level).astype(np.float32)


def aggregate_shift(shift: np.ndarray, taxonomy: Taxonomy, level: Level) -> np.ndarray:
    """Aggregates the shifts of values to a level, [contexts, all columns of the level] float64, rounded for ranks."""
    aggregated: np.ndarray = np.round(taxonomy.aggregate(shift, ~np.isnan(shift), level) / _STEP) * _STEP
    return aggregated


def beyond_placebo(analysis: Analysis, placebos: Sequence[states.ValueState], taxonomy: Taxonomy) -> dict[str, Any]:
    """Returns the differences between an intervention and its placebo, as JSON data.

    Args:
        analysis: of the intervention.
        placebos: states after each draw of the placebo, in the same contexts.
        taxonomy: of the values.

    Raises:
        InputError: if a placebo lacks any of the contexts.
    """
    pre = analysis.joined.pre
    units, _ = states.cluster_labels(pre, analysis.clusters)
    level = analysis.level_of_target
    analysed = analysis.levels[level]
    columns = [taxonomy.level_names(level).index(name) for name in analysed.names]
    draws = []
    for placebo in placebos:
        joined = states.join(pre, placebo, analysis.joined.keys or None)
        if joined.only_pre:
            raise errors.InputError(
                f"the placebo lacks {joined.only_pre} of the {len(pre.clusters)} contexts of PRE and POST; "
                "rate it in all of them"
            )
        draws.append(level_shift(pre, joined.post, taxonomy, level, analysis.unit)[:, columns])
    moved = aggregate_shift(analysis.shift, taxonomy, level)[:, columns].astype(np.float32)
    return beyond_draws(moved, draws, np.asarray(analysed.target), units, analysis.direction, analysis.reading)


def nvat_in_reading(difference: Estimate, reading: Reading, values: int) -> Estimate:
    """Returns a difference of nVAT, which is one of `rms`, in another reading; NaN in `full`, which is not linear in it.

    Args:
        difference: in the reading rms, from 0 to 1.
        reading: rms = |R_off| / sqrt(V(V-1)), offdiag = |R_off| / sqrt(V), full = |R| / sqrt(V).
        values: V.
    """
    factor = {"rms": 1.0, "offdiag": math.sqrt(max(values - 1, 0)), "full": math.nan}[reading]
    scaled: Any = [np.asarray(part) * factor for part in difference]
    return Estimate(*scaled)


def beyond_draws(
    moved: np.ndarray,
    draws: Sequence[np.ndarray],
    target: np.ndarray,
    clusters: np.ndarray,
    direction: int,
    reading: Reading = "rms",
) -> dict[str, Any]:
    """Returns the differences between a shift and the draws of its placebo, as JSON data.

    If answers are expectations, values move together under any intervention: only the comparison with a placebo shows
    whether they do so because of this one.

    Args:
        moved: of the intervention, [contexts, columns].
        draws: of the placebo, likewise; may be empty.
        target: whether each column is in the target, [columns] bool.
        clusters: [contexts] or [contexts, 2] labels.
        direction: +1 or -1.
        reading: of nVAT.
    """
    raw: list[metrics.Difference] = []
    ipsatised: list[metrics.Difference] = []
    values = len(target)
    for draw in draws:
        rated = ~np.isnan(moved).all(0) & ~np.isnan(draw).all(0)
        if not (rated & target).any():
            raise errors.InputError("the placebo rates no value of the target")
        absent = np.isnan(moved) | np.isnan(draw)
        pair: list[Any] = [np.where(absent, np.float32(np.nan), x)[:, rated] for x in (moved, draw)]
        for differences, both in ((raw, pair), (ipsatised, [np.asarray(metrics.ipsatise(x)) for x in pair])):
            compared = metrics.difference(both[0], both[1], target[rated], clusters, direction)
            differences.append(jax.tree.map(np.asarray, compared))
        values = int(rated.sum())

    def nvat(differences: Sequence[metrics.Difference]) -> dict[str, float | None]:
        return average_over_draws([nvat_in_reading(difference.nvat, reading, values) for difference in differences])

    return {
        "draws": len(draws),
        "gain": average_over_draws([difference.gain for difference in raw]),
        "off_target_shift": average_over_draws([difference.off_target_shift for difference in raw]),
        "nvat": nvat(raw),
        "p_nvat": _p_beyond(raw),
        "ipsatised_nvat": nvat(ipsatised),
        "ipsatised_p_nvat": _p_beyond(ipsatised),
    }


def _p_beyond(differences: Sequence[metrics.Difference]) -> float | None:
    """Returns the largest p over draws, 1 if a draw has as much coupling as the intervention."""
    p = [1.0 if float(difference.nvat.estimate) <= 0 else float(difference.p_nvat) for difference in differences]
    return None if np.isnan(p).any() else json_number(max(p, default=math.nan))


def average_over_draws(differences: Sequence[Estimate]) -> dict[str, float | None]:
    """Returns the mean difference from the draws of a placebo, with a prediction interval for another draw.

    Another random vector, or other random examples, would give another difference: the variance over draws is added to
    that over scenes. A single draw has no such variance, and gives no interval.

    Args:
        differences: the intervention minus each draw. An empty list gives None.
    """
    if not differences:
        return {"estimate": None, "low": None, "high": None}
    estimates = np.array([float(difference.estimate) for difference in differences])
    mean, draws = float(estimates.mean()), len(estimates)
    if draws < 2:
        return {"estimate": json_number(mean), "low": None, "high": None}
    scenes = np.sqrt(np.mean([(float(difference.high) - float(difference.low)) ** 2 for difference in differences])) / 2
    spread = special.stdtrit(draws - 1, 0.975) * estimates.std(ddof=1) * np.sqrt(1 + 1 / draws)
    half = float(np.hypot(scenes, spread))
    return {"estimate": json_number(mean), "low": json_number(mean - half), "high": json_number(mean + half)}


# As plain data ------------------------------------------------------------------------------------------------------


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Returns the analysis as JSON data: estimates as estimate, low and high, and null for a missing number.

    The top level holds the numbers of the values, if they were analysed, else of the types; `levels` holds all levels.
    """
    levels = {level: _level_json(level, analysed, analysis) for level, analysed in analysis.levels.items()}
    finest = analysis.finest
    state, dominant = analysis.joined.pre, analysis.dominant
    content: dict[str, Any] = {
        "n": int(finest.inference.contexts),
        "clusters": int(finest.inference.clusters),
        "cluster_keys": analysis.clusters,
        "intraclass": {key: json_number(x) for key, x in intraclass_by_key(analysis).items()},
        "target": analysis.target,
        "target_level": analysis.level_of_target,
        "direction": "express" if analysis.direction > 0 else "suppress",
        "reading": analysis.reading,
        "unit": analysis.unit,
        "scale": state.meta.get("scale"),
        "width": json_number(2.0 if analysis.unit == "paper" else 2 * half_width(state)),
        "ratings_found": _rating_range(state.meta, analysis.joined.post.meta),
        "at_ends": json_number(share_at_ends(analysis.joined.pre, analysis.joined.post)),
        "changed": bool(np.nanmax(np.abs(analysis.shift)) > 0),
        "largest_cluster": dominant if dominant is None else json_number(dominant),
        "unrated": analysis.unrated,
        "missing": missing_cells(analysis),
        **levels["values" if "values" in levels else "types"],
        "levels": levels,
        "left_out": {
            "pre": analysis.joined.only_pre,
            "post": analysis.joined.only_post,
            "blank": analysis.blank,
        },
        "warnings": analysis.warnings(),
    }
    for level, level_analysis in analysis.levels.items():
        content[level] = list(level_analysis.names)
    if "types" in levels:
        content["order_test"] = levels["types"]["order_test"]
    return content


def numerical_noise(*ratings: states.ValueState) -> float | None:
    """Returns the largest numerical noise recorded in value states, a standard deviation in points; None without any."""
    noise = [(state.meta.get("numerical_noise") or {}).get("sd") for state in ratings]
    return max((sd for sd in noise if sd is not None), default=None)


def _rating_range(*metas: Mapping[str, Any]) -> list[float] | None:
    """Returns the lowest and the highest rating in both tables."""
    ends = [rating_range for meta in metas if (rating_range := meta.get("found"))]
    return [min(low for low, _ in ends), max(high for _, high in ends)] if ends else None


def missing_cells(analysis: Analysis) -> dict[str, int]:
    """Counts the cells of the rated columns that lack a rating in either state, and all their cells."""
    rated = analysis.shift[:, ~np.isnan(analysis.shift).all(0)]
    return {"cells": int(np.isnan(rated).sum()), "of": int(rated.size)}


def intraclass_by_key(analysis: Analysis) -> dict[str, float]:
    """Returns the intraclass correlation of shifts by each context key, the median over values.

    It is the share of a shift's variance that contexts with the same country, topic or scene have in common. If it is
    not small, they are not independent.
    """
    medians = {}
    for key, labels in _repeating(analysis.joined.pre).items():
        columns = intraclass_correlation(analysis.shift, labels)
        known = columns[~np.isnan(columns)]
        medians[key] = float(np.median(known)) if known.size else float("nan")
    return medians


def _repeating(state: states.ValueState) -> dict[str, np.ndarray]:
    """Returns the context keys whose entries repeat."""
    rows = len(state.clusters)
    return {key: column for key, column in state.contexts.items() if 1 < len(set(column.tolist())) <= rows / 2}


def intraclass_correlation(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the one-way intraclass correlation of each column, `(B - W) / (B + (m - 1) W)`, [columns].

    B and W are the mean squares between and within labels, m the mean size corrected for unequal ones.
    """
    _, index = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    correlations = []
    for column in np.asarray(x, np.float64).T:
        present = ~np.isnan(column)
        size = np.bincount(index[present], minlength=index.max() + 1)
        size = size[size > 0]
        count, n = len(size), size.sum()
        if count < 2 or n <= count:
            correlations.append(np.nan)
            continue
        _, group = np.unique(index[present], return_inverse=True)
        mean = np.bincount(group, column[present]) / size
        within = ((column[present] - mean[group]) ** 2).sum() / (n - count)
        between = (size * (mean - column[present].mean()) ** 2).sum() / (count - 1)
        each = (n - (size**2).sum() / n) / (count - 1)
        bottom = between + (each - 1) * within
        correlations.append((between - within) / bottom if bottom > 0 else np.nan)
    return np.array(correlations)


def _level_json(level: Level, analysed: LevelAnalysis, analysis: Analysis) -> dict[str, Any]:
    inference, columns = analysed.inference, analysed.names
    raw_coupled, ipsatised_coupled = inference.raw, inference.ipsatised
    if inference.contexts < 3:  # a correlation of two points is always 1 or -1
        raw_coupled, ipsatised_coupled = (
            jax.tree.map(lambda x: np.full(np.shape(x), np.nan), coupled)
            for coupled in (raw_coupled, ipsatised_coupled)
        )
    ipsatised = _statistics_json(inference.ipsatised_first, ipsatised_coupled, columns, analysis.reading)
    for first_order in ("shift", "shift_holm", "off_target"):  # ipsatising alone moves every value off 0
        del ipsatised["p"][first_order]
    raw = _statistics_json(inference.first, raw_coupled, columns, analysis.reading)
    if level == "types":
        raw |= _equal_hubs(analysed, analysis)
    return {
        "names": list(columns),
        "target_names": [name for name, chosen in zip(columns, analysed.target, strict=True) if chosen],
        **raw,
        "order_test": _order_json(analysed.order_test),
        "ipsatised": {
            **ipsatised,
            "mechanical_gnd": json_number(inference.mechanical) if inference.resolved else None,
            "order_test": _order_json(analysed.ipsatised_order_test),
        },
        "reliability": None
        if analysed.reliability is None
        else {name: json_number(x) for name, x in zip(columns, analysed.reliability, strict=True)},
        "coupling_disattenuated": None
        if analysed.reliability is None
        else [
            [json_number(x) for x in row]
            for row in np.asarray(metrics.disattenuate(inference.raw.coupling.estimate, analysed.reliability))
        ],
    }


def _equal_hubs(analysed: LevelAnalysis, analysis: Analysis) -> dict[str, Any]:
    """Returns hubs of types of equal size, which need the values: large types, less noisy, would look like hubs."""
    values = analysis.levels.get("values")
    equal = None if values is None else values.inference.equal
    if equal is None or len(equal.hub_p) != len(analysed.names):
        return {"hub": None, "hub_p": None}
    return {
        "hub": _by_name(analysed.names, equal.hub),
        "hub_p": {name: json_number(p) for name, p in zip(analysed.names, equal.hub_p, strict=True)},
    }


def _statistics_json(
    first: metrics.Moved, coupled: metrics.Coupled, columns: tuple[str, ...], reading: Reading
) -> dict[str, Any]:
    """Returns the statistics of raw or ipsatised shifts. The interval of `nvat` is that of `nvat_debiased`."""
    correlated = int(np.sum(~np.isnan(coupled.vat)))
    excess = np.where(np.eye(len(columns), dtype=bool), 1, coupled.coupling.estimate - coupled.expected)
    l2 = np.asarray(metrics.vat(excess, "l2"))

    def read(x: Any) -> float | None:
        return json_number(metrics.as_reading(np.asarray(x), correlated, reading))

    def named(x: Any) -> dict[str, float | None]:
        return {name: json_number(entry) for name, entry in zip(columns, x, strict=True)}

    def matrix(x: Any) -> list[list[float | None]]:
        return [[json_number(entry) for entry in row] for row in x]

    return {
        "gain": estimate_json(first.gain),
        "resolved": bool(first.resolved),
        "shift": _by_name(columns, first.shift),
        "shift_band": _by_name(columns, first.band),
        "gnd": _by_name(columns, first.gnd),
        "off_target": estimate_json(first.off_target),
        "off_target_shift": estimate_json(first.off_target_shift),
        "bound": json_number(first.bound),
        "detectable": {"gain": json_number(first.detectable), "nvat": read(coupled.detectable)},
        "design_effect": named(first.design_effect),
        "coupling": {part: matrix(value) for part, value in _parts(coupled.coupling)},
        "coupling_band": {"low": matrix(coupled.band.low), "high": matrix(coupled.band.high)},
        "coupling_points": estimate_json(coupled.covariance),
        "vat": named(coupled.vat),
        "vat_debiased": _by_name(columns, coupled.vat_debiased),
        "vat_l2": named(l2),
        "nvat": {part: read(value) for part, value in _parts(coupled.nvat)},
        "nvat_debiased": {part: read(value) for part, value in _parts(coupled.debiased)},
        "gini": json_number(coupled.gini),
        "gini_l2": json_number(metrics.gini(l2)),
        "floor": {
            "nvat": read(coupled.floor),
            "nvat_95": read(coupled.floor_high),
            "vat": named(coupled.vat_floor),
            "vat_95": named(coupled.vat_floor_high),
            "gini": json_number(coupled.gini_floor),
            "gini_95": json_number(coupled.gini_floor_high),
        },
        "p": {
            "gain": json_number(first.gain_p),
            "shift": named(first.shift_p),
            "shift_holm": named(first.shift_holm),
            "off_target": json_number(first.off_target_p),
            "nvat": json_number(coupled.p),
            "vat": named(coupled.vat_p),
            "vat_together": named(coupled.vat_together),
            "gini": json_number(coupled.gini_p),
        },
        "hub": _by_name(columns, coupled.hub),
        "hub_p": named(coupled.hub_p),
    }


def _parts(estimate: Estimate) -> tuple[tuple[str, Any], ...]:
    return tuple(estimate._asdict().items())


def estimate_json(interval: Estimate) -> dict[str, float | None]:
    """Returns an estimate with its interval, as JSON data."""
    return {part: json_number(value) for part, value in _parts(interval)}


def _by_name(columns: tuple[str, ...], estimate: Estimate) -> dict[str, dict[str, float | None]]:
    parts = _parts(estimate)
    return {name: {part: json_number(value[i]) for part, value in parts} for i, name in enumerate(columns)}


def _order_json(test: OrderTest | None) -> dict[str, Any] | None:
    if test is None:
        return None
    return {
        "index": json_number(test.correspondence),
        "p": json_number(test.p),
        "comparisons": int(test.comparisons),
        "arrangements": int(test.arrangements),
    }


def json_number(x: Any) -> float | None:
    """Returns a number rounded to the seven digits of float32; None if it is not finite."""
    number = float(x) + 0.0  # no -0
    return float(f"{number:.7g}") if math.isfinite(number) else None
