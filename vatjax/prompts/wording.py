"""Wordings: how a question is put, as data; three of them for each protocol, so that their spread can be reported."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Literal, get_args

from vatjax import config, errors, names

Protocol = Literal["paired", "labelled", "dense", "stated"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

_FILES: Mapping[str, str] = {"paired": "acted", "labelled": "acted", "dense": "standpoint", "stated": "importance"}
_CHOICE, _ACTING = "choice", "acting"
_FIELDS = ("scene", "action", "country", "topic", "value", "definition", "first", "second")


@dataclasses.dataclass(frozen=True)
class Scale:
    """The numbers that a model answers with.

    Attributes:
        low, high: its ends; every whole number between them is an option.
        falling: whether the low end is the strong one, for counterbalancing.
    """

    low: int = 1
    high: int = 5
    falling: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise errors.InputError(
                f"scale: expected whole numbers from 0 to 100, the low end first; found {self.low} to {self.high}"
            )

    @property
    def options(self) -> tuple[str, ...]:
        """Every answer there is."""
        return tuple(str(number) for number in range(self.low, self.high + 1))

    @property
    def ratings(self) -> tuple[float, ...]:
        """What each option says on the rising scale."""
        numbers = range(self.low, self.high + 1)
        return tuple(float(self.low + self.high - n if self.falling else n) for n in numbers)

    @property
    def middle(self) -> float:
        """Neither for nor against."""
        return (self.low + self.high) / 2

    def answer(self, rating: int) -> str:
        """The option that says this rating."""
        if not self.low <= rating <= self.high:
            raise errors.InputError(f"a rating of {rating} is not on the scale from {self.low} to {self.high}")
        return str(self.low + self.high - rating if self.falling else rating)


@dataclasses.dataclass(frozen=True)
class Letters:
    """The answers of the choice form: the first action, or the second.

    Attributes:
        low, high: the letters.
        falling: never.
        ratings: what each letter says.
    """

    low: str = "A"
    high: str = "B"
    falling: bool = False
    ratings: tuple[float, ...] = (1.0, -1.0)

    @property
    def options(self) -> tuple[str, ...]:
        """Every answer there is."""
        return self.low, self.high

    def answer(self, rating: int) -> str:
        """The letter of the first action for a positive rating, else of the second."""
        return self.low if rating > 0 else self.high


@dataclasses.dataclass(frozen=True)
class Wording:
    """One way to ask.

    Attributes:
        system: what is asked, with {low}, {high} and what they mean, {first} and {last}.
        weak, strong: what the ends of the scale mean.
        levels: lines from what most prompts share to what is each one's own.
        answer: what stands before the answer where there is no chat template.
        name: of the wording.
        version: of its file.
    """

    system: str
    weak: str
    strong: str
    levels: tuple[str, ...]
    answer: str
    name: str = ""
    version: int = 0

    def rubric(self, scale: Scale | Letters) -> str:
        """What is asked, with the scale in it."""
        first, last = (self.strong, self.weak) if scale.falling else (self.weak, self.strong)
        return self.system.format(low=scale.low, high=scale.high, first=first, last=last)


@dataclasses.dataclass(frozen=True)
class _File:
    version: int
    wordings: Mapping[str, Wording]


@functools.cache
def _shipped(file: str) -> dict[str, Wording]:
    return read(pathlib.Path(__file__).parent / f"{file}.yaml")


def read(path: str | pathlib.Path) -> dict[str, Wording]:
    """Wordings by name from a YAML file, the shipped ones or a user's.

    Raises:
        InputError: with file, line and key, and for fields that no prompt has.
    """
    found = config.read(_File, path)
    wordings = {
        name: dataclasses.replace(one, name=name, version=found.version) for name, one in found.wordings.items()
    }
    for name, one in wordings.items():
        _check(one, f"{path}: {name}")
    if not wordings:
        raise errors.InputError(f"{path}: no wordings")
    return wordings


def is_file(name: str) -> bool:
    """Returns whether a wording's name is a file of one's own, "my.yaml" or "my.yaml:polite"."""
    return pathlib.Path(name.partition(":")[0]).suffix in (".yaml", ".yml")


def from_file(name: str) -> Wording:
    """Returns a wording from a file of one's own: the first of "my.yaml", or the one that "my.yaml:polite" names."""
    path, _, own = name.partition(":")
    return dataclasses.replace(_named(read(path), own), name=name)


def _check(wording: Wording, where: str) -> None:
    try:
        wording.rubric(Scale())
        for line in wording.levels:
            line.format(**dict.fromkeys(_FIELDS, ""))
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in dict.fromkeys(("low", "high", "first", "last", *_FIELDS)))
        raise errors.InputError(f"{where}: {error} is no field; known are {known}") from None


def wordings(protocol: Protocol) -> dict[str, Wording]:
    """The shipped wordings of a protocol by name, its default first.

    >>> list(wordings("paired"))
    ['agree', 'right', 'advise']
    """
    if protocol not in _FILES:
        raise errors.InputError(names.unknown("protocol", protocol, PROTOCOLS))
    return _shipped(_FILES[protocol])


def wording(protocol: Protocol, name: str = "") -> Wording:
    """A shipped wording by name; without a name the default."""
    return _named(wordings(protocol), name)


def choice(name: str = "") -> Wording:
    """A shipped wording of the choice form by name; without a name the default."""
    return _named(_shipped(_CHOICE), name)


def acting(name: str = "") -> Wording:
    """A shipped wording that asks for an action, by name; without a name the default."""
    return _named(_shipped(_ACTING), name)


def _named(known: Mapping[str, Wording], name: str) -> Wording:
    if not name:
        return next(iter(known.values()))
    return known[names.find("wording", name, {names.canonical(n): n for n in known}, list(known))]
