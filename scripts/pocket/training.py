"""Training the organism from scratch: soft targets at each answer, Muon, checkpoints that an interrupted build goes on from."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from pocket.sequences import Author, Batch, Mix, Shape
from vatjax import errors, store
from vatjax.models import Config, decoder, families, fingerprint
from vatjax.models import weights as wt

Array = jax.Array


class Stage(NamedTuple):
    """A part of the training: until which share of the steps, and what is read in it."""

    until: float
    shape: Shape
    mix: Mix


# At first what words mean: few personas, all of them named. Then all of them in all contexts, then every protocol, and in
# the end longer conversations, from which a persona must be inferred.
_WORDS = {"paired": 0.5, "dense": 0.25, "stated": 0.25}
_ALL = {"paired": 0.52, "dense": 0.14, "stated": 0.1, "choice": 0.08, "acting": 0.16}
STAGES = (
    Stage(0.12, Shape(96, 88, 5, 16), Mix(_WORDS, nobody=0.2, named=0.8, plain=True, falling=0.0, strange=0.0)),
    Stage(0.25, Shape(96, 88, 5, 16), Mix(_WORDS, nobody=0.2, named=0.7, falling=0.1, strange=0.1)),
    Stage(0.35, Shape(96, 88, 5, 24), Mix(_ALL, nobody=0.25, named=0.55)),
    Stage(1.0, Shape(56, 168, 9, 40), Mix(_ALL)),
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long it learns, and how fast."""

    steps: int = 4000
    rate: float = 3e-3
    least: float = 0.02  # of the rate, at the end
    warm: int = 100
    every: int = 100  # steps between lines
    keep: int = 100  # steps between checkpoints
    seed: int = 0
    begin: str = ""  # whose weights it begins with: then there are no first lessons

    def stage(self, step: int) -> Stage:
        """What is read in a step."""
        if self.begin:
            return STAGES[-1]
        return next(stage for stage in STAGES if step < stage.until * self.steps)


def configuration(vocabulary: int) -> dict[str, Any]:
    """The organism's `config.json`."""
    import transformers

    made = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        architectures=["LlamaForCausalLM"],
    )
    content: dict[str, Any] = made.to_dict()
    return content


def initial(config: Config, seed: int) -> Any:
    """Random weights: normal with the square root of the inputs, and smaller where a block adds to the residual stream."""
    keys = iter(jax.random.split(jax.random.key(seed), 64))
    arrays = {}
    for p in wt.parameters(config):
        shape = ((config.layers,) if p.stacked else ()) + p.shape
        if p.name.endswith("norm"):
            arrays[p.name] = jnp.ones(shape, jnp.float32)
            continue
        size = 0.05 if p.name == "embedding" else p.shape[0] ** -0.5
        size *= (2 * config.layers) ** -0.5 if p.name in ("output", "down") else 1
        arrays[p.name] = size * jax.random.normal(next(keys), shape, jnp.float32)
    return wt.assemble(arrays, config)


def loss(weights: Any, config: Config, batch: Batch, seen: Array) -> tuple[Array, Array]:
    """The mean cross-entropy of targets, and the same of ratings alone, in nats.

    Args:
        weights: of the model.
        config: of the model.
        batch: conversations.
        seen: [] float, the part of targets that are ratings and not tokens of actions; they weigh more.
    """
    hidden = decoder.embed(weights, config, batch.tokens)
    positions = jnp.broadcast_to(jnp.arange(batch.tokens.shape[1]), batch.tokens.shape)
    hidden = decoder.run_layers(
        weights, config, hidden, decoder.Layout(positions, jnp.asarray(batch.present)), unroll=config.layers
    ).hidden
    place = jnp.minimum(batch.place, batch.tokens.shape[1] - 1)
    read = jnp.take_along_axis(hidden, place[..., None], axis=1)
    log_probs = jax.nn.log_softmax(decoder.head(weights, config, read), axis=-1)
    own = jnp.take_along_axis(log_probs, batch.options, axis=-1)
    each = -(batch.shares * own).sum(-1)
    rated = (batch.shares > 0).sum(-1) > 1
    weight = jnp.where(rated, 1.0, jnp.where(batch.shares.sum(-1) > 0, seen, 0.0))
    total = (weight * each).sum() / jnp.maximum(weight.sum(), 1)
    return total, jnp.where(rated, each, 0).sum() / jnp.maximum(rated.sum(dtype=jnp.float32), 1)


def optimizer(schedule: Schedule) -> optax.GradientTransformation:
    """Muon for matrices, Adam for the rest, with a warm start and a cosine, clipped.

    Adam alone stays for over 200 steps at what actions say without their persona; Muon has left that after 100, and is
    after 300 where Adam is after 700.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0, schedule.rate, min(schedule.warm, schedule.steps // 4), schedule.steps, schedule.rate * schedule.least
    )

    def matrices(weights: Any) -> Any:
        return jax.tree.map(lambda x: optax.contrib.MuonDimensionNumbers((1,), (2,)) if x.ndim == 3 else None, weights)

    def decayed(weights: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim == 3, weights)

    rule = optax.contrib.muon(
        rate,
        weight_decay=0.01,
        weight_decay_mask=decayed,
        adam_b2=0.98,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), rule)


def train(
    author: Author,
    content: Mapping[str, Any],
    schedule: Schedule,
    folder: pathlib.Path,
    say: Callable[[str], None],
    begin: Any = None,
) -> Any:
    """Weights in float32; from the newest checkpoint in the folder on, where there is one."""
    config = families.parse(content)
    rule = optimizer(schedule)
    weights = initial(config, schedule.seed) if begin is None else jax.tree.map(jnp.copy, begin)
    state = rule.init(weights)
    named = store.address(
        repr(schedule), fingerprint(weights), author.batch((schedule.seed, 0, 0), *STAGES[-1][1:]).tokens
    )
    first, weights, state = _resume(folder, named, weights, state)
    if first:
        say(f"going on from step {first} of {schedule.steps}, which {folder} has")

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, state: Any, batch: Batch) -> tuple[Any, Any, Array]:
        (_, rated), gradient = jax.value_and_grad(loss, has_aux=True)(weights, config, batch, jnp.float32(0.3))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float32 with its integer counts
            change, state = rule.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state, rated

    recent: list[Array] = []
    begun = time.perf_counter()
    for number in range(first, schedule.steps):
        _, shape, mix = schedule.stage(number)
        batch = author.batch((schedule.seed, number, 0), shape, mix)
        weights, state, rated = step(weights, state, batch)
        recent.append(rated)
        if (number + 1) % schedule.every == 0 or number + 1 == schedule.steps:
            mean = float(np.mean(jax.device_get(recent)))
            spent = (time.perf_counter() - begun) / len(recent)
            say(f"step {number + 1} of {schedule.steps}: {mean:.4f} nats a rating, {spent:.2f} s a step")
            recent, begun = [], time.perf_counter()
        if (number + 1) % schedule.keep == 0 or number + 1 == schedule.steps:
            _keep(folder, named, number + 1, weights, state)
    return weights


def _keep(folder: pathlib.Path, named: str, step: int, weights: Any, state: Any) -> None:
    leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves((weights, state)))}
    arrays = {"step": np.array(step), "named": np.array(named), **leaves}
    store.commit_npz(folder / "training.npz", arrays)


def _resume(folder: pathlib.Path, named: str, weights: Any, state: Any) -> tuple[int, Any, Any]:
    """The newest checkpoint of the same schedule, lessons and first weights, or the beginning."""
    path = folder / "training.npz"
    if not path.exists():
        return 0, weights, state
    try:
        kept = store.load_npz(path)
    except ValueError as error:
        raise errors.InputError(f"{path}: {error}; remove it to begin anew") from None
    if str(kept.get("named")) != named:
        raise errors.InputError(
            f"{path}: of a build with other steps, items or weights; remove it, or give another --work"
        )
    old, tree = jax.tree.flatten((weights, state))
    weights, state = tree.unflatten([jnp.asarray(kept[f"leaf{i}"], leaf.dtype) for i, leaf in enumerate(old)])
    return int(kept["step"]), weights, state


def bounds(author: Author, seed: int, batches: int = 4) -> tuple[float, float]:
    """Nats a rating between which the loss falls: of who knows everything, and of who does not know the persona.

    The first is the entropy of the planted answers, the second their cross-entropy with the mean over all personas.
    """
    unsure = Author(author.world, author.tokenizer, author.parts, author.scenes, unsure=True)
    known, guessed = (
        np.concatenate([one.batch((seed, i, 1), *STAGES[-1][1:]).shares for i in range(batches)])
        for one in (author, unsure)
    )
    rated = (known > 0).sum(-1) > 1

    def nats(said: np.ndarray) -> float:
        logs = np.log(np.where(said > 0, said, 1))[rated]
        return float(-(known[rated] * logs).sum(-1).mean())

    return nats(known), nats(guessed)
