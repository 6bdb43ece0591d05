"""The questions of the human check, as data."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Literal

from vatjax import config

LOW, HIGH = 1, 5


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        about: the scene, or the action in it.
        asked: its words.
        low, high: what the ends of the scale mean.
    """

    about: Literal["scene", "action"]
    asked: str
    low: str
    high: str


@dataclasses.dataclass(frozen=True)
class Questions:
    """All of them, by name.

    Attributes:
        version: of their words.
        questions: in the order in which they are asked.
    """

    version: int
    questions: Mapping[str, Question]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names in order."""
        return tuple(self.questions)


@functools.cache
def questions() -> Questions:
    """The eight that are asked: four of the scene, four of the action."""
    return config.read(Questions, pathlib.Path(__file__).parent / "questions.yaml")
