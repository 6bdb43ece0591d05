"""Checks of this machine: versions, devices, memory, bundled data, and how to install missing packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from packaging.requirements import Requirement

from vatjax import errors, items

# Optional packages: package -> (the feature that needs it, how to install it).
_OPTIONAL = {
    "gcsfs": ("gs:// paths", "pip install gcsfs"),
    "s3fs": ("s3:// paths", "pip install s3fs"),
}


class Check(NamedTuple):
    """Result of one check.

    Attributes:
        name: the subject of the check.
        status: "ok", "absent" (optional), or "wrong" (vatjax can't work properly like this).
        found: the observed state, such as a version.
        remedy: how to fix it; empty if nothing has to be done.
    """

    name: str
    status: Literal["ok", "absent", "wrong"]
    found: str
    remedy: str = ""


def run_checks() -> list[Check]:
    """Runs every check, in the order in which a person would run them."""
    checks = [Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    checks += _packages()
    checks.append(_run_guarded("jax and flax together", _flax, "pip install --upgrade jax flax"))
    checks.append(_run_guarded("devices", _devices, "see https://docs.jax.dev/en/latest/installation.html"))
    checks.append(_run_guarded("memory", _memory, ""))
    checks.append(_run_guarded("bundled items", lambda: f"{len(items.bundled()):,} items", "install vatjax again"))
    checks.append(_hub())
    checks += _optional()
    return checks


def is_healthy(checks: list[Check]) -> bool:
    """Returns whether no check is wrong; optional packages may be absent."""
    return all(check.status != "wrong" for check in checks)


def _packages() -> Iterator[Check]:
    """Checks each required package against the range that vatjax declares."""
    for line in importlib.metadata.requires("vatjax") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, specifier = requirement.name, str(requirement.specifier)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "wrong", "not installed", f"pip install '{name}{specifier}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Check(name, "ok", version)
        else:
            yield Check(name, "wrong", f"{version}, needs {specifier}", f"pip install '{name}{specifier}'")


def _run_guarded(name: str, check: Callable[[], str], remedy: str) -> Check:
    """Runs a check that may fail in unforeseen ways: a broken package must not prevent the other checks."""
    try:
        return Check(name, "ok", check())
    except Exception as error:
        reason = str(error) if isinstance(error, errors.InputError) else f"{type(error).__name__}: {error}"
        return Check(name, "wrong", " ".join(reason.split())[:300], remedy)


def _flax() -> str:
    import jax

    importlib.import_module("flax.nnx")
    return f"flax.nnx imports under jax {jax.__version__}"


def _devices() -> str:
    import jax

    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    memory = f", {min(limits) / 2**30:.0f} GiB each" if limits and min(limits) else ""
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {', '.join(kinds)} ({jax.default_backend()}){memory}{processes}"


def _memory() -> str:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    limit = _number("/sys/fs/cgroup/memory.max", r"(\d+)") / 2**30
    free = _number("/proc/meminfo", r"MemAvailable:\s+(\d+) kB") / 2**20
    parts = [f"{total:.1f} GiB"]
    if free:
        parts.append(f"{free:.1f} GiB available")
    if limit:
        parts.append(f"this container may use {limit:.1f} GiB")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    disk = shutil.disk_usage(pathlib.Path.cwd()).free / 2**30
    return f"{', '.join(parts)}; {cores} CPU cores; {disk:.0f} GiB of disk here"


def _number(file: str, pattern: str) -> int:
    """Returns a number from one of the kernel's files, 0 if it isn't there."""
    try:
        match = re.search(pattern, pathlib.Path(file).read_text())
    except OSError:
        return 0
    return int(match[1]) if match else 0


def _hub() -> Check:
    """Checks access to the Hugging Face Hub; detects a token, but never prints it."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        return Check("model hub", "wrong", str(error), "pip install huggingface_hub")
    folder = pathlib.Path(constants.HF_HUB_CACHE)
    mode = "offline mode" if constants.HF_HUB_OFFLINE else "downloads allowed (not tried)"
    parts = [mode, "with a token" if get_token() else "without a token"]
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Check("model hub", "wrong", f"{folder} can't be written to", "set HF_HOME to a writable folder")
    return Check("model hub", "ok", f"{', '.join(parts)}, cache in {folder}")


def _optional() -> Iterator[Check]:
    for name, (purpose, remedy) in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Check(name, "absent", f"not installed; for {purpose}", remedy)
        else:
            yield Check(name, "ok", f"{importlib.metadata.version(name)}, for {purpose}")


def as_json(checks: list[Check]) -> dict[str, Any]:
    """Returns the checks as plain data."""
    return {"ok": is_healthy(checks), "python": sys.version.split()[0], "checks": [check._asdict() for check in checks]}
