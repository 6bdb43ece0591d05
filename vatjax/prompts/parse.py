"""Parsers that read a rating from generated text. Text that is not an answer is missing, never a number.

strict       the number alone, with at most a full stop after it
forgiving    also a number in JSON, in a code fence, after "rating:" or "answer:", or the only one in the text
"""

from __future__ import annotations

import json
import re

from vatjax.prompts.wording import Letters, Scale

_NUMBER = r"(?<![\w.,-])(\d{1,3})(?![\w]|[.,]\d)"
_GIVEN = re.compile(
    rf"(?:rating|answer|score|importance|judge?ment|advice)\W{{0,6}}(?:is|:|=|of)?\W{{0,4}}{_NUMBER}",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:i(?: a|\W)m (?:sorry|unable|not able)|i (?:can(?:no|\W)?t|cannot|won\W?t|refuse|decline)|as an? (?:ai|language model))",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```[a-z]*\s*(.*?)```", re.DOTALL)
_KEY = re.compile("rating|answer|score|number|importance|judg|advice", re.IGNORECASE)
_OBJECT = re.compile(r"\{[^{}]*\}")
_SCALE = re.compile(r"(?:scale|from|between)\s+(?:of\s+|from\s+)?\d+\s*(?:to|-|–|and)\s*\d+", re.IGNORECASE)
_SEVERAL = re.compile(r"\d\s*(?:or|to|and|-|–)\s*\d", re.IGNORECASE)
_OUT_OF = re.compile(rf"{_NUMBER}\s*(?:/|out of|of)\s*\d+", re.IGNORECASE)


def parse_strict(text: str, scale: Scale | Letters) -> float | None:
    """Returns the rating if the text is one option and nothing else.

    >>> parse_strict(" 4.", Scale()), parse_strict("I say 4", Scale())
    (4.0, None)
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*\.?\s*", text)
    return _rating(match[1], scale) if match else None


def parse_forgiving(text: str, scale: Scale | Letters) -> float | None:
    """Returns the rating that the text gives as its answer; None for a refusal, for several numbers, and for none.

    >>> parse_forgiving('Sure! {"rating": 2, "why": "it harms 3 people"}', Scale())
    2.0
    >>> parse_forgiving("I can't rate this from 1 to 5.", Scale()) is None
    True
    """
    if _REFUSED.search(text):
        return None
    inner = _FENCE.search(text)
    body = inner[1].strip() if inner else text
    alone = parse_strict(body, scale)
    if alone is not None:
        return alone
    body = _OUT_OF.sub(lambda match: f" {match[1]} ", _SCALE.sub(" ", body))
    for named in (_in_json(body), _named(body)):
        if named:  # a number given as the answer decides, even if it is not an option or not the only one
            return _rating(named[0], scale) if len(named) == 1 and not _SEVERAL.search(body) else None
    if _SEVERAL.search(body):
        return None
    numbers = {rating for number in re.findall(_NUMBER, body) if (rating := _rating(number, scale)) is not None}
    return numbers.pop() if len(numbers) == 1 else None


def _named(text: str) -> list[str]:
    """Returns the numbers that follow a word for the answer."""
    return sorted(set(_GIVEN.findall(text)))


def _in_json(text: str) -> list[str]:
    """Returns the whole numbers of an object under a key that names the answer; without such a key all of them."""
    for candidate in _OBJECT.findall(text):
        try:
            content = json.loads(candidate)
        except ValueError:
            continue
        numbers = {
            k: str(v).strip() for k, v in content.items() if isinstance(v, int | str) and str(v).strip().isdigit()
        }
        named = [v for k, v in numbers.items() if _KEY.search(k)]
        return named or list(numbers.values())
    return []


def _rating(number: str, scale: Scale | Letters) -> float | None:
    """Returns a number on the rising scale; None if it is not an option."""
    by_option = dict(zip(scale.options, scale.ratings, strict=True))
    return by_option.get(str(int(number))) if len(number) < 4 else None
