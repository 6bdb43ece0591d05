"""Arrays in `.npz` files: equal arrays have equal bytes, no pickles, and a limit of expanded bytes before memory."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from typing import IO, BinaryIO

import numpy as np

from vatjax.errors import InputError
from vatjax.store.files import Path, commit, open_binary


def commit_npz(file_path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Commits arrays as an `.npz` without pickles; equal arrays give equal bytes."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name}: an object array would need a pickle")
        if np.dtype(array.dtype.str) != array.dtype and array.dtype.names is None:
            raise TypeError(f"{name}: an .npz would forget that this is {array.dtype}; store its bits or widen it")

    def content(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(arrays):
                member = zipfile.ZipInfo(f"{name}.npy")  # with its default date, not today's
                member.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(member, "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, np.asanyarray(arrays[name]), allow_pickle=False)

    commit(file_path, content)


def load_npz(file_path: Path) -> dict[str, np.ndarray]:
    """Reads an `.npz`, with pickling off.

    Raises:
        InputError: if it can't be opened, or claims more bytes than `expanded_limit`.
        ValueError: if it is not an `.npz`, or is damaged.
    """
    with open_binary(file_path) as file:
        if file.read(2) != b"PK":
            raise ValueError("not an .npz archive")
        file.seek(0)
        _check_expanded(file, file_path)
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except MemoryError:
            raise
        except Exception as error:  # a flipped byte raises many types, which all mean a damaged file
            if "allow_pickle" in str(error):
                raise ValueError("it holds Python objects, which are never read") from None
            raise ValueError(f"the archive is damaged ({type(error).__name__})") from None


def expanded_limit() -> int:
    """Returns how many bytes a compressed file may expand to: 4 GB, or the gigabytes of `VATJAX_EXPANDED_GB`."""
    text = os.environ.get("VATJAX_EXPANDED_GB", "4")
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise InputError(f"VATJAX_EXPANDED_GB: expected a number of gigabytes, found {text!r}") from None


def _check_expanded(file: IO[bytes], file_path: Path) -> None:
    """Raises before anything is allocated if the arrays of an archive are larger than the limit, or than their data."""
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(member.file_size for member in archive.infolist())
            if total > expanded_limit():
                raise InputError(
                    f"{file_path}: expands to {total / 1e9:,.1f} GB, and at most {expanded_limit() / 1e9:g} GB are read; "
                    "raise the limit with VATJAX_EXPANDED_GB"
                )
            for member in archive.infolist():
                with archive.open(member) as opened:
                    version = np.lib.format.read_magic(opened)
                    read_header = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        read_header = np.lib.format.read_array_header_2_0
                    shape, _, dtype = read_header(opened)
                if not dtype.hasobject and math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"the archive is damaged ({member.filename} is shorter than its header says)")
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a flipped byte raises many types, which all mean a damaged file
        if isinstance(error, ValueError) and "archive is damaged" in str(error):
            raise
        raise ValueError(f"the archive is damaged ({type(error).__name__})") from None
