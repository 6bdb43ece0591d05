"""Which values move with the target when the others are held: regression with cluster-robust errors, and corrections of
p-values for many tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vatjax.metrics import intervals as iv
from vatjax.metrics import ranks as rk
from vatjax.metrics import resample as rs
from vatjax.metrics import shifts as sh
from vatjax.metrics.intervals import Estimate

Array = jax.Array


class Regression(NamedTuple):
    """Multiple regression of one column on others, with errors that allow contexts of a cluster to be alike.

    Attributes:
        coefficient: with its interval, [regressors].
        error: cluster-robust standard error, [regressors].
        p: two-sided, [regressors].
        p_holm: corrected for the number of regressors by Holm's method, [regressors].
        inflation: variance inflation factor: how much the others' likeness widens each error, [regressors].
        r_squared: the share of variance explained.
    """

    coefficient: Estimate
    error: Array
    p: Array
    p_holm: Array
    inflation: Array
    r_squared: Array


def regress(y: Array, x: Array, clusters: Any = None) -> Regression:
    """Regresses y on the columns of x, with an intercept: `y = b_0 + sum_w b_w x_w + e`.

    Errors are cluster-robust: `(X'X)^-1 (sum_c X_c' e_c e_c' X_c) (X'X)^-1 * C/(C-1) * (n-1)/(n-k)`, with Student's t
    on C - 1 degrees of freedom. Contexts with a missing rating are left out, and C counts the clusters that still have one. Where a column is a combination of the
    others (ipsatised shifts are) or constant, or there are not enough contexts, everything is NaN.

    Args:
        y: [contexts].
        x: [contexts, regressors].
        clusters: [contexts] labels, concrete; None makes each context its own cluster.
    """
    y, x = sh.as_floating(y), sh.as_floating(x)
    groups = rs.clusters_of(clusters, x.shape[0])
    present = ~(jnp.isnan(y) | jnp.any(jnp.isnan(x), axis=1))
    weight = present.astype(x.dtype)
    n = jnp.sum(weight)
    count = jnp.maximum(n, 1)

    def centred(column: Array) -> Array:
        clean = jnp.where(present[:, None], column, 0)
        return (clean - jnp.sum(clean, 0, keepdims=True) / count) * weight[:, None]

    x, y = centred(x), centred(y[:, None])[:, 0]
    size = jnp.sqrt(jnp.sum(x**2, 0))
    scaled = x / jnp.where(size > 0, size, 1)[None, :]  # correlations: inverted without loss of digits
    gram = jnp.einsum("nv,nw->vw", scaled, scaled, precision=rk.EXACT)
    smallest = jnp.linalg.eigvalsh(gram)[0]
    k = x.shape[1]
    sound = (smallest > 1e-5) & (n > k + 1)
    inverse = jnp.linalg.inv(jnp.where(sound, gram, jnp.eye(k, dtype=x.dtype)))
    beta = jnp.einsum("ij,nj,n->i", inverse, scaled, y, precision=rk.EXACT)
    residual = (y - jnp.einsum("nj,j->n", scaled, beta, precision=rk.EXACT)) * weight
    score = jnp.zeros((groups.count, k), x.dtype).at[jnp.asarray(groups.index)].add(scaled * residual[:, None])
    meat = jnp.einsum("cv,cw->vw", score, score, precision=rk.EXACT)
    used = jnp.zeros(groups.count, x.dtype).at[jnp.asarray(groups.index)].max(weight).sum()
    freedom = used.astype(jnp.int32) - 1
    correction = used / jnp.maximum(used - 1, 1) * (n - 1) / jnp.maximum(n - k - 1, 1)
    spread = jnp.einsum("ij,jk,ki->i", inverse, meat, inverse, precision=rk.EXACT) * correction
    variance = jnp.where(freedom > 0, spread, jnp.nan)
    scale = jnp.where(sound & (size > 0), 1 / jnp.where(size > 0, size, 1), jnp.nan)
    coefficient, error = beta * scale, jnp.sqrt(jnp.maximum(variance, 0)) * scale
    half = iv.t_quantile(freedom, groups.count - 1, x.dtype) * error
    p = 2 * iv.t_tail(jnp.abs(coefficient / error), freedom)
    explained = 1 - jnp.sum(residual**2) / jnp.where(jnp.sum(y**2) > 0, jnp.sum(y**2), jnp.nan)
    return Regression(
        Estimate(coefficient, coefficient - half, coefficient + half),
        error,
        p,
        holm(p),
        jnp.where(sound, jnp.diagonal(inverse), jnp.nan),
        jnp.where(sound, explained, jnp.nan),
    )


def holm(p: Array) -> Array:
    """Holm's correction: the i-th smallest of m p-values times m - i + 1, never below a smaller one's.

    A NaN is no test: it stays NaN and does not count.
    """
    m = jnp.sum(~jnp.isnan(p))
    order = jnp.argsort(p)  # NaN goes last
    stepped = lax.cummax(p[order] * (m - jnp.arange(p.shape[0])).astype(p.dtype))
    return jnp.zeros_like(p).at[order].set(jnp.minimum(stepped, 1))


def false_discovery(p: Array) -> Array:
    """Benjamini and Hochberg's q-values, for a study's many targets: `min over j >= i of p_(j) m / j`.

    A NaN is no test: it stays NaN and does not count.
    """
    m = jnp.sum(~jnp.isnan(p)).astype(p.dtype)
    order = jnp.argsort(p)  # NaN goes last
    stepped = p[order] * m / jnp.arange(1, p.shape[0] + 1).astype(p.dtype)
    least = lax.cummin(jnp.where(jnp.isnan(stepped), jnp.inf, stepped), reverse=True)
    return jnp.where(jnp.isnan(p), jnp.nan, jnp.zeros_like(p).at[order].set(jnp.minimum(least, 1)))
