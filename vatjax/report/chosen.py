"""What a report shows of a study: its rows by what they aim at, and of each intervention the arm that speaks for it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from vatjax.study import Study
from vatjax.study.arms import shown
from vatjax.study.results import is_placebo

Row = dict[str, Any]


class Aim(NamedTuple):
    """Rows that are pushed the same way, at the level that the target is of.

    Attributes:
        model, target, direction, seed: what they have in common.
        real: of interventions, each by its levels.
        blind: of placebos, by intervention.
        seeds: how many the study has.
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
        """In words."""
        return self.without_seed + (f", seed {self.seed}" if self.seeds > 1 else "")

    @property
    def without_seed(self) -> str:
        """In words, without the seed."""
        way = "towards" if self.direction == "express" else "away from"
        return f"{shown(self.model)}, {way} {self.target}"

    @property
    def name(self) -> str:
        """For a file."""
        return "-".join((self.model, self.direction, self.target, str(self.seed)))

    @property
    def group(self) -> str:
        """What it has in common with the same aim from other seeds; for a link."""
        return "-".join((self.model, self.direction, self.target))

    def spokesmen(self) -> dict[str, Row]:
        """Of each intervention the arm with the most gain among those that leave the model whole, if there are any."""
        found = {}
        for name, rows in self.real.items():
            whole = [row for row in rows if not row["broken"]] or rows
            found[name] = max(whole, key=lambda row: float("-inf") if row["gain"] is None else row["gain"])
        return found


def aims(study: Study) -> list[Aim]:
    """The rows of a study, by what they aim at."""
    found: dict[tuple[Any, ...], Aim] = {}
    seeds = study.design.seeds
    for row in study.rows:
        if not row["headline"]:
            continue
        for seed in seeds if row["kind"] == "instruction" else (row["seed"],):  # which is the same from every seed
            key = (row["model"], row["target"], row["direction"], seed)
            aim = found.setdefault(key, Aim(*key, {}, {}, len(seeds), row["level"]))
            side = aim.blind if is_placebo(row) else aim.real
            side.setdefault(row["intervention"], []).append(row)
    return list(found.values())


class Spread(NamedTuple):
    """One arm over the seeds of a study.

    Attributes:
        model, target, direction, intervention, amount, unit: which.
        seeds: how many it was made from.
        gain, off_target_shift, nvat_debiased: (mean, standard deviation) over them; None where there are not two numbers.
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
    """Every arm over seeds, where there are several."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in study.rows:
        if row["headline"] and not is_placebo(row) and row["kind"] != "instruction":
            groups.setdefault(tuple(row[name] for name in Spread._fields[:6]), []).append(row)
    found = []
    for key, rows in groups.items():
        numbers = [[row[name] for row in rows if row[name] is not None] for name in Spread._fields[7:]]
        told = [(statistics.mean(own), statistics.stdev(own)) if len(own) > 1 else None for own in numbers]
        found.append(Spread._make((*key, len(rows), *told)))
    return [one for one in found if one.seeds > 1]


def front_mark(row: Mapping[str, Any]) -> str:
    """Returns the mark of an arm on the front, with the share of draws in which it is there; "" for any other arm."""
    if not row["front"]:
        return ""
    return " *" if row.get("front_share") is None else f" * {row['front_share']:.0%}"
