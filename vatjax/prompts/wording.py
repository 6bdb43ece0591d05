"""Wordings of questions, as data; three for each protocol, so that their spread can be reported."""

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
        """Returns all answers."""
        return tuple(str(number) for number in range(self.low, self.high + 1))

    @property
    def ratings(self) -> tuple[float, ...]:
        """Returns the rating of each option on the rising scale."""
        numbers = range(self.low, self.high + 1)
        return tuple(float(self.low + self.high - n if self.falling else n) for n in numbers)

    @property
    def middle(self) -> float:
        """Returns the rating that is neither for nor against."""
        return (self.low + self.high) / 2

    def answer(self, rating: int) -> str:
        """Returns the option for a rating."""
        if not self.low <= rating <= self.high:
            raise errors.InputError(f"a rating of {rating} is not on the scale from {self.low} to {self.high}")
        return str(self.low + self.high - rating if self.falling else rating)


@dataclasses.dataclass(frozen=True)
class Letters:
    """The answers of the choice form: the first action, or the second.

    Attributes:
        low, high: the letters.
        falling: never.
        ratings: of each letter.
    """

    low: str = "A"
    high: str = "B"
    falling: bool = False
    ratings: tuple[float, ...] = (1.0, -1.0)

    @property
    def options(self) -> tuple[str, ...]:
        """Returns all answers."""
        return self.low, self.high

    def answer(self, rating: int) -> str:
        """Returns the letter of the first action for a positive rating, else of the second."""
        return self.low if rating > 0 else self.high


@dataclasses.dataclass(frozen=True)
class Wording:
    """One phrasing of a question.

    Attributes:
        system: the question, with {low}, {high} and their meanings, {first} and {last}.
        weak, strong: meanings of the ends of the scale.
        levels: lines, from those that most prompts share to those of a single prompt.
        answer: the cue before the answer, where no chat template is used.
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
        """Returns the question, with the scale in it."""
        first, last = (self.strong, self.weak) if scale.falling else (self.weak, self.strong)
        return self.system.format(low=scale.low, high=scale.high, first=first, last=last)


@dataclasses.dataclass(frozen=True)
class _File:
    version: int
    wordings: Mapping[str, Wording]


@functools.cache
def _shipped(file: str) -> dict[str, Wording]:
    return read_wordings(pathlib.Path(__file__).parent / f"{file}.yaml")


def read_wordings(path: str | pathlib.Path) -> dict[str, Wording]:
    """Reads wordings by name from a YAML file, a shipped one or a user's.

    Raises:
        InputError: with file, line and key, and for fields that prompts do not have.
    """
    content = config.read(_File, path)
    wordings = {
        name: dataclasses.replace(entry, name=name, version=content.version) for name, entry in content.wordings.items()
    }
    for name, entry in wordings.items():
        _check(entry, f"{path}: {name}")
    if not wordings:
        raise errors.InputError(f"{path}: no wordings")
    return wordings


def is_file(name: str) -> bool:
    """Returns whether a wording's name is a file of the user, "my.yaml" or "my.yaml:polite"."""
    return pathlib.Path(name.partition(":")[0]).suffix in (".yaml", ".yml")


def from_file(name: str) -> Wording:
    """Returns a wording from a file of the user: the first of "my.yaml", or the one that "my.yaml:polite" names."""
    path, _, key = name.partition(":")
    return dataclasses.replace(_named(read_wordings(path), key), name=name)


def _check(wording: Wording, place: str) -> None:
    try:
        wording.rubric(Scale())
        for line in wording.levels:
            line.format(**dict.fromkeys(_FIELDS, ""))
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in dict.fromkeys(("low", "high", "first", "last", *_FIELDS)))
        raise errors.InputError(f"{place}: {error} is not a field; known are {known}") from None


# Fields without which the prompts of a protocol would not differ.
_NEEDED: dict[Protocol, tuple[str, ...]] = {
    "paired": ("scene", "action"),
    "labelled": ("scene", "action"),
    "dense": ("scene", "action", "value"),
    "stated": ("value",),
}


def check_fields(wording: Wording, protocol: Protocol) -> None:
    """Raises InputError if a wording does not show what the prompts of a protocol differ in."""
    shown = "\n".join(wording.levels)
    missing = [f"{{{name}}}" for name in _NEEDED[protocol] if f"{{{name}}}" not in shown]
    if missing:
        raise errors.InputError(
            f"wording {wording.name}: its levels show no {' and no '.join(missing)}, in which the prompts of the protocol "
            f"{protocol} differ"
        )


def wordings(protocol: Protocol) -> dict[str, Wording]:
    """Returns the shipped wordings of a protocol by name, its default first.

    >>> list(wordings("paired"))
    ['agree', 'right', 'advise']
    """
    if protocol not in _FILES:
        raise errors.InputError(names.unknown_name("protocol", protocol, PROTOCOLS))
    return _shipped(_FILES[protocol])


def wording(protocol: Protocol, name: str = "") -> Wording:
    """Returns a shipped wording by name; without a name the default."""
    return _named(wordings(protocol), name)


def choice_wording(name: str = "") -> Wording:
    """Returns a shipped wording of the choice form by name; without a name the default."""
    return _named(_shipped(_CHOICE), name)


def acting_wording(name: str = "") -> Wording:
    """Returns a shipped wording that asks for an action, by name; without a name the default."""
    return _named(_shipped(_ACTING), name)


def _named(known: Mapping[str, Wording], name: str) -> Wording:
    if not name:
        return next(iter(known.values()))
    return known[names.find("wording", name, {names.canonical(n): n for n in known}, list(known))]
