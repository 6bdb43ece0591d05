"""Splits text into words, also in scripts without spaces between words."""

from __future__ import annotations

import re

# Thai, Lao, Khmer, kana and ideographs: each letter counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+(?:['’](?:(?![{_UNSPACED}])\w)+)*")


def tokenize_words(text: str) -> list[str]:
    """Returns the words of a text.

    >>> tokenize_words("The clerk's desk, 我走了")
    ['The', "clerk's", 'desk', '我', '走', '了']
    """
    return _WORD.findall(text)
