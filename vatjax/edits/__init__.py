"""Finding edits: from contrast pairs of the train side to a change of a model's computation that pushes one value.

edit = edits.find(model, items, "Power")               # the mean difference, added in the middle layer
edit = edits.find(model, items, "Power", -1, "conva")  # away from it, by controlled activation
pairs = edits.contrast(model, items, "Power")          # the hidden states that directions are made of
several = edits.contrasts(model, items, ["Power", "Wealth"])  # what they share computed once
found = edits.directions(pairs, "pca")                 # one for each layer; edits.steer(found, [3, 4], "turn")
points = edits.sweep(model, test, "Power", lambda layers: edits.steer(found, layers), [(3,), (4,)])
edits.curve(points), edits.best(points)                # the useful strengths, and the best of them
edits.random_like(edit, key), edits.shuffled(pairs)    # placebos

An `Edit` is data (`models.Edit`): `0.5 * edit`, `one + other` and `-edit` are edits too, where they are sums.
"""

from vatjax.edits.activations import neurons
from vatjax.edits.controlled import conva
from vatjax.edits.finders import METHODS, Found, Method, find, search
from vatjax.edits.gated import Condition, condition, conditional
from vatjax.edits.outcome import Outcome, outcomes, perplexities
from vatjax.edits.pairs import Contrast, contrast, contrasts
from vatjax.edits.placebo import as_long_as, random_like, shuffled
from vatjax.edits.stream import Directions, directions, steer
from vatjax.edits.sweeping import LEAST, STRENGTHS, Curve, Point, best, curve, sweep
from vatjax.edits.trained import Training, split

__all__ = [
    "LEAST",
    "METHODS",
    "STRENGTHS",
    "Condition",
    "Contrast",
    "Curve",
    "Directions",
    "Found",
    "Method",
    "Outcome",
    "Point",
    "Training",
    "as_long_as",
    "best",
    "condition",
    "conditional",
    "contrast",
    "contrasts",
    "conva",
    "curve",
    "directions",
    "find",
    "neurons",
    "outcomes",
    "perplexities",
    "random_like",
    "search",
    "shuffled",
    "split",
    "steer",
    "sweep",
]
