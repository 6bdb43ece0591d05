"""Elicitation: a model's value state over items, at the cost of the tokens that differ.

state = elicit.rate(model, items, "paired")            # a ValueState
rated = elicit.ratings(model, items, elicit.ElicitConfig("dense", counterbalance=True), shots=shots, edit=edit)
rated.state, rated.agreement, rated.shares, rated.cost
given = elicit.label(annotator, items)                 # labels for the protocol labelled, by an annotator model
shots = elicit.neutral_shots(model, items)             # the placebo for demonstrations
under = elicit.states_under(model, items, edits)       # many edits at one time, their shared layers computed once
chosen = elicit.choose(model, items)                   # the preferred action of each pair, in both orders
texts = elicit.free_answers(model, rows, config)       # text written without a prefill
"""

from vatjax.elicit import labels
from vatjax.elicit.ask import Condition, answers, check_condition
from vatjax.elicit.choice import choose
from vatjax.elicit.free import free_answers
from vatjax.elicit.labels import Labels, label
from vatjax.elicit.many_edits import choices_under, states_under
from vatjax.elicit.neutral_shots import neutral_shots
from vatjax.elicit.noise import Noise, is_noisy, numerical_noise
from vatjax.elicit.rating import Rated, cost, plan_ratings, rate, ratings
from vatjax.elicit.shard_cache import drop_shards
from vatjax.elicit.stated_vs_acted import stated_and_acted
from vatjax.prompts import ElicitConfig

__all__ = [
    "Condition",
    "ElicitConfig",
    "Labels",
    "Noise",
    "Rated",
    "answers",
    "check_condition",
    "choices_under",
    "choose",
    "cost",
    "drop_shards",
    "free_answers",
    "is_noisy",
    "label",
    "labels",
    "neutral_shots",
    "numerical_noise",
    "plan_ratings",
    "rate",
    "ratings",
    "stated_and_acted",
    "states_under",
]
