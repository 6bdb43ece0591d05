import pytest

from tests.conftest import ROOT
from vatjax import config, errors, study, values
from vatjax.interventions import of_kind
from vatjax.study.design import Design

TAX = values.schwartz()


def design(**options):
    shots = {"examples": of_kind("shots")(), "said": of_kind("instruction")(targets=("power",))}
    return Design(models=("pocket",), out="runs/x", **{"interventions": shots, **options})


def test_a_signed_target_has_a_direction_of_its_own():
    own = design(targets=("+Security", "- power", "Hedonism"), directions=("express", "suppress"))
    assert own.target_directions(TAX) == (
        ("Security", "express"),
        ("Power", "suppress"),
        ("Hedonism", "express"),
        ("Hedonism", "suppress"),
    )
    assert own.target_names(TAX) == ("Security", "Power", "Hedonism")
    assert [push for _, push in design(targets=("-types",)).target_directions(TAX)] == ["suppress"] * 10


def test_an_intervention_can_have_some_of_the_targets():
    cells = design(targets=("Security", "Power"), seeds=(0, 1)).cells(TAX)
    assert [(name, target, seed) for name, _, target, _, seed in cells] == [
        ("examples", "Security", 0),
        ("examples", "Security", 1),
        ("examples", "Power", 0),
        ("examples", "Power", 1),
        ("said", "Power", 0),
    ]
    with pytest.raises(errors.InputError, match=r"interventions.said.targets: 'Power' is not among the targets"):
        design(targets=("Security",)).cells(TAX)


def test_the_published_study_has_its_conditions():
    own = config.read(study.Design, ROOT / "configs" / "paper.yaml")
    cells = {(name, target, way) for name, _, target, way, _ in own.cells(TAX)}
    shots = {("Security", "express"), ("Power", "suppress"), ("Stimulation", "suppress"), ("Hedonism", "suppress")}
    assert cells == {("examples", *push) for push in shots} | {(x, "Power", "suppress") for x in ("SFT", "DPO")}
    assert own.items.test == 0.3
    assert own.interventions["examples"].counts == (2, 4, 8)
    assert {len(own.interventions[name].levels()) for name in ("SFT", "DPO")} == {6}
