"""Further readings of a tax: regression, amplification, agreement between analyses, hubs at equal membership, and the
difference between two interventions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax.metrics import coupling as cp
from vatjax.metrics import inference as inf
from vatjax.metrics import ranks as rk
from vatjax.metrics import resample as rs
from vatjax.metrics import shifts as sh
from vatjax.metrics.inference import Estimate

Array = jax.Array


# Regression ---------------------------------------------------------------------------------------------------------


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
    on C - 1 degrees of freedom. Contexts with a missing rating are left out. Where a column is a combination of the
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
    beta = inverse @ jnp.einsum("nv,n->v", scaled, y, precision=rk.EXACT)
    residual = (y - scaled @ beta) * weight
    score = jnp.zeros((groups.count, k), x.dtype).at[jnp.asarray(groups.index)].add(scaled * residual[:, None])
    meat = jnp.einsum("cv,cw->vw", score, score, precision=rk.EXACT)
    used = jnp.zeros(groups.count, x.dtype).at[jnp.asarray(groups.index)].max(weight).sum()
    correction = used / jnp.maximum(used - 1, 1) * (n - 1) / jnp.maximum(n - k - 1, 1)
    variance = jnp.diagonal(inverse @ meat @ inverse) * correction
    scale = jnp.where(sound & (size > 0), 1 / jnp.where(size > 0, size, 1), jnp.nan)
    coefficient, error = beta * scale, jnp.sqrt(jnp.maximum(variance, 0)) * scale
    freedom = groups.count - 1
    half = inf.t_quantile(freedom, x.dtype) * error
    p = 2 * _t_tail(jnp.abs(coefficient / error), freedom)
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
    """Holm's correction: the i-th smallest of m p-values times m - i + 1, never below a smaller one's."""
    m = p.shape[0]
    order = jnp.argsort(p)
    stepped = lax.cummax(p[order] * (m - jnp.arange(m)).astype(p.dtype))
    return jnp.zeros_like(p).at[order].set(jnp.minimum(stepped, 1))


def false_discovery(p: Array) -> Array:
    """Benjamini and Hochberg's q-values, for a study's many targets: `min over j >= i of p_(j) m / j`."""
    m = p.shape[0]
    order = jnp.argsort(p)
    stepped = p[order] * m / jnp.arange(1, m + 1).astype(p.dtype)
    return jnp.zeros_like(p).at[order].set(jnp.minimum(lax.cummin(stepped, reverse=True), 1))


def _t_tail(t: Array, freedom: int) -> Array:
    """The upper tail of Student's t: half the regularised incomplete beta function at `v / (v + t^2)`."""
    v = jnp.asarray(max(freedom, 1), t.dtype)
    share = jax.scipy.special.betainc(v / 2, jnp.asarray(0.5, t.dtype), v / (v + t**2))
    return jnp.where(jnp.isnan(t), jnp.nan, share / 2)


# Amplification ------------------------------------------------------------------------------------------------------


class Amplification(NamedTuple):
    """How far values move for each unit of the target's movement, and whether coupled values move farther.

    Attributes:
        ratio: `sum_s abs(d[s, w]) / sum_s abs(d[s, t])`, [values].
        high, low: the mean ratio of the half of the other values with the higher and with the lower VAT.
        difference: high minus low, with its interval.
    """

    ratio: Array
    high: Array
    low: Array
    difference: Estimate


def amplification(
    shift: Array, target: Array | int, clusters: Any, key: Array, splits: int = 50, resamples: int = 500
) -> Amplification:
    """Amplification with its safeguard: groups are chosen on one half of the scenes and compared on the other.

    Choosing and comparing on the same contexts would let noise choose the winners. The difference is the mean over
    `splits` random halvings, each used both ways; its interval is a cluster bootstrap's.

    Args:
        shift: [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete.
        key: PRNG key.
        splits: random halvings.
        resamples: draws of the bootstrap.
    """
    shift = sh.as_floating(shift)
    groups = rs.clusters_of(clusters, shift.shape[0])
    member = sh.target_mask(target, shift.shape[1])
    prepared = rs.prepare(shift, groups)
    sums, _ = inf.cluster_sums(jnp.abs(shift), groups)
    halves = rs.subsample_weights(key, groups.count, splits, 0.5, shift.dtype)

    def ratios(w: Array) -> Array:
        total = jnp.einsum("c,cv->v", w, sums, precision=rk.EXACT)
        bottom = jnp.sum(jnp.where(member, total, 0)) / jnp.sum(member).astype(total.dtype)
        return total / jnp.where(bottom > 0, bottom, jnp.nan)

    def chosen(half: Array) -> Array:
        """The coupled half of the values that are not the target."""
        tax = jnp.where(member, jnp.nan, cp.vat(prepared.coupling(half)))
        return tax > jnp.nanmedian(tax)

    high = rs.over(jnp.concatenate([halves, 1 - halves]), chosen, shift.size)
    others = jnp.concatenate([1 - halves, halves])

    def compared(w: Array) -> tuple[Array, Array]:
        def one(high: Array, other: Array) -> tuple[Array, Array]:
            ratio = ratios(w * other)
            low = ~high & ~member
            return _mean(ratio, high), _mean(ratio, low)

        top, bottom = jax.vmap(one)(high, others)
        return jnp.nanmean(top), jnp.nanmean(bottom)

    ones = jnp.ones(groups.count, shift.dtype)
    top, bottom = compared(ones)
    weights = rs.bootstrap_weights(jax.random.fold_in(key, 1), groups.count, resamples, shift.dtype)
    draws = rs.over(weights, lambda w: jnp.subtract(*compared(w)), shift.shape[1] * splits * 8)
    left_out = rs.over(
        rs.jackknife_weights(groups.count, shift.dtype),
        lambda w: jnp.subtract(*compared(w)),
        shift.shape[1] * splits * 8,
    )
    return Amplification(ratios(ones), top, bottom, Estimate(top - bottom, *rs.bca(top - bottom, draws, left_out)))


def _mean(x: Array, where: Array) -> Array:
    sound = where & ~jnp.isnan(x)
    count = jnp.sum(sound).astype(x.dtype)
    return jnp.sum(jnp.where(sound, x, 0)) / jnp.where(count > 0, count, jnp.nan)


# Agreement ----------------------------------------------------------------------------------------------------------


def agreement(x: Array, y: Array) -> Array:
    """Spearman's correlation of two rankings of the same things, such as VAT by Spearman and by Kendall, [values].

    Entries that either lacks are left out.
    """
    return cp.spearman(jnp.stack([x, y], axis=1), missing=True)[0, 1]


def types_against_values(vat_types: Array, vat_values: Array, type_of: np.ndarray) -> Array:
    """How well the ranking of types by their own VAT agrees with that by the mean VAT of their member values.

    Args:
        vat_types: [types], from the analysis of types.
        vat_values: [values], from the analysis of values.
        type_of: [values], each value's type.
    """
    member = jnp.asarray(np.asarray(type_of)[None, :] == np.arange(vat_types.shape[0])[:, None])
    means = jax.vmap(lambda mask: _mean(vat_values, mask))(member)
    return agreement(vat_types, means)


def equal_membership_hubs(
    shift: Array, type_of: np.ndarray, key: Array, draws: int = 200, members: int | None = None, top: int = 3
) -> Array:
    """How often each type is among the `top` hubs where every type is made of equally many values, [types].

    The mean of many values is less noisy than that of few, so that large types look more coupled. Each draw takes as
    many values of each type as the smallest type has.

    Args:
        shift: [contexts, values].
        type_of: [values], each value's type, concrete.
        key: PRNG key.
        draws: how many.
        members: values a type; by default those of the smallest type.
        top: how many types count as hubs.
    """
    shift = sh.as_floating(shift)
    type_of = np.asarray(type_of)
    sizes = np.bincount(type_of)
    each = int(sizes.min()) if members is None else members
    if not 1 <= each <= sizes.min():
        raise ValueError(f"between 1 and {sizes.min()} members can be drawn of every type, found {each}")
    groups = [np.flatnonzero(type_of == i) for i in range(len(sizes))]

    def one(key: Array) -> Array:
        keys = jax.random.split(key, len(groups))
        picked = [jax.random.permutation(k, jnp.asarray(group))[:each] for k, group in zip(keys, groups, strict=True)]
        columns = jnp.stack([jnp.nanmean(shift[:, columns], axis=1) for columns in picked], axis=1)
        return cp.hubs(cp.vat(cp.spearman(columns, missing=cp.has_missing(shift))), top)

    taken = rs.chunked(one, jax.random.split(key, draws), 8)
    return jnp.mean(taken.astype(shift.dtype), 0)


# Two interventions --------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The first intervention's tax minus the second's, on the same contexts.

    Attributes:
        gain, shift, off_target, vat, nvat: differences with their intervals; `nvat` is of the debiased squares' roots.
        p_nvat: two-sided p-value of the difference of mean square couplings.
    """

    gain: Estimate
    shift: Estimate
    off_target: Estimate
    vat: Estimate
    nvat: Estimate
    p_nvat: Array


def difference(first: Array, second: Array, target: Array | int, clusters: Any, direction: int = 1) -> Difference:
    """Compares two interventions, paired by scene: every jackknife resample leaves the same scenes out of both.

    Args:
        first, second: the shifts of two interventions in the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, concrete.
        direction: +1 or -1.
    """
    first, second = sh.as_floating(first), sh.as_floating(second)
    if first.shape != second.shape:
        raise ValueError(f"two interventions on the same contexts are needed, found {first.shape} and {second.shape}")
    groups = rs.clusters_of(clusters, first.shape[0])
    left_out = rs.jackknife_weights(groups.count, first.dtype)
    index = jnp.asarray(groups.index)
    prepared = [rs.prepare(shift, groups) for shift in (first, second)]

    def one(w: Array) -> tuple[tuple[Array, ...], Array, Array, Array, Array]:
        rows = []
        for shift, columns in zip((first, second), prepared, strict=True):
            mean = sh.mean_shift(shift, w[index])
            gain = sh.gain_of(mean, target, direction)
            r = columns.coupling(w)
            rows.append((gain, mean, sh.off_target(sh.gnd_of(mean, gain), target), cp.vat(r), cp.nvat(r), r))
        return (
            tuple(a - b for a, b in zip(*rows, strict=True))[:4],
            rows[0][4] ** 2,
            rows[1][4] ** 2,
            rows[0][5],
            rows[1][5],
        )

    now, *square = one(jnp.ones(groups.count, first.dtype))
    parts, first_square, second_square, r_first, r_second = rs.over(left_out, one, 2 * first.size)
    t = inf.t_quantile(left_out.shape[0] - 1, first.dtype)
    gain, shift, off, vat = (inf.jackknife_interval(a, b, t) for a, b in zip(now, parts, strict=True))
    roots = []
    for r, total in ((r_first, square[0]), (r_second, square[1])):
        noise = jnp.nanmean(jnp.where(cp.off_diagonal(r[0]), inf.jackknife_variance(r), jnp.nan))
        roots.append(jnp.sqrt(jnp.maximum(total - noise, 0)))
    gap = inf.jackknife_interval(square[0] - square[1], first_square - second_square, t)
    error = (gap.high - gap.low) / (2 * t)
    p = 2 * _t_tail(jnp.abs(gap.estimate / error), left_out.shape[0] - 1)
    half = t * error / jnp.maximum(roots[0] + roots[1], jnp.sqrt(error))
    nvat = roots[0] - roots[1]
    return Difference(gain, shift, off, vat, Estimate(nvat, nvat - half, nvat + half), p)
