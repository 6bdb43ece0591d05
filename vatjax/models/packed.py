"""Many texts that share beginnings, computed once: rows of tokens that attend to tokens computed before them.

A row holds pieces of several texts. Each token sees what its own text holds, which lies in three places:

    trunk     what all texts begin with: one set of keys for every row, [trunk]
    path      what some texts share, computed in an earlier pass: gathered from the store for a row, [rows, path]
    row       the tokens of the row itself, [rows, time]

Attention over the three sets is merged by the log-sum-exp of their scores, so that no keys are copied for a text:

    out = sum_i e^(m_i - m) n_i / sum_i e^(m_i - m) z_i       m_i = max score, z_i = sum e^(score - m_i), n_i = sum e^(score - m_i) v

Nothing here knows what the texts say; which token sees which is given as masks.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vatjax.models import attention as at
from vatjax.models import decoder, rope
from vatjax.models.config import Config
from vatjax.models.edit import PROMPT, Edit, moved

Array = jax.Array

Every = Literal["residual", "neurons"]

_NOWHERE = 1 << 30  # the position of a place that nobody sees


class Store(NamedTuple):
    """Keys and values of tokens that texts share, in numbered places.

    Attributes:
        key, value: [layers, places, kv heads, head size].
        position: [places] int32, where in its text each of them stands.
    """

    key: Array
    value: Array
    position: Array


class Passed(NamedTuple):
    """What a pass gives.

    Attributes:
        hidden: the residual stream after the last layer, [rows, time, width].
        store: with what is to be kept.
        every: what was wanted of every layer: its residual stream, [layers, rows, time, width], or its neurons, [layers,
            rows, time, hidden]; None where nothing was.
    """

    hidden: Array
    store: Store
    every: Array | None


class Rows(NamedTuple):
    """One pass: tokens, where they stand, what they see, and what is kept of them.

    Attributes:
        tokens: [rows, time] int32.
        positions: [rows, time] int32.
        path: [rows, path] int32, the store's places that a row can see.
        sees_path: [rows, time, path] bool.
        sees_row: [rows, time, time] bool; a token sees itself.
        places: [rows, time] int32, where a token's keys go in the store; a place beyond its end is nowhere.
        kind: [rows, time] int8, what a token is to its prompt (`edit.PROMPT`, `LAST`, `WRITTEN`).
    """

    tokens: Array
    positions: Array
    path: Array
    sees_path: Array
    sees_row: Array
    places: Array
    kind: Array


def empty_store(config: Config, places: int, dtype: Any) -> Store:
    """A store with room for so many tokens."""
    shape = (config.layers, places, config.kv_heads, config.head_size)
    return Store(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(places, jnp.int32))


def trunk(
    weights: decoder.Weights,
    config: Config,
    tokens: Array,
    length: Array | int,
    edit: Edit | None = None,
) -> Store:
    """What all texts begin with.

    Args:
        weights: of the whole model.
        config: of the model.
        tokens: [time] int32; what stands behind the first `length` is seen by nobody.
        length: how many there are.
        edit: a change of the computation.

    Returns:
        Keys and values, whose places are positions.
    """
    time = tokens.shape[0]
    if not time:
        return empty_store(config, 0, weights["embedding"].dtype)
    positions = jnp.arange(time, dtype=jnp.int32)
    cache = decoder.empty_cache(config, 1, time, weights["embedding"].dtype)
    hidden = decoder.embed(weights, config, tokens[None])
    present = jnp.ones((1, time), bool)
    kind = jnp.full((1, time), PROMPT)
    run = decoder.layers(weights, config, hidden, positions[None], present, cache=cache, edit=edit, kind=kind)
    assert run.cache is not None
    return Store(run.cache.key[:, 0], run.cache.value[:, 0], jnp.where(positions < length, positions, _NOWHERE))


def forward(
    weights: decoder.Weights,
    config: Config,
    trunk: Store,
    store: Store,
    rows: Rows,
    edit: Edit | None = None,
    every: Every | None = None,
) -> Passed:
    """One pass over rows.

    Args:
        weights: of the whole model.
        config: of the model.
        trunk: what all texts begin with; every token sees it.
        store: of earlier passes.
        rows: the tokens.
        edit: a change of the computation.
        every: what is wanted of every layer, too: the residual stream after it, or the MLP's inner activations; static.
    """
    one = _layer(weights, config, rows, edit, _sets(trunk, store, rows))

    def step(h: Array, along: Any) -> tuple[Array, tuple[tuple[Array, Array], Array | None]]:
        h, kept, inner = one(h, *along)
        return h, (kept, {None: None, "residual": h, "neurons": inner}[every])

    hidden = decoder.embed(weights, config, rows.tokens)
    along = (
        decoder.scanned(weights, config, edit, 0, config.layers),
        (trunk.key, trunk.value),
        (store.key, store.value),
    )
    hidden, ((key, value), wanted) = lax.scan(step, hidden, along)
    return Passed(hidden, _keep(store, rows, key, value), wanted)


def through(
    weights: decoder.Weights,
    config: Config,
    hidden: Array,
    trunk: Store,
    store: Store,
    rows: Rows,
    edit: Edit | None,
    first: Array | int,
    last: Array | int,
) -> tuple[Array, Store]:
    """The layers from `first` to before `last`, which may be traced: what is below an edit is computed once for many.

    Args:
        weights, config, trunk, store, rows, edit: as in `forward`.
        hidden: the residual stream before the first of them, [rows, time, width].
        first, last: which layers.

    Returns:
        (the residual stream behind the last of them, the store with what is to be kept of them).
    """
    one = _layer(weights, config, rows, edit, _sets(trunk, store, rows))
    along = (
        decoder.scanned(weights, config, edit, 0, config.layers),
        (trunk.key, trunk.value),
        (store.key, store.value),
    )

    def step(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        h, *written = carry
        h, new, _ = one(h, *jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), along))
        key, value = (
            lax.dynamic_update_index_in_dim(whole, part.astype(whole.dtype), number, 0)
            for whole, part in zip(written, new, strict=True)
        )
        return h, key, value

    # What stands in these places stays in the layers that are left out. All layers are put there at once: a scatter takes
    # its places one after the other.
    kept = (x.at[:, rows.places].get(mode="clip") for x in (store.key, store.value))
    hidden, key, value = lax.fori_loop(first, last, step, (hidden, *kept))
    return hidden, _keep(store, rows, key, value)


def entered(hidden: Array, edit: Edit, rows: Rows, first: Array | int) -> Array:
    """The residual stream before a layer as an edit leaves it, where what is below was computed without the edit.

    Args:
        hidden: [rows, time, width].
        edit: changes nothing inside the layers below, and behind them the last alone.
        rows: the tokens.
        first: the layer, which may be traced; before layer 0 nothing is changed.
    """
    own = edit.layer(jnp.maximum(first - 1, 0))
    return jnp.where(first > 0, moved(hidden, own, decoder.touched_by(edit, rows.kind)), hidden)


def alone(tokens: Array, length: Array | int) -> Rows:
    """The trunk as a row of its own, whose places are positions; what stands behind its length is seen by nobody.

    Args:
        tokens: [time] int32.
        length: how many of them there are.
    """
    time = tokens.shape[0]
    place = jnp.arange(time, dtype=jnp.int32)
    return Rows(
        tokens=tokens[None],
        positions=jnp.where(place < length, place, _NOWHERE)[None],
        path=jnp.zeros((1, 0), jnp.int32),
        sees_path=jnp.zeros((1, time, 0), bool),
        sees_row=(place[:, None] >= place[None, :])[None],
        places=place[None],
        kind=jnp.full((1, time), PROMPT, jnp.int8),
    )


def _layer(
    weights: decoder.Weights,
    config: Config,
    rows: Rows,
    edit: Edit | None,
    sets: tuple[tuple[Array, Array], ...],
) -> Any:
    """One layer over rows, from the residual stream, what a layer takes along, and its keys and values in both stores."""
    ropes = rope.tables(config.ropes, rows.positions)
    touched = decoder.touched_by(edit, rows.kind)

    def one(
        h: Array, along: Any, trunk: tuple[Array, Array], store: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array], Array]:
        own, which, window, _, own_edit = along
        turn = tuple(table[which] for table in ropes)

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
            parts = (
                (trunk[0][None], trunk[1][None]),
                (store[0][rows.path], store[1][rows.path]),
                (key, value),
            )
            allowed = [_allowed(back, sees, window) for back, sees in sets]
            mixed = [
                at.partial(query, *part, see, config.attention_scale, config.attention_cap, decoder.apart(config))
                for part, see in zip(parts, allowed, strict=True)
                if part[0].shape[1]  # there may be no trunk, and nothing to look back at
            ]
            return at.merge(mixed).astype(query.dtype), (key, value)

        return decoder.layer(own, config, h, turn, attend, own_edit, touched)

    return one


def _sets(trunk: Store, store: Store, rows: Rows) -> tuple[tuple[Array, Array], ...]:
    """Of the three sets of keys how far back each of them lies, which decides whether a window reaches it, and who sees it."""
    own = rows.positions[..., None]
    behind = own - trunk.position[None, None, :]
    return (
        (behind, behind > 0),
        (own - store.position[rows.path][:, None, :], rows.sees_path),
        (own - rows.positions[:, None, :], rows.sees_row),
    )


def _allowed(back: Array, sees: Array, window: Array) -> Array:
    return ((back < window) | (window == 0)) & sees


def _keep(store: Store, rows: Rows, key: Array, value: Array) -> Store:
    """New keys and values in their places; those of tokens that nobody will look back at have none."""
    places = rows.places.reshape(-1)

    def put(kept: Array, new: Array) -> Array:
        flat = new.reshape(new.shape[0], -1, *new.shape[3:]).astype(kept.dtype)
        return kept.at[:, places].set(flat, mode="drop")

    position = store.position.at[places].set(rows.positions.reshape(-1), mode="drop")
    return Store(put(store.key, key), put(store.value, value), position)
