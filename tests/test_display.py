"""How far a command is: said from the first second, on a terminal and in a log."""

import re
import time

import pytest

from vatjax.commands.run import _Batches
from vatjax.runtime.display import Display
from vatjax.runtime.progress import count_progress, ignore_progress, stage_progress
from vatjax.store.artifacts import Artifact
from vatjax.study.executor import Progress


def test_fractions_nest_and_count():
    seen = []
    half = stage_progress(seen.append, 0.5, 1)
    stage_progress(half, 0, 0.5)(0.5)
    assert seen == [0.625]
    assert stage_progress(ignore_progress, 0, 0.5) is ignore_progress  # what nobody hears is not waited for
    advance = count_progress(seen.append, 4)
    advance(1)
    advance(3)
    assert seen[1:] == [0.25, 1.0]


def test_a_log_says_each_stage_what_compiles_and_the_time_left(capsys):
    with Display(every=0.05) as display:
        display.stage("ratings", "about 3 s")
        time.sleep(0.15)
        display.progress(0.25)
        display.note("loss 2")
        time.sleep(0.15)
        display.progress(0.5)
        time.sleep(0.12)
        display.message("a line of its own")
        display.stage("numbers", quiet=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "vatjax: ratings (about 3 s)"
    assert any(
        re.fullmatch(r"vatjax: ratings: compiling and running its first part, \d+ s so far", one) for one in lines
    )
    assert any(re.fullmatch(r"vatjax: ratings: 50%, about \d+ s left, loss 2", one) for one in lines)
    assert "vatjax: a line of its own" in lines
    assert not any("numbers" in one for one in lines)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_terminal_has_one_bar(monkeypatch, capsys, fraction):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    display = Display()
    with display:
        display.stage("a stage with [brackets]", "about 1 min")
        display.progress(fraction)
        time.sleep(0.7)
        said = display.status()
        display.message("beside it")
    assert said.startswith({0.0: "compiling and running its first part", 0.5: "50%", 1.0: "finishing"}[fraction])
    assert "beside it" in capsys.readouterr().err
    display.close()  # twice is once


def test_a_run_corrects_its_time_left_by_what_pieces_took(capsys):
    pieces = [Artifact("state", f"model: {name}", {"x": name}) for name in "abc"]
    costs = {"artifacts": [{"address": one.address, "seconds": 100.0, "present": False} for one in pieces]}
    with Display(every=60) as display:
        batches = _Batches(costs, display)
        batches.on_batch(pieces[:2])
        for number, one in enumerate(pieces[:2], 1):
            batches.on_artifact(Progress(number, 3, one, 10.0))
        batches.on_batch(pieces[2:])
        batches.on_batch([Artifact("result", "model: numbers", {})])  # takes no model: no line before it
    assert capsys.readouterr().err.splitlines() == [
        "vatjax: 1 to 2 of 3: model: a and 1 more (about 3 min; about 5 min left in all)",
        "vatjax: 1 of 3: model: a (10 s)",
        "vatjax: 2 of 3: model: b (10 s)",
        "vatjax: 3 of 3: model: c (about 10 s; about 10 s left in all)",
    ]
