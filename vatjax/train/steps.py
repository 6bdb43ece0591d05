"""A pure training step: the same state and batch give the same new state.

    state = train.init(model, train.Lora(rank=8), train.Adam(rate=1e-4), steps=100)
    state, logs = train.step(state, batch, loss=train.dpo(beta=0.1))
    train.export(state)                    # an Edit; a Model for full fine-tuning

A batch can be split into parts that fit into memory. Sums of losses, gradients and counts are added over the parts and
divided once, so that 4 parts of 8 rows equal 8 parts of 4; the result is not a mean of means.
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
from vatjax.models import Config, Edit, Model, sharding
from vatjax.runtime import processes
from vatjax.train import optimizer, parameters
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.loss_sums import Logs, Sums, drift_sums, mean_drift, mean_logs, sum_losses
from vatjax.train.losses import Loss
from vatjax.train.optimizer import Adam, Pace
from vatjax.train.parameters import Trainable
from vatjax.train.rows import Batch

Array = jax.Array

DEFAULT_MEMORY = Memory()


class Progress(NamedTuple):
    """The part of a state that steps change.

    Attributes:
        trained: the trained arrays.
        optimizer: the optimizer's state.
        step: scalar int32, number of steps taken.
        key: PRNG key for draws in steps.
        pace: the learning-rate schedule.
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
        base: the model before training, which is also the reference.
        progress: the part that steps change.
        what: the trainable parameters; static.
        adam: optimizer settings; static.
    """

    base: Model
    progress: Progress
    what: Trainable = dataclasses.field(metadata={"static": True})
    adam: Adam = dataclasses.field(metadata={"static": True})


class Penalty(Protocol):
    """A term added to the loss: a callable pytree that returns a number and its logs."""

    def __call__(
        self, weights: Mapping[str, Any], config: Config, edit: Edit | None, key: Array, memory: Memory
    ) -> tuple[Array, Logs]:
        """Computes the differentiable term that is added to the loss of a step, and its logs.

        Args:
            weights, config: of the model in training.
            edit: the LoRA adapters, if these are trained.
            key: PRNG key of this step.
            memory: rematerialisation settings.
        """
        ...


def init(model: Model, what: Trainable, adam: Adam, steps: int, key: Array | int = 0) -> State:
    """Initialises the state before the first step.

    Args:
        model: the model to train; it is not modified.
        what: the trainable parameters.
        adam: optimizer settings.
        steps: total number of steps, at which the schedule ends.
        key: a PRNG key, or a seed.

    Raises:
        InputError: for settings out of range.
    """
    progress = _initial_progress(model, what, adam, steps, jax.random.key(key) if isinstance(key, int) else key)
    return State(model, _place(progress, model), what, _with_unit_rate(adam))


def abstract_state(model: Model, what: Trainable, adam: Adam, steps: int) -> State:
    """Returns the state from `init` as shapes; the model may be abstract too."""
    shapes = jax.eval_shape(lambda: _initial_progress(model, what, adam, steps, jax.random.key(0)))
    placement = _trained_sharding(model)
    return State(model, jax.tree.map(lambda x: sharding.shape_of(x, placement), shapes), what, _with_unit_rate(adam))


def _initial_progress(model: Model, what: Trainable, adam: Adam, steps: int, key: Array) -> Progress:
    adam.check()
    if steps < 1:
        raise errors.InputError(f"steps: expected at least 1, found {steps}")
    params = parameters.init(model, what, jax.random.fold_in(key, 0))
    pace = Pace(jnp.float32(adam.rate), jnp.int32(steps))
    return Progress(params, optimizer.init(adam, params), jnp.int32(0), jax.random.fold_in(key, 1), pace)


def _with_unit_rate(adam: Adam) -> Adam:
    """Removes the rate from the static settings: it is an array, so that all rates share a compiled step."""
    return dataclasses.replace(adam, rate=1.0)


def _trained_sharding(model: Model) -> Any:
    """Returns the sharding of trained arrays: replicated over the model's devices."""
    arrays = model.arrays
    mesh = sharding.mesh_of(arrays)
    return jax.tree.leaves(arrays)[0].sharding if mesh is None else NamedSharding(mesh, sharding.partition())


def _place(progress: Progress, model: Model) -> Progress:
    """Puts a progress on the model's devices, so that the first step compiles for the same shardings as later ones."""
    placement = _trained_sharding(model)
    placed: Progress = jax.tree.map(lambda x: x if x.committed else processes.put(x, placement), progress)
    return placed


def export(state: State) -> Edit | Model:
    """Exports the trained parameters: adapters as an edit, full weights as a model of the original dtype."""
    model = state.base
    weights, edit = parameters.apply(model.arrays, model.config, state.what, state.progress.trained)
    if edit is not None:
        exported: Edit = jax.tree.map(jnp.copy, edit)  # a later step may overwrite the arrays
        return exported
    weights = jax.tree.map(lambda w, new: new if new is w else jnp.copy(new), model.arrays, dict(weights))
    return Model(weights, model.config, model.tokenizer, model.source, model.generation, model.name, model.ignored)


def reference_of(loss: Loss, base: Model, batch: Batch, memory: Memory) -> Array:
    """Returns log-probabilities under the reference, [rows, texts]: precomputed, or from the base model."""
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
    memory: Memory = DEFAULT_MEMORY,
    donate: bool = False,
) -> tuple[State, Logs]:
    """Takes one step.

    Args:
        state: the state.
        batch: rows of texts.
        loss: training loss.
        penalty: added to the loss.
        parts: number of equal parts of the batch, computed in turn.
        memory: rematerialisation settings.
        donate: whether to donate the state's arrays; the old state can't be used afterwards.

    Returns:
        (the new state, scalar logs under trl's names). If the loss or its gradient is not finite, the state is
        unchanged and `logs["finite"]` is False.
    """
    check_step(state, batch, loss, parts)
    run = _donating if donate else _pure
    progress, logs = run(state.base, state.progress, batch, loss, state.what, state.adam, penalty, parts, memory)
    return dataclasses.replace(state, progress=progress), logs


def lower(
    state: State,
    batch: Batch,
    loss: Loss,
    penalty: Penalty | None = None,
    parts: int = 1,
    memory: Memory = DEFAULT_MEMORY,
) -> Any:
    """Lowers a step without compiling it; the state may be abstract (`abstract_state`)."""
    batch = sharding.sharded_shapes(batch, state.base.arrays)
    return _donating.lower(state.base, state.progress, batch, loss, state.what, state.adam, penalty, parts, memory)


def memory_of(
    state: State,
    batch: Batch,
    loss: Loss,
    penalty: Penalty | None = None,
    parts: int = 1,
    memory: Memory = DEFAULT_MEMORY,
) -> dict[str, int]:
    """Computes the bytes of a step on one device from its compiled program; nothing is run.

    Returns:
        `arguments`: the model and the trained arrays; `working`: temporaries of the step; `total`: their sum.
    """
    analysis: Any = lower(state, batch, loss, penalty, parts, memory).compile().memory_analysis()
    arguments, working = int(analysis.argument_size_in_bytes), int(analysis.temp_size_in_bytes)
    return {"arguments": arguments, "working": working, "total": arguments + working}


def check_step(state: State, batch: Batch, loss: Loss, parts: int = 1, many: bool = False) -> None:
    """Raises InputError for arguments of the wrong type or with the wrong number of adapters.

    Also for rows of the wrong kind for the loss, and for parts that don't divide the rows.
    """
    for name, value, kind, hint in (
        ("state", state, State, "train.init(model, ...)"),
        ("batch", batch, Batch, "train.batch(data, ...)"),
        ("loss", loss, Loss, "train.dpo()"),
    ):
        if not isinstance(value, kind):
            raise errors.InputError(f"{name}: expected the result of {hint}, found {names.short_repr(value)}")
    for name, stacked, hint in (
        ("state", state.progress.step.ndim == 1, "train.stack(states)"),
        ("batch", batch.tokens.ndim == 3, "train.stack_batches(batches)"),
    ):
        if stacked != many:
            expected = f"several adapters ({hint})" if many else "one adapter (step_many takes several)"
            raise errors.InputError(
                f"{name}: expected {expected}, found {'several adapters' if stacked else 'one adapter'}"
            )
    rows = batch.tokens.shape[-2]
    if rows % parts:
        raise errors.InputError(f"a batch of {rows} rows can't be split into {parts} equal parts")
    if loss.kind != batch.kind:
        hint = "; train.with_mismatched_completions converts texts" if loss.kind == "judged" else ""
        raise errors.InputError(f"{loss.name} needs rows of kind {loss.kind}, found {batch.kind}{hint}")


_STATIC = ("loss", "what", "adam", "parts", "memory")


def uncompiled_step(
    base: Model,
    progress: Progress,
    batch: Batch,
    loss: Loss,
    what: Trainable,
    adam: Adam,
    penalty: Penalty | None,
    parts: int,
    memory: Memory,
) -> tuple[Progress, Logs]:
    """Computes (the new progress, the logs) of a step, uncompiled; arguments as in `step`, with a state's fields."""
    arrays, config = base.arrays, base.config
    drift = jnp.float32(0)

    def policy(params: Any, part: Batch) -> Array:
        weights, edit = parameters.apply(arrays, config, what, params)
        return text_log_probs(weights, config, part, edit, memory)

    def reference(part: Batch) -> Array:
        return reference_of(loss, base, part, memory)

    def summed(params: Any, part: Batch) -> tuple[Array, Sums]:
        return sum_losses(loss, policy(params, part), reference(part), part, drift if parts > 1 else None)

    params = progress.trained
    if parts == 1:
        (total, sums), gradient = jax.value_and_grad(summed, has_aux=True)(params, batch)
    else:
        split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)
        if loss.kind == "judged":  # the drift is that of the whole batch, and needed before any part's gradient
            far = jax.lax.map(lambda part: drift_sums(policy(params, part), reference(part), part), split)
            drift = mean_drift(*(jnp.sum(x) for x in far))

        def add(carry: Any, part: Batch) -> tuple[Any, None]:
            (total, sums), gradient = jax.value_and_grad(summed, has_aux=True)(params, part)
            return jax.tree.map(jnp.add, carry, (total, sums, gradient)), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(lambda: jax.value_and_grad(summed, has_aux=True)(params, first))
        (total, sums), gradient = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (total, sums, gradient), _ = jax.lax.scan(add, (total, sums, gradient), split)

    unit = jnp.maximum(sums.denominator, 1)
    gradient = jax.tree.map(lambda g: g / unit, gradient)
    logs = {"tokens": sums.tokens} | mean_logs(total, sums)
    if penalty is not None:
        key = jax.random.fold_in(progress.key, progress.step)

        def extra(params: Any) -> tuple[Array, Logs]:
            weights, edit = parameters.apply(arrays, config, what, params)
            return penalty(weights, config, edit, key, memory)

        (value, penalty_logs), penalty_gradient = jax.value_and_grad(extra, has_aux=True)(params)
        gradient = jax.tree.map(jnp.add, gradient, penalty_gradient)
        logs |= {"loss": logs["loss"] + value, "penalty": value} | penalty_logs
    return _apply_update(progress, gradient, logs, sums.denominator > 0, adam)


_pure = functools.partial(jax.jit, static_argnames=_STATIC)(uncompiled_step)
_donating = functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames=("progress",))(uncompiled_step)


def _apply_update(progress: Progress, gradient: Any, logs: Logs, any_text: Array, adam: Adam) -> tuple[Progress, Logs]:
    """Applies a gradient; returns the progress unchanged if the loss or the gradient is not finite."""
    params = progress.trained
    norm = jnp.sqrt(sum(jnp.sum(g.astype(jnp.float32) ** 2) for g in jax.tree.leaves(gradient)))
    rate = optimizer.learning_rate(adam, progress.pace, progress.step)
    finite = jnp.isfinite(logs["loss"]) & jnp.isfinite(norm)
    updated, memory = optimizer.update(adam, gradient, progress.optimizer, params, rate)
    new = Progress(updated, memory, progress.step + 1, progress.key, progress.pace)
    sound = finite & any_text
    selected = jax.tree.map(lambda old, fresh: jnp.where(sound, fresh, old), progress, new)
    return selected, logs | {"grad_norm": norm, "learning_rate": rate, "finite": finite, "empty": ~any_text}
