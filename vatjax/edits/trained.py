"""SPLIT: a vector that is trained, on the likelihoods of both actions of each pair.

    loss = L_p + L_n + gamma max(0, theta - (L_n - L_p))

L is the negative log-likelihood of an action behind its scene. The first two keep both actions as likely as they were, so
that the model goes on to write well; the third asks for a margin between them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vatjax import errors
from vatjax.edits.pairs import PAIRS, prepared, read
from vatjax.edits.placebo import turned
from vatjax.edits.stream import profile
from vatjax.elicit.pieces import Pieces
from vatjax.items import Items
from vatjax.models import Edit, Model, hosts, log_probs
from vatjax.models.edit import Positions
from vatjax.models.tokens import batch
from vatjax.prompts import How

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Training:
    """How a vector is trained."""

    steps: int = 200
    rate: float = 0.02
    """Of Adam, as a share of the root mean square of the states that a layer's vector is added to."""
    gamma: float = 1.0
    theta: float = 5.0
    """The margin, in nats."""
    batch: int = 32
    """Pairs of one step."""
    seed: int = 0


class Found(NamedTuple):
    """The edit, and how it was learned.

    Attributes:
        edit: at strength 1.
        losses: [steps].
        margins: [steps], the mean of `L_n - L_p` in each step's pairs.
    """

    edit: Edit
    losses: np.ndarray
    margins: np.ndarray


class Texts(NamedTuple):
    """Scenes with actions behind them, [n, time]: tokens, what is no padding, and which tokens are of the action."""

    tokens: np.ndarray
    present: np.ndarray
    written: np.ndarray


def split(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    layers: Sequence[int] = (),
    training: Training | None = None,
    pairs: int = PAIRS,
    positions: Positions = "all",
    exchanged: int | None = None,
    test: float = 0.25,
    seed: int = 0,
    draw: int = 0,
    how: How | None = None,
) -> Found:
    """Trains a vector for some layers, by default the middle one.

    Args:
        model: the model, left as it is.
        items: all items; pairs are of their train side.
        target, direction: what is pushed, and which way.
        layers: where it is added, each layer a vector of its own.
        training: how.
        pairs: how many, where there are as many.
        positions: at which tokens.
        exchanged: a seed by which half of the pairs change their labels.
        test, seed: of the division by scene, and of which pairs are drawn.
        draw: which of many draws of pairs.
        how: how a scene is put: chat template and its options.

    Raises:
        InputError: as `contrast` does, and where the loss is no number.
    """
    training = training or Training()
    if training.steps < 1 or training.batch < 1:
        raise errors.InputError("a vector is trained in at least one step, with at least one pair in each")
    asked = prepared(model, items, target, direction, "acted", pairs, how or How(), test, seed, draw)
    texts, count = _texts(asked.found), len(asked.scene)
    if exchanged is not None:
        first, turn = np.arange(count), turned(count, exchanged)
        order = np.concatenate([np.where(turn, first + count, first), np.where(turn, first, first + count)])
        texts = Texts(*(x[order] for x in texts))
    share = profile(layers or [model.config.layers // 2], model.config.layers)
    unit = np.sqrt(np.mean(read(model, asked.found) ** 2, (1, 2)))
    vector, losses, margins = _train(model, texts, count, share * unit, training, positions)
    if not np.isfinite(losses).all():
        raise errors.InputError(f"the loss is no number at step {int(np.argmin(np.isfinite(losses)))}: lower the rate")
    return Found(Edit(jnp.float32(1), residual=vector, positions=positions), losses, margins)


def _texts(found: Pieces) -> Texts:
    whole = [found.tokens(i) for i in range(len(found.which))]
    behind = [len(found.levels[-1][i]) for i in found.which[:, -1]]
    laid = batch(whole, multiple=16)
    place, ends = np.arange(laid.tokens.shape[1])[None], np.array(list(map(len, whole)))[:, None]
    written = (place >= ends - np.array(behind)[:, None]) & (place < ends)
    return Texts(laid.tokens, laid.mask.astype(bool), written)


def _train(
    model: Model, texts: Texts, count: int, unit: np.ndarray, training: Training, positions: Positions
) -> tuple[Array, np.ndarray, np.ndarray]:
    """The vectors that come out; unit is [layers], the size of a layer's states, 0 where it has no vector."""
    scale = jnp.asarray(unit[:, None], jnp.float32)
    vector = jnp.zeros((model.config.layers, model.config.width), jnp.float32)
    state = optax.adam(training.rate).init(vector)
    random = np.random.default_rng(training.seed)
    losses, margins = [], []
    batch = min(training.batch, count)
    for _ in range(training.steps):
        rows = random.choice(count, batch, replace=False)
        both = np.concatenate([rows, rows + count])
        own = Texts(texts.tokens[both], texts.present[both], texts.written[both])
        loss, margin, change, state = _step(model, vector, state, own, scale, training, positions)
        vector = vector + change
        losses.append(loss)
        margins.append(margin)
    return scale * vector, hosts.fetch(losses), hosts.fetch(margins)


@functools.partial(jax.jit, static_argnames=("training", "positions"))
def _step(
    model: Model,
    vector: Array,
    state: Any,
    texts: Texts,
    scale: Array,
    training: Training,
    positions: Positions,
) -> tuple[Array, Array, Array, Any]:
    """The loss and the margin of a batch, positive texts in its first half, and how the vector changes."""

    def loss(vector: Array) -> tuple[Array, Array]:
        edit = Edit(jnp.float32(1), residual=scale * vector, positions=positions)
        each = log_probs(model, texts.tokens, texts.present, edit, written=texts.written)
        nll = -jnp.sum(jnp.where(texts.written, each, 0), axis=1)
        positive, negative = jnp.split(nll, 2)
        margin = negative - positive
        return jnp.mean(positive + negative + training.gamma * jax.nn.relu(training.theta - margin)), jnp.mean(margin)

    (value, margin), gradient = jax.value_and_grad(loss, has_aux=True)(vector)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes float32 with its integer counts
        change, state = optax.adam(training.rate).update(gradient, state, vector)
    return value, margin, change, state
