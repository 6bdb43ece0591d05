"""One step of training, pure: the same state and batch give the same state again.

    state = train.begin(model, train.Lora(rank=8), train.Adam(rate=1e-4), steps=100)
    state, logs = train.step(state, batch, loss=train.dpo(beta=0.1))
    train.result(state)                    # an Edit; of whole weights a Model

A batch may be taken in parts that fit into memory: sums of losses, gradients and counts are added up over the parts, and
divided once, so that 4 parts of 8 rows are 8 parts of 4 and not a mean of means.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from vatjax import errors, names
from vatjax.models import Config, Edit, Model, hosts, sharding
from vatjax.train import optimizer, trained
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.losses import Loss
from vatjax.train.optimizer import Adam, Pace
from vatjax.train.rows import Batch
from vatjax.train.sums import Logs, Sums, drift_of, means, moved, summed_up
from vatjax.train.trained import What

Array = jax.Array

KEEP = Memory()


class Progress(NamedTuple):
    """What a step changes.

    Attributes:
        trained: the trained arrays.
        optimizer: its state.
        step: scalar int32, how many were taken.
        key: of what is drawn in steps.
        pace: the schedule's numbers.
    """

    trained: Any
    optimizer: Any
    step: Array
    key: Array
    pace: Pace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A model in training.

    Attributes:
        base: the model as it was, which is the reference too.
        progress: what steps change.
        what: what is trained; static.
        adam: how; static.
    """

    base: Model
    progress: Progress
    what: What = dataclasses.field(metadata={"static": True})
    adam: Adam = dataclasses.field(metadata={"static": True})


class Penalty(Protocol):
    """What may be added to the loss: a pytree that gives a number and what there is to say about it."""

    def __call__(
        self, weights: Mapping[str, Any], config: Config, edit: Edit | None, key: Array, memory: Memory
    ) -> tuple[Array, Logs]:
        """What is added to the loss of a step, with a gradient, and what there is to log.

        Args:
            weights, config: of the model as it is trained.
            edit: the low-rank changes, where those are trained.
            key: of this step.
            memory: what the backward pass keeps.
        """
        ...


def begin(model: Model, what: What, adam: Adam, steps: int, key: Array | int = 0) -> State:
    """The state before the first step.

    Args:
        model: stays as it is.
        what: low-rank changes, or weights.
        adam: how gradients become steps.
        steps: how many there will be: the schedule ends there.
        key: a PRNG key, or a seed.

    Raises:
        InputError: for settings that no training can go by.
    """
    progress = _first(model, what, adam, steps, jax.random.key(key) if isinstance(key, int) else key)
    return State(model, _placed(progress, model), what, _fixed(adam))


def outlined(model: Model, what: What, adam: Adam, steps: int) -> State:
    """What `begin` gives, as shapes; the model may be an outline."""
    shapes = jax.eval_shape(lambda: _first(model, what, adam, steps, jax.random.key(0)))
    where = _where(model)
    return State(model, jax.tree.map(lambda x: sharding.shape_of(x, where), shapes), what, _fixed(adam))


def _first(model: Model, what: What, adam: Adam, steps: int, key: Array) -> Progress:
    adam.check()
    if steps < 1:
        raise errors.InputError(f"steps: expected at least 1, found {steps}")
    own = trained.begin(model, what, jax.random.fold_in(key, 0))
    pace = Pace(jnp.float32(adam.rate), jnp.int32(steps))
    return Progress(own, optimizer.start(adam, own), jnp.int32(0), jax.random.fold_in(key, 1), pace)


def _fixed(adam: Adam) -> Adam:
    """The rate and the number of steps are data: one compiled step serves all of them."""
    return dataclasses.replace(adam, rate=1.0)


def _where(model: Model) -> Any:
    """Where what is trained lies: on every device that the model lies on."""
    arrays = model.arrays
    mesh = sharding.mesh_of(arrays)
    return jax.tree.leaves(arrays)[0].sharding if mesh is None else NamedSharding(mesh, sharding.partition())


def _placed(progress: Progress, model: Model) -> Progress:
    """Where the model is, so that the first step finds what every later one does, and is compiled once."""
    one = _where(model)
    made: Progress = jax.tree.map(lambda x: x if x.committed else hosts.put(x, one), progress)
    return made


def result(state: State) -> Edit | Model:
    """What was trained: low-rank changes as an edit, weights as a model of the dtype that it had."""
    model = state.base
    weights, edit = trained.applied(model.arrays, model.config, state.what, state.progress.trained)
    if edit is not None:
        made: Edit = jax.tree.map(jnp.copy, edit)  # a later step may overwrite what it was made of
        return made
    weights = jax.tree.map(lambda w, new: new if new is w else jnp.copy(new), model.arrays, dict(weights))
    return Model(weights, model.config, model.tokenizer, model.source, model.generation, model.name, model.ignored)


def reference_of(loss: Loss, base: Model, batch: Batch, memory: Memory) -> Array:
    """Log-probabilities under the reference, [rows, texts]: kept ones, or those of the model as it was."""
    if not loss.reference:
        return jnp.zeros_like(batch.length)
    if batch.reference is not None:
        return batch.reference
    return jax.lax.stop_gradient(text_log_probs(base.arrays, base.config, batch, None, memory))


def step(
    state: State,
    batch: Batch,
    loss: Loss,
    penalty: Penalty | None = None,
    parts: int = 1,
    memory: Memory = KEEP,
    donate: bool = False,
) -> tuple[State, Logs]:
    """Takes one step.

    Args:
        state: the state.
        batch: rows of texts.
        loss: what is lessened.
        penalty: what is added to it.
        parts: in how many parts the batch is taken, one after the other.
        memory: what the backward pass keeps.
        donate: whether the state's arrays may be overwritten: then the one that was given in can't be used again.

    Returns:
        (the new state; what there is to log, as scalars, under the names that trl gives them). Where the loss or its
        gradient is no number the state is the one that was given in, and `logs["finite"]` is False.
    """
    check(state, batch, loss, parts)
    run = _donating if donate else _pure
    progress, logs = run(state.base, state.progress, batch, loss, state.what, state.adam, penalty, parts, memory)
    return dataclasses.replace(state, progress=progress), logs


def lowered(
    state: State, batch: Batch, loss: Loss, penalty: Penalty | None = None, parts: int = 1, memory: Memory = KEEP
) -> Any:
    """A step, lowered and not yet compiled; shapes will do (`outlined`)."""
    batch = sharding.shared_shapes(batch, state.base.arrays)
    return _donating.lower(state.base, state.progress, batch, loss, state.what, state.adam, penalty, parts, memory)


def memory_of(
    state: State, batch: Batch, loss: Loss, penalty: Penalty | None = None, parts: int = 1, memory: Memory = KEEP
) -> dict[str, int]:
    """What a step takes in bytes on one device, as it is compiled; nothing is run.

    Returns:
        `arguments`, the model and what is trained; `working`, what a step needs beyond them; and their `total`.
    """
    found: Any = lowered(state, batch, loss, penalty, parts, memory).compile().memory_analysis()
    held, more = int(found.argument_size_in_bytes), int(found.temp_size_in_bytes)
    return {"arguments": held, "working": more, "total": held + more}


def check(state: State, batch: Batch, loss: Loss, parts: int = 1, many: bool = False) -> None:
    """Refuses what a step can't be taken of: other things than a state, a batch and a loss; one adapter in place of several;
    rows that the loss can't be made of, and parts that they can't be cut into."""
    for name, found, kind, hint in (
        ("state", state, State, "train.begin(model)"),
        ("batch", batch, Batch, "train.batch(data, ...)"),
        ("loss", loss, Loss, "train.dpo()"),
    ):
        if not isinstance(found, kind):
            raise errors.InputError(f"{name}: expected what {hint} gives, found {names.shown(found)}")
    for name, wide, hint in (
        ("state", state.progress.step.ndim == 1, "train.stack(states)"),
        ("batch", batch.tokens.ndim == 3, "train.beside(batches)"),
    ):
        if wide != many:
            should = (
                f"step_many takes that of several, {hint}"
                if many
                else "step takes that of one; step_many takes several"
            )
            raise errors.InputError(f"{name}: found that of {'several adapters' if wide else 'one'}; {should}")
    rows = batch.tokens.shape[-2]
    if rows % parts:
        raise errors.InputError(f"a batch of {rows} rows can't be taken in {parts} equal parts")
    if loss.kind != batch.kind:
        hint = "; train.with_others makes them of texts" if loss.kind == "judged" else ""
        raise errors.InputError(f"{loss.name} takes {loss.kind}, and these rows hold {batch.kind}{hint}")


_STATIC = ("loss", "what", "adam", "parts", "memory")


def taken(
    base: Model,
    progress: Progress,
    batch: Batch,
    loss: Loss,
    what: What,
    adam: Adam,
    penalty: Penalty | None,
    parts: int,
    memory: Memory,
) -> tuple[Progress, Logs]:
    """A step, to be compiled: (what it changed, the logs); arguments as in `step`, and what a state holds."""
    arrays, config = base.arrays, base.config
    drift = jnp.float32(0)

    def policy(own: Any, part: Batch) -> Array:
        weights, edit = trained.applied(arrays, config, what, own)
        return text_log_probs(weights, config, part, edit, memory)

    def reference(part: Batch) -> Array:
        return reference_of(loss, base, part, memory)

    def summed(own: Any, part: Batch) -> tuple[Array, Sums]:
        return summed_up(loss, policy(own, part), reference(part), part, drift if parts > 1 else None)

    own = progress.trained
    if parts == 1:
        (total, sums), gradient = jax.value_and_grad(summed, has_aux=True)(own, batch)
    else:
        split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)
        if loss.kind == "judged":  # the drift is of the whole batch, and known before any part's gradient
            far = jax.lax.map(lambda part: moved(policy(own, part), reference(part), part), split)
            drift = drift_of(*(jnp.sum(x) for x in far))

        def add(carry: Any, part: Batch) -> tuple[Any, None]:
            (total, sums), gradient = jax.value_and_grad(summed, has_aux=True)(own, part)
            return jax.tree.map(jnp.add, carry, (total, sums, gradient)), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(lambda: jax.value_and_grad(summed, has_aux=True)(own, first))
        (total, sums), gradient = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (total, sums, gradient), _ = jax.lax.scan(add, (total, sums, gradient), split)

    unit = jnp.maximum(sums.unit, 1)
    gradient = jax.tree.map(lambda g: g / unit, gradient)
    logs = {"tokens": sums.tokens} | means(total, sums)
    if penalty is not None:
        key = jax.random.fold_in(progress.key, progress.step)

        def extra(own: Any) -> tuple[Array, Logs]:
            weights, edit = trained.applied(arrays, config, what, own)
            return penalty(weights, config, edit, key, memory)

        (value, told), more = jax.value_and_grad(extra, has_aux=True)(own)
        gradient = jax.tree.map(jnp.add, gradient, more)
        logs |= {"loss": logs["loss"] + value, "penalty": value} | told
    return _moved_on(progress, gradient, logs, sums.unit > 0, adam)


_pure = functools.partial(jax.jit, static_argnames=_STATIC)(taken)
_donating = functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("progress",))(taken)


def _moved_on(progress: Progress, gradient: Any, logs: Logs, any_text: Array, adam: Adam) -> tuple[Progress, Logs]:
    """The state after a step along a gradient; the state before it where that is no number."""
    own = progress.trained
    norm = jnp.sqrt(sum(jnp.sum(g.astype(jnp.float32) ** 2) for g in jax.tree.leaves(gradient)))
    rate = optimizer.rate(adam, progress.pace, progress.step)
    finite = jnp.isfinite(logs["loss"]) & jnp.isfinite(norm)
    moved, memory = optimizer.change(adam, gradient, progress.optimizer, own, rate)
    new = Progress(moved, memory, progress.step + 1, progress.key, progress.pace)
    sound = finite & any_text
    kept = jax.tree.map(lambda old, fresh: jnp.where(sound, fresh, old), progress, new)
    return kept, logs | {"grad_norm": norm, "learning_rate": rate, "finite": finite, "empty": ~any_text}
