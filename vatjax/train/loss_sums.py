"""Loss and log sums of a batch: sums and counts are added over parts, and divided once."""

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
        denominator: divisor of the loss.
        tokens: number of learned tokens.
        values, counts: sums of the logged values, and the number of summands.
    """

    denominator: Array
    tokens: Array
    values: Logs
    counts: Logs


def sum_losses(loss: Loss, policy: Array, reference: Array, batch: Batch, drift: Array | None) -> tuple[Array, Sums]:
    """Sums losses and logged values of log-probabilities [rows, texts]; texts of length 0 add nothing."""
    present = batch.length > 0
    # Padding gets a log-probability at which every loss has a finite gradient.
    whole = Texts(
        jnp.where(present, policy, -1), jnp.where(present, reference, -1), jnp.where(present, batch.length, 1)
    )
    if loss.kind == "texts":
        losses = jnp.where(present, loss(whole), 0)
        tokens = jnp.sum(batch.length)
        return jnp.sum(losses), Sums(tokens, tokens, {}, {})
    first, second = (Texts(*(x[:, i::2] for x in whole)) for i in (0, 1))
    present = present[:, ::2]
    if loss.kind == "pairs":
        losses = loss(Pairs(first, second))
        logs = _side_logs(loss, {"chosen": (first, present), "rejected": (second, present)})
        gap = loss.rewards(first) - loss.rewards(second)
        logs |= {"rewards/accuracies": ((gap > 0).astype(jnp.float32), present), "rewards/margins": (gap, present)}
        tokens = jnp.sum(batch.length)
    else:
        good = batch.good[:, ::2]
        if drift is None:
            drift = mean_drift(*drift_sums(policy, reference, batch))
        losses = loss(Judged(first, good, drift))
        logs = _side_logs(loss, {"chosen": (first, present & good), "rejected": (first, present & ~good)})
        logs["kl"] = (jnp.broadcast_to(drift, present.shape), present)
        tokens = jnp.sum(batch.length[:, ::2])
    count = jnp.sum(present.astype(jnp.float32))
    values = {name: jnp.sum(jnp.where(which, x, 0)) for name, (x, which) in logs.items()}
    counts = {name: jnp.sum(which.astype(jnp.float32)) for name, (_, which) in logs.items()}
    return jnp.sum(jnp.where(present, losses, 0)), Sums(count, tokens, jax.lax.stop_gradient(values), counts)


def mean_logs(total: Array, sums: Sums) -> Logs:
    """Computes the mean loss and the logs, under trl's names; NaN for values without summands."""
    logs = {"loss": total / jnp.maximum(sums.denominator, 1)}
    for name, value in sums.values.items():
        count = sums.counts[name]
        logs[name] = jnp.where(count > 0, value / jnp.maximum(count, 1), jnp.nan)
    if "rewards/chosen" in logs and "rewards/margins" not in logs:  # single texts: good ones against the others
        logs["rewards/margins"] = logs["rewards/chosen"] - logs["rewards/rejected"]
    return logs


def _side_logs(loss: Loss, sides: Mapping[str, tuple[Texts, Array]]) -> dict[str, tuple[Array, Array]]:
    logs: dict[str, tuple[Array, Array]] = {}
    for side, (texts, which) in sides.items():
        logs[f"rewards/{side}"] = loss.rewards(texts), which
        logs[f"logps/{side}"] = texts.policy, which
    return logs


def drift_sums(policy: Array, reference: Array, batch: Batch) -> tuple[Array, Array]:
    """Sums how far the policy moved on the mismatched texts, and counts them."""
    present = batch.length[:, 1::2] > 0
    far = jnp.where(present, (policy - reference)[:, 1::2], 0)
    return jax.lax.stop_gradient(jnp.sum(far)), jnp.sum(present.astype(jnp.float32))


def mean_drift(far: Array, count: Array) -> Array:
    """Computes the mean drift from `drift_sums`, at least 0."""
    return jnp.maximum(far / jnp.maximum(count, 1), 0)
