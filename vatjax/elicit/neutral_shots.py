"""Neutral shots: actions of all values, each with the rating that the model itself would give.

The placebo for demonstrations: as many examples in the same form, which show a model its own values alone.
"""

from __future__ import annotations

import numpy as np

from vatjax import errors
from vatjax.elicit.ask import answers
from vatjax.items import EXPRESS, Items
from vatjax.models import Model
from vatjax.prompts import ElicitConfig, Shot, item_fields


def neutral_shots(
    model: Model,
    items: Items,
    count: int = 4,
    avoid: str = "",
    how: ElicitConfig | None = None,
    test: float = 0.25,
    seed: int = 0,
    draw: int = 0,
) -> list[Shot]:
    """Returns shots with a model's own answers, half of them actions for some value, half against.

    Args:
        model: whose answers they are.
        items: all items; the examples are of the train side of their division by scene.
        count: how many.
        avoid: a value, type or group that no example is about.
        how: the settings of the question that they are examples of; `paired` by default.
        test, seed: of the division by scene.
        draw: which of many draws of examples.

    Raises:
        InputError: if the train side has fewer.
    """
    how = how or ElicitConfig()
    train, _ = items.split(test, seed)
    if avoid:
        train = train.take(np.flatnonzero(~items.taxonomy.mask(avoid)[train.value]))
    random = np.random.default_rng((seed, draw))
    sides = [random.permutation(np.flatnonzero(train.polarity == side)) for side in (EXPRESS, -EXPRESS)]
    counts = ((count + 1) // 2, count // 2)
    if count < 0 or any(len(side) < needed for side, needed in zip(sides, counts, strict=True)):
        raise errors.InputError(
            f"{count} neutral shots need {counts[0]} actions for a value and {counts[1]} against one; the train side has "
            f"{len(sides[0])} and {len(sides[1])}"
        )
    chosen = random.permutation(np.concatenate([side[:needed] for side, needed in zip(sides, counts, strict=True)]))
    if not count:
        return []
    shown = [item_fields(train, int(i)) for i in chosen]
    ratings = answers(model, shown, how).ratings
    if np.isnan(ratings).any():
        raise errors.InputError(
            f"neutral shots: the model has no answer to {int(np.isnan(ratings).sum())} of {count} examples"
        )
    return [Shot(row, round(float(rating))) for row, rating in zip(shown, ratings, strict=True)]
