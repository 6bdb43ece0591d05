"""Plain sentences about nothing that anybody values: what a model writes of them says how well it still writes."""

from __future__ import annotations

import pathlib

_FILE = pathlib.Path(__file__).parent.parent / "assets" / "neutral.txt"


def neutral_texts() -> list[str]:
    """The bundled plain sentences."""
    return _FILE.read_text(encoding="utf-8").splitlines()
