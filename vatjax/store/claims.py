"""Claims: leases that divide tasks among many processes, on one machine, a shared folder or a bucket.

Each claim on a task is a file with its own generation number, `FOLDER/TASK/GENERATION.claim`. Only one process can
create a generation, and the highest one is never removed. So a process with an old listing can't mistake a released
task for one that was never claimed. A process that creates or renews a claim lists the claims again, and withdraws if
it finds another. At worst no process holds the task for a moment; two processes never do.
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

from vatjax.errors import InputError
from vatjax.store.files import Path, bucket_client, commit, create, path

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"(\d+)\.claim")


class Holder(NamedTuple):
    """The content of a claim's file.

    Attributes:
        token: unique to the claim.
        until: expiry without a renewal, in seconds of the epoch; 0 after a release.
        since: start.
        host, space, pid, started: the process; `space` is the namespace of its id.
        generation: number of earlier claims.
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
    def is_local(self) -> bool:
        """Returns True if this process can look up the holder's process id."""
        return bool(self.space) and (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def live(self) -> bool:
        """Returns True if the claim has not expired and its process, if it can be looked up, is running."""
        if not self.until > time.time():
            return False
        return _runs(self.pid, self.started) if self.is_local else True


@dataclasses.dataclass(frozen=True)
class Claim:
    """A lease on a task, which this process holds until it releases it, stops renewing it, or dies.

    Attributes:
        folder: of a run's claims.
        task: its name.
        seconds: lifetime without a renewal.
        holder: this process.
    """

    folder: Path
    task: str
    seconds: float
    holder: Holder

    def renew(self) -> bool:
        """Renews the claim. Returns False if it is lost: the task has, or will soon have, another holder."""
        if not any(other.token == self.holder.token for other in _claims(self.folder, self.task)):
            return False  # removed by a later holder: written again it would look like the latest
        self._commit(time.time() + self.seconds)
        if any(other.generation > self.holder.generation for other in _claims(self.folder, self.task)):
            self.release()
            return False
        return True

    def release(self) -> None:
        """Releases the task. The file stays, expired, so that generation numbers never decrease."""
        self._commit(0.0)

    def delete(self) -> None:
        """Removes the claim of a finished task. Every process checks for the result again after claiming it."""
        _remove(_file(self.folder, self.task, self.holder.generation))
        root = path(self.folder) / self.task
        if isinstance(root, pathlib.Path):
            with contextlib.suppress(OSError):  # another process has claimed the task meanwhile, and will find it done
                root.rmdir()

    def _commit(self, until: float) -> None:
        _overwrite(_file(self.folder, self.task, self.holder.generation), self.holder._replace(until=until))

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def claim(folder: Path, task: str, seconds: float = 300.0) -> Claim | None:
    """Claims a task, or returns None while another live claim holds it.

    A claim is live until it expires or is released, or its process on this machine ends.

    Args:
        folder: one folder or bucket prefix (`gs://` or `s3://`) for a run's claims.
        task: its name: letters, digits, ".", "_", "-".
        seconds: lifetime without a renewal; choose it longer than clocks may differ.
    """
    if not _TASK.fullmatch(task):
        raise ValueError(f"a task's name: expected letters, digits, '.', '_' and '-', found {task!r}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"a claim must live for a positive time, found {seconds} seconds")
    before = _claims(folder, task)
    if any(other.live for other in before):
        return None
    generation = 1 + max((other.generation for other in before), default=-1)
    mine = Claim(folder, task, seconds, _this_process(generation, seconds))
    try:
        created = create(_file(folder, task, generation), _encoded(mine.holder))
    except FileNotFoundError:  # the process that has just removed its folder has finished the task
        created = False
    if not created:
        return None
    others = [other for other in _claims(folder, task) if other.token != mine.holder.token]
    if any(other.generation > generation or other.live for other in others):
        mine.release()
        return None
    for other in others:
        _remove(_file(folder, task, other.generation))
    return mine


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


def holder(folder: Path, task: str) -> Holder | None:
    """Returns the holder of a task's live claim, or None."""
    live = [other for other in _claims(folder, task) if other.live]
    return max(live, key=lambda other: other.generation) if live else None


def holders(folder: Path) -> dict[str, Holder]:
    """Returns the tasks with a live claim in a folder of claims, and the holder of each."""
    root = path(folder)
    if isinstance(root, pathlib.Path):
        tasks = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    else:
        system, prefix = bucket_client(root)
        system.invalidate_cache()
        tasks = []
        with contextlib.suppress(FileNotFoundError):
            tasks = [name.rstrip("/").rpartition("/")[2] for name in system.ls(prefix, detail=False)]
    holder_of = {task: holder(folder, task) for task in sorted(tasks)}
    return {task: live_holder for task, live_holder in holder_of.items() if live_holder is not None}


# Files --------------------------------------------------------------------------------------------------------------
# Bucket clients keep listings and contents in memory for speed; a claim must be seen as it is now.


def _file(folder: Path, task: str, generation: int) -> Any:
    return path(folder) / task / f"{generation}.claim"


def _claims(folder: Path, task: str) -> list[Holder]:
    """Returns every claim on a task, live or dead; one that can't be read counts as dead."""
    root = path(folder) / task
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
    system, prefix = bucket_client(root)
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
