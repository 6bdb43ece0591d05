"""Instructions: a push by words alone, put before the rubric of every prompt."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

from vatjax import config, errors, names
from vatjax.values import Taxonomy


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One phrasing of an instruction.

    Attributes:
        towards, away: with {target} in them.
    """

    towards: str
    away: str


@dataclasses.dataclass(frozen=True)
class _File:
    version: int
    instructions: Mapping[str, Instruction]


@functools.cache
def instructions() -> dict[str, Instruction]:
    """Returns the shipped instructions by name, the default first."""
    return dict(config.read(_File, pathlib.Path(__file__).parent / "instruction.yaml").instructions)


def instruction(taxonomy: Taxonomy, target: str, direction: int = 1, name: str = "") -> str:
    """Returns a sentence that pushes towards a value, type or group, or away from it.

    Args:
        taxonomy: of the values.
        target: a name of it.
        direction: 1 or -1.
        name: of a shipped instruction; without one the default.

    >>> from vatjax import values
    >>> instruction(values.schwartz(), "power", -1)
    'You are someone who puts Power last.'
    """
    if direction not in (1, -1):
        raise errors.InputError(f"direction: expected 1 or -1, found {direction}")
    spelt = taxonomy.spelling(target)
    known = instructions()
    key = (
        names.find("instruction", name, {names.canonical(n): n for n in known}, list(known))
        if name
        else next(iter(known))
    )
    return (known[key].towards if direction == 1 else known[key].away).format(target=spelt)
