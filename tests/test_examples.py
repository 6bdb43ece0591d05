"""The examples run as a reader runs them, in a fresh process, and the README shows what they print."""

import os
import re
import subprocess
import sys

import pytest

from vatjax import cli

pytestmark = pytest.mark.long


def output(root, name, folder):
    """Runs an example and returns what it prints."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS",)}
    script = root / "scripts" / "examples" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(text):
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def test_hello_prints_what_the_readme_shows(root, tmp_path):
    printed = output(root, "hello", tmp_path)
    shown = re.search(r"It prints:\n\n```\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)[1]
    assert re.sub(r"[-+\d.]+", "#", printed) == re.sub(r"[-+\d.]+", "#", shown)
    for here, there in zip(numbers(printed), numbers(shown), strict=True):
        assert here == pytest.approx(there, abs=0.021)  # two digits are printed, and devices round differently
    assert (tmp_path / "tax.svg").stat().st_size > 1000


def test_ratings_of_any_origin(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["example", "ratings", "try"])
    assert "Power *" in output(root, "own_ratings", tmp_path)


def test_metrics_under_vmap(root, tmp_path):
    assert "'coupling': (50, 56, 56)" in output(root, "vmap_metrics", tmp_path)


def test_a_training_loop(root, tmp_path):
    printed = output(root, "train_dpo", tmp_path)
    assert numbers(printed)[0] < 0.6  # the loss of a coin toss is .69
    assert "LoRA on down, gate" in printed


def test_an_intervention_of_ones_own(root, tmp_path):
    printed = output(root, "own_intervention", tmp_path)
    assert [line.split()[0] for line in printed.splitlines()] == ["stern", "stern", "examples", "told"]
    assert len((root / "scripts" / "examples" / "own_intervention.py").read_text().splitlines()) < 40


@pytest.mark.thorough
def test_other_interventions(root, tmp_path):
    printed = output(root, "other_interventions", tmp_path)
    assert re.findall(r"^(8 examples|a sentence|DPO) ", printed, re.MULTILINE) == ["8 examples", "a sentence", "DPO"]


def test_the_reference_is_built_and_its_names_resolve(root, tmp_path):
    pytest.importorskip("pdoc")
    command = [sys.executable, root / "scripts" / "docs.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ValueState" in (tmp_path / "vatjax" / "states.html").read_text()
