"""`vatjax interventions`: what it prints for a kind is a study's file with the defaults of that kind."""

import dataclasses
import json

import pytest
import yaml

from vatjax import cli, config, interventions

# Settings without which a kind cannot be.
NEEDED = {
    "prompt": {"text": "a"},
    "edit": {"path": "a"},
    "adapter": {"path": "a"},
    "weights": {"checkpoints": ["a"]},
    "function": {"call": "tests.interventions.own:sentence"},
    "ratings": {"after": ["a.csv"]},
}


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["interventions", *arguments])
    return ended.value.code, capsys.readouterr()


def test_all_kinds_are_listed_with_a_line_each(capsys):
    code, printed = run(capsys, "--json")
    assert code == 0
    rows = json.loads(printed.out)
    assert [row["kind"] for row in rows] == interventions.kind_names()
    assert all(row["about"] for row in rows)


@pytest.mark.parametrize("kind", ["shots", "conva", "dpo", "split", *NEEDED])
def test_the_settings_of_a_kind_are_a_study_s_file(kind, capsys):
    code, printed = run(capsys, kind)
    assert code == 0
    settings = yaml.safe_load(printed.out)["interventions"]["mine"]
    needed = NEEDED.get(kind, {})
    cls = interventions.KINDS[kind]
    whole = cls(**{key: tuple(x) if isinstance(x, list) else x for key, x in needed.items()})
    assert settings | needed == yaml.safe_load(config.to_yaml(whole))
    assert {field.name for field in dataclasses.fields(cls)} == set(settings) - {"kind"}


def test_each_setting_of_a_kind_has_a_meaning(capsys):
    for kind in interventions.KINDS:
        if interventions.KINDS[kind].__module__.startswith("vatjax."):
            _, printed = run(capsys, kind, "--json")
            assert not [entry["name"] for entry in json.loads(printed.out)["settings"] if not entry["about"]], kind


def test_an_unknown_kind_is_one_line(capsys):
    code, printed = run(capsys, "conv")
    assert code == 2
    assert "unknown kind of intervention 'conv'; did you mean 'conva'?" in printed.err
