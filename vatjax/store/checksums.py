"""Checksums of a folder's files, which show whether a file was damaged or replaced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vatjax import errors
from vatjax.store.files import commit_json, parse_json, reason

_CHECKSUMS = "sha256.json"


def write_checksums(folder: Path) -> None:
    """Writes the SHA-256 hash of each file of a folder to `sha256.json`, for `verify_checksums`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _CHECKSUMS)
    commit_json(folder / _CHECKSUMS, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})


def has_checksums(folder: Path) -> bool:
    """Returns True if a folder has a `sha256.json`."""
    return (folder / _CHECKSUMS).is_file()


def verify_checksums(folder: Path, what: str, remedy: str, required: Sequence[str] = ()) -> None:
    """Compares the files of a folder with their recorded checksums.

    Args:
        folder: for which `write_checksums` was called.
        what, remedy: the folder's content, and what to do if it is damaged; for the message.
        required: files that must have a checksum.

    Raises:
        InputError: if a file is missing, can't be read, or has changed.
    """
    try:
        digests = parse_json((folder / _CHECKSUMS).read_text(encoding="utf-8"))
        if not isinstance(digests, dict) or not set(required) <= set(digests):
            raise ValueError(f"{_CHECKSUMS} does not name {', '.join(required) or 'files'}")
        for name, digest in digests.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} is not the recorded file")
    except OSError as error:
        why = f"{Path(error.filename).name}: {reason(error)}" if error.filename else reason(error)
    except json.JSONDecodeError:
        why = f"{_CHECKSUMS} is not JSON"
    except ValueError as error:
        why = str(error)
    else:
        return
    raise errors.InputError(f"{folder}: {what} is damaged ({why}); {remedy}")
