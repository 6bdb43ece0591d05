"""The interface of writers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vatjax.authoring.records import Request, Text


class Written(NamedTuple):
    """A writer's text for a request, and its prompt."""

    text: Text
    prompt: str


class Writer(Protocol):
    """Interface of a writer, which provides texts.

    Attributes:
        name: identifies the writer.
        prompts: the version of its prompts; empty for a table.
        budgeted: True if it can write without end, so that the budget limits its attempts.
    """

    name: str
    prompts: str
    budgeted: bool

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """Returns a text for each request, or None if the writer has no further one."""
        ...
