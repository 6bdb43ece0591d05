"""`vatjax validate`: what it prints, and how it ends where the instrument misses."""

import json

import numpy as np
import pytest

from tests.test_cli import run
from vatjax import items, models, organism, validate
from vatjax.validate import null_organisms, organism_checks

DATA = items.bundled()
_, TEST = organism.split_seen_unseen(DATA)
SOME = TEST.take(np.flatnonzero(np.isin(TEST.scene_of, np.unique(TEST.scene_of)[::4])))


@pytest.fixture(scope="module")
def measured():
    world = organism.load_world("pocket")
    return validate.measure_organism(
        models.load("pocket"), world, DATA, SOME, targets=["Power"], shots=(2, 8), placebos=3
    )


@pytest.mark.thorough
def test_planted_beside_measured(capsys, monkeypatch, measured):
    monkeypatch.setattr(validate, "measure_organism", lambda *_, **__: measured)
    status, out, err = run(capsys, "validate", "--seeds", "0")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    row = measured.rows[-1]
    assert ["Power", "8", "shots", f"{row.planted_gain:.2f}", f"{row.gain.estimate:.2f}"] in [
        line[:5] for line in lines
    ]
    first = measured.rows[0]
    assert ["Power", *(f"{x:.2f}" for x in first.planted_each)] in lines
    assert ["measured", *(f"{x:.2f}" for x in first.each)] in lines
    assert "ok" in out
    assert "MISSED" not in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.thorough
def test_a_miss_ends_with_status_1_and_says_which(capsys, monkeypatch, measured):
    worse = measured._replace(ratings=0.5)
    monkeypatch.setattr(validate, "measure_organism", lambda *_, **__: worse)
    status, out, _ = run(capsys, "validate", "--seeds", "0")
    assert status == 1
    (line,) = (line for line in out.splitlines() if "MISSED" in line)
    assert "rank correlation of ratings" in line
    status, out, _ = run(capsys, "validate", "--seeds", "0", "--json")
    content = json.loads(out)
    assert status == 1
    assert not content["passed"]
    assert [check["name"] for check in content["checks"] if not check["passed"]] == [
        "rank correlation of ratings with the planted ones"
    ]
    assert content["interventions"][0]["target"] == "Power"


@pytest.mark.thorough
def test_what_would_be_missed(measured):
    assert [check for check in organism_checks.check_organism(measured) if not check.passed] == []
    row = measured.rows[-1]
    for change, name in (
        ({"coupling": 0.2}, "coupling R"),
        ({"profile": float("nan")}, "mean shifts"),
        ({"gain": row.gain._replace(low=-0.1)}, "gains above 0"),
        ({"nvat": row.nvat + 0.3}, "debiased nVAT"),
        ({"p": 0.4}, "order of the circle"),
    ):
        other = measured._replace(rows=[*measured.rows[:-1], row._replace(**change)])
        (missed,) = (check for check in organism_checks.check_organism(other) if not check.passed)
        assert name in missed.name
    moved = {"neutral shots": measured.placebos["neutral shots"] * 0.01 + 0.5}
    assert not all(check.passed for check in organism_checks.check_organism(measured._replace(placebos=moved)))


@pytest.mark.thorough
def test_an_organism_of_another_kind_is_asked_for_what_it_has(capsys, monkeypatch):
    """The circle's own organism under the name of another: it is coupled, and its order shows."""
    world = organism.load_world("pocket")
    pushed = null_organisms.push_organism(models.load("pocket"), world, SOME, ["Power", "Hedonism"])
    assert all(one.order < 0.05 for one in pushed)
    other = organism.draw_world(["a"], ["b"], 0, "independent")
    missed = [check.name for check in null_organisms.check_null_organism(other, pushed) if not check.passed]
    assert missed == ["debiased nVAT, the mean", "order of the circle: share of p <= .05"]
    monkeypatch.setattr(organism, "load_world", lambda _: other)
    monkeypatch.setattr(validate, "push_organism", lambda *_, **__: pushed)
    status, out, _ = run(capsys, "validate", "--seeds", "0")
    assert status == 1
    assert "Hedonism" in out


def test_bad_input(capsys, tmp_path):
    for arguments, message in (
        (("--seeds", "3"), "at least 10 are needed for a rate"),
        (("--model", str(tmp_path / "none")), "no such folder"),
        (("--model", str(tmp_path)), "world.json not found; expected an organism"),
        (("--seed", "-1"), "seed: expected 0 to 999,999, found -1"),
    ):
        status, out, err = run(capsys, "validate", *arguments)
        assert (status, out) == (2, "")
        assert message in err
