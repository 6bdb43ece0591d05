"""From two value states to the numbers of a report: the tax at the level of types and of values, as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from vatjax import errors, metrics, names, states
from vatjax.metrics import Estimate, Inference, OrderTest, Reading
from vatjax.values import Taxonomy

Level = Literal["types", "values"]
LEVELS: tuple[Level, ...] = ("types", "values")
FEW_CLUSTERS = 50


@dataclasses.dataclass(frozen=True)
class Analysed:
    """One level of analysis.

    Attributes:
        names: the columns.
        target: which of them are the target, [columns] bool.
        inference: everything `metrics.infer` finds.
        order_test: the randomisation test of the circle; None where there is no circle or a type is missing.
    """

    names: tuple[str, ...]
    target: np.ndarray
    inference: Inference
    order_test: OrderTest | None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The tax of one intervention at both levels.

    Attributes:
        target, direction: what was pushed, and +1 or -1.
        levels: "types", "values", or both.
        joined: the two states on their common contexts.
        blank: how many common contexts were left out because no value is rated in both.
        reading: of nVAT.
    """

    target: str
    direction: int
    levels: dict[Level, Analysed]
    joined: states.Joined
    blank: int
    reading: Reading

    @property
    def finest(self) -> Analysed:
        """The level of values, or that of types where only that was asked for."""
        return self.levels["values"] if "values" in self.levels else self.levels["types"]

    def warnings(self) -> list[str]:
        """What a reader must know before believing a number."""
        found = []
        inference = self.finest.inference
        if inference.clusters < FEW_CLUSTERS:
            found.append(f"only {inference.clusters} clusters: below {FEW_CLUSTERS} intervals and p-values are rough")
        if self.joined.only_pre or self.joined.only_post:
            found.append(
                f"left out for want of a partner: {self.joined.only_pre} contexts of PRE, {self.joined.only_post} of POST"
            )
        if not self.joined.keys:
            found.append("rows were matched by their position, since no column is a context key")
        if self.blank:
            found.append(f"left out for want of any rating in both states: {self.blank} contexts")
        if not bool(inference.resolved):
            found.append("the gain can't be told from 0, so no GND is given")
        for level, analysed in self.levels.items():
            own = analysed.inference
            if bool(own.resolved) != bool(inference.resolved):
                found.append(
                    f"at the level of {level} the gain {'can' if own.resolved else 'can' + chr(39) + 't'} be told from 0"
                )
            constant = [analysed.names[i] for i in np.flatnonzero(np.isnan(own.raw.vat.estimate))]
            if constant:
                found.append(
                    f"{level} without a correlation (constant, too few ratings, or no other column): {', '.join(constant)}"
                )
        return found


def analyse(
    pre: states.ValueState,
    post: states.ValueState,
    taxonomy: Taxonomy,
    target: str,
    direction: int = 1,
    on: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    reading: Reading = "rms",
    levels: Sequence[Level] = LEVELS,
    order: bool = True,
) -> Analysis:
    """Joins two states and measures the tax.

    Args:
        pre, post: the states before and after.
        taxonomy: of their values.
        target: a value, a type or a group.
        direction: +1 where it was to be expressed, -1 where it was to be suppressed.
        on: context keys to join on; all common ones by default.
        resamples: draws of the bootstrap and of the null.
        seed: of the resampling.
        reading: of nVAT.
        levels: of values, of types, or both.
        order: whether the circle is tested, which goes through all its arrangements.

    Raises:
        InputError: for an unknown target, one that no column rates, states without a common context, one context only.
    """
    member = taxonomy.mask(target)
    joined = states.join(pre, post, on)
    contexts = len(joined.pre.clusters)
    if len(np.unique(joined.pre.clusters)) < 2:
        raise errors.InputError(
            f"found {contexts} common contexts in one cluster; intervals need at least two clusters"
        )
    before, after = states.align(joined.pre, taxonomy), states.align(joined.post, taxonomy)
    rated = (before.mask & after.mask).any(1)
    blank = int((~rated).sum())
    if blank:
        rows = np.flatnonzero(rated)
        joined = joined._replace(pre=joined.pre.take(rows), post=joined.post.take(rows))
        before, after = before.take(rows), after.take(rows)
        if len(np.unique(joined.pre.clusters)) < 2:
            raise errors.InputError(f"of {contexts} common contexts {blank} have no rating in both; too few are left")
    mask = before.mask & after.mask
    if not mask[:, member].any():
        rated = [taxonomy.names[i] for i in np.flatnonzero(mask.any(0))]
        raise errors.InputError(f"no value of the target {target!r} is rated in both; rated are {names.listed(rated)}")
    analysed: dict[Level, Analysed] = {}
    for level in levels:
        x, y = (taxonomy.aggregate(np.where(mask, state.state, np.nan), mask, level) for state in (before, after))
        columns, chosen = _columns(taxonomy, level, mask, target)
        key = jax.random.fold_in(jax.random.key(seed), LEVELS.index(level))
        x, y = x[:, columns], y[:, columns]
        inference = metrics.infer(x, y, jax.numpy.asarray(chosen), joined.pre.clusters, key, direction, resamples)
        labels = tuple(taxonomy.level_names(level)[i] for i in columns)
        test = _order(inference, taxonomy, labels) if order else None
        analysed[level] = Analysed(labels, chosen, jax.tree.map(np.asarray, inference), test)
    return Analysis(target, direction, analysed, joined, blank, reading)


def _columns(taxonomy: Taxonomy, level: Level, mask: np.ndarray, target: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns that have any rating, and which of them are the target; a value's type stands for it at that level."""
    columns = np.flatnonzero([mask[:, group].any() for group in taxonomy.members(level)])
    return columns, taxonomy.columns(target, level)[columns]


def _order(inference: Inference, taxonomy: Taxonomy, labels: tuple[str, ...]) -> OrderTest | None:
    if labels != taxonomy.types or not taxonomy.circle or not 4 <= len(labels) <= 10:
        return None
    test = metrics.order_test(inference.raw.coupling.estimate, tuple(taxonomy.sector_of.tolist()))
    return jax.tree.map(np.asarray, test)  # type: ignore[no-any-return]


# As plain data ------------------------------------------------------------------------------------------------------


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis as JSON data: estimates as estimate, low and high, and null where a number can't be told.

    At the top level stand the numbers of the values, if they were asked for; all levels stand under `levels`.
    """
    levels = {level: _level(analysed, analysis.reading) for level, analysed in analysis.levels.items()}
    finest = analysis.finest
    found: dict[str, Any] = {
        "n": int(finest.inference.contexts),
        "clusters": int(finest.inference.clusters),
        "target": analysis.target,
        "direction": "express" if analysis.direction > 0 else "suppress",
        "reading": analysis.reading,
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


def _level(analysed: Analysed, reading: Reading) -> dict[str, Any]:
    inference, columns = analysed.inference, analysed.names
    ipsatised = _kind(inference.ipsatised_first, inference.ipsatised, columns, analysed.target, reading)
    for first_order in ("shift", "shift_holm", "off_target"):  # against 0, where ipsatising alone moves every value
        del ipsatised["p"][first_order]
    return {
        "names": list(columns),
        "target_names": [name for name, chosen in zip(columns, analysed.target, strict=True) if chosen],
        **_kind(inference.first, inference.raw, columns, analysed.target, reading),
        "order_test": _order_json(analysed.order_test),
        "ipsatised": {**ipsatised, "mechanical_gnd": number(inference.mechanical) if inference.resolved else None},
    }


def _kind(
    first: metrics.Moved, coupled: metrics.Coupled, columns: tuple[str, ...], target: np.ndarray, reading: Reading
) -> dict[str, Any]:
    """The numbers of one kind of shifts, raw or ipsatised. The interval of `nvat` is that of `nvat_debiased`."""
    correlated = int(np.sum(~np.isnan(coupled.vat.estimate)))
    others = np.asarray(metrics.holm(jax.numpy.where(target, np.nan, first.shift_p)))

    def read(x: Any) -> float | None:
        return number(metrics.as_reading(x, correlated, reading))

    def named(x: Any) -> dict[str, float | None]:
        return {name: number(entry) for name, entry in zip(columns, x, strict=True)}

    return {
        "gain": estimate(first.gain),
        "resolved": bool(first.resolved),
        "shift": _by_name(columns, first.shift),
        "gnd": _by_name(columns, first.gnd),
        "off_target": estimate(first.off_target),
        "coupling": {part: [[number(x) for x in row] for row in value] for part, value in _parts(coupled.coupling)},
        "vat": _by_name(columns, coupled.vat),
        "nvat": {part: read(value) for part, value in _parts(coupled.nvat)},
        "nvat_debiased": {part: read(value) for part, value in _parts(coupled.debiased)},
        "gini": estimate(coupled.gini),
        "floor": {
            "nvat": read(coupled.floor),
            "nvat_95": read(coupled.floor_high),
            "vat": named(coupled.vat_floor),
            "vat_95": named(coupled.vat_floor_high),
            "gini": number(coupled.gini_floor),
            "gini_95": number(coupled.gini_floor_high),
            "off_target": number(first.off_target_floor),
        },
        "p": {
            "gain": number(first.gain_p),
            "shift": named(first.shift_p),
            "shift_holm": named(others),
            "off_target": number(first.off_target_p),
            "nvat": number(coupled.p),
            "vat": named(coupled.vat_p),
            "gini": number(coupled.gini_p),
        },
        "hub_share": named(coupled.hub_share),
    }


def _parts(estimate: Estimate) -> tuple[tuple[str, Any], ...]:
    return tuple(estimate._asdict().items())


def estimate(one: Estimate) -> dict[str, float | None]:
    """An estimate with its interval."""
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
    """A number with the seven digits that float32 has; null where there is none."""
    number = float(x) + 0.0  # no -0
    return float(f"{number:.7g}") if math.isfinite(number) else None
