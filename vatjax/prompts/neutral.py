"""Neutral sentences, which concern no value: a model's perplexity on them measures how well it still writes."""

from __future__ import annotations

import pathlib

_FILE = pathlib.Path(__file__).parent.parent / "assets" / "neutral.txt"


def neutral_texts() -> list[str]:
    """Returns the bundled neutral sentences."""
    return _FILE.read_text(encoding="utf-8").splitlines()
