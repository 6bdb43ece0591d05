"""Whole measurements: pushes beside their placebos, and the check of the instrument against what was planted.

design = config.read(study.Design, "configs/quickstart.yaml")    # models x interventions x targets
found = study.write(study.run(study.plan(design)))    # a `Study`: .rows, .comparisons, .result(row), .states(row)

tried = study.candidate(model, items, "Power", 1, study.Finder("mean"))    # an edit that can be made in several places
found = study.trials(model, test, "Power", {"edit": study.Push(edit), "random 1": study.Push(other, placebo="random")})

measured = study.measure(model, world, items)          # the organism's answers, under words, shots and placebos
study.judge(measured)                                  # what must come out of them: a list of `Check`
checks, style = study.calibrate(seeds=40)              # the metrics on drawn answers: coverage, false alarms, hub, style
"""

from vatjax.study.calibration import Style, calibrate
from vatjax.study.checks import Check
from vatjax.study.costs import costs
from vatjax.study.design import Design, Intervention, Lessons, places
from vatjax.study.finding import WORKS, Candidate, Finder, candidate, placebos, some_scenes
from vatjax.study.folder import check, refuse_places
from vatjax.study.holding import Shard, once, shard
from vatjax.study.planned import loader, plan
from vatjax.study.plots import sweep_figure
from vatjax.study.results import Study, open_study, write
from vatjax.study.runner import Ran, run
from vatjax.study.steering import Blind, Push, Trial, blind, trials
from vatjax.study.validation import Measured, Row, judge, measure
from vatjax.study.variants import Pushed, judge_kind, push

__all__ = [
    "WORKS",
    "Blind",
    "Candidate",
    "Check",
    "Design",
    "Finder",
    "Intervention",
    "Lessons",
    "Measured",
    "Push",
    "Pushed",
    "Ran",
    "Row",
    "Shard",
    "Study",
    "Style",
    "Trial",
    "blind",
    "calibrate",
    "candidate",
    "check",
    "costs",
    "judge",
    "judge_kind",
    "loader",
    "measure",
    "once",
    "open_study",
    "placebos",
    "places",
    "plan",
    "push",
    "refuse_places",
    "run",
    "shard",
    "some_scenes",
    "sweep_figure",
    "trials",
    "write",
]
