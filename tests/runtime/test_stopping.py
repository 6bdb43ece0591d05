"""SIGTERM at any moment: status 75 within seconds, and the same command continues to the same result."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from vatjax import states

LONG_CALL = """
    import hashlib, time
    from vatjax.runtime import preemption
    preemption._DEADLINE, preemption._DEADLINE_UNSAVED = 0.3, 30
    with preemption.handle_stop_signals():
        preemption.mark_unsaved({unsaved})
        print("ready", flush=True)
        {call}
        print("safe point", flush=True)
        preemption.stop_if_requested()
"""


def stopped(unsaved, call):
    """What a process that is in a long call does after a SIGTERM."""
    code = textwrap.dedent(LONG_CALL).format(unsaved=unsaved, call=call)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("call", ["time.sleep(50)", "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)"])
def test_a_long_call_is_not_waited_for(call):
    """Compiled code returns to no handler of Python's until it ends."""
    status, out, err = stopped(False, call)
    assert status == 75
    assert out == ""
    assert err.endswith("no safe point within seconds; stopped by SIGTERM: the same command continues from here\n")


def test_unsaved_steps_are_waited_for():
    status, out, err = stopped(True, "time.sleep(1)")
    assert status not in (0, -15)  # Stopped, which the command turns into 75
    assert out == "safe point\n"
    assert "no safe point" not in err


STUDY = """
models: [pocket]
targets: [Power]
out: {out}
scenes: 16
placebos: 1
resamples: 100
texts: 0
interventions:
  sft: {{kind: sft, training: {{steps: 40, rows: 4}}}}
  examples: {{kind: shots, counts: [2]}}
"""


def command(kind, folder):
    if kind == "rate":
        return ["rate", "--model", "pocket", "--part", "test", "--out", f"{folder}/state.npz"]
    if kind == "train":
        course = ["--course.steps", "30", "--course.save", "5"]
        return ["train", "--model", "pocket", "--target", "Power", "--loss", "sft", *course, "--out", f"{folder}/run"]
    (folder / "study.yaml").write_text(STUDY.format(out=folder / "study"))
    return ["run", str(folder / "study.yaml")]


def result(kind, folder):
    if kind == "rate":
        return states.load(folder / "state.npz").state.tobytes()
    if kind == "train":
        return (folder / "run" / "metrics.jsonl").read_bytes()
    return (folder / "study" / "results.csv").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "moments"), [("rate", 7), ("train", 7), ("run", 6)])
def test_random_moments(tmp_path, kind, moments):
    """Twenty in all, also while the command starts, compiles or writes its report."""
    seed = int.from_bytes(os.urandom(4))
    rng, folder = random.Random(seed), tmp_path / "whole"
    folder.mkdir()
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "vatjax", *command(kind, folder)], check=True, capture_output=True)
    seconds, expected = time.monotonic() - start, result(kind, folder)
    for number in range(moments):
        folder = tmp_path / str(number)
        folder.mkdir()
        arguments, moment = [sys.executable, "-m", "vatjax", *command(kind, folder)], rng.uniform(0.3, seconds)
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        said = process.communicate(timeout=120)[0]
        place = f"seed {seed}, {kind} after {moment:.1f} s"
        print(f"{place}: status {process.returncode} after {time.monotonic() - asked:.1f} s")
        assert process.returncode in (0, 75), f"{place}: {said}"
        subprocess.run(arguments, check=process.returncode == 75, capture_output=True)
        assert result(kind, folder) == expected, place
