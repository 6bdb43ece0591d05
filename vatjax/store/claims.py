"""Claims: leases that divide tasks among many processes, on one machine, a shared folder or a bucket.

Each claim on a task is a file with its own generation number, `FOLDER/TASK/GENERATION.claim`. The highest generation
decides, only one process can create it, and it is never removed: so no process mistakes a released task for one that
was never claimed, and a late write of an earlier holder changes nothing.

A holder renews its claim, which changes the file's content. Other processes judge expiry by their own monotonic clock,
from when they first saw the present content: clocks that differ between machines neither steal a claim nor keep it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vatjax.errors import InputError
from vatjax.store.files import Path, bucket_client, commit, create, parse_json, path

LEASE_SECONDS = 120.0  # until the claim of a lost machine expires; a stalled machine has its work done twice

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"\d{1,18}\.claim")
_LONGEST = 3600.0  # seconds for which a claim is believed, whatever its file says


class Holder(NamedTuple):
    """The content of a claim's file.

    Attributes:
        token: unique to the claim; empty if the file can't be read.
        renewals: number of renewals.
        seconds: lifetime without a renewal; 0 after a release.
        since: start, in seconds of the epoch; for people.
        host, space, pid, started: the process; `space` is the namespace of its id.
        generation: number of earlier claims.
    """

    token: str
    renewals: int
    seconds: float
    since: float
    host: str
    space: str
    pid: int
    started: str
    generation: int

    @property
    def is_local(self) -> bool:
        """Returns True if this process can look up the holder's process id."""
        return bool(self.space) and (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def ended(self) -> bool:
        """Returns True if the claim was released, or its process can be looked up and does not run."""
        return self.seconds <= 0 or (self.is_local and not _runs(self.pid, self.started))


class Claim:
    """A lease on a task, which this process holds until it releases it, stops renewing it, or dies.

    Attributes:
        folder: of a run's claims.
        task: its name.
        holder: this process.
    """

    def __init__(self, folder: Path, task: str, holder: Holder) -> None:
        self.folder, self.task, self.holder = folder, task, holder

    def renew(self) -> bool:
        """Renews the claim. Returns False if the task has another holder."""
        self.holder = self.holder._replace(renewals=self.holder.renewals + 1)
        self._write()
        return self.is_highest()

    def is_highest(self) -> bool:
        """Returns False if another process has claimed the task since."""
        highest = _highest(self.folder, self.task)
        return highest is not None and highest.token == self.holder.token

    def release(self) -> None:
        """Releases the task. The file stays, so that generation numbers never decrease."""
        self.holder = self.holder._replace(seconds=0.0)
        self._write()

    def _write(self) -> None:
        _overwrite(_file(self.folder, self.task, self.holder.generation), self.holder)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class Claims:
    """The claims of a folder, as one process observes them.

    Args:
        folder: one folder or bucket prefix (`gs://` or `s3://`) for a run's claims.
        seconds: lifetime of new claims without a renewal.
        monotonic: clock of this process.
    """

    def __init__(
        self, folder: Path, seconds: float | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.seconds, self._monotonic = folder, LEASE_SECONDS if seconds is None else seconds, monotonic
        if not 0 < self.seconds <= _LONGEST:
            raise ValueError(f"a claim must live for a positive time of at most an hour, found {self.seconds} seconds")
        self._seen: dict[str, tuple[Holder, float]] = {}  # by task: its last content, and when it was first seen

    def claim(self, task: str) -> Claim | None:
        """Claims a task, or returns None while another live claim holds it.

        Args:
            task: its name: letters, digits, ".", "_", "-".
        """
        if not _TASK.fullmatch(task):
            raise ValueError(f"a task's name: expected letters, digits, '.', '_' and '-', found {task!r}")
        for place in (path(self.folder), path(self.folder) / task):
            if isinstance(place, pathlib.Path) and place.is_symlink():
                raise InputError(f"{place}: a link, and claims would be written and removed where it leads; remove it")
        before = self._observed(task)
        if before is not None and self._is_live(task, before):
            return None
        generation = 0 if before is None else before.generation + 1
        mine = Claim(self.folder, task, _this_process(generation, self.seconds))
        try:
            create(_file(self.folder, task, generation), _encoded(mine.holder))
        except Exception:  # of many types, by the bucket's client
            if not mine.is_highest():  # else the store made it, and its answer was lost
                raise
        if not mine.is_highest():
            return None
        for other in _generations(self.folder, task):
            if other < generation:  # a higher one may have come meanwhile
                _remove(_file(self.folder, task, other))
        return mine

    def holder(self, task: str) -> Holder | None:
        """Returns the holder of a task's live claim, or None."""
        holder = self._observed(task)
        return holder if holder is not None and self._is_live(task, holder) else None

    def holders(self) -> dict[str, Holder]:
        """Returns the tasks with a live claim, and the holder of each."""
        holder_of = {task: self.holder(task) for task in sorted(_listed(path(self.folder)))}
        return {task: holder for task, holder in holder_of.items() if holder is not None}

    def expires_in(self, task: str) -> float:
        """Returns the seconds until the last observed claim on a task expires if it is not renewed."""
        holder, first_seen = self._seen[task]
        lifetime = min(holder.seconds, _LONGEST) if holder.token else self.seconds
        return first_seen + lifetime - self._monotonic()

    def _observed(self, task: str) -> Holder | None:
        """Returns the claim that decides, and remembers when its content was first seen."""
        holder = _highest(self.folder, task)
        if holder is not None and self._seen.get(task, (None, 0.0))[0] != holder:
            self._seen[task] = holder, self._monotonic()
        return holder

    def _is_live(self, task: str, holder: Holder) -> bool:
        return not holder.ended and self.expires_in(task) > 0


def check_exclusive_creation(folder: Path) -> None:
    """Raises InputError if a bucket's client overwrites a file that it is asked to create: claims would mean nothing there."""
    if isinstance(path(folder), pathlib.Path):
        return
    probe = path(folder) / f"probe-{secrets.token_hex(8)}"
    try:
        create(probe, b"first")
        second = create(probe, b"second")
    except (NotImplementedError, TypeError, ValueError):
        second = True
    finally:
        _remove(probe)
    if second:
        raise InputError(
            f"{folder}: this store does not refuse to create a file that exists, so that shards cannot divide the work there; "
            "run the study in one process, or in a folder that the shards share"
        )


# Files --------------------------------------------------------------------------------------------------------------
# Bucket clients keep listings and contents in memory for speed; a claim must be seen as it is now.


def _file(folder: Path, task: str, generation: int) -> Any:
    return path(folder) / task / f"{generation}.claim"


def _highest(folder: Path, task: str) -> Holder | None:
    """Returns the claim with the highest generation; its token is empty if it can't be read."""
    generation = max(_generations(folder, task), default=None)
    return None if generation is None else _decoded(_read(_file(folder, task, generation)), generation)


def _generations(folder: Path, task: str) -> list[int]:
    """Returns the generations of all claims on a task."""
    root = path(folder) / task
    names = [name for name in _listed(root) if _FILE.fullmatch(name)]
    return [int(name.partition(".")[0]) for name in names]


def _listed(root: Any) -> list[str]:
    """Returns the names in a folder, as they are now."""
    try:
        if isinstance(root, pathlib.Path):
            return os.listdir(root)
        system, prefix = bucket_client(root)
        system.invalidate_cache()
        return [name.rstrip("/").rpartition("/")[2] for name in system.ls(prefix, detail=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(file: Any) -> bytes:
    """Returns the content of a claim's file, as it is now; empty if it is gone."""
    for _ in range(3):
        try:
            if isinstance(file, pathlib.Path):
                return file.read_bytes()
            system, name = bucket_client(file)
            return bytes(system.cat_file(name))
        except FileNotFoundError:
            return b""
        except OSError as error:
            if error.errno != errno.ESTALE:  # NFS: the file was replaced while it was being opened
                raise
    return b""


def _overwrite(file: Any, content: Holder) -> None:
    if isinstance(file, pathlib.Path):
        commit(file, _encoded(content))
    else:
        system, name = bucket_client(file)
        system.pipe_file(name, _encoded(content))


def _remove(file: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        if isinstance(file, pathlib.Path):
            file.unlink()
        else:
            system, name = bucket_client(file)
            system.rm_file(name)


def _encoded(content: Holder) -> bytes:
    return json.dumps(content._asdict(), sort_keys=True).encode()


def _decoded(content: bytes, generation: int) -> Holder:
    fields: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError):
        parsed = parse_json(content)
        fields = parsed if isinstance(parsed, dict) else {}
    try:
        times = float(fields["seconds"]), float(fields["since"])
        texts = [str(fields[name]) for name in ("token", "host", "space", "started")]
        if not all(map(math.isfinite, times)):
            raise ValueError("not a time")
        return Holder(
            texts[0], int(fields["renewals"]), *times, texts[1], texts[2], int(fields["pid"]), texts[3], generation
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        # Not written to its end, or damaged: its process may be at work.
        return Holder("", 0, math.inf, 0.0, "an unknown host", "", 0, "", generation)


# Processes ----------------------------------------------------------------------------------------------------------


def _this_process(generation: int, seconds: float) -> Holder:
    pid, token = os.getpid(), secrets.token_hex(16)
    return Holder(token, 0, seconds, time.time(), socket.gethostname(), _space(), pid, _started(pid), generation)


def _space() -> str:
    """Returns the namespace of process ids: this boot of this kernel, this pid namespace. Empty if the system doesn't
    tell; then a claim ends only by expiry."""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """Returns a process's start time in kernel ticks: ids are reused, this is not. "dead" for a zombie."""
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
