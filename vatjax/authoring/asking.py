"""Prompts for the writer, as data: the shipped ones or a user's file."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

from vatjax import config, errors, prompts, store
from vatjax.authoring.records import Request, Stage
from vatjax.authoring.settings import Build
from vatjax.prompts import Chat, Shot, Wording

_SHIPPED = pathlib.Path(__file__).parent / "writing.yaml"
_OF_SYSTEM = ("language", "person", "words")
_OF_STAGE: Mapping[Stage, tuple[str, ...]] = {
    "scene": ("country", "topic", "number"),
    "action": ("country", "topic", "scene", "value", "definition", "polarity", "deed"),
}


@dataclasses.dataclass(frozen=True)
class Example:
    """A few-shot example: the fields of a prompt and the text written for it.

    Attributes:
        fields: values of the prompt's placeholders.
        text: the answer.
        person: "first" or "third" restricts the example to that grammatical person; empty allows both.
    """

    fields: Mapping[str, str]
    text: str
    person: str = ""


@dataclasses.dataclass(frozen=True)
class StagePrompt:
    """The prompt template of one stage.

    Attributes:
        system: system prompt with {language}, {person} and {words}, the maximum number of words.
        levels: lines of the prompt, from the most shared to the most specific.
        answer: text that precedes the answer if the model has no chat template.
        examples: for the few-shot variant.
    """

    system: str
    levels: tuple[str, ...]
    answer: str
    examples: tuple[Example, ...] = ()


@dataclasses.dataclass(frozen=True)
class WriterPrompts:
    """The writer's prompt templates.

    Attributes:
        version: version of the wording.
        scenes, actions: the template of each stage.
    """

    version: int
    scenes: StagePrompt
    actions: StagePrompt

    @property
    def name(self) -> str:
        """Returns the version with a content hash, which separates different prompts of one version."""
        return f"{self.version}-{store.address(dataclasses.asdict(self))[:8]}"

    def assemble(self, settings: Build, batch: list[Request], chat: Chat | None) -> prompts.Prompts:
        """Assembles the prompts of requests that share a stage and a variant.

        Args:
            settings: give the language, the person and the maximum number of words.
            batch: the requests.
            chat: the writer's chat template, or None.
        """
        template = self.scenes if batch[0].stage == "scene" else self.actions
        system = template.system.format(
            language=settings.language, person=settings.person, words=settings.gates.action_words[1]
        )
        shown = template.examples if batch[0].variant == "few-shot" else ()
        shots = [Shot(example.fields, example.text) for example in shown if example.person in ("", settings.person)]
        wording = Wording(system, "", "", template.levels, template.answer)
        return prompts.assemble([request.fields for request in batch], wording, None, shots, chat)


@functools.cache
def read_prompts(path: str = "") -> WriterPrompts:
    """Reads prompts from a YAML file, by default the shipped one.

    Raises:
        InputError: with file, line and key; also for placeholders that the stage does not define.
    """
    loaded = config.read(WriterPrompts, path or _SHIPPED)
    for stage, template in (("scene", loaded.scenes), ("action", loaded.actions)):
        _check_placeholders(template, _OF_STAGE[stage], f"{path or _SHIPPED.name}: {stage}s")  # type: ignore[index]
    return loaded


def _check_placeholders(template: StagePrompt, fields: tuple[str, ...], place: str) -> None:
    parts = [("system", template.system, _OF_SYSTEM), *(("levels", line, fields) for line in template.levels)]
    for key, text, known in parts:
        try:
            text.format(**dict.fromkeys(known, ""))
        except (KeyError, IndexError, ValueError) as error:
            raise errors.InputError(f"{place}: {key}: {error} is not a field; known are {', '.join(known)}") from None
    for number, example in enumerate(template.examples, 1):
        if example.person not in ("", "first", "third"):
            raise errors.InputError(
                f"{place}: example {number}: person: expected first or third, found {example.person!r}"
            )
        for line in template.levels:
            try:
                line.format(**example.fields)
            except KeyError as error:
                raise errors.InputError(f"{place}: example {number}: fields: {error} is missing") from None
