"""Contrast pairs: what a model holds at the token where it answers, for a value and against it.

    acted         the same scene, continued by the express action and by the suppress action
    asked         the same scene's express and suppress actions, each asked about
    instructed    the same question, under an instruction towards the value and under one away from it

Pairs are of the train side of the division by scene, and matched: both have the same scene, value and wording. A direction
of -1 exchanges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts
from vatjax.elicit import asking, prefill, scorer
from vatjax.elicit.pieces import Pieces
from vatjax.elicit.plan import Size
from vatjax.items import Items
from vatjax.models import Edit, Model, tokens
from vatjax.models.packed import Every
from vatjax.prompts import How, Prompts

Way = Literal["acted", "asked", "instructed"]
WAYS: tuple[Way, ...] = get_args(Way)
PAIRS = 100  # that a direction is found from, where there are as many
LEAST = 8


class Contrast(NamedTuple):
    """Hidden states of matched pairs, at the token where the model answers.

    Attributes:
        positive, negative: the residual stream after each layer, or its neurons, [layers, pairs, width] float32.
        scene: [pairs] int32, whose pairs belong together where they are divided.
    """

    positive: np.ndarray
    negative: np.ndarray
    scene: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Positive minus negative, [layers, pairs, width]."""
        difference: np.ndarray = self.positive - self.negative
        return difference

    def halves(self, share: float = 0.3, seed: int = 0) -> tuple[Contrast, Contrast]:
        """Most pairs, and a share of the scenes to judge by what they gave."""
        scenes = np.random.default_rng(seed).permutation(np.unique(self.scene))
        kept = np.isin(self.scene, scenes[: max(1, round(share * len(scenes)))])
        if kept.all():
            raise errors.InputError("all pairs are of one scene: none is left to judge a direction by")
        first, second = (
            Contrast(self.positive[:, part], self.negative[:, part], self.scene[part]) for part in (~kept, kept)
        )
        return first, second


class Asked(NamedTuple):
    """The prompts of pairs, positive ones in the first half, negative ones in the second.

    Attributes:
        found: their tokens.
        scene: [pairs] int32.
    """

    found: Pieces
    scene: np.ndarray


def contrast(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    way: Way = "acted",
    pairs: int = PAIRS,
    how: How | None = None,
    test: float = 0.25,
    seed: int = 0,
    edit: Edit | None = None,
    size: Size | None = None,
    every: Every = "residual",
    draw: int = 0,
) -> Contrast:
    """Hidden states of contrast pairs for a target; each shared token is computed once.

    Args:
        model: the model; it needs a tokenizer.
        items: all items; pairs are of their train side.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        way: what differs within a pair.
        pairs: how many, where there are as many.
        how: the question; `paired` by default.
        test: of the division by scene.
        seed: of the division, and of which pairs are drawn.
        edit: a change of the computation under which they are read.
        size: how much is computed at one time.
        every: of each layer the residual stream after it, or the MLP's inner activations.
        draw: which of many draws of pairs.

    Raises:
        InputError: for an unknown target or way, and where there are fewer than 8 pairs.
    """
    options: dict[str, Any] = {"pairs": pairs, "how": how, "test": test, "seed": seed, "draw": draw}
    return contrasts(model, items, [target], direction, way, edit=edit, size=size, every=every, **options)[target]


def contrasts(
    model: Model,
    items: Items,
    targets: Sequence[str],
    direction: int = 1,
    way: Way = "acted",
    pairs: int = PAIRS,
    how: How | None = None,
    test: float = 0.25,
    seed: int = 0,
    edit: Edit | None = None,
    size: Size | None = None,
    every: Every = "residual",
    draw: int = 0,
) -> dict[str, Contrast]:
    """`contrast` of several targets by name: what the pairs of all of them share is computed once, too."""
    asked = [prepared(model, items, target, direction, way, pairs, how, test, seed, draw) for target in targets]
    states = read(model, beside([one.found for one in asked]), edit, size, every)
    found, start = {}, 0
    for target, own in zip(targets, asked, strict=True):
        count = len(own.scene)
        positive, negative = (states[:, start + i * count : start + (i + 1) * count] for i in (0, 1))
        found[target] = Contrast(positive, negative, own.scene)
        start += 2 * count
    return found


def prepared(
    model: Model,
    items: Items,
    target: str,
    direction: int,
    way: Way,
    pairs: int,
    how: How | None,
    test: float,
    seed: int,
    draw: int = 0,
) -> Asked:
    """The prompts of pairs; arguments as in `contrast`."""
    if way not in WAYS:
        raise errors.InputError(names.unknown("contrast", way, WAYS))
    if pairs < LEAST:
        raise errors.InputError(f"pairs: at least {LEAST} are needed, found {pairs}")
    how = prefill.resolved(model, how or How())
    train = prompts.train_side(items, target, direction, test, seed)
    matched = train.pair()
    count = len(matched.express)
    if count < LEAST:
        raise errors.InputError(
            f"{items.source}: {count} pairs of {target} on the train side, and a direction needs at least {LEAST}"
        )
    chosen = np.sort(np.random.default_rng((seed, draw) if draw else seed).permutation(count)[:pairs])
    express, suppress = matched.express[chosen], matched.suppress[chosen]
    scene = train.scene_of[express].astype(np.int32)
    first, second = (express, suppress) if direction > 0 else (suppress, express)
    if way == "acted":
        return Asked(_acted(model, train, first, second, how), scene)
    if way == "instructed":
        return Asked(
            _instructed(model, train, np.concatenate([express, suppress]), target, direction, how), np.tile(scene, 2)
        )
    rows = [prompts.fields(train, int(i)) for i in (*first, *second)]
    made = prompts.assemble(rows, how.wordings()[0], how.scales()[0], chat=asking.template(model, how))
    return Asked(asking.tokenised(model, made, how)[0], scene)


def _acted(model: Model, train: Items, first: np.ndarray, second: np.ndarray, how: How) -> Pieces:
    """Scenes, each with an action written behind it."""
    chat = asking.template(model, how)
    chosen = [*first, *second]
    chat = None if chat is None else chat.without_prefill()
    made = prompts.assemble([prompts.fields(train, int(i)) for i in chosen], prompts.acting(), chat=chat)
    found = asking.pieced(model, made, how)
    space = "" if chat else " "
    before = made.text(0)[-200:]
    texts = [space + str(train.action[i]) for i in chosen]
    written = [
        tuple(tokens.continuation(model.tokenizer, before, text) or tokens.encode(model.tokenizer, text, True))
        for text in texts
    ]
    return Pieces(
        (*found.levels, tuple(written)), np.column_stack([found.which, np.arange(len(chosen), dtype=np.int32)])
    )


def _instructed(model: Model, train: Items, chosen: np.ndarray, target: str, direction: int, how: How) -> Pieces:
    """Questions under an instruction one way, and the same under one the other way."""
    rows = [prompts.fields(train, int(i)) for i in chosen]
    wording, scale, chat = how.wordings()[0], how.scales()[0], asking.template(model, how)

    def under(way: int) -> Prompts:
        sentence = prompts.instruction(train.taxonomy, target, way)
        return prompts.assemble(rows, wording, scale, chat=chat, instruction=sentence)

    return beside([asking.pieced(model, under(way), how) for way in (direction, -direction)])


def beside(sets: Sequence[Pieces]) -> Pieces:
    """Several sets of prompts with the same levels as one."""
    depth = max(len(one.levels) for one in sets)
    if any(len(one.levels) != depth for one in sets):  # one of them has been tokenized whole
        whole = tuple(tuple(one.tokens(i)) for one in sets for i in range(len(one.which)))
        return Pieces((whole,), np.arange(len(whole), dtype=np.int32)[:, None])
    known: list[dict[tuple[int, ...], int]] = [{} for _ in range(depth)]
    which = np.concatenate(
        [
            np.column_stack(
                [
                    np.array([known[k].setdefault(text, len(known[k])) for text in one.levels[k]])[one.which[:, k]]
                    for k in range(depth)
                ]
            )
            for one in sets
        ]
    )
    return Pieces(tuple(tuple(texts) for texts in known), which.astype(np.int32))


def read(
    model: Model, found: Pieces, edit: Edit | None = None, size: Size | None = None, every: Every = "residual"
) -> np.ndarray:
    """What every layer holds at each prompt's last token, [layers, prompts, width] float32."""
    states: np.ndarray | None = None
    for which, part in scorer.states(model, found, edit, size, every):
        if states is None:
            states = np.empty((part.shape[0], len(found.which), part.shape[2]), np.float32)
        states[:, which] = part
    assert states is not None
    return states
