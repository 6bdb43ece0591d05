"""The study that everybody runs first, in full."""

import collections
import os
import re
import subprocess
import sys

import pytest


@pytest.mark.thorough
def test_the_quickstart_compiles_no_more_than_it_did(root, tmp_path):
    """Every program that was compiled is a file of the cache; those of models and of the bootstrap are the long ones."""
    cache = tmp_path / "cache"
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    words = ["-m", "vatjax", "run", "configs/quickstart.yaml", "--out", str(tmp_path / "out")]
    ended = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    programs = collections.Counter(
        re.sub(r"-[0-9a-f]{64}-cache$", "", path.name) for path in cache.iterdir() if path.name.endswith("-cache")
    )
    assert 100 < sum(programs.values()) <= 450, programs
    long = {name: programs[f"jit_{name}"] for name in ("begin", "advance", "answers", "stage", "taken", "coupled")}
    assert sum(long.values()) <= 40, long
