"""The verdict: what is said of an arm, and of all arms with one aim."""

import dataclasses

import pytest

from vatjax.report import verdict
from vatjax.study import Study
from vatjax.study.arm_groups import ArmGroup

ROW = {
    "model": "m",
    "target": "Power",
    "direction": "express",
    "seed": 0,
    "intervention": "vector",
    "amount": 2.0,
    "unit": "strength",
    "level": "types",
    "kind": "residual",
    "placebo": "none",
    "headline": True,
    "gain": 0.8,
    "gain_low": 0.7,
    "gain_high": 0.9,
    "resolved": True,
    "broken": False,
    "perplexity": 1.1,
    "mass": 0.9,
    "mass_before": 0.8,
    "off_target": 0.5,
    "off_target_shift": 0.4,
    "off_target_shift_low": None,
    "off_target_shift_high": None,
    "over_placebo": "random",
    "over_placebo_gain": 0.7,
    "over_placebo_gain_low": 0.4,
    "over_placebo_gain_high": 1.0,
    "over_placebo_draws": 3,
    "front": False,
}
ONE = {"over_placebo_gain_low": None, "over_placebo_gain_high": None, "over_placebo_draws": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "gains beyond its placebo; others move by 0.50 a point"),
        ({"resolved": False}, "no gain that can be distinguished from 0"),
        ({"gain": -0.8}, "moved Power the wrong way"),
        ({"broken": True, "perplexity": 40.0}, "broken: neutral text has 40 times the perplexity it had"),
        ({"broken": True, "mass": 0.1}, "broken: the options have 10% of the probability, 80% before"),
        (
            {"over_placebo_gain_low": -3.0, "over_placebo_gain_high": 4.0},
            "cannot be distinguished from its placebo by 3 draws",
        ),
        (
            {"over_placebo_gain": 0.1, "over_placebo_gain_low": -0.1, "over_placebo_gain_high": 0.3},
            "not shown to gain more than its placebo: beyond it by at most 0.30 (3 draws)",
        ),
        (ONE, "gains; others move by 0.50 a point"),
        ({**ONE, "over_placebo_gain": 0.1}, "gains, most of it under its placebo too (1 draw)"),
        ({"over_placebo_gain": None, **ONE, "over_placebo_draws": None}, "gains; others move by 0.50 a point"),
    ],
)
def test_what_is_said_of_an_arm(changes, said):
    assert verdict.verdict({**ROW, **changes}) == said


def test_what_is_said_of_an_aim():
    """An arm whose gain its placebo has too is no winner, and one that breaks the model is none either."""

    def aim(**arms):
        rows = {name: [{**ROW, "intervention": name, **changes}] for name, changes in arms.items()}
        return ArmGroup("m", "Power", "express", 0, rows, {})

    both = aim(vector={}, shots={"gain": 0.6, "off_target": 0.2})
    assert verdict.sentences([both]) == [
        "m, towards Power: vector, strength 2 gains most, 0.80 [0.70, 0.90] points; shots, strength 2 moves the others least "
        "for each point of gain, by 0.20."
    ]
    assert (
        "of those that gain it moves the others least"
        in (verdict.sentences([aim(a={}, b={"gain": 0.1, "gain_low": 0.05, "gain_high": 0.15, "off_target": 3.0})])[0])
    )
    weak = aim(vector={"resolved": False}, shots={"broken": True})
    assert verdict.sentences([weak]) == [
        "m, towards Power: no intervention that leaves the model whole has a gain that can be distinguished from 0 (95 % "
        "intervals are up to \N{PLUS-MINUS SIGN}0.10 points); shots, strength 2 gains 0.80 [0.70, 0.90] and breaks it."
    ]
    # A level below the one with the largest gain counts as well.
    levels = aim(vector={})
    levels.real["vector"].append({**ROW, "amount": 4.0, "gain": 0.9, "resolved": False})
    assert "vector, strength 2 gains most" in verdict.sentences([levels])[0]
    like = aim(vector={**ONE, "over_placebo_gain": 0.1})
    assert verdict.sentences([like])[0].endswith("has a gain that is shown to be more than its placebo's.")
    shown = list(verdict.verdict_rows([aim(vector={}, shots={"broken": True})]))
    assert shown[0] == ("aim", ["m, towards Power (types)"])
    assert [cells[0] for _, cells in shown[1:]] == ["vector", "shots BROKEN"]


def test_a_matrix_has_each_pair_twice_with_turned_signs():
    pair = {"model": "m", "target": "Power", "direction": "express", "seed": 0, "at": "same gain", "same_gain": 0.5}
    rows = [
        {**pair, "one": "a", "other": "b", "off_target": 0.2, "off_target_low": 0.1, "off_target_high": 0.3},
        {**pair, "one": "a", "other": "c", "off_target": -0.1, "off_target_low": -0.3, "off_target_high": 0.1},
        {**pair, "one": "b", "other": "c", "off_target": None, "off_target_low": None, "off_target_high": None},
        {**pair, "seed": 1, "one": "b", "other": "c", "off_target": 1.0, "off_target_low": 0.5, "off_target_high": 2.0},
    ]
    study = dataclasses.replace(Study("folder", None, [], [], [], []), comparisons=rows)
    columns, found = verdict.comparison_matrix(study, ArmGroup("m", "Power", "express", 0, {}, {}))
    assert columns == ["", "a", "b", "c"]
    assert [cells for _, cells in found] == [
        ["a", "", "+0.20* at 0.50", "-0.10 at 0.50"],
        ["b", "-0.20* at 0.50", "", ""],
        ["c", "+0.10 at 0.50", "", ""],
    ]
