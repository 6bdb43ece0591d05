"""Whole measurements: pushes beside their placebos, and the check of the instrument against what was planted.

tried = study.candidate(model, items, "Power", 1, study.Finder("mean"))    # an edit that can be made in several places
found = study.trials(model, test, "Power", {"edit": study.Push(edit), "random 1": study.Push(other, placebo="random")})

measured = study.measure(model, world, items)          # the organism's answers, under words, shots and placebos
study.judge(measured)                                  # what must come out of them: a list of `Check`
checks, style = study.calibrate(seeds=40)              # the metrics on drawn answers: coverage, false alarms, hub, style
"""

from vatjax.study.calibration import Style, calibrate
from vatjax.study.checks import Check
from vatjax.study.finding import WORKS, Candidate, Finder, candidate, placebos
from vatjax.study.plots import sweep_figure
from vatjax.study.steering import Blind, Push, Trial, blind, trials
from vatjax.study.validation import Measured, Row, judge, measure
from vatjax.study.variants import Pushed, judge_kind, push

__all__ = [
    "WORKS",
    "Blind",
    "Candidate",
    "Check",
    "Finder",
    "Measured",
    "Push",
    "Pushed",
    "Row",
    "Style",
    "Trial",
    "blind",
    "calibrate",
    "candidate",
    "judge",
    "judge_kind",
    "measure",
    "placebos",
    "push",
    "sweep_figure",
    "trials",
]
