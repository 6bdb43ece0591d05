"""Cells and arms: one intervention for one target, at one level, or a draw of its placebo."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

from vatjax import store
from vatjax.interventions.base import Intervention

Side = Literal["express", "suppress"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One intervention on one model, for one target, one direction and one seed.

    Attributes:
        model: as the design names it.
        name: of the intervention.
        intervention: the intervention.
        target, direction, seed: the target, its direction, and the seed of everything drawn.
    """

    model: str
    name: str
    intervention: Intervention = dataclasses.field(compare=False)
    target: str
    direction: Side
    seed: int

    @property
    def sign(self) -> int:
        """Returns +1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def draw_seed(self, draw: int) -> int:
        """Returns the seed of a placebo draw; it differs between cells and draws."""
        return int(store.address(self.target, self.direction, self.seed, draw)[:7], 16)

    @property
    def unit(self) -> str:
        """Returns the unit of its levels."""
        return self.intervention.unit

    def __str__(self) -> str:
        way = "towards" if self.sign == 1 else "away from"
        seed = f", seed {self.seed}" if self.seed else ""
        return f"{display_name(self.model)}: {self.name} {way} {self.target}{seed}"


class Arm(NamedTuple):
    """A push at one level, or a draw of its placebo.

    Attributes:
        cell: the cell it belongs to.
        level: number of examples, strength, or number of steps.
        placebo: name of the placebo it is a draw of; empty for the intervention itself.
        draw: index of the draw.
    """

    cell: Cell
    level: float
    placebo: str = ""
    draw: int = 0

    def __str__(self) -> str:
        blind = f", {self.placebo} {self.draw + 1}" if self.placebo else ""
        amount = f", {self.level:g} {self.cell.unit}" if self.cell.unit else ""
        return f"{self.cell}{amount}{blind}"


def arms(cell: Cell, placebos: int) -> Iterator[Arm]:
    """Yields each push of a cell, then the draws of its placebos at each level."""
    intervention = cell.intervention
    levels = intervention.levels()
    for level in levels:
        yield Arm(cell, level)
    for level, name, draw in itertools.product(levels, intervention.placebo_names(), range(placebos)):
        yield Arm(cell, level, name, draw)


def display_name(model: str) -> str:
    """Returns a model's name without its folders; a generic name such as `checkpoint` keeps its last folder."""
    *folders, name = model.rstrip("/").split("/")
    plain = name in ("model", "checkpoint", "final", "merged") or name.startswith(("checkpoint-", "step"))
    return f"{folders[-1]}/{name}" if plain and folders else name
