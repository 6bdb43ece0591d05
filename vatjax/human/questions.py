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
        about: scene, or the action in it.
        asked: wording of the question.
        low, high: labels of the ends of the scale.
    """

    about: Literal["scene", "action"]
    asked: str
    low: str
    high: str


@dataclasses.dataclass(frozen=True)
class Questions:
    """All questions, by name.

    Attributes:
        version: version of the wording.
        questions: in the order in which they are asked.
    """

    version: int
    questions: Mapping[str, Question]

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the questions' names in order."""
        return tuple(self.questions)


@functools.cache
def questions() -> Questions:
    """Reads the eight questions: four about the scene, four about the action."""
    return config.read(Questions, pathlib.Path(__file__).parent / "questions.yaml")
