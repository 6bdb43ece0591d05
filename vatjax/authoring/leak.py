"""Detects texts that name the value they are about: a word for it, in any inflected form."""

from __future__ import annotations

import functools
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from vatjax import config
from vatjax.authoring.tokenize_words import tokenize_words
from vatjax.values import Taxonomy

_SMALL = frozenset(["a", "an", "and", "in", "of", "on", "the", "to", "for", "with"])
# Languages with a stemmer, by code; in other languages a word is its own stem.
_STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french",
    "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian",
    "lt": "lithuanian", "nb": "norwegian", "ne": "nepali", "nl": "dutch", "nn": "norwegian", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil",
    "tr": "turkish",
}  # fmt: skip


def find_leak(phrases: Sequence[str], text: str, language: str = "en") -> str:
    """Returns the words by which a text names a value, or "" if it does not.

    A phrase is named if the text contains all of its words, each in any inflected form.

    Args:
        phrases: names of the value, and words for it.
        text: the text to search.
        language: code of the language of both.
    """
    words_by_stem = {_stem(word, language): word for word in tokenize_words(text.replace("-", " "))}
    for phrase in phrases:
        stems = [
            _stem(word, language) for word in tokenize_words(phrase.replace("-", " ")) if word.casefold() not in _SMALL
        ]
        if stems and all(stem in words_by_stem for stem in stems):
            return " ".join(words_by_stem[stem] for stem in stems)
    return ""


@functools.lru_cache(1 << 16)
def _stem(word: str, language: str) -> str:
    """Returns the stem that a word's forms share: obedient and obedience, wealth and wealthy."""
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
    """Returns each value's name, aliases and synonyms."""
    return {
        value.name: (value.name, *value.aliases, *_synonyms().get(value.name, ()))
        for kind in taxonomy.entries
        for value in kind.values
    }


@functools.cache
def _synonyms() -> Mapping[str, Sequence[str]]:
    return config.read(dict[str, tuple[str, ...]], pathlib.Path(__file__).parent / "synonyms.yaml")
