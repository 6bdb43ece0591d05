"""Selection of the rows that a report shows: groups with the same push, and the best arm of each intervention."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vatjax.interventions import display_name
from vatjax.study.columns import Row, is_placebo

if TYPE_CHECKING:
    from vatjax.study.results import Study


class ArmGroup(NamedTuple):
    """Rows with the same model, target, direction and seed, at the level of the target.

    Attributes:
        model, target, direction, seed: of all rows.
        real: rows of each intervention, by its levels.
        blind: rows of the placebos, by intervention.
        seeds: number of seeds in the study.
        level: of the rows: types or values.
    """

    model: str
    target: str
    direction: str
    seed: int
    real: dict[str, list[Row]]
    blind: dict[str, list[Row]]
    seeds: int = 1
    level: str = "types"

    @property
    def title(self) -> str:
        """Returns the push in words."""
        return self.without_seed + (f", seed {self.seed}" if self.seeds > 1 else "")

    @property
    def without_seed(self) -> str:
        """Returns the push in words, without the seed."""
        way = "towards" if self.direction == "express" else "away from"
        return f"{display_name(self.model)}, {way} {self.target}"

    @property
    def name(self) -> str:
        """Returns a name for files."""
        return "-".join((self.model, self.direction, self.target, str(self.seed)))

    @property
    def anchor(self) -> str:
        """Returns a link target, the same for all seeds."""
        return "-".join((self.model, self.direction, self.target))

    def best_arms(self) -> dict[str, Row]:
        """Returns each intervention's arm with the most gain, among unbroken ones if there are any."""
        best = {}
        for name, rows in self.real.items():
            whole = [row for row in rows if not row["broken"]] or rows
            best[name] = max(whole, key=lambda row: float("-inf") if row["gain"] is None else row["gain"])
        return best


def arm_groups(study: Study) -> list[ArmGroup]:
    """Returns the headline rows of a study as groups."""
    groups: dict[tuple[Any, ...], ArmGroup] = {}
    seeds = study.design.seeds
    for row in study.rows:
        if not row["headline"]:
            continue
        seeded = study.design.interventions[row["intervention"]].seeded
        for seed in (row["seed"],) if seeded else seeds:  # one without seeds is the same for each
            key = (row["model"], row["target"], row["direction"], seed)
            group = groups.setdefault(key, ArmGroup(*key, {}, {}, len(seeds), row["level"]))
            side = group.blind if is_placebo(row) else group.real
            side.setdefault(row["intervention"], []).append(row)
    return list(groups.values())


class Spread(NamedTuple):
    """One arm over the seeds of a study.

    Attributes:
        model, target, direction, intervention, amount, unit: of the arm.
        seeds: number of seeds.
        gain, off_target_shift, nvat_debiased: (mean, standard deviation) over seeds; None with fewer than two numbers.
    """

    model: str
    target: str
    direction: str
    intervention: str
    amount: float
    unit: str
    seeds: int
    gain: tuple[float, float] | None
    off_target_shift: tuple[float, float] | None
    nvat_debiased: tuple[float, float] | None


def spreads(study: Study) -> list[Spread]:
    """Returns the spread of every arm that has several seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in study.rows:
        seeded = study.design.interventions[row["intervention"]].seeded
        if row["headline"] and not is_placebo(row) and seeded:
            groups.setdefault(tuple(row[name] for name in Spread._fields[:6]), []).append(row)
    result = []
    for key, rows in groups.items():
        numbers = [[row[name] for row in rows if row[name] is not None] for name in Spread._fields[7:]]
        moments = [
            (statistics.mean(values), statistics.stdev(values)) if len(values) > 1 else None for values in numbers
        ]
        result.append(Spread._make((*key, len(rows), *moments)))
    return [spread for spread in result if spread.seeds > 1]


def front_mark(row: Mapping[str, Any]) -> str:
    """Returns the mark of an arm on the front, with the share of draws in which it is there; "" for any other arm."""
    if not row["front"]:
        return ""
    return " *" if row.get("front_share") is None else f" * {row['front_share']:.0%}"
