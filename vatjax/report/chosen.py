"""What a report shows of a study: its rows by what they aim at, and of each intervention the arm that speaks for it."""

from __future__ import annotations

from typing import Any, NamedTuple

from vatjax.study import Study

Row = dict[str, Any]

_AIM = ("model", "target", "direction", "seed")


class Aim(NamedTuple):
    """Rows that are pushed the same way, at the level that the target is of.

    Attributes:
        model, target, direction, seed: what they have in common.
        real: of interventions, each by its levels.
        blind: of placebos, by intervention.
    """

    model: str
    target: str
    direction: str
    seed: int
    real: dict[str, list[Row]]
    blind: dict[str, list[Row]]

    @property
    def title(self) -> str:
        """In words."""
        way = "towards" if self.direction == "express" else "away from"
        return f"{self.model}, {way} {self.target}" + (f", seed {self.seed}" if self.seed else "")

    @property
    def name(self) -> str:
        """For a file."""
        return "-".join((self.model, self.direction, self.target, str(self.seed)))

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
    for row in study.rows:
        if not row["headline"]:
            continue
        model, target, direction, seed = key = tuple(row[name] for name in _AIM)
        aim = found.setdefault(key, Aim(model, target, direction, seed, {}, {}))
        side = aim.blind if row["placebo"] else aim.real
        side.setdefault(row["intervention"], []).append(row)
    return list(found.values())
