"""A build that is killed again and again ends with the bytes of one that was let be."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.test_cli import run

TEXT = (
    "countries: [Kenya, Norway]\ntopics: [Work]\nvalues: [Wealth]\nbudget: 1\ntemperature: 1\ntop_p: 1\n"
    "scene_tokens: 12\naction_tokens: 12\nrows: 2\nout: {out}\n"
    # Some texts are too near to others, and are written again.
    "gates: {{ended: false, scene_words: [1, 200], action_words: [1, 100], language: '', plausible: 0, grounding: 1, "
    "richness: 1, duplicate: 0.14, mass: 0}}\n"
)
PUBLISHED = ("items.jsonl", "scenes.jsonl", "apart.jsonl", "unwritten.jsonl", "records.jsonl", "card.md", "card.json")


def killed(command, out, pieces):
    """Runs a command, and kills it as soon as there is a further piece of work; whether it came to that."""
    before = kept(out)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(kept(out) - before) < pieces:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def kept(out):
    """What is there of the work, whole files alone."""
    folders = [out / name for name in ("written", "judged")]
    return {path for folder in folders if folder.exists() for path in folder.iterdir() if path.name[0] != "."}


def bytes_of(out):
    """What a build publishes."""
    files = [out / name for name in PUBLISHED] + sorted((out / "hub").rglob("*.*"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((4,), id="among-the-actions"),
        pytest.param((1, 1, 1, 1, 1, 1, 1), id="at-every-piece", marks=pytest.mark.thorough),
    ],
)
def test_a_kill_loses_nothing_and_changes_no_byte(tmp_path, capsys, pieces):
    out, file = tmp_path / "out", tmp_path / "build.yaml"
    file.write_text(TEXT.format(out=out))
    assert run(capsys, "build-items", str(file))[0] == 0
    expected, work = bytes_of(out), kept(out)
    assert {json.loads(line)["attempt"] for line in expected["records.jsonl"].splitlines()} == {0, 1}
    shutil.rmtree(out)
    for count in pieces:
        assert killed([sys.executable, "-m", "vatjax", "build-items", str(file)], out, count)
        assert not (out / "items.jsonl").exists()
    there = {path: path.stat().st_mtime_ns for path in kept(out)}
    assert len(there) >= sum(pieces)
    status, _, said = run(capsys, "build-items", str(file))
    assert status == 0, said
    assert bytes_of(out) == expected
    assert kept(out) == work
    assert {path: path.stat().st_mtime_ns for path in there} == there  # nothing is made twice
