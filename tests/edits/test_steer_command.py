"""`vatjax steer`: from a checkpoint to an edit on disk, its sweep, and its placebos."""

import json

import numpy as np
import pytest

from tests.test_cli import run
from vatjax import items, models

COUNTRIES = ("Egypt", "Brazil", "Japan")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Items of three countries as a file."""
    data = items.bundled()
    some = data.where(country=list(COUNTRIES)) if set(COUNTRIES) <= set(data.country) else data
    chosen = sorted(set(some.country))[:3]
    some = data.where(country=chosen)
    path = tmp_path_factory.mktemp("items") / "few.jsonl"
    rows = [some[i]._asdict() if hasattr(some[i], "_asdict") else vars(some[i]) for i in range(len(some))]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def steer(capsys, out, few, *options):
    return run(
        capsys, "steer", "--model", "pocket", "--items", str(few), "--target", "Power", "--out", str(out), *options
    )


@pytest.mark.thorough
def test_an_edit_its_sweep_and_its_placebos(capsys, few, tmp_path):
    out = tmp_path / "edit"
    strengths = "-2,-1,-0.5,0,0.5,1,1,1.5,2"
    options = ("--layers", "0+1,1+0", "--strengths", strengths, "--scenes", "4", "--placebos", "2")
    status, printed, err = steer(capsys, out, few, *options)
    assert status == 0
    assert [line for line in printed.splitlines() if len(line) > 100] == []
    assert "useful from" in printed
    assert "random, 2 draws together" in printed
    assert "accuracy on held-out pairs, by layer: " in printed
    content = json.loads((out / "steer.json").read_text())
    assert len(content["sweep"]) == 8  # what is named twice is tried once
    assert [point["strength"] for point in content["random"]] == [point["strength"] for point in content["sweep"]]
    assert max(abs(point["gain"]) for point in content["random"]) < max(point["gain"] for point in content["sweep"])
    assert content["trials"][0]["success_before"] < content["trials"][0]["success"]["estimate"]
    assert "no better than chance on neutral text" in printed
    real = content["trials"][0]
    assert real["gain"]["low"] > 0.2
    assert [one["placebo"] for one in content["trials"]] == ["", "random", "random", *["shuffled labels"] * 2]
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    model = models.load("pocket")
    edit = models.load_edit(out, model)
    facts = models.edit_facts(out)["meta"]
    assert facts["strength"] == float(edit.strength)
    changed = np.flatnonzero(np.abs(np.asarray(edit.residual)).any(1)).tolist()
    assert changed == facts["layers"]
    status, _, err = steer(capsys, out, few)
    assert status == 2
    assert "already exists" in err


@pytest.mark.thorough
def test_shots_are_an_intervention_too(capsys, few, tmp_path):
    options = ("--method", "shots", "--placebos", "2", "--shots", "1,8", "--json")
    status, printed, _ = steer(capsys, tmp_path / "shots", few, *options)
    assert status == 0
    content = json.loads(printed)
    assert [one["name"] for one in content["trials"]] == [
        "1 shot",
        "8 shots",
        "neutral shots 1",
        "neutral shots 2",
    ]
    assert len(content["shots"]) == 8
    assert content["trials"][1]["resolved"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "Powr"), "did you mean 'Power'"),
        (("--layers", "9"), "layer 9: the model has layers 0 to 3"),
        (("--layers", "a"), "expected layers such as 3 or 3+4, found a"),
        (("--strengths", "1,x"), "strengths: expected numbers separated by commas"),
        (("--strengths", "nan"), "strengths: expected numbers separated by commas"),
        (("--placebos", "-1"), "placebos: expected 0 or more, found -1"),
        (("--gate",), "gate: it works with conva, and not with mean"),
        (("--method", "shots", "--operator", "set"), "operator: it works with mean, pca, probe, and not with shots"),
        (("--gamma", "2"), "gamma: it works with split, and not with mean"),
        (("--method", "conva", "--shots", "2"), "shots: it works with shots, and not with conva"),
        (("--method", "shots", "--shots", "2,0"), "shots: expected numbers of examples such as 2,4,8, found '2,0'"),
        (("--items.type", "Security"), "no pair of Power among the "),
        (("--model", "nowhere"), "no such folder"),
        (("--items", "absent.jsonl"), "absent.jsonl"),
    ],
)
def test_bad_input_is_one_message(capsys, few, tmp_path, options, message):
    status, out, err = steer(capsys, tmp_path / "edit", few, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "edit").exists()


def test_what_gains_nothing_is_shown_and_not_written(capsys, few, tmp_path):
    options = ("--strengths", "-1,0", "--layers", "0", "--scenes", "4")
    status, out, err = steer(capsys, tmp_path / "edit", few, *options)
    assert status == 2
    assert len([line for line in out.splitlines() if line.lstrip().startswith("0 ")]) == 2
    assert "no strength gives a gain above 0: give other --strengths or other --layers" in err
    assert not list((tmp_path / "edit").iterdir())
    file = tmp_path / "file"
    file.write_text("")
    status, _, err = steer(capsys, file / "edit", few, *options)
    assert (status, "is a file; give a folder" in err) == (2, True)
