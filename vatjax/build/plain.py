"""Gates that need no model: is it a text at all, of the right length and language, and does it give nothing away."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from vatjax import errors, names
from vatjax.build.leak import leaked
from vatjax.build.records import Request, Text, Verdict
from vatjax.build.settings import Gates
from vatjax.build.words import words


class Asked(NamedTuple):
    """What a text is held against.

    Attributes:
        request: what was wanted.
        prompt: what the writer was asked.
        words: that stand for the value that it is about.
        settings: what must be passed.
    """

    request: Request
    prompt: str
    words: Sequence[str]
    settings: Gates


def gates(text: Text, asked: Asked) -> list[Verdict]:
    """What the gates say, up to the first that refuses.

    Args:
        text: what was written.
        asked: what it is held against.
    """
    found = []
    for gate in _GATES:
        verdict = gate(text, asked)
        if verdict is not None:
            found.append(verdict)
            if verdict.passed is False:
                break
    return found


def _whole(text: Text, asked: Asked) -> Verdict:
    if not words(text.text):
        return Verdict("whole", False, "empty" if not text.text.strip() else "no word in it")
    whole = text.ended or not asked.settings.ended
    return Verdict("whole", whole, "" if whole else "it has no end")


def _length(text: Text, asked: Asked) -> Verdict:
    low, high = asked.settings.scene_words if asked.request.stage == "scene" else asked.settings.action_words
    count = len(words(text.text))
    fits = low <= count <= high
    return Verdict("length", fits, "" if fits else f"{count} words, expected {low} to {high}", float(count))


def _echo(text: Text, asked: Asked) -> Verdict:
    own, theirs = (words(part.casefold()) for part in (text.text, asked.prompt))
    fours = [tuple(own[i : i + 4]) for i in range(len(own) - 3)]
    known = {tuple(theirs[i : i + 4]) for i in range(len(theirs) - 3)}
    share = sum(four in known for four in fours) / len(fours) if fours else float(" ".join(own) in " ".join(theirs))
    said = "" if share < asked.settings.echo else f"{share:.0%} of it is the prompt's"
    return Verdict("echo", share < asked.settings.echo, said, share)


def _language(text: Text, asked: Asked) -> Verdict | None:
    expected = asked.settings.language
    if not expected:
        return None
    language, sure = _identifier().classify(text.text)
    other = language != expected and sure >= asked.settings.sure
    said = f"{language} with probability {sure:.2f}, expected {expected}" if other else ""
    return Verdict("language", not other, said, float(sure))


def check_language(code: str) -> None:
    """Refuses a language that no text could be told to be of."""
    if code and code not in _identifier().labels:
        raise errors.InputError(names.unknown("language", code, sorted(_identifier().labels)))


@functools.cache
def _identifier() -> Any:
    from py3langid import langid

    model = pathlib.Path(langid.__file__).parent / langid.MODEL_FILE
    return langid.LanguageIdentifier.from_modelpath(model, norm_probs=True)


def _leak(text: Text, asked: Asked) -> Verdict | None:
    if not asked.words or not asked.settings.leak:
        return None
    word = leaked(asked.words, text.text, asked.settings.language or "en")
    return Verdict("leak", not word, f"it says {word!r}" if word else "")


_GATES = (_whole, _length, _echo, _language, _leak)
