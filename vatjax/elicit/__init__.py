"""Elicitation: a model's value state over items, at the cost of the tokens that differ.

state = elicit.rate(model, items, "paired")            # a ValueState
rated = elicit.ratings(model, items, elicit.How("dense", counterbalance=True), shots=shots, edit=edit)
rated.state, rated.agreement, rated.shares, rated.cost
given = elicit.label(annotator, items)                 # labels for the protocol labelled, by a model that is left alone
chosen = elicit.choose(model, items)                   # which action of each pair, in both orders
"""

from vatjax.elicit import labels
from vatjax.elicit.choice import Chosen, choose
from vatjax.elicit.gap import stated_and_acted
from vatjax.elicit.labels import Labels, label
from vatjax.elicit.plan import Cost, Plan, Size
from vatjax.elicit.rating import Rated, rate, ratings
from vatjax.elicit.resume import drop
from vatjax.elicit.scorer import seconds_for, size_for
from vatjax.prompts import How

__all__ = [
    "Chosen",
    "Cost",
    "How",
    "Labels",
    "Plan",
    "Rated",
    "Size",
    "choose",
    "drop",
    "label",
    "labels",
    "rate",
    "ratings",
    "seconds_for",
    "size_for",
    "stated_and_acted",
]
