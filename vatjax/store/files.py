"""Files that are there whole or not at all, on local folders and on buckets.

On a bucket an object appears whole or not at all by the service's own guarantee, so the temporary file, the syncs and
the rename are the local form only.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import pathlib
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, BinaryIO

import numpy as np

from vatjax import names
from vatjax.errors import InputError

Path = str | os.PathLike[str]

# scheme -> the package that opens it
_BUCKETS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


def path(where: Path) -> Any:
    """A `pathlib.Path`, or an `epath.Path` (same methods) for a URI.

    Raises:
        InputError: for a scheme that nothing here opens, and for one whose package is not installed.
    """
    if not isinstance(where, str):  # an epath.Path is no pathlib.Path, and turning it into one would lose its scheme
        return where if hasattr(where, "open") else pathlib.Path(where)
    if not where:
        raise InputError("the name of a file is empty")
    if "\0" in where:
        raise InputError(f"{where!r}: a path can't hold a null character")
    scheme, separator, rest = where.partition("://")
    if not separator:
        return pathlib.Path(where).expanduser()
    if scheme == "file":
        return pathlib.Path(rest)
    if scheme not in _BUCKETS:
        known = ", ".join(f"{name}://" for name in _BUCKETS)
        raise InputError(f"{where}: can't open {scheme}://; known are {known} and local paths")
    from etils import epath  # a local run never pays for these imports
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ImportError:
        raise InputError(
            f"{where}: {scheme}:// needs the package {_BUCKETS[scheme]}: pip install {_BUCKETS[scheme]}"
        ) from None
    return epath.Path(where)


def size(where: Path) -> int:
    """How many bytes a file has."""
    found = path(where).stat()
    return int(found.st_size if hasattr(found, "st_size") else found.length)


def open_binary(where: Path) -> IO[bytes]:
    """Opens a file for reading.

    Raises:
        InputError: where it can't be opened: absent, a folder, no permission, no access to the bucket.
    """
    target = path(where)
    try:
        return target.open("rb")
    except OSError as error:
        raise InputError(f"{where}: {reason(error)}{_near(target)}") from None
    except Exception as error:
        if isinstance(target, pathlib.Path):
            raise
        raise InputError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def read_text(where: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        InputError: as `open_binary` does, and for another encoding.
    """
    with open_binary(where) as file:
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _near(target: Any) -> str:
    """The file beside one that is not there whose name is nearest to it."""
    if not isinstance(target, pathlib.Path) or target.exists() or not target.parent.is_dir():
        return ""
    found = names.nearest(target.name, [one.name for one in target.parent.iterdir()], cutoff=0.75)
    return f"; did you mean {target.with_name(found)}?" if found else ""


def reason(error: OSError) -> str:
    """An operating system's error in a few words."""
    return (error.strerror or str(error)).lower()


# Who writes -----------------------------------------------------------------------------------------------------------
# Several processes that work as one all go through the same code; one of them writes what all have made.

_leaves = False


def leave_writing() -> None:
    """From now on nothing that this process commits is written: another one writes the same."""
    global _leaves
    _leaves = True


def writes() -> bool:
    """Whether this process writes."""
    return not _leaves


# Committing ---------------------------------------------------------------------------------------------------------


def commit(where: Path, data: bytes | bytearray | memoryview | Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it is there whole or not at all, also through a kill or a power cut.

    A reader sees the old content or the new, never a part. Missing parent folders are made. A file that is replaced
    keeps its permissions, and a link keeps pointing where it points.

    Args:
        where: local path or bucket URI.
        data: the content, or a function that writes it to an open binary file.
    """
    if _leaves:
        return
    target = path(where)
    if not isinstance(target, pathlib.Path):
        target.write_bytes(_collected(data))
        return
    target = pathlib.Path(os.path.realpath(target))
    with _written(target, data) as temporary:
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(temporary, target)
    _sync_folder(target.parent)


def append(where: Path, line: bytes) -> None:
    """Adds a line to a file, made where there is none; a kill can tear this line, and none before it.

    A bucket's objects can't grow: there the whole file is written anew.
    """
    if _leaves:
        return
    target = path(where)
    if not isinstance(target, pathlib.Path):
        target.write_bytes((target.read_bytes() if target.exists() else b"") + line)
        return
    _make_folder(target.parent)
    with open(target, "ab") as file:
        file.write(line)


def create(where: Path, data: bytes) -> bool:
    """Commits a file only if none of that name is there. Of several processes that try at once, one gets True."""
    if _leaves:
        return False
    target = path(where)
    if not isinstance(target, pathlib.Path):
        system, name = bucket(target)
        try:
            system.pipe_file(name, data, mode="create")
        except FileExistsError:
            return False
        return True
    with _written(target, data) as temporary:
        try:
            os.link(temporary, target)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(target, data)
    _sync_folder(target.parent)
    return True


def _create_without_links(target: pathlib.Path, data: bytes) -> bool:
    """For file systems that have no hard links; a reader may for a moment see the file empty."""
    try:
        with open(target, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    _sync_folder(target.parent)
    return True


def bucket(target: Any) -> tuple[Any, str]:
    """The client behind a bucket path, which knows what `epath` lacks: conditional creation, and listing afresh."""
    import fsspec

    system, name = fsspec.core.url_to_fs(str(target))
    return system, name


def commit_json(where: Path, content: Any) -> None:
    """Commits JSON with sorted keys, so that equal content has equal bytes. NaN is refused: write null for it."""
    commit(where, (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode())


def finite(content: Any) -> Any:
    """The same data with null for every number that is none."""
    if isinstance(content, dict):
        return {key: finite(entry) for key, entry in content.items()}
    if isinstance(content, list | tuple):
        return [finite(entry) for entry in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def commit_npz(where: Path, arrays: Mapping[str, np.ndarray]) -> None:
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

    commit(where, content)


def load_npz(where: Path) -> dict[str, np.ndarray]:
    """Reads an `.npz`, with pickling off.

    Raises:
        InputError: where it can't be opened.
        ValueError: where it is no `.npz` or a damaged one.
    """
    with open_binary(where) as file:
        if file.read(2) != b"PK":
            raise ValueError("this is no .npz archive")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except MemoryError:
            raise
        except Exception as error:  # a flipped byte surfaces in many guises, all of which mean one thing
            if "allow_pickle" in str(error):
                raise ValueError("it holds Python objects, which are never read") from None
            raise ValueError(f"the archive is damaged ({type(error).__name__})") from None


@contextlib.contextmanager
def _written(target: pathlib.Path, data: Any) -> Iterator[pathlib.Path]:
    """The content in a synced file beside the target, gone afterwards whatever happens. Errors name the target."""
    _make_folder(target.parent)
    temporary = target.with_name(f".{target.name[:80]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        if error.filename == str(temporary):
            raise type(error)(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)


def _make_folder(folder: pathlib.Path) -> None:
    """Makes a folder and its parents, each entry durable before anything is put into it."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for entry in reversed(missing):
        entry.mkdir(exist_ok=True)
        _sync_folder(entry.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """A rename is durable only when the folder that holds the name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems don't sync folders; the file itself is synced
        pass
    finally:
        os.close(descriptor)


def _collected(data: Any) -> bytes:
    """The whole content, since closing a half-written object would publish it."""
    if not callable(data):
        return bytes(data)
    buffer = io.BytesIO()
    data(buffer)
    return buffer.getvalue()
