"""A hash of every text that the package asks, instructs or teaches with."""

from __future__ import annotations

import functools
import hashlib
import pathlib

from vatjax.prompts.neutral import neutral_texts


@functools.cache
def digest() -> str:
    """Returns a hash of 32 hexadecimal digits, which changes with any of the texts."""
    whole = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.glob("*.yaml")):
        whole.update(path.name.encode() + path.read_bytes())
    whole.update("\n".join(neutral_texts()).encode())
    return whole.hexdigest()[:32]
