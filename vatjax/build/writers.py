"""Who writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vatjax.build.records import Request, Text


class Written(NamedTuple):
    """What a writer gave for a request, and what it was asked with."""

    text: Text
    prompt: str


class Writer(Protocol):
    """Gives texts.

    Attributes:
        name: what tells it from others.
        prompts: of what it is asked with; empty where nobody is asked.
        budgeted: whether it could go on for ever, so that a budget ends it.
    """

    name: str
    prompts: str
    budgeted: bool

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """A text for each request; None where there is no further one."""
        ...
