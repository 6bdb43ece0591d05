"""Gates that need no model: is it a text at all, of the right length and language, and does it give nothing away."""

from __future__ import annotations

import functools
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vatjax import config, errors, names
from vatjax.build.records import Request, Text, Verdict
from vatjax.build.settings import Gates
from vatjax.build.words import words
from vatjax.values import Taxonomy

_SMALL = frozenset(["a", "an", "and", "in", "of", "on", "the", "to", "for", "with", "self"])


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
    word = leaked(asked.words, text.text)
    return Verdict("leak", not word, f"it says {word!r}" if word else "")


def leaked(phrases: Sequence[str], text: str) -> str:
    """The words by which a text names a value; nothing where it does not.

    A phrase is named where all of its words stand in the text, each in any of its forms.
    """
    there = {_stem(word): word for word in words(text.replace("-", " "))}
    for phrase in phrases:
        wanted = [_stem(word) for word in words(phrase.replace("-", " ")) if word.casefold() not in _SMALL]
        if wanted and all(stem in there for stem in wanted):
            return " ".join(there[stem] for stem in wanted)
    return ""


def _stem(word: str) -> str:
    """What a word's forms have in common, roughly: obedient and obedience, wealth and wealthy."""
    plain = unicodedata.normalize("NFKC", word).casefold().removesuffix("'s").removesuffix("’s")
    for end in (
        "fulness",
        "ness",
        "ities",
        "ity",
        "ies",
        "ally",
        "ence",
        "ance",
        "ent",
        "ant",
        "ing",
        "ful",
        "ion",
        "ed",
        "es",
        "ly",
        "y",
        "s",
    ):
        if plain.endswith(end) and len(plain) - len(end) >= 4:
            return plain.removesuffix(end)
    return plain


def words_for(taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    """Of each value its name, its aliases, and words that stand for it."""
    return {
        value.name: (value.name, *value.aliases, *_synonyms().get(value.name, ()))
        for kind in taxonomy.entries
        for value in kind.values
    }


@functools.cache
def _synonyms() -> Mapping[str, Sequence[str]]:
    return config.read(dict[str, tuple[str, ...]], pathlib.Path(__file__).parent / "synonyms.yaml")


_GATES = (_whole, _length, _echo, _language, _leak)
