"""Content addresses: hashes of content, equal in every process and on every machine for equal content."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vatjax.store.files import Path, open_binary

_DIGITS = 32


def address(*parts: Any) -> str:
    """Returns the content hash of some data.

    Args:
        *parts: JSON-like data, bytes, dataclasses, arrays (NumPy or JAX), and mappings or sequences of those. The order
            of a dictionary does not count; types and shapes do (1, 1.0, True and "1" differ).

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest.update, part)
    return digest.hexdigest()[:_DIGITS]


def file_address(path: Path) -> str:
    """Returns the content hash of a file's bytes, which are read in chunks."""
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:_DIGITS]


def bytes_address(content: bytes | bytearray | memoryview) -> str:
    """Returns the content hash of a file with these bytes, as `file_address` does."""
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _feed(update: Callable[[Any], object], part: Any) -> None:
    """Feeds each entry with its type and length, so that no two structures share a byte string."""
    if isinstance(part, np.generic):
        _feed_array(update, np.asarray(part))
    elif isinstance(part, (bytes, str)):
        data = part.encode() if isinstance(part, str) else part
        update(f"{type(part).__name__}{len(data)}:".encode() + data)
    elif part is None or isinstance(part, (bool, int, float)):
        text = repr(part)
        update(f"{type(part).__name__}{len(text)}:{text}".encode())
    elif isinstance(part, Mapping):
        update(f"mapping{len(part)}:".encode())
        for key in sorted(part, key=lambda key: (type(key).__name__, str(key))):
            _feed(update, key)
            _feed(update, part[key])
    elif isinstance(part, (list, tuple)):
        update(f"sequence{len(part)}:".encode())
        for entry in part:
            _feed(update, entry)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        update(f"dataclass{len(type(part).__name__)}:{type(part).__name__}".encode())
        _feed(update, {field.name: getattr(part, field.name) for field in dataclasses.fields(part)})
    elif isinstance(part, os.PathLike):
        raise TypeError("a path is not content: hash the file's bytes with file_address")
    elif hasattr(part, "__array__"):
        _feed_array(update, np.asarray(part))
    else:
        raise TypeError(f"no content address for {type(part).__name__}")


def _feed_array(update: Callable[[Any], object], array: np.ndarray) -> None:
    if array.dtype.hasobject:
        raise TypeError("an object array has no content address")
    if array.dtype.kind == "U":  # the width of the longest text is not content
        update(f"texts{array.shape}:".encode())
        _feed(update, array.ravel().tolist())
        return
    # `str` alone calls every extension type raw bytes, `name` alone forgets fields and byte order.
    kind = f"{array.dtype.str}{array.dtype.name}{array.dtype.descr}"
    update(f"array{kind}{array.shape}:".encode())
    update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
