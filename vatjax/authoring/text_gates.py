"""Gates that need no model: completeness, length, echo of the prompt, language, and leaks of the value's name."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from vatjax import errors, names
from vatjax.authoring.leak import find_leak
from vatjax.authoring.records import Request, Text, Verdict
from vatjax.authoring.settings import Gates
from vatjax.authoring.tokenize_words import tokenize_words


class GateInput(NamedTuple):
    """The data that the gates compare a text with.

    Attributes:
        request: the request.
        prompt: the writer's prompt.
        words: words for the value that the text is about.
        settings: thresholds of the gates.
    """

    request: Request
    prompt: str
    words: Sequence[str]
    settings: Gates


def run_text_gates(text: Text, gate_input: GateInput) -> list[Verdict]:
    """Returns the gates' verdicts, up to the first that refuses.

    Args:
        text: the written text.
        gate_input: the data to compare it with.
    """
    verdicts = []
    for gate in _GATES:
        verdict = gate(text, gate_input)
        if verdict is not None:
            verdicts.append(verdict)
            if verdict.passed is False:
                break
    return verdicts


def _whole(text: Text, gate_input: GateInput) -> Verdict:
    if not tokenize_words(text.text):
        return Verdict("whole", False, "empty" if not text.text.strip() else "no words")
    whole = text.ended or not gate_input.settings.ended
    return Verdict("whole", whole, "" if whole else "does not end")


def _length(text: Text, gate_input: GateInput) -> Verdict:
    low, high = (
        gate_input.settings.scene_words if gate_input.request.stage == "scene" else gate_input.settings.action_words
    )
    count = len(tokenize_words(text.text))
    fits = low <= count <= high
    return Verdict("length", fits, "" if fits else f"{count} words, expected {low} to {high}", float(count))


def _echo(text: Text, gate_input: GateInput) -> Verdict:
    text_words, prompt_words = (tokenize_words(part.casefold()) for part in (text.text, gate_input.prompt))
    fours = [tuple(text_words[i : i + 4]) for i in range(len(text_words) - 3)]
    known = {tuple(prompt_words[i : i + 4]) for i in range(len(prompt_words) - 3)}
    share = (
        sum(four in known for four in fours) / len(fours)
        if fours
        else float(" ".join(text_words) in " ".join(prompt_words))
    )
    reason = "" if share < gate_input.settings.echo else f"{share:.0%} copied from the prompt"
    return Verdict("echo", share < gate_input.settings.echo, reason, share)


def _language(text: Text, gate_input: GateInput) -> Verdict | None:
    expected = gate_input.settings.language
    if not expected:
        return None
    language, sure = _identifier().classify(text.text)
    other = language != expected and sure >= gate_input.settings.sure
    reason = f"{language} with probability {sure:.2f}, expected {expected}" if other else ""
    return Verdict("language", not other, reason, float(sure))


def check_language(code: str) -> None:
    """Raises an InputError for a language that the language identifier does not know."""
    if code and code not in _identifier().labels:
        raise errors.InputError(names.unknown_name("language", code, sorted(_identifier().labels)))


@functools.cache
def _identifier() -> Any:
    from py3langid import langid

    model = pathlib.Path(langid.__file__).parent / langid.MODEL_FILE
    return langid.LanguageIdentifier.from_modelpath(model, norm_probs=True)


def _leak(text: Text, gate_input: GateInput) -> Verdict | None:
    if not gate_input.words or not gate_input.settings.leak:
        return None
    word = find_leak(gate_input.words, text.text, gate_input.settings.language or "en")
    return Verdict("leak", not word, f"names the value: {word!r}" if word else "")


_GATES = (_whole, _length, _echo, _language, _leak)
