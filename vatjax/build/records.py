"""What is written: a request, each attempt at it, and what the gates said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from vatjax import store

Stage = Literal["scene", "action"]


class Request(NamedTuple):
    """One text that is wanted.

    Attributes:
        stage: what it is.
        fields: what the prompt says of it: country, topic and number; or scene, value, definition, polarity and deed too.
        variant: how it is asked for; empty where it is there already.
    """

    stage: Stage
    fields: Mapping[str, str]
    variant: str

    @property
    def name(self) -> str:
        """The same wherever the same is wanted."""
        return store.address(self.stage, dict(self.fields), self.variant)[:16]


class Text(NamedTuple):
    """What a writer gave: the text, and whether it came to an end by itself."""

    text: str
    ended: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What one gate says.

    Attributes:
        gate: its name.
        passed: None where a judge abstains.
        why: what was found, where it did not pass or abstains.
        score: what was measured; None where nothing was.
        mass: of a judge, the probability of all its answers together.
    """

    gate: str
    passed: bool | None
    why: str = ""
    score: float | None = None
    mass: float | None = None


def passes(verdicts: Iterable[Verdict]) -> bool:
    """Whether no gate refuses; one that abstains does not."""
    return all(one.passed is not False for one in verdicts)


@dataclasses.dataclass(frozen=True)
class Record:
    """One attempt at a request.

    Attributes:
        request: what was wanted.
        attempt: which, from 0.
        text: what was written.
        verdicts: of the gates that it came to, in their order.
        origin: versions of the prompts of both, writer, judge, seed; None where nobody was asked.
    """

    request: Request
    attempt: int
    text: str
    verdicts: tuple[Verdict, ...]
    origin: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether no gate refused it."""
        return passes(self.verdicts)

    @property
    def gate(self) -> str:
        """The first gate that refused it; empty where none did."""
        return next((one.gate for one in self.verdicts if one.passed is False), "")

    @property
    def why(self) -> str:
        """The first gate that refused it, and why."""
        return next((f"{one.gate}: {one.why}" for one in self.verdicts if one.passed is False), "")

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "id": self.request.name,
            "stage": self.request.stage,
            **self.request.fields,
            "variant": self.request.variant,
            "attempt": self.attempt,
            "text": self.text,
            "passed": self.passed,
            "why": self.why,
            "gates": {one.gate: {"passed": one.passed, "score": one.score, "mass": one.mass} for one in self.verdicts},
            **self.origin,
        }
