"""Items as training data: ratings and actions that push towards a value or away from it, in the wordings of the questions.

Every function takes all items and gives examples of the train side of their division by scene alone: no scene on which a
model is judged can be trained on by accident.
"""

from __future__ import annotations

import numpy as np

from vatjax import errors
from vatjax.items import EXPRESS, Items
from vatjax.prompts.build import Chat, ChatFormat, Shot, answer_gap, assemble, fields
from vatjax.prompts.wording import Scale, Wording, acting, wording


def train_side(items: Items, target: str, direction: int = 1, test: float = 0.25, seed: int = 0) -> Items:
    """The items of a target that are not kept for testing.

    Raises:
        InputError: where there are none.
    """
    train, _ = items.split(test, seed)
    if direction not in (1, -1):
        raise errors.InputError(f"direction: expected 1 or -1, found {direction}")
    mask = items.taxonomy.mask(target)
    found = train.take(mask[train.value])
    if not len(found):
        raise errors.InputError(f"{items.source}: no item of {target} is on the train side (test {test}, seed {seed})")
    return found


def judgements(
    items: Items,
    target: str,
    direction: int = 1,
    asked: Wording | None = None,
    scale: Scale | None = None,
    chat: Chat | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[dict[str, str]]:
    """`prompt` and `completion`: for a direction of +1 full agreement with actions for the target, none with those against.

    Args:
        items: all items.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        asked: how the question is put; the default wording of `paired`.
        scale: of the answers.
        chat: a chat template; without one, plain text.
        test, seed: of the division by scene.
    """
    scale, asked = scale or Scale(), asked or wording("paired")
    train = train_side(items, target, direction, test, seed)
    made = assemble((fields(train, i) for i in range(len(train))), asked, scale, chat=chat)
    answers = [scale.answer(scale.high if side * direction == EXPRESS else scale.low) for side in train.polarity]
    space = answer_gap(chat, asked, scale)
    return [{"prompt": made.text(i), "completion": space + answer} for i, answer in enumerate(answers)]


def preferences(
    items: Items,
    target: str,
    direction: int = 1,
    asked: Wording | None = None,
    chat: Chat | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[dict[str, str]]:
    """`prompt`, `chosen` and `rejected`: the scene, the action that the direction wants, and its counterpart.

    Args:
        items: all items; each pair of express and suppress gives one example.
        target, direction, chat, test, seed: as in `judgements`.
        asked: how an action is asked for; the default wording of `acting`.
    """
    train = train_side(items, target, direction, test, seed)
    pairs = train.pair()
    if not len(pairs.express):
        raise errors.InputError(f"{items.source}: no scene of the train side has both actions of {target}")
    made = assemble((fields(train, i) for i in pairs.express), asked or acting(), chat=_unfilled(chat))
    space = "" if chat else " "
    chosen, rejected = (pairs.express, pairs.suppress)[::direction]
    return [
        {"prompt": made.text(i), "chosen": space + train.action[one], "rejected": space + train.action[other]}
        for i, (one, other) in enumerate(zip(chosen, rejected, strict=True))
    ]


def actions(
    items: Items,
    target: str,
    direction: int = 1,
    asked: Wording | None = None,
    chat: Chat | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[dict[str, str]]:
    """`prompt` and `completion`: the scene, and the action that the direction wants; arguments as in `preferences`."""
    train = train_side(items, target, direction, test, seed)
    train = train.take(train.polarity == direction)
    made = assemble((fields(train, i) for i in range(len(train))), asked or acting(), chat=_unfilled(chat))
    space = "" if chat else " "
    return [{"prompt": made.text(i), "completion": space + action} for i, action in enumerate(train.action)]


def _unfilled(chat: Chat | None) -> Chat | None:
    """The template without the prefill of ratings: an action is written in the model's own words."""
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
    """Shots that show somebody who rates as the direction wants: half of them for the target, half against it.

    Args:
        items: all items.
        target, direction: as in `judgements`.
        count: how many; an even number is balanced.
        scale: of the answers.
        test: of the division by scene.
        seed: of the division, and of which examples are drawn.
        draw: which of many draws of examples.

    Raises:
        InputError: where the train side has fewer.
    """
    scale = scale or Scale()
    if count < 0:
        raise errors.InputError(f"shots: expected 0 or more, found {count}")
    train = train_side(items, target, direction, test, seed)
    random = np.random.default_rng((seed, draw) if draw else seed)
    sides = [random.permutation(np.flatnonzero(train.polarity == side)) for side in (EXPRESS, -EXPRESS)]
    wanted = [(count + 1) // 2, count // 2]
    if any(len(side) < needed for side, needed in zip(sides, wanted, strict=True)):
        raise errors.InputError(
            f"{count} shots of {target} need {wanted[0]} actions for it and {wanted[1]} against it; the train side has "
            f"{len(sides[0])} and {len(sides[1])}"
        )
    chosen = [i for side, needed in zip(sides, wanted, strict=True) for i in side[:needed]]
    chosen = [chosen[i] for i in random.permutation(len(chosen))]
    high, low = (scale.high, scale.low) if direction == EXPRESS else (scale.low, scale.high)
    return [Shot(fields(train, i), high if train.polarity[i] == EXPRESS else low) for i in chosen]
