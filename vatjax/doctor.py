"""What this machine has for vatjax: versions, devices, memory, bundled data, and how to get what is missing."""

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

# What a feature needs beyond the required packages: package -> (what it is for, how to get it).
_OPTIONAL = {
    "gcsfs": ("gs:// paths", "pip install gcsfs"),
    "s3fs": ("s3:// paths", "pip install s3fs"),
}


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: what was looked at.
        status: "ok", "absent" (optional), or "wrong" (vatjax can't work properly like this).
        found: what is there.
        remedy: what to do about it; empty where nothing has to be done.
    """

    name: str
    status: Literal["ok", "absent", "wrong"]
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Every check, in the order in which a person would make them."""
    checks = [Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    checks += _packages()
    checks.append(_guarded("jax and flax together", _flax, "pip install --upgrade jax flax"))
    checks.append(_guarded("devices", _devices, "see https://docs.jax.dev/en/latest/installation.html"))
    checks.append(_memory())
    checks.append(_guarded("bundled items", lambda: f"{len(items.bundled()):,} items", "install vatjax again"))
    checks.append(_hub())
    checks += _optional()
    return checks


def healthy(checks: list[Check]) -> bool:
    """Whether nothing is wrong; what is optional may be absent."""
    return all(check.status != "wrong" for check in checks)


def _packages() -> Iterator[Check]:
    """Each required package against the range that vatjax declares."""
    for line in importlib.metadata.requires("vatjax") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, str(requirement.specifier)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "wrong", "not installed", f"pip install '{name}{wanted}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Check(name, "ok", version)
        else:
            yield Check(name, "wrong", f"{version}, needs {wanted}", f"pip install '{name}{wanted}'")


def _guarded(name: str, look: Callable[[], str], remedy: str) -> Check:
    """A look that may fail in ways nobody foresaw: a broken package must not end the doctor's visit."""
    try:
        return Check(name, "ok", look())
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
    return f"{len(devices)} x {', '.join(kinds)} ({jax.default_backend()}), {jax.process_count()} process(es)"


def _memory() -> Check:
    pages = {name: os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES") if name in os.sysconf_names}
    size = os.sysconf("SC_PAGE_SIZE")
    total = pages.get("SC_PHYS_PAGES", 0) * size / 2**30
    free = _available() or pages.get("SC_AVPHYS_PAGES", 0) * size / 2**30
    disk = shutil.disk_usage(pathlib.Path.cwd()).free / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("memory", "ok", f"{free:.1f} of {total:.1f} GiB free, {disk:.0f} GiB of disk here, {cores} CPU cores")


def _available() -> float:
    """What the kernel could hand out now, caches included, in GiB; 0 where it doesn't say."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 2**20 if match else 0.0


def _hub() -> Check:
    """Whether models can come from the Hugging Face Hub; a token is looked for, never read aloud."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        return Check("model hub", "wrong", str(error), "pip install huggingface_hub")
    folder = pathlib.Path(constants.HF_HUB_CACHE)
    parts = ["offline" if constants.HF_HUB_OFFLINE else "online", "with a token" if get_token() else "without a token"]
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Check("model hub", "wrong", f"{folder} can't be written to", "set HF_HOME to a folder of yours")
    return Check("model hub", "ok", f"{', '.join(parts)}, cache in {folder}")


def _optional() -> Iterator[Check]:
    for name, (purpose, remedy) in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Check(name, "absent", f"not installed; for {purpose}", remedy)
        else:
            yield Check(name, "ok", f"{importlib.metadata.version(name)}, for {purpose}")


def as_json(checks: list[Check]) -> dict[str, Any]:
    """The findings as plain data."""
    return {"ok": healthy(checks), "python": sys.version.split()[0], "checks": [check._asdict() for check in checks]}
