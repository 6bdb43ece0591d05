"""Packed attention over texts that share prefixes: each prefix is computed once, and rows of tokens attend to it.

A row holds parts of several texts. Each token sees the tokens of its own text, which lie in three places:

    trunk     the prefix of all texts: one set of keys for every row, [trunk]
    path      shared by some texts, computed in an earlier pass: gathered from the store for a row, [rows, path]
    row       the tokens of the row itself, [rows, time]

Attention over the three sets is merged by the log-sum-exp of their scores, so that no keys are copied for a text:

    out = sum_i e^(m_i - m) n_i / sum_i e^(m_i - m) z_i       m_i = max score, z_i = sum e^(score - m_i), n_i = sum e^(score - m_i) v

This module does not know what the texts say; masks give which token sees which.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vatjax.models import attention as attention
from vatjax.models import decoder, rope
from vatjax.models.config import Config
from vatjax.models.edit import PROMPT, Edit, edit_residual

Array = jax.Array

Every = Literal["residual", "neurons"]

_NOWHERE = 1 << 30  # the position of a place that no token sees


class Store(NamedTuple):
    """KV cache of tokens that texts share, in numbered places.

    Attributes:
        key, value: [layers, places, kv heads, head size].
        position: [places] int32, the position of each of them in its text.
    """

    key: Array
    value: Array
    position: Array


class PackedOutput(NamedTuple):
    """Output of a pass.

    Attributes:
        hidden: the residual stream after the last layer, [rows, time, width].
        store: with the new keys and values.
        every: on request, of every layer its residual stream, [layers, rows, time, width], or its neurons, [layers,
            rows, time, hidden]; else None.
    """

    hidden: Array
    store: Store
    every: Array | None


class Rows(NamedTuple):
    """Input of a pass: tokens, their positions, what they see, and where their keys and values are stored.

    Attributes:
        tokens: [rows, time] int32.
        positions: [rows, time] int32.
        path: [rows, path] int32, the store's places that a row can see.
        sees_path: [rows, time, path] bool.
        sees_row: [rows, time, time] bool; a token sees itself.
        places: [rows, time] int32, where a token's keys go in the store; beyond its end they are dropped.
        kind: [rows, time] int8, the role of a token in its prompt (`edit.PROMPT`, `LAST`, `WRITTEN`).
    """

    tokens: Array
    positions: Array
    path: Array
    sees_path: Array
    sees_row: Array
    places: Array
    kind: Array


def empty_store(config: Config, places: int, dtype: Any) -> Store:
    """Returns a store with room for `places` tokens."""
    shape = (config.layers, places, config.kv_heads, config.head_size)
    return Store(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(places, jnp.int32))


def compute_trunk(
    weights: decoder.Weights,
    config: Config,
    tokens: Array,
    length: Array | int,
    edit: Edit | None = None,
) -> Store:
    """Computes keys and values of the prefix of all texts.

    Args:
        weights: of the whole model.
        config: of the model.
        tokens: [time] int32; those after the first `length` are not seen.
        length: the number of tokens that count.
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
    layout = decoder.Layout(positions[None], present, kind)
    run = decoder.run_layers(weights, config, hidden, layout, cache=cache, edit=edit)
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
) -> PackedOutput:
    """Runs one pass over rows.

    Args:
        weights: of the whole model.
        config: of the model.
        trunk: the prefix of all texts; every token sees it.
        store: of earlier passes.
        rows: the tokens.
        edit: a change of the computation.
        every: return of every layer the residual stream after it, or the MLP's inner activations, too; static.
    """
    run_layer = _make_layer(weights, config, rows, edit, _key_sets(trunk, store, rows))

    def step(h: Array, along: Any) -> tuple[Array, tuple[tuple[Array, Array], Array | None]]:
        h, new, inner = run_layer(h, *along)
        return h, (new, {None: None, "residual": h, "neurons": inner}[every])

    hidden = decoder.embed(weights, config, rows.tokens)
    along = (
        decoder.scan_inputs(weights, config, edit, 0, config.layers),
        (trunk.key, trunk.value),
        (store.key, store.value),
    )
    hidden, ((key, value), every_layer) = lax.scan(step, hidden, along)
    return PackedOutput(hidden, _write_store(store, rows, key, value), every_layer)


def run_layers(
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
    """Runs the layers from `first` to before `last`: those below an edit are computed once for many edits.

    Args:
        weights, config, trunk, store, rows, edit: as in `forward`.
        hidden: the residual stream before the first of them, [rows, time, width].
        first, last: which layers; may be traced.

    Returns:
        (the residual stream after the last of them, the store with their keys and values).
    """
    run_layer = _make_layer(weights, config, rows, edit, _key_sets(trunk, store, rows))
    along = (
        decoder.scan_inputs(weights, config, edit, 0, config.layers),
        (trunk.key, trunk.value),
        (store.key, store.value),
    )

    def step(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        h, *written = carry
        h, new, _ = run_layer(h, *jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), along))
        key, value = (
            lax.dynamic_update_index_in_dim(whole, part.astype(whole.dtype), number, 0)
            for whole, part in zip(written, new, strict=True)
        )
        return h, key, value

    # Layers that are left out keep the content of these places. All layers are written at once: a scatter handles its
    # places one after the other.
    stored = (x.at[:, rows.places].get(mode="clip") for x in (store.key, store.value))
    hidden, key, value = lax.fori_loop(first, last, step, (hidden, *stored))
    return hidden, _write_store(store, rows, key, value)


def apply_edit_before(hidden: Array, edit: Edit, rows: Rows, first: Array | int) -> Array:
    """Applies an edit to the residual stream before a layer, where the layers below were computed without the edit.

    Args:
        hidden: [rows, time, width].
        edit: changes nothing inside the layers below; after them it changes only the last one's output.
        rows: the tokens.
        first: the layer, which may be traced; before layer 0 nothing is changed.
    """
    layer_edit = edit.take_layer(jnp.maximum(first - 1, 0))
    return jnp.where(first > 0, edit_residual(hidden, layer_edit, decoder.touched_tokens(edit, rows.kind)), hidden)


def as_row(tokens: Array, length: Array | int) -> Rows:
    """Returns the trunk as a row of its own, whose places are positions; tokens after its length are not seen.

    Args:
        tokens: [time] int32.
        length: the number of tokens that count.
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


def _make_layer(
    weights: decoder.Weights,
    config: Config,
    rows: Rows,
    edit: Edit | None,
    sets: tuple[tuple[Array, Array], ...],
) -> Any:
    """Returns a function that runs one layer over rows.

    It takes the residual stream, the layer's inputs of a scan, and its keys and values in both stores.
    """
    ropes = rope.cos_sin_tables(config.ropes, rows.positions)
    touched = decoder.touched_tokens(edit, rows.kind)

    def run_layer(
        h: Array, along: Any, trunk: tuple[Array, Array], store: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array], Array]:
        layer_weights, which, window, _, layer_edit = along
        turn = tuple(table[which] for table in ropes)

        def attend(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
            parts = (
                (trunk[0][None], trunk[1][None]),
                (store[0][rows.path], store[1][rows.path]),
                (key, value),
            )
            allowed = [_allowed(back, sees, window) for back, sees in sets]
            mixed = [
                attention.partial_attention(
                    query, *part, see, config.attention_scale, config.attention_cap, decoder.needs_separate_axes(config)
                )
                for part, see in zip(parts, allowed, strict=True)
                if part[0].shape[1]  # there may be no trunk, and nothing to look back at
            ]
            return attention.merge_partials(mixed).astype(query.dtype), (key, value)

        return decoder.run_layer(layer_weights, config, h, turn, attend, layer_edit, touched)

    return run_layer


def _key_sets(trunk: Store, store: Store, rows: Rows) -> tuple[tuple[Array, Array], ...]:
    """Returns for each of the three sets of keys how far back they lie, for windows, and which tokens see them."""
    positions = rows.positions[..., None]
    distance = positions - trunk.position[None, None, :]
    return (
        (distance, distance > 0),
        (positions - store.position[rows.path][:, None, :], rows.sees_path),
        (positions - rows.positions[:, None, :], rows.sees_row),
    )


def _allowed(back: Array, sees: Array, window: Array) -> Array:
    return ((back < window) | (window == 0)) & sees


def _write_store(store: Store, rows: Rows, key: Array, value: Array) -> Store:
    """Writes new keys and values to their places; those that no later token needs have no place."""
    places = rows.places.reshape(-1)

    def put(stored: Array, new: Array) -> Array:
        flat = new.reshape(new.shape[0], -1, *new.shape[3:]).astype(stored.dtype)
        return stored.at[:, places].set(flat, mode="drop")

    position = store.position.at[places].set(rows.positions.reshape(-1), mode="drop")
    return Store(put(store.key, key), put(store.value, value), position)
