"""Elicitation: a model's value state over items, at the cost of the tokens that differ.

state = elicit.rate(model, items, "paired")            # a ValueState
rated = elicit.ratings(model, items, elicit.How("dense", counterbalance=True), shots=shots, edit=edit)
rated.state, rated.agreement, rated.shares, rated.cost
given = elicit.label(annotator, items)                 # labels for the protocol labelled, by a model that is left alone
shots = elicit.neutral_shots(model, items)             # examples that push nothing, to compare with those that do
under = elicit.states_under(model, items, edits)       # of many edits at one time, what they share computed once
chosen = elicit.choose(model, items)                   # which action of each pair, in both orders
texts = elicit.free_answers(model, rows, elicit.How()) # what it writes without a prefill
"""

from vatjax.elicit import labels
from vatjax.elicit.asking import Condition, answers
from vatjax.elicit.choice import Chosen, choose
from vatjax.elicit.free import FreeAnswer, free_answers
from vatjax.elicit.gap import stated_and_acted
from vatjax.elicit.labels import Labels, label
from vatjax.elicit.lowered import programs
from vatjax.elicit.neutral import neutral_shots
from vatjax.elicit.noise import Noise, is_noisy, numerical_noise
from vatjax.elicit.plan import Cost, Plan, Size, need
from vatjax.elicit.rating import Rated, cost, layout, rate, ratings
from vatjax.elicit.resume import drop
from vatjax.elicit.scorer import seconds_for, size_for
from vatjax.elicit.under import Under, choices_under, states_under
from vatjax.prompts import How

__all__ = [
    "Chosen",
    "Condition",
    "Cost",
    "FreeAnswer",
    "How",
    "Labels",
    "Noise",
    "Plan",
    "Rated",
    "Size",
    "Under",
    "answers",
    "choices_under",
    "choose",
    "cost",
    "drop",
    "free_answers",
    "is_noisy",
    "label",
    "labels",
    "layout",
    "need",
    "neutral_shots",
    "numerical_noise",
    "programs",
    "rate",
    "ratings",
    "seconds_for",
    "size_for",
    "stated_and_acted",
    "states_under",
]
