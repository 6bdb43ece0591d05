"""Examples that push nothing: actions of all values, each with the rating that the model itself would give.

The placebo for demonstrations: as many examples in the same form, of which a model learns nothing about anybody's values
but its own.
"""

from __future__ import annotations

import numpy as np

from vatjax import errors
from vatjax.elicit.asking import answers
from vatjax.items import EXPRESS, Items
from vatjax.models import Model
from vatjax.prompts import How, Shot, fields


def neutral_shots(
    model: Model,
    items: Items,
    count: int = 4,
    avoid: str = "",
    how: How | None = None,
    test: float = 0.25,
    seed: int = 0,
    draw: int = 0,
) -> list[Shot]:
    """Shots with a model's own answers, half of them actions for some value, half against.

    Args:
        model: whose answers they are.
        items: all items; the examples are of the train side of their division by scene.
        count: how many.
        avoid: a value, type or group that no example is about.
        how: the question that they are examples of; `paired` by default.
        test, seed: of the division by scene.
        draw: which of many draws of examples.

    Raises:
        InputError: where the train side has fewer.
    """
    how = how or How()
    train, _ = items.split(test, seed)
    if avoid:
        train = train.take(np.flatnonzero(~items.taxonomy.mask(avoid)[train.value]))
    random = np.random.default_rng((seed, draw))
    sides = [random.permutation(np.flatnonzero(train.polarity == side)) for side in (EXPRESS, -EXPRESS)]
    wanted = ((count + 1) // 2, count // 2)
    if count < 0 or any(len(side) < needed for side, needed in zip(sides, wanted, strict=True)):
        raise errors.InputError(
            f"{count} neutral shots need {wanted[0]} actions for a value and {wanted[1]} against one; the train side has "
            f"{len(sides[0])} and {len(sides[1])}"
        )
    chosen = random.permutation(np.concatenate([side[:needed] for side, needed in zip(sides, wanted, strict=True)]))
    if not count:
        return []
    shown = [fields(train, int(i)) for i in chosen]
    own = answers(model, shown, how).ratings
    if np.isnan(own).any():
        raise errors.InputError(
            f"neutral shots: the model has no answer to {int(np.isnan(own).sum())} of {count} examples"
        )
    return [Shot(one, round(float(rating))) for one, rating in zip(shown, own, strict=True)]
