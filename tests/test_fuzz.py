"""Half a minute of `scripts/fuzz.py`, in a process whose memory it limits."""

import subprocess
import sys

import pytest


@pytest.mark.long
def test_no_mutated_file_ends_a_reader_otherwise_than_in_one_line(root, random_seed):
    command = [sys.executable, str(root / "scripts" / "fuzz.py"), "--minutes", "0.5", "--seed", str(random_seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1].split()[0].replace(",", "")) > 100
