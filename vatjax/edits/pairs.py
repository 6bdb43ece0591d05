"""Contrast pairs: hidden states of a model at the token where it answers, for a value and against it.

    acted         the same scene, continued by the express action and by the suppress action
    asked         the same scene's express and suppress actions, each asked about
    instructed    the same question, under an instruction towards the value and under one away from it

Pairs are from the train side of the split by scene, and matched: both sides have the same scene, value and wording. A
direction of -1 swaps the sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts
from vatjax.elicit import ask, prefill
from vatjax.items import Items
from vatjax.models import Edit, Model, tokens
from vatjax.prefix import scorer
from vatjax.prefix.packed_attention import Every
from vatjax.prefix.plan import Size
from vatjax.prefix.tokenize import TokenizedPrompts
from vatjax.prompts import ElicitConfig, Prompts

Way = Literal["acted", "asked", "instructed"]
WAYS: tuple[Way, ...] = get_args(Way)
PAIRS = 100  # for a direction, or all if there are fewer
MIN_PAIRS = 8


class Contrast(NamedTuple):
    """Hidden states of matched pairs, at the token where the model answers.

    Attributes:
        positive, negative: the residual stream after each layer, or its neurons, [layers, pairs, width] float32.
        scene: [pairs] int32; a split never divides the pairs of a scene.
    """

    positive: np.ndarray
    negative: np.ndarray
    scene: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Returns positive minus negative, [layers, pairs, width]."""
        difference: np.ndarray = self.positive - self.negative
        return difference

    def split_by_scene(self, share: float = 0.3, seed: int = 0) -> tuple[Contrast, Contrast]:
        """Splits the pairs by scene: most of them, and those of a held-out share of the scenes."""
        scenes = np.random.default_rng(seed).permutation(np.unique(self.scene))
        held_out = np.isin(self.scene, scenes[: max(1, round(share * len(scenes)))])
        if held_out.all():
            raise errors.InputError("all pairs are of one scene: none can be held out")
        first, second = (
            Contrast(self.positive[:, part], self.negative[:, part], self.scene[part]) for part in (~held_out, held_out)
        )
        return first, second


class PairPrompts(NamedTuple):
    """The prompts of pairs, positive ones in the first half, negative ones in the second.

    Attributes:
        prompts: tokenized.
        scene: [pairs] int32.
    """

    prompts: TokenizedPrompts
    scene: np.ndarray


def contrast(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    way: Way = "acted",
    pairs: int = PAIRS,
    how: ElicitConfig | None = None,
    test: float = 0.25,
    seed: int = 0,
    edit: Edit | None = None,
    size: Size | None = None,
    every: Every = "residual",
    draw: int = 0,
) -> Contrast:
    """Returns the hidden states of contrast pairs for a target; each shared token is computed once.

    Args:
        model: the model; it needs a tokenizer.
        items: all items; pairs are from their train side.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        way: "acted", "asked" or "instructed".
        pairs: their number, or all if there are fewer.
        how: elicitation settings; `paired` by default.
        test: share of the test side in the split by scene.
        seed: of the split, and of the sample of pairs.
        edit: a change of the computation under which the states are read.
        size: limits of a pass.
        every: "residual", the stream after each layer, or "neurons", the MLP's inner activations.
        draw: index of the sample of pairs.

    Raises:
        InputError: if the target or way is unknown, or there are fewer than 8 pairs.
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
    how: ElicitConfig | None = None,
    test: float = 0.25,
    seed: int = 0,
    edit: Edit | None = None,
    size: Size | None = None,
    every: Every = "residual",
    draw: int = 0,
) -> dict[str, Contrast]:
    """Returns `contrast` of several targets by name; tokens that their pairs share are computed once."""
    prompt_sets = [
        tokenize_pairs(model, items, target, direction, way, pairs, how, test, seed, draw) for target in targets
    ]
    states = last_token_states(
        model, concat_prompts([prompt_set.prompts for prompt_set in prompt_sets]), edit, size, every
    )
    contrast_by_name, start = {}, 0
    for target, prompt_set in zip(targets, prompt_sets, strict=True):
        count = len(prompt_set.scene)
        positive, negative = (states[:, start + i * count : start + (i + 1) * count] for i in (0, 1))
        contrast_by_name[target] = Contrast(positive, negative, prompt_set.scene)
        start += 2 * count
    return contrast_by_name


def tokenize_pairs(
    model: Model,
    items: Items,
    target: str,
    direction: int,
    way: Way,
    pairs: int,
    how: ElicitConfig | None,
    test: float,
    seed: int,
    draw: int = 0,
) -> PairPrompts:
    """Returns the tokenized prompts of pairs; arguments as in `contrast`."""
    if way not in WAYS:
        raise errors.InputError(names.unknown_name("contrast", way, WAYS))
    if pairs < MIN_PAIRS:
        raise errors.InputError(f"pairs: at least {MIN_PAIRS} are needed, found {pairs}")
    how = prefill.resolve_prefill(model, how or ElicitConfig())
    train = prompts.train_side(items, target, direction, test, seed)
    matched = train.pair()
    count = len(matched.express)
    if count < MIN_PAIRS:
        raise errors.InputError(
            f"{items.source}: {count} pairs of {target} on the train side, and a direction needs at least {MIN_PAIRS}"
        )
    chosen = np.sort(np.random.default_rng((seed, draw) if draw else seed).permutation(count)[:pairs])
    express, suppress = matched.express[chosen], matched.suppress[chosen]
    scene = train.scene_of[express].astype(np.int32)
    first, second = (express, suppress) if direction > 0 else (suppress, express)
    if way == "acted":
        return PairPrompts(_acted(model, train, first, second, how), scene)
    if way == "instructed":
        return PairPrompts(
            _instructed(model, train, np.concatenate([express, suppress]), target, direction, how), np.tile(scene, 2)
        )
    rows = [prompts.item_fields(train, int(i)) for i in (*first, *second)]
    assembled = prompts.assemble(rows, how.wordings()[0], how.scales()[0], chat=ask.chat_format(model, how))
    return PairPrompts(ask.tokenize_with_spellings(model, assembled, how)[0], scene)


def _acted(model: Model, train: Items, first: np.ndarray, second: np.ndarray, how: ElicitConfig) -> TokenizedPrompts:
    """Returns tokenized scenes, each followed by an action."""
    chat = ask.chat_format(model, how)
    chosen = [*first, *second]
    chat = None if chat is None else chat.without_prefill()
    assembled = prompts.assemble(
        [prompts.item_fields(train, int(i)) for i in chosen], prompts.acting_wording(), chat=chat
    )
    tokenized = ask.tokenize(model, assembled, how)
    space = "" if chat else " "
    before = assembled.text(0)[-200:]
    texts = [space + str(train.action[i]) for i in chosen]
    written = [
        tuple(tokens.encode_continuation(model.tokenizer, before, text) or tokens.encode(model.tokenizer, text, True))
        for text in texts
    ]
    return TokenizedPrompts(
        (*tokenized.levels, tuple(written)), np.column_stack([tokenized.which, np.arange(len(chosen), dtype=np.int32)])
    )


def _instructed(
    model: Model, train: Items, chosen: np.ndarray, target: str, direction: int, how: ElicitConfig
) -> TokenizedPrompts:
    """Returns questions under an instruction in one direction, then the same ones under its opposite."""
    rows = [prompts.item_fields(train, int(i)) for i in chosen]
    wording, scale, chat = how.wordings()[0], how.scales()[0], ask.chat_format(model, how)

    def under(way: int) -> Prompts:
        sentence = prompts.instruction(train.taxonomy, target, way)
        return prompts.assemble(rows, wording, scale, chat=chat, instruction=sentence)

    return concat_prompts([ask.tokenize(model, under(way), how) for way in (direction, -direction)])


def concat_prompts(prompt_sets: Sequence[TokenizedPrompts]) -> TokenizedPrompts:
    """Concatenates several sets of prompts that have the same levels."""
    depth = max(len(prompt_set.levels) for prompt_set in prompt_sets)
    if any(len(prompt_set.levels) != depth for prompt_set in prompt_sets):  # at least one set has been tokenized whole
        whole = tuple(tuple(prompt_set.tokens(i)) for prompt_set in prompt_sets for i in range(len(prompt_set.which)))
        return TokenizedPrompts((whole,), np.arange(len(whole), dtype=np.int32)[:, None])
    known: list[dict[tuple[int, ...], int]] = [{} for _ in range(depth)]
    which = np.concatenate(
        [
            np.column_stack(
                [
                    np.array([known[k].setdefault(text, len(known[k])) for text in prompt_set.levels[k]])[
                        prompt_set.which[:, k]
                    ]
                    for k in range(depth)
                ]
            )
            for prompt_set in prompt_sets
        ]
    )
    return TokenizedPrompts(tuple(tuple(texts) for texts in known), which.astype(np.int32))


def last_token_states(
    model: Model,
    tokenized: TokenizedPrompts,
    edit: Edit | None = None,
    size: Size | None = None,
    every: Every = "residual",
) -> np.ndarray:
    """Returns every layer's state at each prompt's last token, [layers, prompts, width] float32."""
    states: np.ndarray | None = None
    for which, part in scorer.last_token_states(model, tokenized, edit, size, every):
        if states is None:
            states = np.empty((part.shape[0], len(tokenized.which), part.shape[2]), np.float32)
        states[:, which] = part
    assert states is not None
    return states
