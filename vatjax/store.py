"""The one place that writes: atomic commits, content addresses, expiring claims; on local folders and on buckets.

    store.commit("run/state.npz", data)          # all of it or nothing, whatever happens in between
    store.address({"items": digest, "seed": 0})  # the same content has the same name on every machine
    claim = store.claim("run/claims", "piece-7") # None while somebody else is at work on it

A path is a local one or a URI (`gs://`, `s3://`, ...), which `etils.epath` opens. On a bucket an object appears whole
or not at all by the service's own guarantee, so the temporary file, the syncs and the rename are the local form only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

Path = str | os.PathLike[str]


def path(where: Path) -> Any:
    """A `pathlib.Path`, or an `epath.Path` (same methods) for a URI."""
    if not isinstance(where, str):  # an epath.Path is no pathlib.Path, and turning it into one would lose its scheme
        return where if hasattr(where, "open") else pathlib.Path(where)
    if "://" not in where:
        return pathlib.Path(where)
    from etils import epath  # a local run never pays for this import

    return epath.Path(where)


# Committing ---------------------------------------------------------------------------------------------------------


def commit(where: Path, data: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file so that it is there whole or not at all, also through a kill or a power cut.

    A reader sees the old content or the new, never a part. Missing parent folders are made.

    Args:
        where: local path or bucket URI.
        data: the content, or a function that writes it to an open binary file.
    """
    target = path(where)
    if not isinstance(target, pathlib.Path):
        target.write_bytes(_collected(data))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target) as temporary:
        with open(temporary, "xb") as file:
            file.write(data) if isinstance(data, bytes) else data(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    _sync_folder(target.parent)


def create(where: Path, data: bytes) -> bool:
    """Commits a file only if none of that name is there. Of several processes that try at once, one gets True."""
    target = path(where)
    if not isinstance(target, pathlib.Path):
        return _create_object(str(target), data)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target) as temporary:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            return False
    _sync_folder(target.parent)
    return True


def commit_json(where: Path, content: Any) -> None:
    """Commits JSON with sorted keys, so that equal content has equal bytes. NaN is refused: write null for it."""
    commit(where, (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode())


def commit_npz(where: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Commits arrays as an `.npz` without pickles; equal arrays give equal bytes."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name}: an object array would need a pickle")
    commit(where, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def load_npz(where: Path) -> dict[str, np.ndarray]:
    """Reads an `.npz`, with pickling off; a ValueError or a BadZipFile where it is none."""
    with path(where).open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("one bare array; expected an .npz with several")
        with arrays:
            return {name: arrays[name] for name in arrays.files}


@contextlib.contextmanager
def _temporary(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name beside the target that no other process uses, gone afterwards whatever happens."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _sync_folder(folder: pathlib.Path) -> None:
    """A rename is durable only when the folder that holds the name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems don't sync folders; the file itself is synced
        pass
    finally:
        os.close(descriptor)


def _collected(data: bytes | Callable[[BinaryIO], object]) -> bytes:
    """The whole content, since closing a half-written object would publish it."""
    if isinstance(data, bytes):
        return data
    buffer = io.BytesIO()
    data(buffer)
    return buffer.getvalue()


def _create_object(uri: str, data: bytes) -> bool:
    """Conditional creation, which `epath` lacks and the buckets' own clients offer as mode "x"."""
    import fsspec

    system, name = fsspec.core.url_to_fs(uri)
    try:
        system.pipe_file(name, data, mode="create")
    except FileExistsError:
        return False
    return True


# Content addresses --------------------------------------------------------------------------------------------------


def address(*parts: Any) -> str:
    """A name made from content: equal parts give equal names in every process and on every machine.

    Args:
        *parts: JSON-like data, bytes, NumPy arrays and mappings or sequences of those. Dictionary order does not count;
            types and shapes do (1, 1.0, True and "1" differ).

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest.update, part)
    return digest.hexdigest()[:32]


def file_address(where: Path) -> str:
    """The content address of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path(where).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:32]


def _feed(update: Callable[[bytes], object], part: Any) -> None:
    """Each entry is written with its type and length, so that no two structures share a byte string."""
    if isinstance(part, (bytes, str)):
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
    elif isinstance(part, (np.ndarray, np.generic)):
        array = np.asarray(part)
        if array.dtype.hasobject:
            raise TypeError("an object array has no content address")
        update(f"array{array.dtype.str}{array.shape}:".encode())
        update(np.ascontiguousarray(array).tobytes())
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        update(f"dataclass{len(type(part).__name__)}:{type(part).__name__}".encode())
        _feed(update, {field.name: getattr(part, field.name) for field in dataclasses.fields(part)})
    elif isinstance(part, os.PathLike):
        raise TypeError("a path is no content: address the file's bytes with file_address")
    else:
        raise TypeError(f"no content address for {type(part).__name__}")


# Claims -------------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A piece of work that this process holds until it releases it, stops renewing it, or dies.

    Attributes:
        folder: where the claims of a run lie.
        name: the piece.
        generation: how often the piece was claimed before.
        seconds: how long the claim lives without being renewed.
        holder: who holds it: a token of its own, host, process.
    """

    folder: Path
    name: str
    generation: int
    seconds: float
    holder: Mapping[str, Any]

    def renew(self) -> bool:
        """Starts the claim's time anew. False where it has been taken over: the work is somebody else's now."""
        if any(other["generation"] > self.generation for other in _claims(self.folder, self.name)):
            return False
        self._commit(time.time() + self.seconds)
        return True

    def release(self) -> None:
        """Gives the piece back. The file stays, dead, so that the count of generations never runs backwards."""
        self._commit(0.0)

    def _commit(self, until: float) -> None:
        commit(_claim_file(self.folder, self.name, self.generation), _encoded({**self.holder, "until": until}))

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def claim(folder: Path, name: str, seconds: float = 300.0) -> Claim | None:
    """Claims a piece of work, or returns None while a live claimant has it.

    A claim is live until its time is over, it is released, or its process on this machine is gone. Each claim on a
    piece is a file of its own generation, which only one process can create, and the highest generation is never
    removed: so nobody who looked long ago can mistake a name that is free again for one that was never taken. Having
    created its file, a claimant looks again and withdraws where it is not alone: then at worst nobody has the piece
    for a moment.

    Args:
        folder: one folder or bucket prefix for a run's claims.
        name: the piece: letters, digits, ".", "_", "-".
        seconds: how long the claim lives unless renewed; choose it longer than clocks may differ.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a claim's name is made of letters, digits, '.', '_' and '-', found {name!r}")
    before = _claims(folder, name)
    if any(_is_live(other) for other in before):
        return None
    generation = 1 + max((other["generation"] for other in before), default=-1)
    holder = {"token": secrets.token_hex(16), "since": time.time(), **_process()}
    mine = Claim(folder, name, generation, seconds, holder)
    until = time.time() + seconds
    if not create(_claim_file(folder, name, generation), _encoded({**holder, "until": until})):
        return None
    others = [other for other in _claims(folder, name) if other["token"] != holder["token"]]
    if any(other["generation"] > generation or _is_live(other) for other in others):
        mine.release()
        return None
    for other in others:
        with contextlib.suppress(FileNotFoundError):
            _claim_file(folder, name, other["generation"]).unlink()
    return mine


def holder(folder: Path, name: str) -> Mapping[str, Any] | None:
    """Who has a piece now (`host`, `pid`, `since`), or None."""
    live = [other for other in _claims(folder, name) if _is_live(other)]
    return max(live, key=lambda other: int(other["generation"])) if live else None


def _claim_file(folder: Path, name: str, generation: int) -> Any:
    return path(folder) / f"{name}.{generation}.claim"


def _claims(folder: Path, name: str) -> list[dict[str, Any]]:
    """Every claim on a piece, live or dead; one that can't be read counts as dead."""
    claims = []
    root = path(folder)
    if not root.exists():
        return []
    for file in root.iterdir():
        match = re.fullmatch(re.escape(name) + r"\.(\d+)\.claim", file.name)
        if not match:
            continue
        content: Any = None
        with contextlib.suppress(FileNotFoundError, ValueError):
            content = json.loads(file.read_text())
        if not isinstance(content, dict):
            content = {"until": 0.0}
        claims.append({"token": "", **content, "generation": int(match[1])})
    return claims


def _is_live(other: Mapping[str, Any]) -> bool:
    if other.get("until", 0.0) < time.time():
        return False
    here = _process()
    if all(other.get(key) == here[key] for key in ("host", "space")):
        return _runs(int(other["pid"]), other.get("started"))
    return True


def _process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "space": _space(), "pid": os.getpid(), "started": _started(os.getpid())}


def _space() -> str:
    """What a process id is relative to: this boot of this kernel, this namespace."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{boot} {namespace}"


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: ids are used again, this is not. "dead" for a zombie."""
    with contextlib.suppress(OSError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if fields[0] == "Z" else fields[19]
    return ""


def _runs(pid: int, started: Any) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not started or _started(pid) in ("", started)


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
