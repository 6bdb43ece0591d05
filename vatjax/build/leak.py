"""Whether a text names the value that it is about: a word for it, in any of its forms."""

from __future__ import annotations

import functools
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from vatjax import config
from vatjax.build.words import words
from vatjax.values import Taxonomy

_SMALL = frozenset(["a", "an", "and", "in", "of", "on", "the", "to", "for", "with"])
# The languages whose forms are known, by their codes; in others a word is itself.
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french",
    "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian",
    "lt": "lithuanian", "nb": "norwegian", "ne": "nepali", "nl": "dutch", "nn": "norwegian", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish",
}  # fmt: skip


def leaked(phrases: Sequence[str], text: str, language: str = "en") -> str:
    """The words by which a text names a value; nothing where it does not.

    A phrase is named where all of its words stand in the text, each in any of its forms.

    Args:
        phrases: names of the value, and words for it.
        text: what is read.
        language: of both, by its code.
    """
    there = {_stem(word, language): word for word in words(text.replace("-", " "))}
    for phrase in phrases:
        wanted = [_stem(word, language) for word in words(phrase.replace("-", " ")) if word.casefold() not in _SMALL]
        if wanted and all(stem in there for stem in wanted):
            return " ".join(there[stem] for stem in wanted)
    return ""


@functools.lru_cache(1 << 16)
def _stem(word: str, language: str) -> str:
    """What a word's forms have in common: obedient and obedience, wealth and wealthy."""
    text = unicodedata.normalize("NFKC", word).casefold().removesuffix("'s").removesuffix("’s")
    stemmer = _stemmer(language)
    if stemmer is None:
        return text
    stem: str = stemmer.stemWord(text)
    return stem.removesuffix("i") if language == "en" and len(stem) > 5 else stem  # wealthi is wealthy, honesti honesty


@functools.cache
def _stemmer(language: str) -> Any:
    import snowballstemmer

    name = _STEMMERS.get(language)
    return None if name is None else snowballstemmer.stemmer(name)


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
