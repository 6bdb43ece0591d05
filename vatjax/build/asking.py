"""How a writer is asked: prompts as data, the shipped ones or a user's."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

from vatjax import config, errors, prompts, store
from vatjax.build.records import Request, Stage
from vatjax.build.settings import Build
from vatjax.prompts import Chat, Shot, Wording

_SHIPPED = pathlib.Path(__file__).parent / "writing.yaml"
_OF_SYSTEM = ("language", "person", "words")
_OF_STAGE: Mapping[Stage, tuple[str, ...]] = {
    "scene": ("country", "topic", "number"),
    "action": ("country", "topic", "scene", "value", "definition", "polarity", "deed"),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """An example: the fields of a prompt, and the text that is written for it.

    Attributes:
        fields: what the prompt says.
        text: the answer.
        person: first or third, for those alone who are asked for it; empty is both.
    """

    fields: Mapping[str, str]
    text: str
    person: str = ""


@dataclasses.dataclass(frozen=True)
class Asking:
    """How one kind of text is asked for.

    Attributes:
        system: with {language}, {person} and {words}, the most of them.
        levels: lines from what most prompts share to what is each one's own.
        answer: what stands before the answer where there is no chat template.
        examples: for the variant with examples.
    """

    system: str
    levels: tuple[str, ...]
    answer: str
    examples: tuple[Example, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What a writer is asked with.

    Attributes:
        version: of their words.
        scenes, actions: of each stage.
    """

    version: int
    scenes: Asking
    actions: Asking

    @property
    def name(self) -> str:
        """Their version, and what tells them from others that call themselves the same."""
        return f"{self.version}-{store.address(dataclasses.asdict(self))[:8]}"

    def assemble(self, settings: Build, batch: list[Request], chat: Chat | None) -> prompts.Prompts:
        """The prompts of requests that share a stage and a variant.

        Args:
            settings: the language, the person, and how many words.
            batch: what is wanted.
            chat: the writer's template, where it has one.
        """
        own = self.scenes if batch[0].stage == "scene" else self.actions
        system = own.system.format(
            language=settings.language, person=settings.person, words=settings.gates.action_words[1]
        )
        shown = own.examples if batch[0].variant == "few-shot" else ()
        shots = [Shot(one.fields, one.text) for one in shown if one.person in ("", settings.person)]
        wording = Wording(system, "", "", own.levels, own.answer)
        return prompts.assemble([request.fields for request in batch], wording, None, shots, chat)


@functools.cache
def read(path: str = "") -> Prompts:
    """Prompts from a YAML file; without one the shipped ones.

    Raises:
        InputError: with file, line and key, and for fields that no prompt of the stage has.
    """
    found = config.read(Prompts, path or _SHIPPED)
    for stage, own in (("scene", found.scenes), ("action", found.actions)):
        _check(own, _OF_STAGE[stage], f"{path or _SHIPPED.name}: {stage}s")  # type: ignore[index]
    return found


def _check(asking: Asking, fields: tuple[str, ...], where: str) -> None:
    parts = [("system", asking.system, _OF_SYSTEM), *(("levels", line, fields) for line in asking.levels)]
    for key, text, known in parts:
        try:
            text.format(**dict.fromkeys(known, ""))
        except (KeyError, IndexError, ValueError) as error:
            raise errors.InputError(f"{where}: {key}: {error} is no field; known are {', '.join(known)}") from None
    for number, example in enumerate(asking.examples, 1):
        if example.person not in ("", "first", "third"):
            raise errors.InputError(
                f"{where}: example {number}: person: expected first or third, found {example.person!r}"
            )
        for line in asking.levels:
            try:
                line.format(**example.fields)
            except KeyError as error:
                raise errors.InputError(f"{where}: example {number}: fields: {error} is missing") from None
