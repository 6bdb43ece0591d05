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

from vatjax import errors
from vatjax.models import Config, Edit, Model, sharding
from vatjax.train import optimizer, trained
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.losses import Judged, Loss, Pairs, Texts
from vatjax.train.optimizer import Adam, Pace
from vatjax.train.rows import Batch
from vatjax.train.trained import What

Array = jax.Array
Logs = dict[str, Array]

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
    adam.check()
    if steps < 1:
        raise errors.InputError(f"steps: expected at least 1, found {steps}")
    key = jax.random.key(key) if isinstance(key, int) else key
    own = trained.begin(model, what, jax.random.fold_in(key, 0))
    pace = Pace(jnp.float32(adam.rate), jnp.int32(steps))
    # The rate and the number of steps are data: one compiled step serves all of them.
    fixed = dataclasses.replace(adam, rate=1.0)
    progress = Progress(own, optimizer.start(adam, own), jnp.int32(0), jax.random.fold_in(key, 1), pace)
    return State(model, _placed(progress, model), what, fixed)


def _placed(progress: Progress, model: Model) -> Progress:
    """Where the model is, so that the first step finds what every later one does, and is compiled once."""
    arrays = model.arrays
    mesh = sharding.mesh_of(arrays)
    one = jax.tree.leaves(arrays)[0].sharding if mesh is None else NamedSharding(mesh, sharding.partition())
    made: Progress = jax.tree.map(lambda x: x if x.committed else jax.device_put(x, one), progress)
    return made


def result(state: State) -> Edit | Model:
    """What was trained: low-rank changes as an edit, weights as a model of the dtype that it had."""
    model = state.base
    weights, edit = trained.applied(model.arrays, model.config, state.what, state.progress.trained)
    if edit is not None:
        made: Edit = jax.tree.map(jnp.copy, edit)  # a later step may overwrite what it was made of
        return made
    weights = jax.tree.map(lambda w, new: new if new is w else jnp.copy(new), model.arrays, dict(weights))
    return Model(weights, model.config, model.tokenizer, model.source, model.generation, model.name)


def measure(state: State, batch: Batch, loss: Loss, memory: Memory = KEEP) -> tuple[Array, Array]:
    """(the sum of a loss over a batch, what it is to be divided by), without a step.

    A text's drift, where the loss has one, is that of its own batch.
    """
    check(loss, batch, batch.tokens.shape[0])
    found: tuple[Array, Array] = _measure(state, batch, loss, memory)
    return found


@functools.partial(jax.jit, static_argnames=("loss", "memory"))
def _measure(state: State, batch: Batch, loss: Loss, memory: Memory) -> tuple[Array, Array]:
    arrays, config = state.base.arrays, state.base.config
    weights, edit = trained.applied(arrays, config, state.what, state.progress.trained)
    policy = text_log_probs(weights, config, batch, edit, memory)
    total, sums = _sums(loss, policy, _reference(loss, state.base, batch, memory), batch, None)
    return total, sums.unit


def _reference(loss: Loss, base: Model, batch: Batch, memory: Memory) -> Array:
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
    check(loss, batch, batch.tokens.shape[0], parts)
    run = _donating if donate else _pure
    progress, logs = run(state.base, state.progress, batch, loss, state.what, state.adam, penalty, parts, memory)
    return dataclasses.replace(state, progress=progress), logs


def memory_of(
    state: State, batch: Batch, loss: Loss, penalty: Penalty | None = None, parts: int = 1, memory: Memory = KEEP
) -> dict[str, int]:
    """What a step takes in bytes on one device, as it is compiled; nothing is run.

    Returns:
        `arguments`, the model and what is trained; `working`, what a step needs beyond them; and their `total`.
    """
    lowered = _donating.lower(state.base, state.progress, batch, loss, state.what, state.adam, penalty, parts, memory)
    found: Any = lowered.compile().memory_analysis()
    held, more = int(found.argument_size_in_bytes), int(found.temp_size_in_bytes)
    return {"arguments": held, "working": more, "total": held + more}


def check(loss: Loss, batch: Batch, rows: int, parts: int = 1) -> None:
    """Refuses rows that a loss can't be made of, and parts that they can't be cut into."""
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
        return _reference(loss, base, part, memory)

    def summed(own: Any, part: Batch) -> tuple[Array, _Sums]:
        return _sums(loss, policy(own, part), reference(part), part, drift if parts > 1 else None)

    own = progress.trained
    if parts == 1:
        (total, sums), gradient = jax.value_and_grad(summed, has_aux=True)(own, batch)
    else:
        split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)
        if loss.kind == "judged":  # the drift is of the whole batch, and known before any part's gradient
            moved = jax.lax.map(lambda part: _moved(policy(own, part), reference(part), part), split)
            drift = _drift(*(jnp.sum(x) for x in moved))

        def add(carry: Any, part: Batch) -> tuple[Any, None]:
            (total, sums), gradient = jax.value_and_grad(summed, has_aux=True)(own, part)
            return jax.tree.map(jnp.add, carry, (total, sums, gradient)), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(lambda: jax.value_and_grad(summed, has_aux=True)(own, first))
        (total, sums), gradient = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (total, sums, gradient), _ = jax.lax.scan(add, (total, sums, gradient), split)

    unit = jnp.maximum(sums.unit, 1)
    gradient = jax.tree.map(lambda g: g / unit, gradient)
    logs = {"loss": total / unit, "tokens": sums.tokens} | {
        name: jnp.where(sums.counts[name] > 0, value / jnp.maximum(sums.counts[name], 1), jnp.nan)
        for name, value in sums.values.items()
    }
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


class _Sums(NamedTuple):
    """Sums over a part of a batch.

    Attributes:
        unit: what the loss is divided by.
        tokens: how many were learned from.
        values, counts: of what is logged, and over how many.
    """

    unit: Array
    tokens: Array
    values: Logs
    counts: Logs


def _sums(loss: Loss, policy: Array, reference: Array, batch: Batch, drift: Array | None) -> tuple[Array, _Sums]:
    """The sum of losses, and of what is logged; each [rows, texts] in, a text of no length counting for nothing."""
    there = batch.length > 0
    # What is put in for texts that are not there: a log-probability that every loss has a gradient at.
    whole = Texts(jnp.where(there, policy, -1), jnp.where(there, reference, -1), jnp.where(there, batch.length, 1))
    if loss.kind == "texts":
        found = jnp.where(there, loss(whole), 0)
        tokens = jnp.sum(batch.length)
        return jnp.sum(found), _Sums(tokens, tokens, {}, {})
    first, second = (Texts(*(x[:, i::2] for x in whole)) for i in (0, 1))
    there = there[:, ::2]
    if loss.kind == "pairs":
        found = loss(Pairs(first, second))
        told = _told(loss, {"chosen": (first, there), "rejected": (second, there)})
        gap = loss.rewards(first) - loss.rewards(second)
        told |= {"rewards/accuracies": ((gap > 0).astype(jnp.float32), there), "rewards/margins": (gap, there)}
        tokens = jnp.sum(batch.length)
    else:
        good = batch.good[:, ::2]
        if drift is None:
            drift = _drift(*_moved(policy, reference, batch))
        found = loss(Judged(first, good, drift))
        told = _told(loss, {"chosen": (first, there & good), "rejected": (first, there & ~good)})
        told["kl"] = (jnp.broadcast_to(drift, there.shape), there)
        tokens = jnp.sum(batch.length[:, ::2])
    count = jnp.sum(there.astype(jnp.float32))
    values = {name: jnp.sum(jnp.where(which, x, 0)) for name, (x, which) in told.items()}
    counts = {name: jnp.sum(which.astype(jnp.float32)) for name, (_, which) in told.items()}
    return jnp.sum(jnp.where(there, found, 0)), _Sums(count, tokens, jax.lax.stop_gradient(values), counts)


def _told(loss: Loss, sides: Mapping[str, tuple[Texts, Array]]) -> dict[str, tuple[Array, Array]]:
    told: dict[str, tuple[Array, Array]] = {}
    for side, (texts, which) in sides.items():
        told[f"rewards/{side}"] = loss.rewards(texts), which
        told[f"logps/{side}"] = texts.policy, which
    return told


def _moved(policy: Array, reference: Array, batch: Batch) -> tuple[Array, Array]:
    """How far the policy moved on the texts of other prompts, summed, and how many there are."""
    there = batch.length[:, 1::2] > 0
    moved = jnp.where(there, (policy - reference)[:, 1::2], 0)
    return jax.lax.stop_gradient(jnp.sum(moved)), jnp.sum(there.astype(jnp.float32))


def _drift(moved: Array, count: Array) -> Array:
    return jnp.maximum(moved / jnp.maximum(count, 1), 0)
