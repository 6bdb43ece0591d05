"""Whether the files of a folder are still what was written there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vatjax import errors
from vatjax.store.files import commit_json, reason

_SEAL = "sha256.json"


def seal(folder: Path) -> None:
    """Writes down the hash of each file in a folder, for `check_seal`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _SEAL)
    commit_json(folder / _SEAL, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})


def sealed(folder: Path) -> bool:
    """Whether there is a seal to compare a folder with."""
    return (folder / _SEAL).is_file()


def check_seal(folder: Path, what: str, mend: str, needed: Sequence[str] = ()) -> None:
    """Compares every file of a folder with what was sealed.

    Args:
        folder: that `seal` was called with.
        what, mend: what is in it, and what to do where it is damaged.
        needed: files that must be among those that were sealed.

    Raises:
        InputError: where a file is missing, can't be read, or is another one.
    """
    try:
        digests = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        if not isinstance(digests, dict) or not set(needed) <= set(digests):
            raise ValueError(f"{_SEAL} does not name {', '.join(needed) or 'files'}")
        for name, digest in digests.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} is not the file that was sealed")
    except OSError as error:
        why = f"{Path(error.filename).name}: {reason(error)}" if error.filename else reason(error)
    except json.JSONDecodeError:
        why = f"{_SEAL} is no JSON"
    except ValueError as error:
        why = str(error)
    else:
        return
    raise errors.InputError(f"{folder}: {what} is damaged ({why}); {mend}")
