"""A text of the user before every question, or turns of a conversation: one, or several of which each is a level."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vatjax import errors, names, store
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, neutral_texts, register
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm

Turns = list[Mapping[str, str]]


@register("prompt")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt(Intervention):
    """A text in every prompt, or turns of a conversation before the question. The placebo has as many words about nothing
    of the kind."""

    seeded: ClassVar[bool] = False
    ordered: ClassVar[bool] = False

    text: str = ""
    """The text; {target} stands for the target's name."""
    file: str = ""
    """A file of texts, one a line, in place of `text`; each is a level, numbered from 1. In a file that ends with .jsonl
    each line is a JSON text, or a list of messages with role and content."""
    place: Literal["system", "prefix"] = "system"
    """Place of a text: the beginning of the system message, or of the user's message before the question."""

    def __post_init__(self) -> None:
        if bool(self.text.strip()) == bool(self.file):
            raise errors.InputError("text: a prompt needs a text, or a file of texts, and not both")
        for word in re.findall(r"\{(\w+)\}", self.text):
            if word != "target" and names.nearest(word, ["target"]):
                raise errors.InputError(f"text: {{{word}}} would be shown as it is; did you mean {{target}}?")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Returns the unit of its levels: none for a single text."""
        return "text" if self.file else ""

    def chats(self) -> list[Turns]:
        """Returns the messages of each level; a text is one message, of the system or of the user."""
        role = "system" if self.place == "system" else "user"
        if not self.file:
            return [[{"role": role, "content": self.text.strip()}]]
        chats: list[Turns] = []
        for number, line in enumerate(store.read_text(self.file).splitlines(), 1):
            if line.strip():
                parsed = _parse_line(line, f"{self.file}:{number}") if self.file.endswith(".jsonl") else line.strip()
                chats.append([{"role": role, "content": parsed}] if isinstance(parsed, str) else parsed)
        if not chats:
            raise errors.InputError(f"{self.file}: no text, and a prompt needs at least one")
        return chats

    def levels(self) -> tuple[float, ...]:
        """Returns the numbers of the texts."""
        return tuple(range(1, len(self.chats()) + 1))

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the placebo: neutral text of the same length."""
        return ("neutral text",)

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the text and the turns."""
        del plan
        condition = self.condition_of(arm)
        turns = {"turns": [dict(turn) for turn in condition.turns]} if condition.turns else {}
        return {"said": {"instruction": condition.instruction, **turns}}

    def known_condition(self, arm: Arm, plan: PlanContext) -> Condition:
        """Returns the text and the turns."""
        del plan
        return self.condition_of(arm)

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the text and the turns."""
        del state, work
        return self.condition_of(arm)

    def condition_of(self, arm: Arm) -> Condition:
        """Returns the text and the turns of an arm; for a placebo each message has neutral words, as many as it had."""
        turns = [
            {**turn, "content": turn["content"].replace("{target}", arm.cell.target)}
            for turn in self.chats()[int(arm.level) - 1]
        ]
        if arm.placebo:
            words = itertools.chain.from_iterable(line.split() for line in neutral_texts(arm))
            turns = [
                {**turn, "content": " ".join(itertools.islice(words, len(turn["content"].split())))} for turn in turns
            ]
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
        return Condition((), system, None, tuple(turns))


def _parse_line(line: str, where: str) -> str | Turns:
    """Returns the text or the messages of a line of JSON."""
    expected = 'expected a JSON text, or a list such as [{"role": "user", "content": "Hello"}]'
    try:
        parsed: Any = store.parse_json(line)
    except ValueError as error:
        raise errors.InputError(f"{where}: {expected}: {error}") from None
    if isinstance(parsed, str) and parsed.strip():
        return parsed.strip()
    if not isinstance(parsed, list) or not parsed:
        raise errors.InputError(f"{where}: {expected}, found {line.strip()[:60]}")
    for place, turn in enumerate(parsed, 1):
        content = turn.get("content") if isinstance(turn, dict) and set(turn) == {"role", "content"} else None
        if not isinstance(content, str) or not content.strip():
            raise errors.InputError(f"{where}: message {place}: {expected}, found {json.dumps(turn)[:60]}")
        before = parsed[place - 2]["role"] if place > 1 else ""
        roles = {"": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}[before]
        if turn["role"] not in roles:
            after = f" after one of the {before}" if before else ""
            raise errors.InputError(
                f"{where}: message {place}: expected the role {' or '.join(roles)}{after}, found {turn['role']!r}"
            )
    return [{"role": turn["role"], "content": turn["content"].strip()} for turn in parsed]
