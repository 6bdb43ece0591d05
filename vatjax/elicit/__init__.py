"""Elicitation: a model's value state over items, at the cost of the tokens that differ.

state = elicit.rate(model, items, "paired")            # a ValueState
rated = elicit.ratings(model, items, elicit.How("dense", counterbalance=True), shots=shots, edit=edit)
rated.state, rated.agreement, rated.shares, rated.cost
"""

from vatjax.elicit.plan import Cost, Plan, Size
from vatjax.elicit.rating import How, Rated, rate, ratings

__all__ = ["Cost", "How", "Plan", "Rated", "Size", "rate", "ratings"]
