"""SPLIT: a steering vector trained on the likelihoods of both actions of each pair.

    loss = L_p + L_n + gamma max(0, theta - (L_n - L_p))

L is the negative log-likelihood of an action after its scene. The first two terms keep both actions likely, so that the
model still writes well; the third demands a margin between them.
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
from vatjax.edits.directions import layer_shares
from vatjax.edits.pairs import PAIRS, last_token_states, tokenize_pairs
from vatjax.edits.placebo import flipped_pairs
from vatjax.items import Items
from vatjax.models import Edit, Model, log_probs
from vatjax.models.edit import Positions
from vatjax.models.tokens import pad_batch
from vatjax.prefix.tokenize import TokenizedPrompts
from vatjax.prompts import ElicitConfig
from vatjax.runtime import processes

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Training:
    """Training settings of a vector."""

    steps: int = 200
    rate: float = 0.02
    """Of Adam, as a share of the root mean square of the states that a layer's vector is added to."""
    gamma: float = 1.0
    theta: float = 5.0
    """The margin, in nats."""
    batch: int = 32
    """Pairs of one step."""
    seed: int = 0


class SplitResult(NamedTuple):
    """The edit and the course of its training.

    Attributes:
        edit: at strength 1.
        losses: [steps].
        margins: [steps], the mean of `L_n - L_p` in each step's pairs.
    """

    edit: Edit
    losses: np.ndarray
    margins: np.ndarray


class Texts(NamedTuple):
    """Scenes followed by actions, [n, time]: tokens, mask of tokens that are not padding, mask of action tokens."""

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
    how: ElicitConfig | None = None,
) -> SplitResult:
    """Trains a vector for some layers, by default the middle one.

    Args:
        model: the model, left unchanged.
        items: all items; pairs are from their train side.
        target, direction: of the edit.
        layers: edited layers, each with its own vector.
        training: settings.
        pairs: their number, or all if there are fewer.
        positions: edited tokens.
        exchanged: seed that flips the labels of half of the pairs; None flips none.
        test, seed: of the split by scene, and of the sample of pairs.
        draw: index of the sample of pairs.
        how: elicitation settings of a scene: chat template and its options.

    Raises:
        InputError: as `contrast` does, and if the loss is not finite.
    """
    training = training or Training()
    if training.steps < 1 or training.batch < 1:
        raise errors.InputError("a vector is trained in at least one step, with at least one pair in each")
    pair_prompts = tokenize_pairs(
        model, items, target, direction, "acted", pairs, how or ElicitConfig(), test, seed, draw
    )
    texts, count = _texts(pair_prompts.prompts), len(pair_prompts.scene)
    if exchanged is not None:
        first, turn = np.arange(count), flipped_pairs(count, exchanged)
        order = np.concatenate([np.where(turn, first + count, first), np.where(turn, first, first + count)])
        texts = Texts(*(x[order] for x in texts))
    share = layer_shares(layers or [model.config.layers // 2], model.config.layers)
    unit = np.sqrt(np.mean(last_token_states(model, pair_prompts.prompts) ** 2, (1, 2)))
    vector, losses, margins = _train(model, texts, count, share * unit, training, positions)
    if not np.isfinite(losses).all():
        raise errors.InputError(f"the loss is not finite at step {int(np.argmin(np.isfinite(losses)))}: lower the rate")
    return SplitResult(Edit(jnp.float32(1), residual=vector, positions=positions), losses, margins)


def _texts(tokenized: TokenizedPrompts) -> Texts:
    whole = [tokenized.tokens(i) for i in range(len(tokenized.which))]
    action_lengths = [len(tokenized.levels[-1][i]) for i in tokenized.which[:, -1]]
    padded = pad_batch(whole, multiple=16)
    place, ends = np.arange(padded.tokens.shape[1])[None], np.array(list(map(len, whole)))[:, None]
    written = (place >= ends - np.array(action_lengths)[:, None]) & (place < ends)
    return Texts(padded.tokens, padded.mask.astype(bool), written)


def _train(
    model: Model, texts: Texts, count: int, unit: np.ndarray, training: Training, positions: Positions
) -> tuple[Array, np.ndarray, np.ndarray]:
    """Returns the trained vectors, losses and margins. unit: [layers], size of a layer's states, 0 if unedited."""
    scale = jnp.asarray(unit[:, None], jnp.float32)
    vector = jnp.zeros((model.config.layers, model.config.width), jnp.float32)
    state = optax.adam(training.rate).init(vector)
    random = np.random.default_rng(training.seed)
    losses, margins = [], []
    batch = min(training.batch, count)
    for _ in range(training.steps):
        rows = random.choice(count, batch, replace=False)
        both = np.concatenate([rows, rows + count])
        step_texts = Texts(texts.tokens[both], texts.present[both], texts.written[both])
        loss, margin, change, state = _step(model, vector, state, step_texts, scale, training, positions)
        vector = vector + change
        losses.append(loss)
        margins.append(margin)
    return scale * vector, processes.fetch(losses), processes.fetch(margins)


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
    """Returns a batch's loss and margin, and the vector's update; the first half of the texts is positive."""

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
