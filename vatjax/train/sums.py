"""What a batch adds to a loss and to the log: sums and counts, which are added up over parts and divided once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vatjax.train.losses import Judged, Loss, Pairs, Texts
from vatjax.train.rows import Batch

Array = jax.Array
Logs = dict[str, Array]


class Sums(NamedTuple):
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


def summed_up(loss: Loss, policy: Array, reference: Array, batch: Batch, drift: Array | None) -> tuple[Array, Sums]:
    """The sum of losses, and of what is logged; each [rows, texts] in, a text of no length counting for nothing."""
    there = batch.length > 0
    # What is put in for texts that are not there: a log-probability that every loss has a gradient at.
    whole = Texts(jnp.where(there, policy, -1), jnp.where(there, reference, -1), jnp.where(there, batch.length, 1))
    if loss.kind == "texts":
        found = jnp.where(there, loss(whole), 0)
        tokens = jnp.sum(batch.length)
        return jnp.sum(found), Sums(tokens, tokens, {}, {})
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
            drift = drift_of(*moved(policy, reference, batch))
        found = loss(Judged(first, good, drift))
        told = _told(loss, {"chosen": (first, there & good), "rejected": (first, there & ~good)})
        told["kl"] = (jnp.broadcast_to(drift, there.shape), there)
        tokens = jnp.sum(batch.length[:, ::2])
    count = jnp.sum(there.astype(jnp.float32))
    values = {name: jnp.sum(jnp.where(which, x, 0)) for name, (x, which) in told.items()}
    counts = {name: jnp.sum(which.astype(jnp.float32)) for name, (_, which) in told.items()}
    return jnp.sum(jnp.where(there, found, 0)), Sums(count, tokens, jax.lax.stop_gradient(values), counts)


def means(total: Array, sums: Sums) -> Logs:
    """The loss and what else is logged, under the names that trl gives them; no number where there is nothing to tell of."""
    logs = {"loss": total / jnp.maximum(sums.unit, 1)}
    for name, value in sums.values.items():
        count = sums.counts[name]
        logs[name] = jnp.where(count > 0, value / jnp.maximum(count, 1), jnp.nan)
    if (
        "rewards/chosen" in logs and "rewards/margins" not in logs
    ):  # single texts: between those that are good and the others
        logs["rewards/margins"] = logs["rewards/chosen"] - logs["rewards/rejected"]
    return logs


def _told(loss: Loss, sides: Mapping[str, tuple[Texts, Array]]) -> dict[str, tuple[Array, Array]]:
    told: dict[str, tuple[Array, Array]] = {}
    for side, (texts, which) in sides.items():
        told[f"rewards/{side}"] = loss.rewards(texts), which
        told[f"logps/{side}"] = texts.policy, which
    return told


def moved(policy: Array, reference: Array, batch: Batch) -> tuple[Array, Array]:
    """How far the policy moved on the texts of other prompts, summed, and how many there are."""
    there = batch.length[:, 1::2] > 0
    far = jnp.where(there, (policy - reference)[:, 1::2], 0)
    return jax.lax.stop_gradient(jnp.sum(far)), jnp.sum(there.astype(jnp.float32))


def drift_of(far: Array, count: Array) -> Array:
    """The mean of what `moved` summed; 0 where it is less."""
    return jnp.maximum(far / jnp.maximum(count, 1), 0)
