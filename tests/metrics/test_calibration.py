"""A small version of scripts/calibrate.py: rates of false alarms and coverage within what chance allows."""

import importlib.util

import pytest
from scipy import stats

from tests.conftest import ROOT

SPEC = importlib.util.spec_from_file_location("calibrate", ROOT / "scripts" / "calibrate.py")
calibrate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(calibrate)

DRAWS = 60
WORLDS = {world.name: world for world in calibrate.null_worlds()}
# What is known to raise more alarms than it should, with the reason in vatjax/metrics/README.md.
MISSES = {("10 values, Likert, 80 % zeros", "R band")}


@pytest.mark.parametrize(
    "name",
    [
        "10 values, 12 clusters of 264, sizes 1:9",
        "10 values, half inert, 66 of 2",
        "10 values, Likert, 80 % zeros",
        "10 values, crossed country and topic",
        "10 values, equal coupling .25, 12 clusters: two arms",
        "labelled, scenes of 4",
    ],
)
def test_false_alarms_are_as_rare_as_they_say(name):
    most = stats.binom.ppf(0.9995, DRAWS, 0.07) / DRAWS
    found = calibrate.measure_null(WORLDS[name], DRAWS, 1)
    assert {test: share for test, share in found.items() if share > most and (name, test) not in MISSES} == {}


@pytest.mark.parametrize("name", ["10 values, 33 clusters of 132, r 0.25", "10 values, 264 clusters of 264, r 0.15"])
def test_intervals_hold_the_truth(name):
    world = next(one for one in calibrate.PLANTED if one.name == name)
    least = stats.binom.ppf(0.0005, DRAWS, 0.92) / DRAWS
    found = calibrate.measure_planted(world, DRAWS, 1)
    assert {interval: share for interval, share in found.items() if share < least} == {}
