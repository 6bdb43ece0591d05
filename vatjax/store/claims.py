"""Claims: which of many processes works on a piece, on one machine, a shared folder or a bucket.

Each claim on a piece is a file of its own generation, `FOLDER/PIECE/GENERATION.claim`. Only one process can create a
generation, and the highest one is never removed: so nobody who looked long ago can mistake a name that is free again for
one that was never taken. Whoever creates or renews a claim looks again afterwards and withdraws where it is not alone;
then at worst nobody has the piece for a moment, and never two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import re
import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from vatjax.store.files import Path, bucket, commit, create, path

_PIECE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"(\d+)\.claim")


class Holder(NamedTuple):
    """What a claim's file says.

    Attributes:
        token: different for every claim.
        until: when it ends unless it is renewed, in seconds of the epoch; 0 where it was given back.
        since: when it began.
        host, space, pid, started: the process; `space` is what the process id is relative to.
        generation: how many claims there were before.
    """

    token: str
    until: float
    since: float
    host: str
    space: str
    pid: int
    started: str
    generation: int

    @property
    def here(self) -> bool:
        """Whether its process can be looked at from this one."""
        return bool(self.space) and (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def live(self) -> bool:
        """Whether the piece is taken: in time, and its process, where it can be looked at from here, runs."""
        if not self.until > time.time():
            return False
        return _runs(self.pid, self.started) if self.here else True


@dataclasses.dataclass(frozen=True)
class Claim:
    """A piece of work that this process holds until it releases it, stops renewing it, or dies.

    Attributes:
        folder: where the claims of a run lie.
        piece: its name.
        seconds: how long the claim lives without being renewed.
        holder: this process.
    """

    folder: Path
    piece: str
    seconds: float
    holder: Holder

    def renew(self) -> bool:
        """Starts the claim's time anew. False where it was lost: the work is, or soon will be, somebody else's."""
        self._commit(time.time() + self.seconds)
        if any(other.generation > self.holder.generation for other in _claims(self.folder, self.piece)):
            self.release()
            return False
        return True

    def release(self) -> None:
        """Gives the piece back. The file stays, dead, so that the count of generations never runs backwards."""
        self._commit(0.0)

    def settle(self) -> None:
        """Removes the claim: for work that is done for good, which everybody looks for again after claiming it."""
        _remove(_file(self.folder, self.piece, self.holder.generation))
        root = path(self.folder) / self.piece
        if isinstance(root, pathlib.Path):
            with contextlib.suppress(OSError):  # somebody has claimed it in the meantime, and will find the work done
                root.rmdir()

    def _commit(self, until: float) -> None:
        _overwrite(_file(self.folder, self.piece, self.holder.generation), self.holder._replace(until=until))

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def claim(folder: Path, piece: str, seconds: float = 300.0) -> Claim | None:
    """Claims a piece of work, or returns None while a live claimant has it.

    A claim is live until its time is over, it is released, or its process on this machine is gone.

    Args:
        folder: one folder or bucket prefix (`gs://` or `s3://`) for a run's claims.
        piece: its name: letters, digits, ".", "_", "-".
        seconds: how long the claim lives unless renewed; choose it longer than clocks may differ.
    """
    if not _PIECE.fullmatch(piece):
        raise ValueError(f"a piece's name is made of letters, digits, '.', '_' and '-', found {piece!r}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"a claim must live for a positive time, found {seconds} seconds")
    before = _claims(folder, piece)
    if any(other.live for other in before):
        return None
    generation = 1 + max((other.generation for other in before), default=-1)
    mine = Claim(folder, piece, seconds, _this_process(generation, seconds))
    try:
        made = create(_file(folder, piece, generation), _encoded(mine.holder))
    except FileNotFoundError:  # its folder has just been tidied away: whoever did so is done with the piece
        made = False
    if not made:
        return None
    others = [other for other in _claims(folder, piece) if other.token != mine.holder.token]
    if any(other.generation > generation or other.live for other in others):
        mine.release()
        return None
    for other in others:
        _remove(_file(folder, piece, other.generation))
    return mine


def holder(folder: Path, piece: str) -> Holder | None:
    """Who has a piece now, or None."""
    live = [other for other in _claims(folder, piece) if other.live]
    return max(live, key=lambda other: other.generation) if live else None


def holders(folder: Path) -> dict[str, Holder]:
    """Every piece of a folder of claims that somebody has now, and who."""
    root = path(folder)
    if isinstance(root, pathlib.Path):
        pieces = [one.name for one in root.iterdir() if one.is_dir()] if root.is_dir() else []
    else:
        system, prefix = bucket(root)
        system.invalidate_cache()
        pieces = []
        with contextlib.suppress(FileNotFoundError):
            pieces = [name.rstrip("/").rpartition("/")[2] for name in system.ls(prefix, detail=False)]
    found = {piece: holder(folder, piece) for piece in sorted(pieces)}
    return {piece: one for piece, one in found.items() if one is not None}


# Files --------------------------------------------------------------------------------------------------------------
# Bucket clients keep listings and contents in memory for speed; a claim must be seen as it is now.


def _file(folder: Path, piece: str, generation: int) -> Any:
    return path(folder) / piece / f"{generation}.claim"


def _claims(folder: Path, piece: str) -> list[Holder]:
    """Every claim on a piece, live or dead; one that can't be read counts as dead."""
    root = path(folder) / piece
    contents = _local_contents(root) if isinstance(root, pathlib.Path) else _bucket_contents(root)
    return [_decoded(content, int(match[1])) for name, content in contents if (match := _FILE.fullmatch(name))]


def _local_contents(root: pathlib.Path) -> list[tuple[str, bytes]]:
    try:
        files = [file for file in root.iterdir() if file.suffix == ".claim"]
    except FileNotFoundError:
        return []
    return [(file.name, _read(file)) for file in files]


def _read(file: pathlib.Path) -> bytes:
    for _ in range(3):
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            if error.errno != errno.ESTALE:  # NFS: the file was replaced while it was being opened
                raise
    return b""


def _bucket_contents(root: Any) -> list[tuple[str, bytes]]:
    system, prefix = bucket(root)
    system.invalidate_cache()
    contents = []
    with contextlib.suppress(FileNotFoundError):
        for name in system.ls(prefix, detail=False):
            with contextlib.suppress(FileNotFoundError):
                contents.append((name.rstrip("/").rpartition("/")[2], system.cat_file(name)))
    return contents


def _overwrite(file: Any, content: Holder) -> None:
    if isinstance(file, pathlib.Path):
        commit(file, _encoded(content))
    else:
        system, name = bucket(file)
        system.pipe_file(name, _encoded(content))


def _remove(file: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        if isinstance(file, pathlib.Path):
            file.unlink()
        else:
            system, name = bucket(file)
            system.rm_file(name)


def _encoded(content: Holder) -> bytes:
    return json.dumps(content._asdict(), sort_keys=True).encode()


def _decoded(content: bytes, generation: int) -> Holder:
    fields: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError):
        parsed = json.loads(content)
        fields = parsed if isinstance(parsed, dict) else {}
    try:
        times = float(fields["until"]), float(fields["since"])
        texts = [str(fields[name]) for name in ("token", "host", "space", "started")]
        return Holder(texts[0], *times, texts[1], texts[2], int(fields["pid"]), texts[3], generation)
    except (KeyError, TypeError, ValueError):
        return Holder("", 0.0, 0.0, "", "", 0, "", generation)


# Processes ----------------------------------------------------------------------------------------------------------


def _this_process(generation: int, seconds: float) -> Holder:
    now, pid = time.time(), os.getpid()
    token = secrets.token_hex(16)
    return Holder(token, now + seconds, now, socket.gethostname(), _space(), pid, _started(pid), generation)


def _space() -> str:
    """What a process id is relative to: this boot of this kernel, this namespace. Empty where the system doesn't say;
    then only time tells whether a claim is dead."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: ids are used again, this is not. "dead" for a zombie."""
    with contextlib.suppress(OSError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if fields[0] == "Z" else fields[19]
    return ""


def _runs(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return not started or _started(pid) in ("", started)
