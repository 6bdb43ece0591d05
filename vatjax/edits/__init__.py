"""Edits: from contrast pairs of the train side to a change of a model's computation that pushes one value.

edit = edits.find(model, items, "Power")               # the mean difference, added in the middle layer
edit = edits.find(model, items, "Power", -1, "conva")  # away from it, by controlled activation
pairs = edits.contrast(model, items, "Power")          # hidden states from which directions are computed
several = edits.contrasts(model, items, ["Power", "Wealth"])  # shared tokens are computed once
vectors = edits.directions(pairs, "pca")               # one for each layer; edits.steer(vectors, [3, 4], "turn")
points = edits.sweep(model, test, "Power", lambda layers: edits.steer(vectors, layers), [(3,), (4,)])
edits.fit_curve(points), edits.best_point(points)      # the useful strengths, and the best of them
candidate = edits.find_candidate(model, items, "Power", 1, edits.Finder("mean"))    # an edit for several places
edits.run_trials(model, test, "Power", {"edit": edits.Push(elicit.Condition(edit=edit))})
edits.random_like(edit, key), edits.shuffle_labels(pairs)  # placebos

An `Edit` is data (`models.Edit`): `0.5 * edit`, `edit + other` and `-edit` are edits too, if their steps can be added.
"""

from vatjax.edits.candidates import (
    METHODS_BY_OPTION,
    Finder,
    find_candidate,
)
from vatjax.edits.conditional import conditional, fit_condition
from vatjax.edits.conva import conva
from vatjax.edits.directions import directions, steer
from vatjax.edits.experiment import (
    Callbacks,
    NoGain,
    best_of,
    edit_experiment,
    shots_experiment,
    sweep_train_side,
)
from vatjax.edits.finders import METHODS, Method, find, find_with_facts
from vatjax.edits.neurons import neuron_edit
from vatjax.edits.outcome import outcomes, perplexities, relative_perplexity
from vatjax.edits.pairs import contrast, contrasts
from vatjax.edits.placebo import random_like, shuffle_labels
from vatjax.edits.plots import sweep_figure
from vatjax.edits.split import Training, split
from vatjax.edits.sweeping import STRENGTHS, Point, best_point, fit_curve, sweep
from vatjax.edits.trials import Push, run_trials, summarise_placebos

__all__ = [
    "METHODS",
    "METHODS_BY_OPTION",
    "STRENGTHS",
    "Callbacks",
    "Finder",
    "Method",
    "NoGain",
    "Point",
    "Push",
    "Training",
    "best_of",
    "best_point",
    "conditional",
    "contrast",
    "contrasts",
    "conva",
    "directions",
    "edit_experiment",
    "find",
    "find_candidate",
    "find_with_facts",
    "fit_condition",
    "fit_curve",
    "neuron_edit",
    "outcomes",
    "perplexities",
    "random_like",
    "relative_perplexity",
    "run_trials",
    "shots_experiment",
    "shuffle_labels",
    "split",
    "steer",
    "summarise_placebos",
    "sweep",
    "sweep_figure",
    "sweep_train_side",
]
