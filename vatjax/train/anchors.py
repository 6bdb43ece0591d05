"""Judgements that a training run keeps an eye on: scenes of the train side, of each type one action for it and one against.

Every row is one scene: the rubric, the scene, and its actions, each of which sees only what stands above it. Ratings are
expected ones, and so have a gradient:

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
from vatjax.elicit import asking, prefill
from vatjax.elicit.pieces import Option, Pieces
from vatjax.items import Items
from vatjax.models import Config, Edit, Model, decoder
from vatjax.models.attention import Tree
from vatjax.prompts import How
from vatjax.train.forward import Memory, hidden
from vatjax.train.rows import rounded

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Anchors:
    """Prompts as rows, and how their answers are read; of each chunk one is rated at a time.

    Attributes:
        tokens, positions, segment: [chunks, rows, time] int32.
        sees: [chunks, rows, segments, segments] bool.
        places: [chunks, rows, types, 2] int32, where the answers about the action for a type and against it begin.
        ways: [ways] int32, the tokens of the answers.
        answer: [ways, options] float32, 1 for the option that a way of writing is.
        ratings: [options] float32, in rising order.
        before: [chunks, rows, types, 2, options + 1] float32, what the model answered before it was trained: probabilities
            of the options, and of anything else.
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


def anchors(
    model: Model,
    items: Items,
    scenes: int = 32,
    rows: int = 8,
    how: How | None = None,
    test: float = 0.25,
    seed: int = 0,
    memory: Memory | None = None,
) -> Anchors:
    """Draws anchors from the train side, and rates them.

    Args:
        model: before it is trained.
        items: all items.
        scenes: how many of them.
        rows: how many are rated in one step.
        how: the question; its first wording is asked.
        test, seed: of the division by scene, and of which scenes and actions are drawn.
        memory: as for a step.

    Raises:
        InputError: where fewer scenes have an action for and against each type, and where an answer is of several tokens.
    """
    if rows < 1 or scenes < rows or scenes % rows:
        raise errors.InputError(f"anchors: {scenes} scenes can't be rated {rows} at a time; expected a multiple of it")
    how = prefill.resolved(model, how or How())
    train, _ = items.split(test, seed)
    chosen = _drawn(train, scenes, seed)
    asked = [prompts.fields(train, int(i)) for i in chosen.reshape(-1)]
    made = prompts.assemble(asked, how.wordings()[0], how.scales()[0], chat=asking.template(model, how))
    found, ways = asking.tokenised(model, made, how)
    short = [way for way in ways if len(way.tokens) == 1]
    missing = set(range(len(made.scale.options))) - {way.answer for way in short}
    if missing:
        raise errors.InputError(
            f"anchors: the answer {made.scale.options[min(missing)]!r} is of several tokens, and anchors read one"
        )
    laid = _laid(found, scenes, rows, chosen.shape[1])
    whole = _anchors(laid, short, made.scale.ratings)
    shares = [answered(whole, i, model.arrays, model.config, None, memory or Memory()) for i in range(scenes // rows)]
    return dataclasses.replace(whole, before=jnp.stack(shares))


def _drawn(train: Items, scenes: int, seed: int) -> np.ndarray:
    """Items [scenes, types, 2]: of each type one value's action for it and its counterpart."""
    pairs = train.pair()
    types = train.taxonomy.type_of
    count = len(train.taxonomy.types)
    random = np.random.default_rng((seed, 7))
    own: dict[tuple[int, int], list[int]] = {}
    for k, (scene, value) in enumerate(zip(pairs.scene.tolist(), pairs.value.tolist(), strict=True)):
        own.setdefault((scene, int(types[value])), []).append(k)
    whole = [
        scene for scene in sorted({scene for scene, _ in own}) if all((scene, type_) in own for type_ in range(count))
    ]
    if len(whole) < scenes:
        raise errors.InputError(
            f"{train.source}: {scenes} anchors need as many scenes of the train side with an action for and against each "
            f"type; it has {len(whole)}"
        )
    picked = random.permutation(whole)[:scenes]
    drawn = [[own[scene, t][random.integers(len(own[scene, t]))] for t in range(count)] for scene in picked.tolist()]
    return np.stack([np.asarray(pairs.express)[drawn], np.asarray(pairs.suppress)[drawn]], -1)


def _laid(found: Pieces, scenes: int, rows: int, types: int) -> dict[str, np.ndarray]:
    """Each scene's prompts as a row; what they share stands once."""
    each = 2 * types
    made = [_row(found, range(start, start + each)) for start in range(0, scenes * each, each)]
    time = rounded(max(len(tokens) for tokens, *_ in made))
    segments = max(int(segment.max()) for _, _, segment, _, _ in made) + 1
    laid: dict[str, Any] = {name: np.zeros((scenes, time), np.int32) for name in ("tokens", "positions", "segment")}
    laid["sees"] = np.zeros((scenes, segments, segments), np.bool_)
    laid["places"] = np.zeros((scenes, each), np.int32)
    for i, (tokens, positions, segment, sees, places) in enumerate(made):
        size, known = len(tokens), len(sees)
        laid["tokens"][i, :size], laid["positions"][i, :size], laid["segment"][i, :size] = tokens, positions, segment
        laid["sees"][i, :known, :known] = sees
        laid["places"][i] = places
    laid["places"] = laid["places"].reshape(scenes, types, 2)
    return {name: x.reshape(scenes // rows, rows, *x.shape[1:]) for name, x in laid.items()}


def _row(found: Pieces, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions, segments, which segments see which, and each prompt's last place."""
    segment_of: dict[tuple[int, ...], int] = {}
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[int] = []
    places: list[int] = []
    seen: list[list[int]] = [[]]
    ends: list[tuple[int, int]] = [(0, 0)]  # of each segment: the position behind it, and its last place
    for prompt in chosen:
        path = found.which[prompt].tolist()
        above: list[int] = []
        for depth in range(len(path)):
            key = tuple(path[: depth + 1])
            if key not in segment_of:
                text = found.levels[depth][path[depth]]
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
    for number, own in enumerate(seen):
        sees[number, own] = True
    return np.array(tokens), np.array(positions), np.array(segments), sees, np.array(places)


def _anchors(laid: Mapping[str, np.ndarray], ways: Sequence[Option], ratings: Sequence[float]) -> Anchors:
    answer = np.zeros((len(ways), len(ratings)), np.float32)
    for number, way in enumerate(ways):
        answer[number, way.answer] = 1
    rising = np.argsort(ratings)
    return Anchors(
        **{name: jnp.asarray(x) for name, x in laid.items()},
        ways=jnp.asarray([way.tokens[0] for way in ways], jnp.int32),
        answer=jnp.asarray(answer[:, rising]),
        ratings=jnp.asarray(np.asarray(ratings, np.float32)[rising]),
        before=jnp.zeros(0),
    )


@functools.partial(jax.jit, static_argnames=("config", "memory"))
def answered(
    own: Anchors, chunk: Any, weights: Mapping[str, Any], config: Config, edit: Edit | None, memory: Memory
) -> Array:
    """Probabilities of the options and of anything else at one chunk, [rows, types, 2, options + 1] float32."""
    tokens, positions, segment, sees, places = (
        x[chunk] for x in (own.tokens, own.positions, own.segment, own.sees, own.places)
    )
    rows, types = places.shape[:2]
    h = hidden(weights, config, tokens, positions, Tree(segment, sees), edit, memory)
    h = jnp.take_along_axis(h, places.reshape(rows, -1)[:, :, None], axis=1)

    @jax.checkpoint
    def read(h: Array) -> Array:
        """[prompts, options + 1] of one row."""
        share = jax.nn.softmax(decoder.head(weights, config, h), axis=-1)[:, own.ways]
        options = jnp.einsum("pw,wo->po", share, own.answer, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([options, jnp.maximum(1 - jnp.sum(options, -1, keepdims=True), 0)], axis=-1)

    found: Array = jax.lax.map(read, h)
    return found.reshape(rows, types, 2, -1)


def shares(found: Array) -> Array:
    """Of the options among each other, [..., options]."""
    options = found[..., :-1]
    return options / jnp.maximum(jnp.sum(options, -1, keepdims=True), 1e-9)


def state(own: Anchors, found: Array) -> Array:
    """x [rows, types] of one chunk's answers."""
    rating = jnp.einsum("...o,o->...", shares(found), own.ratings, precision=jax.lax.Precision.HIGHEST)
    return (rating[..., 0] - rating[..., 1]) / 2
