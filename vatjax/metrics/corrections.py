"""Corrections of p-values for many tests. A NaN does not count as a test and stays NaN."""

from __future__ import annotations

import jax
import numpy as np

from vatjax.metrics.arrays import Arrayish, namespace

Array = jax.Array


def holm(p: Arrayish) -> Array:
    """Applies Holm's correction: the i-th smallest of m p-values times m - i + 1, never below a smaller p-value's.

    Args:
        p: [tests].
    """
    xp = namespace(p)
    p = _row(p)
    present = ~xp.isnan(p)
    test = np.arange(p.shape[0])
    earlier = (p[None, :] < p[:, None]) | ((p[None, :] == p[:, None]) & xp.asarray(test[None, :] < test[:, None]))
    smaller = xp.sum(earlier, 1)
    stepped = xp.where(present, p * (xp.sum(present) - smaller).astype(p.dtype), 0)
    # Comparing each with each compiles in a fraction of the time that a sort takes.
    largest = xp.max(xp.where(p[None, :] <= p[:, None], stepped[None, :], 0), 1)
    return xp.where(present, xp.minimum(largest, 1), np.nan)


def false_discovery(p: Arrayish) -> Array:
    """Computes Benjamini and Hochberg's q-values: `min over j >= i of p_(j) m / j`.

    Args:
        p: [tests].
    """
    xp = namespace(p)
    p = _row(p)
    present = ~xp.isnan(p)
    reached = xp.sum(p[None, :] <= p[:, None], 1)
    stepped = p * xp.sum(present).astype(p.dtype) / xp.where(reached > 0, reached, 1).astype(p.dtype)
    least = xp.min(xp.where(p[None, :] >= p[:, None], stepped[None, :], np.inf), 1)
    return xp.where(present, xp.minimum(least, 1), np.nan)


def _row(p: Array) -> Array:
    xp = namespace(p)
    p = xp.asarray(p)
    if p.ndim != 1:
        raise ValueError(f"expected one row of p-values, [tests], found the shape {p.shape}; use jax.vmap for several")
    return p
