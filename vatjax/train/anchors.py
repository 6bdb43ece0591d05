"""Anchors: judgements that a run monitors, on scenes of the train side with an action for and one against each type.

A row is one scene: the rubric, the scene, and its actions, each of which attends only to its own prefix. Ratings are
expectations, and so are differentiable:

    share[o] = p(option o) / sum p(options)          rating = sum share[o] r[o]
    x[scene, type] = (rating of the action for it - rating of the one against it) / 2
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vatjax import errors, prompts
from vatjax.elicit import ask, prefill
from vatjax.items import Items
from vatjax.models import Config, Edit, Model, decoder
from vatjax.models.attention import Tree
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts
from vatjax.prompts import ElicitConfig
from vatjax.train.forward import Memory, hidden
from vatjax.train.rows import round_length

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anchors:
    """Anchor prompts as rows of tokens, and the tokens of their answers; one chunk is rated at a time.

    Attributes:
        tokens, positions, segment: [chunks, rows, time] int32.
        sees: [chunks, rows, segments, segments] bool.
        places: [chunks, rows, types, 2] int32, last prompt token of the action for a type and of the one against it.
        ways: [ways] int32, the token of each spelling of an answer.
        answer: [ways, options] float32, 1 for the option that a spelling stands for.
        ratings: [options] float32, in ascending order.
        before: [chunks, rows, types, 2, options + 1] float32, answers before training: probabilities of the options,
            and of all other tokens.
    """

    tokens: Array
    positions: Array
    segment: Array
    sees: Array
    places: Array
    ways: Array
    answer: Array
    ratings: Array
    before: Array


def draw_anchors(
    model: Model,
    items: Items,
    scenes: int = 32,
    rows: int = 8,
    how: ElicitConfig | None = None,
    test: float = 0.25,
    seed: int = 0,
    memory: Memory | None = None,
) -> Anchors:
    """Draws anchors from the train side, and rates them.

    Args:
        model: the model before training.
        items: all items.
        scenes: number of scenes.
        rows: number of scenes rated in one step.
        how: the question; its first wording is used.
        test, seed: share and seed of the split by scene; the seed also draws the scenes and actions.
        memory: as in `step`.

    Raises:
        InputError: if fewer scenes have an action for and against each type, or an answer has several tokens.
    """
    if rows < 1 or scenes < rows or scenes % rows:
        raise errors.InputError(f"anchors: {scenes} scenes can't be rated {rows} at a time; expected a multiple of it")
    how = prefill.resolve_prefill(model, how or ElicitConfig())
    train, _ = items.split(test, seed)
    chosen = _draw_items(train, scenes, seed)
    scene_fields = [prompts.item_fields(train, int(i)) for i in chosen.reshape(-1)]
    assembled = prompts.assemble(scene_fields, how.wordings()[0], how.scales()[0], chat=ask.chat_format(model, how))
    tokenised, ways = ask.tokenize_with_spellings(model, assembled, how)
    short = [way for way in ways if len(way.tokens) == 1]
    missing = set(range(len(assembled.scale.options))) - {way.answer for way in short}
    if missing:
        raise errors.InputError(
            f"anchors: the answer {assembled.scale.options[min(missing)]!r} has several tokens; anchors need exactly one"
        )
    arrays = _stack_rows(tokenised, scenes, rows, chosen.shape[1])
    unrated = _anchors(arrays, short, assembled.scale.ratings)
    initial_probs = [
        answer_probs(unrated, i, model.arrays, model.config, None, memory or Memory()) for i in range(scenes // rows)
    ]
    return dataclasses.replace(unrated, before=jnp.stack(initial_probs))


def _draw_items(train: Items, scenes: int, seed: int) -> np.ndarray:
    """Draws items [scenes, types, 2]: for each type an action for one of its values, and its counterpart."""
    pairs = train.pair()
    types = train.taxonomy.type_of
    count = len(train.taxonomy.types)
    random = np.random.default_rng((seed, 7))
    pairs_of: dict[tuple[int, int], list[int]] = {}
    for k, (scene, value) in enumerate(zip(pairs.scene.tolist(), pairs.value.tolist(), strict=True)):
        pairs_of.setdefault((scene, int(types[value])), []).append(k)
    complete = [
        scene
        for scene in sorted({scene for scene, _ in pairs_of})
        if all((scene, type_) in pairs_of for type_ in range(count))
    ]
    if len(complete) < scenes:
        raise errors.InputError(
            f"{train.source}: {scenes} anchors need as many scenes of the train side with an action for and against each "
            f"type; it has {len(complete)}"
        )
    picked = random.permutation(complete)[:scenes]
    drawn = [
        [pairs_of[scene, t][random.integers(len(pairs_of[scene, t]))] for t in range(count)]
        for scene in picked.tolist()
    ]
    return np.stack([np.asarray(pairs.express)[drawn], np.asarray(pairs.suppress)[drawn]], -1)


def _stack_rows(tokenised: TokenizedPrompts, scenes: int, rows: int, types: int) -> dict[str, np.ndarray]:
    """Lays out each scene's prompts as one row; shared prefixes are stored once."""
    each = 2 * types
    unpadded = [_row(tokenised, range(start, start + each)) for start in range(0, scenes * each, each)]
    time = round_length(max(len(tokens) for tokens, *_ in unpadded))
    segments = max(int(segment.max()) for _, _, segment, _, _ in unpadded) + 1
    arrays: dict[str, Any] = {name: np.zeros((scenes, time), np.int32) for name in ("tokens", "positions", "segment")}
    arrays["sees"] = np.zeros((scenes, segments, segments), np.bool_)
    arrays["places"] = np.zeros((scenes, each), np.int32)
    for i, (tokens, positions, segment, sees, places) in enumerate(unpadded):
        size, known = len(tokens), len(sees)
        arrays["tokens"][i, :size], arrays["positions"][i, :size], arrays["segment"][i, :size] = (
            tokens,
            positions,
            segment,
        )
        arrays["sees"][i, :known, :known] = sees
        arrays["places"][i] = places
    arrays["places"] = arrays["places"].reshape(scenes, types, 2)
    return {name: x.reshape(scenes // rows, rows, *x.shape[1:]) for name, x in arrays.items()}


def _row(
    tokenised: TokenizedPrompts, chosen: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, positions, segments, the segment visibility mask, and each prompt's last token index."""
    segment_of: dict[tuple[int, ...], int] = {}
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[int] = []
    places: list[int] = []
    seen: list[list[int]] = [[]]
    ends: list[tuple[int, int]] = [(0, 0)]  # of each segment: the next position, and its last token index
    for prompt in chosen:
        path = tokenised.which[prompt].tolist()
        above: list[int] = []
        for depth in range(len(path)):
            key = tuple(path[: depth + 1])
            if key not in segment_of:
                text = tokenised.levels[depth][path[depth]]
                start = ends[above[-1]][0] if above else 0
                segment_of[key] = len(seen)
                tokens += text
                positions += range(start, start + len(text))
                segments += [len(seen)] * len(text)
                last = len(tokens) - 1 if text else ends[above[-1]][1]
                ends.append((start + len(text), last))
                seen.append([*above, len(seen)])
            above = [*above, segment_of[key]]
        places.append(ends[above[-1]][1])
    sees = np.zeros((len(seen), len(seen)), np.bool_)
    for number, visible in enumerate(seen):
        sees[number, visible] = True
    return np.array(tokens), np.array(positions), np.array(segments), sees, np.array(places)


def _anchors(arrays: Mapping[str, np.ndarray], ways: Sequence[Spelling], ratings: Sequence[float]) -> Anchors:
    answer = np.zeros((len(ways), len(ratings)), np.float32)
    for number, way in enumerate(ways):
        answer[number, way.answer] = 1
    rising = np.argsort(ratings)
    return Anchors(
        **{name: jnp.asarray(x) for name, x in arrays.items()},
        ways=jnp.asarray([way.tokens[0] for way in ways], jnp.int32),
        answer=jnp.asarray(answer[:, rising]),
        ratings=jnp.asarray(np.asarray(ratings, np.float32)[rising]),
        before=jnp.zeros(0),
    )


@functools.partial(jax.jit, static_argnames=("config", "memory"))
def answer_probs(
    anchors: Anchors, chunk: Any, weights: Mapping[str, Any], config: Config, edit: Edit | None, memory: Memory
) -> Array:
    """Computes the probabilities of the options and of all other tokens, [rows, types, 2, options + 1] float32."""
    tokens, positions, segment, sees, places = (
        x[chunk] for x in (anchors.tokens, anchors.positions, anchors.segment, anchors.sees, anchors.places)
    )
    rows, types = places.shape[:2]
    h = hidden(weights, config, tokens, positions, Tree(segment, sees), edit, memory)
    h = jnp.take_along_axis(h, places.reshape(rows, -1)[:, :, None], axis=1)

    @jax.checkpoint
    def read(h: Array) -> Array:
        """Computes [prompts, options + 1] for one row."""
        share = jax.nn.softmax(decoder.head(weights, config, h), axis=-1)[:, anchors.ways]
        options = jnp.einsum("pw,wo->po", share, anchors.answer, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([options, jnp.maximum(1 - jnp.sum(options, -1, keepdims=True), 0)], axis=-1)

    probs: Array = jax.lax.map(read, h)
    return probs.reshape(rows, types, 2, -1)


def option_probs(probs: Array) -> Array:
    """Normalises the probabilities over the options alone, [..., options]."""
    options = probs[..., :-1]
    return options / jnp.maximum(jnp.sum(options, -1, keepdims=True), 1e-9)


def value_state(anchors: Anchors, probs: Array) -> Array:
    """Computes x [rows, types] from the answer probabilities of one chunk."""
    rating = jnp.einsum("...o,o->...", option_probs(probs), anchors.ratings, precision=jax.lax.Precision.HIGHEST)
    return (rating[..., 0] - rating[..., 1]) / 2
