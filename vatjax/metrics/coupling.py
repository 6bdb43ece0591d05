"""Coupling: rank correlation of the shifts of values over contexts.

    R[v, w]   = Spearman rank correlation of columns v and w of the shift, over contexts
    VAT(v)    = mean of abs(R[v, w]) over w != v                               value-level tax
    nVAT      = norm_F(R_off) / sqrt(V (V - 1))                                system-level tax, reading "rms"

R does not depend on the gain: a shift that is equal in every context changes gain and GND, but not R.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax.metrics import ranks
from vatjax.metrics.arrays import Arrayish, namespace, prepend_axes
from vatjax.metrics.shifts import as_matrix, is_concrete

Array = jax.Array
Reading = Literal["rms", "offdiag", "full"]
READINGS: tuple[Reading, ...] = ("rms", "offdiag", "full")
VatReading = Literal["mean", "l2"]
VAT_READINGS: tuple[VatReading, ...] = ("mean", "l2")

KENDALL_LEVELS = 64


def spearman(x: Array, weights: Array | None = None, missing: bool | None = None) -> Array:
    """Computes Spearman's rank correlation (midranks) between the columns of x, [values, values].

    A constant column has no correlation: NaN. Missing ratings are NaN in x; a pair of columns is then ranked anew on
    the contexts that have both, as scipy does with `nan_policy="omit"`.

    Args:
        x: [contexts, values].
        weights: frequency weight of each context, [contexts]: 2 counts a context twice, 0 leaves it out.
        missing: whether to rank each pair of columns anew. By default a concrete array is searched for NaN, and a
            traced one is assumed complete: its incomplete columns then give NaN. Pass True to rank them pair by pair.

    Returns:
        R, symmetric, with a unit diagonal.

    >>> spearman(jnp.array([[1.0, 1.0], [2.0, 5.0], [3.0, 9.0]])).round(3).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    x = as_matrix(x, weights)
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else jnp.asarray(weights, x.dtype)
    ranked = ranks.rank(x)
    if has_missing(x) if missing is None else missing:
        r: Array = spearman_pairwise(ranked, weights)
        return r
    return spearman_complete(ranked, weights)


def spearman_complete(ranked: ranks.Ranks, weights: Array) -> Array:
    """Computes Spearman's R from ranks of complete columns; a column with a missing rating is NaN."""
    r = ranks.correlation(ranks.midranks(ranked, weights), weights)
    whole = jnp.all(ranked.present | (weights == 0)[:, None], axis=0)
    return ranks.mask_incomplete(r, whole)


@jax.jit
def spearman_pairwise(ranked: ranks.Ranks, weights: Array) -> Array:
    """Computes Spearman's R over the contexts that both columns have.

    Leaving out the contexts that a column lacks is a re-weighting, so each column's pass costs no more than a resample:
    all columns are ranked on the contexts shared with that column, and that column on the contexts shared with each.
    """
    present = ranked.present.astype(weights.dtype)

    def row(w: Array) -> Array:
        shared = weights[:, None] * present * present[:, w][:, None]
        total = jnp.sum(shared, axis=0)
        share = shared / jnp.where(total > 0, total, 1)[None, :]
        others = ranks.midranks(ranked, shared)
        column_z = ranks.midranks(
            ranks.Ranks(*(jnp.broadcast_to(part[:, w][:, None], present.shape) for part in ranked)), shared
        )
        product, variance, column_variance = (jnp.sum(share * a * b, axis=0) for a, b in _products(others, column_z))
        varies = (variance > ranks.NO_VARIANCE) & (column_variance > ranks.NO_VARIANCE)
        scale = jnp.sqrt(jnp.where(varies, variance, 1)) * jnp.sqrt(jnp.where(varies, column_variance, 1))
        return jnp.where(varies, jnp.clip(product / scale, -1, 1), jnp.nan)

    r = lax.map(row, jnp.arange(present.shape[1]))
    identity = jnp.eye(r.shape[0], dtype=bool)
    return jnp.where(identity & ~jnp.isnan(r), 1, (r + r.T) / 2)


def _products(x: Array, y: Array) -> tuple[tuple[Array, Array], ...]:
    return (x, y), (x, x), (y, y)


def has_missing(x: Array) -> bool:
    """Returns whether a concrete array has a NaN; False for an array that is traced or spans several hosts."""
    return is_concrete(x) and bool(np.isnan(np.asarray(x)).any())


def kendall(x: Array, weights: Array | None = None, levels: int | None = None) -> Array:
    """Computes Kendall's tau-b between the columns of x, [values, values], on the contexts that both columns have.

        tau_b = (C - D) / sqrt((P - T_v) (P - T_w))

    over pairs of contexts: C agree in order, D disagree, P in all, T_v tied in v. The counts come from the joint table
    of each pair's levels.

    Args:
        x: [contexts, values].
        weights: frequency weight of each context, [contexts].
        levels: the largest number of distinct ratings in a column. Counted for a concrete array; 64 for a traced one,
            where a column with more is NaN. A concrete array with more than 64 is computed by SciPy on the host, which
            cannot be compiled and does not take weights.

    Returns:
        tau-b, symmetric, with a unit diagonal; NaN for a constant column.
    """
    x = as_matrix(x, weights)
    if levels is None:
        levels = max_distinct(x) if is_concrete(x) else KENDALL_LEVELS
        if levels > KENDALL_LEVELS:
            if weights is not None:
                raise ValueError(
                    f"weighted tau-b takes at most {KENDALL_LEVELS} distinct ratings a column, found {levels}; "
                    "round the ratings, or repeat contexts instead of weighting them"
                )
            return _kendall_on_host(np.asarray(x)).astype(x.dtype)
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else jnp.asarray(weights, x.dtype)
    tau: Array = _kendall_of_tables(x, weights, -(-levels // 8) * 8)  # rounded up, so that calls share compilations
    return tau


@functools.partial(jax.jit, static_argnums=2)
def _kendall_of_tables(x: Array, weights: Array, levels: int) -> Array:
    ranked = ranks.rank(x)
    code = ranks.dense_codes(ranked)
    fits = jnp.max(jnp.where(ranked.present, code, 0), axis=0) < levels
    level = jnp.arange(levels, dtype=code.dtype)[None, None, :]
    table = ((code[:, :, None] == level) & ranked.present[:, :, None]).astype(x.dtype)  # [n, V, L] one-hot
    share = weights / jnp.maximum(jnp.sum(weights), 1e-30)

    def row(v: Array) -> Array:
        joint = jnp.einsum("n,nk,nwl->wkl", share, table[:, v], table, precision=ranks.EXACT)  # [V, L, L]
        return jax.vmap(_tau_b)(joint)

    tau = lax.map(row, jnp.arange(x.shape[1]))
    sound = fits[:, None] & fits[None, :] & ~jnp.isnan(tau)
    identity = jnp.eye(x.shape[1], dtype=bool)
    return jnp.where(sound, jnp.where(identity, 1, (tau + tau.T) / 2), jnp.nan)


def _tau_b(joint: Array) -> Array:
    """Computes tau-b of one joint table of shares [L, L]."""
    total = jnp.sum(joint)
    joint = joint / jnp.where(total > 0, total, 1)
    above = jnp.cumsum(jnp.cumsum(joint, 0), 1)
    above = jnp.pad(above, ((1, 0), (1, 0)))  # above[k, l]: share with both levels below
    rows = above[:, -1:]
    agree = above[:-1, :-1]
    disagree = rows[:-1] - above[:-1, 1:]
    difference = 2 * jnp.sum(joint * (agree - disagree))
    margins = [jnp.sum(joint, axis) for axis in (0, 1)]
    untied = [jnp.sum(margin * (jnp.sum(margin) - margin)) for margin in margins]
    # A constant column is detected by its levels: 1 minus a rounded sum of squares is not exactly 0.
    sound = (jnp.sum(margins[0] > 0) > 1) & (jnp.sum(margins[1] > 0) > 1)
    scale = jnp.sqrt(jnp.where(sound, untied[0], 1)) * jnp.sqrt(jnp.where(sound, untied[1], 1))
    return jnp.where(sound, jnp.clip(difference / scale, -1, 1), jnp.nan)


def max_distinct(x: Array) -> int:
    """Returns the largest number of distinct ratings in a column of a concrete array."""
    columns = np.asarray(x).T
    return max((len(np.unique(column[~np.isnan(column)])) for column in columns), default=1)


def _kendall_on_host(x: np.ndarray) -> Array:
    from scipy.stats import kendalltau

    values = x.shape[1]
    tau = np.full((values, values), np.nan)
    for v in range(values):
        for w in range(v, values):
            both = ~np.isnan(x[:, v]) & ~np.isnan(x[:, w])
            if len(np.unique(x[both, v])) > 1:
                tau[v, w] = tau[w, v] = 1.0 if v == w else kendalltau(x[both, v], x[both, w]).statistic
    return jnp.asarray(tau)


# Summaries of a coupling matrix -------------------------------------------------------------------------------------


def vat(coupling: Arrayish, reading: VatReading = "mean") -> Array:
    """Returns the value-level tax, [values].

        mean    mean of abs(R[v, w]) over w != v
        l2      norm_2 of R[v, w] over w != v          as published, without the diagonal: with it no Gini exceeds .02

    Pairs without a correlation (a constant column) are left out; a value without any correlation is NaN.
    """
    xp = namespace(coupling)
    off = off_diagonal(coupling)
    count = xp.sum(off, axis=-1).astype(coupling.dtype)
    if reading not in VAT_READINGS:
        raise ValueError(f"reading must be one of {', '.join(VAT_READINGS)}, found {reading!r}")
    if reading == "l2":
        return xp.where(count > 0, _safe_sqrt(xp.sum(xp.where(off, coupling, 0) ** 2, axis=-1)), np.nan)
    return xp.sum(xp.where(off, xp.abs(coupling), 0), axis=-1) / xp.where(count > 0, count, np.nan)


def nvat(coupling: Arrayish, reading: Reading = "rms") -> Array:
    """Returns the system-level tax, the size of a coupling matrix in one number; [...] for a stack.

        rms      norm_F(R_off) / sqrt(V (V - 1))    the root mean square correlation of two different values
        offdiag  norm_F(R_off) / sqrt(V)
        full     norm_F(R) / sqrt(V)                as printed; cannot be below 1, since the diagonal is 1

    The published values (.09 to .15) cannot come from the printed formula, so a report names the reading it used. V
    counts the values that have a correlation.
    """
    xp = namespace(coupling)
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, found {reading!r}")
    off = off_diagonal(coupling)
    square = xp.sum(xp.where(off, coupling, 0) ** 2, axis=(-2, -1))
    values = xp.sum(xp.any(off, axis=-1), axis=-1).astype(coupling.dtype)
    if reading == "rms":
        count = xp.sum(off, axis=(-2, -1)).astype(coupling.dtype)
        return _safe_sqrt(square / xp.where(count > 0, count, np.nan))
    if reading == "full":
        square = square + values
    return _safe_sqrt(square / xp.where(values > 0, values, np.nan))


def _safe_sqrt(x: Array) -> Array:
    """Computes the square root, with a gradient of 0 at 0."""
    xp = namespace(x)
    return xp.where(x == 0, 0, xp.sqrt(xp.where(x == 0, 1, x)))


def as_reading(rms: Arrayish, values: int, reading: Reading) -> Array:
    """Converts an nVAT of reading "rms" to another reading; also valid for intervals and floors.

    Assumes a matrix without missing pairs among the `values` columns that have a correlation.
    """
    xp = namespace(rms)
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, found {reading!r}")
    if reading == "rms":
        return rms
    square = rms**2 * (values - 1)
    return xp.sqrt(square if reading == "offdiag" else square + 1)


def gini(x: Arrayish) -> Array:
    """Returns the Gini coefficient of non-negative amounts: `sum_ij abs(x_i - x_j) / (2 V^2 mean(x))`; 0 is even.

    A stack, [..., values], gives one number for each row.

    Value-level tax reaches at most `(V - 2) / V`, if only two values are coupled.
    """
    xp = namespace(x)
    present = ~xp.isnan(x)
    amount = xp.where(present, x, 0)
    both = present[..., :, None] & present[..., None, :]
    difference = xp.sum(xp.where(both, xp.abs(amount[..., :, None] - amount[..., None, :]), 0), (-2, -1))
    scale = 2 * xp.sum(present, -1).astype(x.dtype) * xp.sum(amount, -1)
    return difference / xp.where(scale > 0, scale, np.nan)


def hubs(vat: Array, top: int = 3) -> Array:
    """Selects the values with the `top` highest value-level taxes, [values] bool; a NaN is never a hub."""
    order = jnp.argsort(jnp.where(jnp.isnan(vat), -jnp.inf, vat), descending=True)
    chosen = jnp.zeros(vat.shape, bool).at[order[:top]].set(True)
    return chosen & ~jnp.isnan(vat)


def off_diagonal(coupling: Array) -> Array:
    """Returns the mask of a coupling matrix's correlations of two different values, [values, values] bool."""
    xp = namespace(coupling)
    present = ~xp.isnan(coupling)
    return prepend_axes(~xp.eye(coupling.shape[-1], dtype=bool), present) & present
