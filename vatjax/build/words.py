"""What counts as a word, also in scripts that put no spaces between words."""

from __future__ import annotations

import re

# Thai, Lao, Khmer, kana and ideographs: of these each letter is one.
_ALONE = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|(?:(?![{_ALONE}])\w)+(?:['’](?:(?![{_ALONE}])\w)+)*")


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("The clerk's desk, 我走了")
    ['The', "clerk's", 'desk', '我', '走', '了']
    """
    return _WORD.findall(text)
