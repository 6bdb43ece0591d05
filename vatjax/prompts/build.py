"""Builds prompts from items as a tree: all share the rubric, a scene's actions the scene, an action's values the
action.

A prompt is the rubric and one text from each level, in order. Texts are stored once and prompts as indices, so that a
million prompts take little memory, and a scorer can compute each shared part once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vatjax import errors
from vatjax.items import Items
from vatjax.prompts.wording import Letters, Scale, Wording

# From messages to the text that a chat template makes of them, up to where the answer begins.
Chat = Callable[[Sequence[Mapping[str, str]]], str]

# The prefill by each wording's answer cue, and none at all; any other value is the text itself.
CUE, NO_PREFILL = "cue", "none"

_MARK = "\u2063here\u2063"


class Shot(NamedTuple):
    """An example with its answer, shown before the question.

    Attributes:
        fields: those that the wording's levels show, such as `scene` and `action`.
        rating: the answer, on the rising scale; or in words, where the question asks for words.
    """

    fields: Mapping[str, str]
    rating: int | str


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A chat template, and the beginning of the assistant's turn.

    Attributes:
        render: from messages to text.
        prefill: "cue" is the wording's answer cue, "none" nothing; anything else is the text itself.
        separates: whether a tokenizer keeps a text apart from the text after it: the cue ends with a space where it does.
            Other tokenizers make one token of a space and the answer, and read the answer with its space.
    """

    render: Chat
    prefill: str = NO_PREFILL
    separates: Callable[[str, str], bool] = lambda before, text: True

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Returns the text of some messages, without a prefill."""
        return self.render(messages)

    def opening(self, wording: Wording, scale: Scale | Letters) -> str:
        """Returns the text that the assistant's turn begins with."""
        if self.prefill == CUE and not wording.answer:
            return ""
        if self.prefill == CUE:
            spaced = f"{wording.answer} "
            return spaced if all(self.separates(spaced, answer) for answer in scale.options) else wording.answer
        return "" if self.prefill == NO_PREFILL else self.prefill

    def gap(self, wording: Wording, scale: Scale | Letters) -> str:
        """Returns the text between the end of a prompt and its answer."""
        opening = self.opening(wording, scale)
        return " " if opening and not opening[-1].isspace() else ""

    def without_prefill(self) -> ChatFormat:
        """Returns the template alone: for prompts without ratings to read."""
        return dataclasses.replace(self, prefill=NO_PREFILL)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that share their beginnings.

    Attributes:
        levels: for each level its distinct texts; the first has one, the rubric.
        which: [prompts, levels] int32, each prompt's text at each level.
        scale: of the answers.
        digest: a hash of texts, scale and indices.
    """

    levels: tuple[tuple[str, ...], ...]
    which: np.ndarray
    scale: Scale | Letters
    digest: str

    def __len__(self) -> int:
        return len(self.which)

    def text(self, prompt: int) -> str:
        """Returns one prompt in full."""
        return "".join(level[i] for level, i in zip(self.levels, self.which[prompt], strict=True))


def assemble(
    rows: Iterable[Mapping[str, str]],
    wording: Wording,
    scale: Scale | Letters | None = None,
    shots: Sequence[Shot] = (),
    chat: Chat | None = None,
    instruction: str = "",
    turns: Sequence[Mapping[str, str]] = (),
) -> Prompts:
    """Builds prompts of a wording, one for each row of fields.

    Args:
        rows: the fields of each prompt, such as `scene`, `action` and `value`.
        wording: of the question.
        scale: of the answers; 1 to 5 by default.
        shots: examples with answers, before every prompt.
        chat: a chat template, a `ChatFormat` where the answer has a prefill; without one, plain text that a base model
            continues.
        instruction: a sentence on a line of its own, before the rubric.
        turns: messages with role and content, after the examples; a last one of the user begins the user's message that
            the question is in.
    """
    scale = scale or Scale()
    before, after = _frame(wording, scale, shots, chat, instruction, turns)
    lines = wording.levels
    known: list[dict[str, int]] = [{before: 0}, *({} for _ in lines)]
    index = []
    for fields in rows:
        row = [0]
        for level, line in enumerate(lines, 1):
            # A line ends with its line feed: many tokenizers make one token of a full stop and the line feed after it.
            text = line.format_map(fields) + (after if level == len(lines) else "\n")
            row.append(known[level].setdefault(text, len(known[level])))
        index.append(row)
    levels = tuple(tuple(texts) for texts in known)
    table = np.array(index, np.int32).reshape(-1, len(levels))
    digest = hashlib.sha256(json.dumps([levels, scale.options, scale.ratings]).encode())
    digest.update(table.tobytes())
    return Prompts(levels, table, scale, digest.hexdigest())


def _frame(
    wording: Wording,
    scale: Scale | Letters,
    shots: Sequence[Shot],
    chat: Chat | None,
    instruction: str,
    messages: Sequence[Mapping[str, str]],
) -> tuple[str, str]:
    """Returns the text before the first level of every prompt, and the text after its last level."""
    rubric = "\n".join(text for text in (instruction, wording.rubric(scale)) if text)
    answered = [(_shown(s, wording), s.rating if isinstance(s.rating, str) else scale.answer(s.rating)) for s in shots]
    if chat is None:
        examples = "".join(f"{text}\n{wording.answer} {answer}\n\n" for text, answer in answered)
        if any(message["role"] != "user" for message in messages):
            raise errors.InputError("turns of an assistant need a model with a chat template")
        user_text = "".join(f"{message['content']}\n\n" for message in messages)
        return f"{rubric}\n\n{examples}{user_text}", f"\n{wording.answer}"
    opening = chat.opening(wording, scale) if isinstance(chat, ChatFormat) else ""
    gap = answer_gap(chat, wording, scale) if opening else ""
    answered = [(text, opening + gap + answer) for text, answer in answered]
    turns: list[Mapping[str, str]] = [
        {"role": role, "content": content}
        for pair in answered
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    turns += messages
    question = _MARK
    if turns and turns[-1]["role"] == "user":
        question = f"{turns.pop()['content']}\n\n{_MARK}"
    turns += [{"role": "user", "content": question}]
    shown = [rubric, *(turn["content"] for turn in turns[:-1]), question.removesuffix(_MARK)]
    try:
        before, after = _around(chat([{"role": "system", "content": rubric}, *turns]), shown)
    except Exception:  # some templates refuse a system message with any exception, or silently leave it out
        first = {**turns[0], "content": f"{rubric}\n\n{turns[0]['content']}"}
        before, after = _around(chat([first, *turns[1:]]), shown)
    return before, _thought(after) + opening


def _thought(after: str) -> str:
    """Closes the reasoning that the end of a template opens: a rating is read where the answer begins."""
    begun = after.rstrip()
    return f"{begun}\n\n</think>\n\n" if begun.endswith("<think>") else after


def answer_gap(chat: Chat | None, wording: Wording, scale: Scale | Letters) -> str:
    """Returns the text between a prompt of `assemble` and its answer: a space, or nothing."""
    if chat is None:
        return " "
    return chat.gap(wording, scale) if isinstance(chat, ChatFormat) else ""


def _shown(shot: Shot, wording: Wording) -> str:
    """Formats an example as a question."""
    try:
        return "\n".join(line.format_map(shot.fields) for line in wording.levels)
    except KeyError as error:
        raise errors.InputError(
            f"an example has no {error.args[0]!r}, which the wording {wording.name!r} shows; it has {', '.join(shot.fields)}"
        ) from None


def _around(text: str, shown: Sequence[str]) -> tuple[str, str]:
    """Returns the text before the user's message and the text after it; refuses a template that alters `shown`."""
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after or not all(part.strip() in before for part in shown):
        raise errors.InputError(
            "the chat template does not show the question, the examples and the user's message as they are"
        )
    return before, after


def item_fields(items: Items, index: int) -> dict[str, str]:
    """Returns the fields of one item that a wording can show."""
    country, topic, scene, value, _, action = items[index]
    return {
        "country": country,
        "topic": topic,
        "scene": scene,
        "action": action,
        "value": value,
        "definition": items.taxonomy.definitions[int(items.value[index])],
    }
