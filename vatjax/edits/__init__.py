"""Edits: from contrast pairs of the train side to a change of a model's computation that pushes one value.

edit = edits.find(model, items, "Power")               # the mean difference, added in the middle layer
edit = edits.find(model, items, "Power", -1, "conva")  # away from it, by controlled activation
pairs = edits.contrast(model, items, "Power")          # hidden states from which directions are computed
several = edits.contrasts(model, items, ["Power", "Wealth"])  # shared tokens are computed once
vectors = edits.directions(pairs, "pca")               # one for each layer; edits.steer(vectors, [3, 4], "turn")
points = edits.sweep(model, test, "Power", lambda layers: edits.steer(vectors, layers), [(3,), (4,)])
edits.fit_curve(points), edits.best_point(points)      # the useful strengths, and the best of them
candidate = edits.find_candidate(model, items, "Power", 1, edits.Finder("mean"))    # an edit for several places
edits.run_trials(model, test, "Power", {"edit": edits.Push(edit), "random 1": edits.Push(other, placebo="random")})
edits.random_like(edit, key), edits.shuffle_labels(pairs)  # placebos

An `Edit` is data (`models.Edit`): `0.5 * edit`, `edit + other` and `-edit` are edits too, if their steps can be added.
"""

from vatjax.edits.candidates import (
    METHODS_BY_OPTION,
    Candidate,
    Finder,
    find_candidate,
    placebo_pushes,
    sample_target_scenes,
)
from vatjax.edits.conditional import Condition, conditional, fit_condition
from vatjax.edits.conva import conva
from vatjax.edits.directions import Directions, directions, steer
from vatjax.edits.finders import METHODS, EditResult, Method, find, find_with_facts
from vatjax.edits.neurons import neuron_edit
from vatjax.edits.outcome import Outcome, outcomes, perplexities, relative_perplexity
from vatjax.edits.pairs import Contrast, contrast, contrasts
from vatjax.edits.placebo import match_lengths, random_like, shuffle_labels
from vatjax.edits.plots import sweep_figure
from vatjax.edits.split import Training, split
from vatjax.edits.sweeping import MIN_STRENGTHS, STRENGTHS, Curve, Point, best_point, fit_curve, no_gain_reason, sweep
from vatjax.edits.trials import PlaceboSummary, Push, Trial, run_trials, summarise_placebos

__all__ = [
    "METHODS",
    "METHODS_BY_OPTION",
    "MIN_STRENGTHS",
    "STRENGTHS",
    "Candidate",
    "Condition",
    "Contrast",
    "Curve",
    "Directions",
    "EditResult",
    "Finder",
    "Method",
    "Outcome",
    "PlaceboSummary",
    "Point",
    "Push",
    "Training",
    "Trial",
    "best_point",
    "conditional",
    "contrast",
    "contrasts",
    "conva",
    "directions",
    "find",
    "find_candidate",
    "find_with_facts",
    "fit_condition",
    "fit_curve",
    "match_lengths",
    "neuron_edit",
    "no_gain_reason",
    "outcomes",
    "perplexities",
    "placebo_pushes",
    "random_like",
    "relative_perplexity",
    "run_trials",
    "sample_target_scenes",
    "shuffle_labels",
    "split",
    "steer",
    "summarise_placebos",
    "sweep",
    "sweep_figure",
]
