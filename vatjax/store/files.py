"""Atomic file writes, on local folders and on buckets.

A bucket's service writes each object atomically, so the temporary file, the syncs and the rename are used for local
files only.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import io
import json
import math
import os
import pathlib
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, BinaryIO, NamedTuple

from vatjax import names
from vatjax.errors import InputError

Path = str | os.PathLike[str]

# scheme -> the package that opens it
_BUCKETS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


def path(location: Path) -> Any:
    """Returns a `pathlib.Path`, or an `epath.Path` (same methods) for a URI.

    Raises:
        InputError: if the scheme is unknown, or its package is not installed.
    """
    if not isinstance(location, str):  # an epath.Path is not a pathlib.Path, and converting it would lose its scheme
        return location if hasattr(location, "open") else pathlib.Path(location)
    if not location:
        raise InputError("the name of a file is empty")
    if "\0" in location:
        raise InputError(f"{location!r}: a path can't hold a null character")
    scheme, separator, rest = location.partition("://")
    if not separator:
        return pathlib.Path(location).expanduser()
    if scheme == "file":
        return pathlib.Path(rest)
    if scheme not in _BUCKETS:
        known = ", ".join(f"{name}://" for name in _BUCKETS)
        raise InputError(f"{location}: can't open {scheme}://; known are {known} and local paths")
    from etils import epath  # a local run never pays for these imports
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ImportError:
        raise InputError(
            f"{location}: {scheme}:// needs the package {_BUCKETS[scheme]}: pip install {_BUCKETS[scheme]}"
        ) from None
    return epath.Path(location)


def size(file_path: Path) -> int:
    """Returns the size of a file in bytes."""
    info = path(file_path).stat()
    return int(info.st_size if hasattr(info, "st_size") else info.length)


def open_binary(file_path: Path) -> IO[bytes]:
    """Opens a file for reading.

    Raises:
        InputError: if it can't be opened: absent, a folder, no permission, no access to the bucket.
    """
    target = path(file_path)
    if isinstance(target, pathlib.Path) and _is_endless(target):
        raise InputError(f"{file_path}: not a regular file")
    try:
        return target.open("rb")
    except OSError as error:
        raise InputError(f"{file_path}: {reason(error)}{_nearest_hint(target)}") from None
    except Exception as error:
        if isinstance(target, pathlib.Path):
            raise
        raise InputError(f"{file_path}: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def _is_endless(target: pathlib.Path) -> bool:
    """Returns True for a pipe, which would be waited for, and for a device. The shell's own pipes, <(...), are read."""
    if str(target).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin")):
        return False
    return target.exists() and not (target.is_file() or target.is_dir())


def check_writable(folder: Path, option: str) -> None:
    """Checks that a folder on a disk can be written to or created, before any work is done for it.

    Args:
        folder: that will be written to.
        option: that gave it, for the message.

    Raises:
        InputError: if it can't.
    """
    target = path(folder)
    if not isinstance(target, pathlib.Path):
        return
    parent = target
    try:
        parent = next(place for place in (target, *target.absolute().parents) if place.exists())
        if not parent.is_dir():
            raise InputError(f"{option}: {parent} is a file; give a folder")
        os.rmdir(tempfile.mkdtemp(dir=parent))  # some file systems show it only by trying
    except OSError as error:
        raise InputError(f"{option}: {parent} can't be written to ({reason(error)}); give another folder") from None


def refuse_links(folder: Path, allowed: Sequence[str] = ()) -> None:
    """Raises InputError for a link in a folder of results: writes and removals would follow it.

    Args:
        folder: of the results, present or not.
        allowed: names that may be links.
    """
    target = path(folder)
    if isinstance(target, pathlib.Path) and target.is_dir():
        for entry in target.iterdir():
            if entry.is_symlink() and entry.name not in allowed:
                raise InputError(
                    f"{entry}: a link to {os.readlink(entry)}, and results would be written there; remove it"
                )


def read_text(file_path: Path) -> str:
    """Returns the text of a UTF-8 file.

    Raises:
        InputError: as `open_binary` does, and if the file is not UTF-8.
    """
    with open_binary(file_path) as file:
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file_path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _nearest_hint(target: Any) -> str:
    """Returns a hint with the most similar file name in the folder of a missing file."""
    if not isinstance(target, pathlib.Path) or target.exists() or not target.parent.is_dir():
        return ""
    nearest = names.nearest(target.name, [sibling.name for sibling in target.parent.iterdir()], cutoff=0.75)
    return f"; did you mean {target.with_name(nearest)}?" if nearest else ""


def read_json(file_path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        InputError: as `read_text` does.
        ValueError: if it is not JSON, or is nested too deeply.
    """
    return parse_json(read_text(file_path))


def parse_json(text: str | bytes) -> Any:
    """Parses JSON from outside; an error of any kind, too many levels included, is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: OSError) -> str:
    """Returns an operating system's error in a few words."""
    return (error.strerror or str(error)).lower()


# Who writes -----------------------------------------------------------------------------------------------------------
# All processes of a run execute the same code and compute the same files; one of them writes.

_writes_disabled = False


def disable_writes() -> None:
    """Turns every later commit of this process into a no-op: another process writes the same files."""
    global _writes_disabled
    _writes_disabled = True


def writes_enabled() -> bool:
    """Returns True unless this process has called `disable_writes`."""
    return not _writes_disabled


class Guard(NamedTuple):
    """A guard of the commits of one thread.

    Attributes:
        check: called before each commit; raises if the files now belong to another process.
        written: the content hash of each committed file, by its path.
    """

    check: Callable[[], None]
    written: dict[str, str]


_guard: contextvars.ContextVar[Guard | None] = contextvars.ContextVar("guard", default=None)


@contextlib.contextmanager
def guard_writes(check: Callable[[], None]) -> Iterator[Guard]:
    """Yields a guard of all commits of this thread."""
    guard = Guard(check, {})
    token = _guard.set(guard)
    try:
        yield guard
    finally:
        _guard.reset(token)


def _note_write(target: Any, content: Any) -> None:
    """Checks a commit with the guard, and notes the hash of its content: a path, bytes, or None if it is not known."""
    guard = _guard.get()
    if guard is None:
        return
    from vatjax.store.addresses import bytes_address, file_address

    guard.written.pop(str(target), None)
    if isinstance(content, pathlib.Path):
        guard.written[str(target)] = file_address(content)
    elif content is not None:
        guard.written[str(target)] = bytes_address(content)
    guard.check()


# Committing ---------------------------------------------------------------------------------------------------------


def commit(file_path: Path, data: bytes | bytearray | memoryview | Callable[[BinaryIO], object]) -> None:
    """Writes a file atomically, also through a kill or a power cut.

    A reader sees the old content or the new, never a part. Missing parent folders are created. A file that is replaced
    keeps its permissions, and a link keeps its target.

    Args:
        file_path: local path or bucket URI.
        data: the content, or a function that writes it to an open binary file.
    """
    if _writes_disabled:
        return
    target = path(file_path)
    if not isinstance(target, pathlib.Path):
        content = _content_bytes(data)
        _note_write(target, content)
        target.write_bytes(content)
        return
    target = pathlib.Path(os.path.realpath(target))
    with _temporary_file(target, data) as temporary:
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        _note_write(target, temporary)
        os.replace(temporary, target)
    _sync_folder(target.parent)


def append(file_path: Path, line: bytes) -> None:
    """Appends a line to a file, which is created if absent. A kill can tear this line, but no earlier one.

    A bucket's objects can't grow: there the whole file is rewritten.
    """
    if _writes_disabled:
        return
    target = path(file_path)
    _note_write(target, None)
    if not isinstance(target, pathlib.Path):
        target.write_bytes((target.read_bytes() if target.exists() else b"") + line)
        return
    _make_folder(target.parent)
    with open(target, "ab") as file:
        file.write(line)


def remove_file(file_path: Path) -> None:
    """Removes a file if it exists; of a link the link alone."""
    if not _writes_disabled:
        with contextlib.suppress(FileNotFoundError):
            path(file_path).unlink()


def create(file_path: Path, data: bytes) -> bool:
    """Commits a file only if it does not exist. Of several processes that try at once, one gets True."""
    if _writes_disabled:
        return False
    target = path(file_path)
    if not isinstance(target, pathlib.Path):
        system, name = bucket_client(target)
        try:
            system.pipe_file(name, data, mode="create")
        except FileExistsError:
            return False
        return True
    with _temporary_file(target, data) as temporary:
        try:
            os.link(temporary, target)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            # NFS repeats a request whose answer is lost: then the name is taken by this very file.
            return os.stat(temporary).st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(target, data)
    _sync_folder(target.parent)
    return True


def _create_without_links(target: pathlib.Path, data: bytes) -> bool:
    """Creates a file on a file system without hard links; a reader may see it empty for a moment."""
    try:
        with open(target, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    _sync_folder(target.parent)
    return True


def bucket_client(target: Any) -> tuple[Any, str]:
    """Returns a bucket path's fsspec client and object name; `epath` lacks exclusive creation and uncached listing."""
    import fsspec

    system, name = fsspec.core.url_to_fs(str(target))
    return system, name


def commit_json(file_path: Path, content: Any) -> None:
    """Commits JSON with sorted keys, so that equal content has equal bytes. NaN is refused: write null for it."""
    commit(file_path, encode_json(content))


def encode_json(content: Any) -> bytes:
    """Returns the bytes that `commit_json` writes."""
    return (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def nonfinite_to_none(content: Any) -> Any:
    """Returns the same data with None for every float that is not finite."""
    if isinstance(content, dict):
        return {key: nonfinite_to_none(entry) for key, entry in content.items()}
    if isinstance(content, list | tuple):
        return [nonfinite_to_none(entry) for entry in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.contextmanager
def _temporary_file(target: pathlib.Path, data: Any) -> Iterator[pathlib.Path]:
    """Writes the content to a synced file next to the target and always removes it. Errors name the target."""
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
    """Creates a folder and its parents, each entry synced before anything is written into it."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for entry in reversed(missing):
        entry.mkdir(exist_ok=True)
        _sync_folder(entry.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Syncs a folder: a rename is durable only if the folder that holds the name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems don't sync folders; the file itself is synced
        pass
    finally:
        os.close(descriptor)


def _content_bytes(data: Any) -> bytes:
    """Returns the whole content, since closing a half-written object would publish it."""
    if not callable(data):
        return bytes(data)
    buffer = io.BytesIO()
    data(buffer)
    return buffer.getvalue()
