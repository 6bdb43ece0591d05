"""Tolerant names: spelling variants share one key, and an unknown name is answered with the nearest known one."""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from vatjax.errors import InputError

T = TypeVar("T")

_LONGEST = 60


@functools.lru_cache(1 << 14)
def canonical(name: str) -> str:
    """Returns the key that all spelling variants of a name share.

    Case, hyphens, spaces, accents, a leading article, "&" for "and" and British "our" make no difference. Letters of
    every script stay, with the marks that belong to them.

    >>> canonical("Self direction") == canonical("SELF-DIRECTION")
    True
    >>> canonical("Reciprocation of Favours") == canonical("reciprocation of favors")
    True
    """
    text = unicodedata.normalize("NFKD", name).casefold().replace("&", " and ")
    text = "".join(letter for letter in text if not "\u0300" <= letter <= "\u036f")  # Latin and Greek accents only
    words = "".join(letter if unicodedata.category(letter)[0] in "LNM" else " " for letter in text).split()
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return re.sub("our", "or", "".join(words))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Returns the known name that is closest to `name`, or None if none is as close as `cutoff` (1 is the same)."""
    by_key = {canonical(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(canonical(name), by_key, n=1, cutoff=cutoff)
    return by_key[close[0]] if close else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Returns the error for an unknown name: it offers the nearest known one, or all of them if they are few."""
    known = list(known)
    close = nearest(name, known) if isinstance(name, str) and len(name) <= _LONGEST else None
    if close is not None:
        return f"unknown {kind} {short_repr(name)}; did you mean {close!r}?"
    if not known:
        return f"unknown {kind} {short_repr(name)}; there are none"
    if len(known) <= 16:
        return f"unknown {kind} {short_repr(name)}; known are: {', '.join(known)}"
    return f"unknown {kind} {short_repr(name)}; there are {len(known)}, from {known[0]!r} to {known[-1]!r}"


# Control characters but tab and line feed, and marks that turn the direction of a text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Returns a text with control characters as escapes: a file's text must not move the cursor or turn a line around."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def json_printable(document: str) -> str:
    """Returns a JSON document with the same characters as JSON's own escapes: it stays the same data."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def short_repr(value: object) -> str:
    """Returns a value as an error shows it: quoted, with control characters escaped, and shortened."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def short_list(values: Iterable[object]) -> str:
    """Returns a list as an error shows it: each value shortened, the first twenty of a long one."""
    texts = [short_repr(entry) for entry in values]
    more = f" and {len(texts) - 20} more" if len(texts) > 20 else ""
    return (", ".join(texts[:20]) + more) or "nothing"


def find(kind: str, name: str, table: Mapping[str, T], known: Iterable[str]) -> T:
    """Looks a name up in a table of canonical keys.

    Args:
        kind: what the name names, for the error.
        name: the name as the user wrote it.
        table: canonical key -> result.
        known: the names to offer if `name` is not among them.
    """
    try:
        return table[canonical(name)]
    except (KeyError, TypeError):
        raise InputError(unknown_name(kind, name, known)) from None
