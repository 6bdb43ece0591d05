"""Items as training data: ratings and actions that push towards a value or away from it, in the wordings of the questions.

Every function takes all items and returns examples of the train side of their split by scene alone: no test scene can
be trained on by accident.
"""

from __future__ import annotations

import numpy as np

from vatjax import errors
from vatjax.items import EXPRESS, Items
from vatjax.prompts.build import Chat, ChatFormat, Shot, answer_gap, assemble, item_fields
from vatjax.prompts.wording import Scale, Wording, acting_wording, wording


def train_side(items: Items, target: str, direction: int = 1, test: float = 0.25, seed: int = 0) -> Items:
    """Returns the items of a target on the train side.

    Raises:
        InputError: if it has none.
    """
    train, _ = items.split(test, seed)
    if direction not in (1, -1):
        raise errors.InputError(f"direction: expected 1 or -1, found {direction}")
    mask = items.taxonomy.mask(target)
    chosen = train.take(mask[train.value])
    if not len(chosen):
        raise errors.InputError(f"{items.source}: no item of {target} is on the train side (test {test}, seed {seed})")
    return chosen


def judgements(
    items: Items,
    target: str,
    direction: int = 1,
    question: Wording | None = None,
    scale: Scale | None = None,
    chat: Chat | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Returns rows of `prompt` and `completion`.

    For a direction of +1 the completion agrees fully with actions for the target, and not at all with those against it.

    Args:
        items: all items.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        question: its wording; by default that of `paired`.
        scale: of the answers.
        chat: a chat template; without one, plain text.
        test, seed: of the division by scene.
    """
    scale, question = scale or Scale(), question or wording("paired")
    train = train_side(items, target, direction, test, seed)
    prompt_set = assemble((item_fields(train, i) for i in range(len(train))), question, scale, chat=chat)
    answers = [scale.answer(scale.high if side * direction == EXPRESS else scale.low) for side in train.polarity]
    space = answer_gap(chat, question, scale)
    return [{"prompt": prompt_set.text(i), "completion": space + answer} for i, answer in enumerate(answers)]


def preferences(
    items: Items,
    target: str,
    direction: int = 1,
    question: Wording | None = None,
    chat: Chat | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Returns rows of `prompt`, `chosen` and `rejected`: the scene, its preferred action, and the action's counterpart.

    Args:
        items: all items; each pair of express and suppress gives one example.
        target, direction, chat, test, seed: as in `judgements`.
        question: its wording; by default that of `acting_wording`.
    """
    train = train_side(items, target, direction, test, seed)
    pairs = train.pair()
    if not len(pairs.express):
        raise errors.InputError(f"{items.source}: no scene of the train side has both actions of {target}")
    prompt_set = assemble(
        (item_fields(train, i) for i in pairs.express), question or acting_wording(), chat=_unfilled(chat)
    )
    space = "" if chat else " "
    chosen, rejected = (pairs.express, pairs.suppress)[::direction]
    return [
        {"prompt": prompt_set.text(i), "chosen": space + train.action[better], "rejected": space + train.action[worse]}
        for i, (better, worse) in enumerate(zip(chosen, rejected, strict=True))
    ]


def actions(
    items: Items,
    target: str,
    direction: int = 1,
    question: Wording | None = None,
    chat: Chat | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Returns rows of `prompt` and `completion`: the scene, and its preferred action; arguments as in `preferences`."""
    train = train_side(items, target, direction, test, seed)
    train = train.take(train.polarity == direction)
    prompt_set = assemble(
        (item_fields(train, i) for i in range(len(train))), question or acting_wording(), chat=_unfilled(chat)
    )
    space = "" if chat else " "
    return [{"prompt": prompt_set.text(i), "completion": space + action} for i, action in enumerate(train.action)]


def _unfilled(chat: Chat | None) -> Chat | None:
    """Returns the template without the prefill of ratings: an action is written in the model's own words."""
    return chat.without_prefill() if isinstance(chat, ChatFormat) else chat


def demonstrations(
    items: Items,
    target: str,
    direction: int = 1,
    count: int = 4,
    scale: Scale | None = None,
    test: float = 0.25,
    seed: int = 0,
    draw: int = 0,
) -> list[Shot]:
    """Returns shots of a rater who follows the direction: half of them for the target, half against it.

    Args:
        items: all items.
        target, direction: as in `judgements`.
        count: how many; an even number is balanced.
        scale: of the answers.
        test: of the division by scene.
        seed: of the division, and of which examples are drawn.
        draw: which of many draws of examples.

    Raises:
        InputError: if the train side has fewer.
    """
    scale = scale or Scale()
    if count < 0:
        raise errors.InputError(f"shots: expected 0 or more, found {count}")
    train = train_side(items, target, direction, test, seed)
    random = np.random.default_rng((seed, draw) if draw else seed)
    sides = [random.permutation(np.flatnonzero(train.polarity == side)) for side in (EXPRESS, -EXPRESS)]
    counts = [(count + 1) // 2, count // 2]
    if any(len(side) < needed for side, needed in zip(sides, counts, strict=True)):
        raise errors.InputError(
            f"{count} shots of {target} need {counts[0]} actions for it and {counts[1]} against it; the train side has "
            f"{len(sides[0])} and {len(sides[1])}"
        )
    chosen = [i for side, needed in zip(sides, counts, strict=True) for i in side[:needed]]
    chosen = [chosen[i] for i in random.permutation(len(chosen))]
    high, low = (scale.high, scale.low) if direction == EXPRESS else (scale.low, scale.high)
    return [Shot(item_fields(train, i), high if train.polarity[i] == EXPRESS else low) for i in chosen]
