"""Records of a build: a request, each attempt at it, and the verdicts of the gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from vatjax import store

Stage = Literal["scene", "action"]


class Request(NamedTuple):
    """A request for one text.

    Attributes:
        stage: scene or action.
        fields: values of the prompt's placeholders: country, topic and number of a scene; country, topic, scene, value,
            definition, polarity and deed of an action.
        variant: prompt variant; empty for a text from a table.
    """

    stage: Stage
    fields: Mapping[str, str]
    variant: str

    @property
    def name(self) -> str:
        """Returns the content hash: equal requests have equal names."""
        return store.address(self.stage, dict(self.fields), self.variant)[:16]


class Text(NamedTuple):
    """A writer's output: the text, and whether it ended with a stop token."""

    text: str
    ended: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict of one gate.

    Attributes:
        gate: name of the gate.
        passed: None if a judge abstains.
        why: reason for a refusal or an abstention.
        score: measured quantity; None if the gate measures nothing.
        mass: total probability of a judge's answers.
    """

    gate: str
    passed: bool | None
    why: str = ""
    score: float | None = None
    mass: float | None = None


def none_refuses(verdicts: Iterable[Verdict]) -> bool:
    """Returns True if no gate refuses; an abstention is not a refusal."""
    return all(verdict.passed is not False for verdict in verdicts)


@dataclasses.dataclass(frozen=True)
class Record:
    """One attempt at a request.

    Attributes:
        request: the request.
        attempt: number of the attempt, from 0.
        text: the written text.
        verdicts: of the gates it reached, in order.
        origin: prompt versions of writer and judge, both names, and the seed; prompts and seed are None for a table.
    """

    request: Request
    attempt: int
    text: str
    verdicts: tuple[Verdict, ...]
    origin: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Returns True if no gate refused the text."""
        return none_refuses(self.verdicts)

    @property
    def gate(self) -> str:
        """Returns the first gate that refused the text, or ""."""
        return next((verdict.gate for verdict in self.verdicts if verdict.passed is False), "")

    @property
    def why(self) -> str:
        """Returns the first gate that refused the text, with its reason, or ""."""
        return next((f"{verdict.gate}: {verdict.why}" for verdict in self.verdicts if verdict.passed is False), "")

    def as_dict(self) -> dict[str, Any]:
        """Converts the record to plain data."""
        return {
            "id": self.request.name,
            "stage": self.request.stage,
            **self.request.fields,
            "variant": self.request.variant,
            "attempt": self.attempt,
            "text": self.text,
            "passed": self.passed,
            "why": self.why,
            "gates": {
                verdict.gate: {"passed": verdict.passed, "score": verdict.score, "mass": verdict.mass}
                for verdict in self.verdicts
            },
            **self.origin,
        }
