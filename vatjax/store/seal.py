"""Whether the files of a folder are still what was written there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vatjax import errors
from vatjax.store.files import commit_json

_SEAL = "sha256.json"


def seal(folder: Path) -> None:
    """Writes down the hash of each file in a folder, for `check_seal`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _SEAL)
    commit_json(folder / _SEAL, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})


def check_seal(folder: Path, what: str, mend: str) -> None:
    """Compares every file of a folder with what was sealed.

    Args:
        folder: that `seal` was called with.
        what, mend: what is in it, and what to do where it is damaged.

    Raises:
        InputError: where a file is missing, can't be read, or is another one.
    """
    try:
        sealed = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        for name, digest in sealed.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} is not the file that was sealed")
    except (OSError, ValueError, AttributeError) as error:
        raise errors.InputError(f"{folder}: {what} is damaged ({error}); {mend}") from None
