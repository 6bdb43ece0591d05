"""Content-addressed artifacts: each is keyed by a hash of its inputs, computed once, and reused by any study.

pieces/3f/3f09.../piece.json     its kind, inputs and files; written last, so that an artifact is complete or absent
pieces/3f/3f09.../...            its files
pieces/3f/3f09.../time.json      compute time, host and versions
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import vatjax
from vatjax import errors, store

# Version of the code of each kind, 1 if absent; a change of its output needs a new number, so that old artifacts are not
# reused.
VERSIONS: Mapping[str, int] = {
    "result": 5,
    "placebo": 5,
    "comparison": 4,
}

_MARK = "piece.json"
_LARGEST_REMOTE = 64 << 20  # bytes of a file in a bucket whose content is compared when a study starts

# Needed only while an artifact is computed: checkpoints of a training, its reference, shards of answers.
RUN, REFERENCE, SHARDS = SCRATCH = ("run", "reference", "shards")


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """One artifact.

    Attributes:
        kind: of the artifact.
        label: its name for users.
        inputs: everything that determines it except its dependencies, as plain data.
        dependencies: the artifacts that it is computed from, by their role.
        task: further data for its worker, such as its names in the study; not part of the address.
        maker: the intervention that makes it; None for states and statistics.
    """

    kind: str
    label: str
    inputs: Mapping[str, Any]
    dependencies: Mapping[str, Artifact] = dataclasses.field(default_factory=dict)
    task: Any = None
    maker: Any = None

    @functools.cached_property
    def address(self) -> str:
        """Returns its content hash, equal for equal inputs and dependencies."""
        dependencies = {name: artifact.address for name, artifact in self.dependencies.items()}
        return store.address(self.kind, VERSIONS.get(self.kind, 1), vatjax.__version__, self.inputs, dependencies)


class ArtifactStore:
    """A store of finished artifacts, on a disk or in a bucket.

    Args:
        folder: may be shared by studies.
    """

    def __init__(self, folder: store.Path) -> None:
        self.folder = store.path(folder)
        self.claims = store.Claims(self.folder / "claims")

    def path(self, artifact: Artifact) -> Any:
        """Returns the folder of an artifact, present or not."""
        return self.folder / artifact.address[:2] / artifact.address

    def has(self, artifact: Artifact) -> bool:
        """Returns True if an artifact is complete."""
        return bool((self.path(artifact) / _MARK).exists())

    def status(self, artifacts: Sequence[Artifact]) -> tuple[set[str], list[Artifact]]:
        """Returns the addresses of complete artifacts whose files are as they were written, and the damaged artifacts."""
        with concurrent.futures.ThreadPoolExecutor(16) as pool:  # a request to a bucket is slow
            intact_flags = list(pool.map(self._is_intact, artifacts))
        intact_addresses = {
            artifact.address for artifact, intact in zip(artifacts, intact_flags, strict=True) if intact
        }
        return intact_addresses, [
            artifact for artifact, intact in zip(artifacts, intact_flags, strict=True) if intact is False
        ]

    def _is_intact(self, artifact: Artifact) -> bool | None:
        """Returns True if an artifact is intact, False if it is damaged; None if it is absent."""
        place = self.path(artifact)
        try:
            if _is_link(place) or _is_link(place.parent):
                return False
            if not (place / _MARK).exists():
                return None
            files = store.read_json(place / _MARK)["files"]
            folders = {parent for name in files for parent in pathlib.PurePosixPath(name).parents}
            if any(_is_link(place / str(folder)) for folder in folders):
                return False
            return all(self._is_as_written(place / name, about) for name, about in files.items())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return False

    def _is_as_written(self, path: Any, about: Mapping[str, Any]) -> bool:
        """Returns True if a file has its original size and content. Large files in a bucket are not read for this."""
        if _is_link(path) or store.size(path) != about["size"]:
            return False
        remote = not isinstance(path, pathlib.Path)
        return (remote and about["size"] > _LARGEST_REMOTE) or store.file_address(path) == about["sha256"]

    def remove_links(self, artifact: Artifact) -> None:
        """Removes links from the folder of an artifact that is about to be computed: a write would follow them."""
        place = self.path(artifact)
        if isinstance(place, pathlib.Path) and store.writes_enabled():
            for link in [entry for entry in (place.parent, place, *place.rglob("*")) if entry.is_symlink()]:
                link.unlink()

    def drop(self, artifact: Artifact) -> None:
        """Removes a damaged artifact."""
        place = self.path(artifact)
        _remove(place.parent if _is_link(place.parent) else place)

    def mark_complete(
        self,
        artifact: Artifact,
        seconds: float,
        about: Mapping[str, Any],
        generation: int = 0,
        guard: store.Guard | None = None,
    ) -> bool:
        """Marks an artifact as complete, and removes the files needed only to compute it.

        Its record is created and never replaced. Returns False if it is another process's: then it has other files.

        Args:
            artifact: the artifact.
            seconds: its compute time.
            about: versions and hardware.
            generation: of the lease under which it was computed.
            guard: under which its files were written; their recorded hashes are those of what this process wrote.
        """
        place = self.path(artifact)
        store.commit_json(place / "time.json", {"seconds": round(seconds, 3), "host": socket.gethostname(), **about})
        content = {"kind": artifact.kind, "label": artifact.label, "decides": artifact.inputs}
        dependencies = {name: dependency.address for name, dependency in artifact.dependencies.items()}
        for part in SCRATCH if artifact.maker is not None or artifact.kind == "state" else ():
            with contextlib.suppress(OSError):
                _remove(place / part)
        files = dict(_files(place, written={} if guard is None else guard.written)) if store.writes_enabled() else {}
        record = {**content, "needs": dependencies, "generation": generation, "files": files}
        if not store.writes_enabled():
            return True
        encoded = store.encode_json(record)
        if guard is not None:
            guard.check()
        try:
            created = store.create(place / _MARK, encoded)
        except Exception:  # of many types, by the bucket's client
            if not self._has_record(artifact, record):
                raise
            created = True  # the store made it, and its answer was lost
        return created or self._has_record(artifact, record)

    def _has_record(self, artifact: Artifact, record: Mapping[str, Any]) -> bool:
        try:
            return bool(store.read_json(self.path(artifact) / _MARK) == record)
        except (ValueError, OSError):
            return False

    def read_json(self, artifact: Artifact, name: str) -> Any:
        """Reads a JSON file of an artifact."""
        path = self.path(artifact) / name
        try:
            return store.read_json(path)
        except ValueError:
            raise errors.InputError(f"{path}: damaged; remove {self.path(artifact)} and run the study again") from None


def _files(
    folder: Any, within: str = "", written: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, Any]]:
    """Yields the files of a folder and its subfolders, each with its size in bytes and its content hash.

    The hash is that of what this process wrote, where it wrote a file: another one may have replaced it since.

    The record of the computation (time.json) differs between equal runs, and is left out.
    """
    for entry in sorted(folder.iterdir(), key=lambda path: path.name):
        if entry.is_dir() and not _is_link(entry):
            yield from _files(entry, f"{within}{entry.name}/", written)
        elif entry.name.endswith(".tmp"):
            continue  # of a process that was killed
        elif within or entry.name not in (_MARK, "error.txt", "time.json"):
            key = os.path.realpath(entry) if isinstance(entry, pathlib.Path) else str(entry)
            digest = written.get(key) or store.file_address(entry)
            yield within + entry.name, {"size": store.size(entry), "sha256": digest}


def _is_link(path: Any) -> bool:
    """Returns True for a link on a disk, which is never followed: it may lead out of the store."""
    return isinstance(path, pathlib.Path) and path.is_symlink()


def _remove(folder: Any) -> None:
    """Removes a folder with its contents, on a disk or in a bucket; of a link the link alone."""
    if not store.writes_enabled():
        return
    if _is_link(folder):
        folder.unlink()
        return
    if not folder.exists():
        return
    for entry in list(folder.iterdir()):
        _remove(entry) if _is_link(entry) or entry.is_dir() else entry.unlink()
    with contextlib.suppress(NotADirectoryError):  # a bucket removes a folder with its last file
        folder.rmdir()


def topological_order(requested: Iterable[Artifact]) -> list[Artifact]:
    """Returns artifacts and all their dependencies in topological order, each once."""
    in_order: dict[str, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        if artifact.address not in in_order:
            for dependency in artifact.dependencies.values():
                visit(dependency)
            in_order[artifact.address] = artifact

    for artifact in requested:
        visit(artifact)
    return list(in_order.values())
