"""Reading a rating from what a model wrote. What is no answer is missing, never a number.

strict       the number alone, with at most a full stop behind it
forgiving    also a number in JSON, in a code fence, behind "rating:" or "answer:", or the only one in the text
"""

from __future__ import annotations

import json
import re

from vatjax.prompts.wording import Letters, Scale

_NUMBER = r"(?<![\w.,-])(\d{1,3})(?![\w]|[.,]\d)"
_GIVEN = re.compile(
    rf"(?:rating|answer|score|number|importance|judge?ment|advice)\W{{0,6}}(?:is|:|=|of)?\W{{0,4}}{_NUMBER}",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:i(?: a|\W)m (?:sorry|unable|not able)|i (?:can(?:no|\W)?t|cannot|won\W?t|refuse|decline)|as an? (?:ai|language model))",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```[a-z]*\s*(.*?)```", re.DOTALL)
_OBJECT = re.compile(r"\{[^{}]*\}")
_OUT_OF = re.compile(rf"{_NUMBER}\s*(?:/|out of|of)\s*\d+", re.IGNORECASE)


def strict(text: str, scale: Scale | Letters) -> float | None:
    """The rating where the text is one option and nothing else.

    >>> strict(" 4.", Scale()), strict("I say 4", Scale())
    (4.0, None)
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*\.?\s*", text)
    return _rating(found[1], scale) if found else None


def forgiving(text: str, scale: Scale | Letters) -> float | None:
    """The rating that the text gives as its answer; None for a refusal, for several numbers, and for none.

    >>> forgiving('Sure! {"rating": 2, "why": "it harms 3 people"}', Scale())
    2.0
    >>> forgiving("I can't rate this from 1 to 5.", Scale()) is None
    True
    """
    if _REFUSED.search(text):
        return None
    inner = _FENCE.search(text)
    body = inner[1].strip() if inner else text
    for candidate in (strict(body, scale), _in_json(body, scale), _named(body, scale)):
        if candidate is not None:
            return candidate
    body = _OUT_OF.sub(lambda found: f" {found[1]} ", body)
    numbers = {rating for number in re.findall(_NUMBER, body) if (rating := _rating(number, scale)) is not None}
    return numbers.pop() if len(numbers) == 1 else None


def _named(text: str, scale: Scale | Letters) -> float | None:
    """What stands behind a word for the answer, where it is one number only."""
    numbers = set(_GIVEN.findall(text))
    return _rating(numbers.pop(), scale) if len(numbers) == 1 else None


def _in_json(text: str, scale: Scale | Letters) -> float | None:
    """The only whole number among the values of an object, or the one whose key names the answer."""
    for found in _OBJECT.findall(text):
        try:
            content = json.loads(found)
        except ValueError:
            continue
        numbers = {k: v for k, v in content.items() if isinstance(v, int | str) and str(v).strip().isdigit()}
        named = [
            v
            for k, v in numbers.items()
            if re.search("rating|answer|score|number|importance|judg|advice", k, re.IGNORECASE)
        ]
        chosen = named if len(named) == 1 else list(numbers.values())
        if len(chosen) == 1:
            return _rating(str(chosen[0]).strip(), scale)
    return None


def _rating(number: str, scale: Scale | Letters) -> float | None:
    """A number on the rising scale; None where it is no option."""
    by_option = dict(zip(scale.options, scale.ratings, strict=True))
    return by_option.get(str(int(number)))
