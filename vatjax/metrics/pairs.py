"""One pass over pairs of columns: Spearman's R, R without each cluster, and its variance under independence.

With `S_v[i, j] = sign(x_jv - x_iv) / 2`, a centred midrank is `z_v[j] = mean_i S_v[i, j]`, and without a cluster g it is
`(n z_v[j] - sum_{i in g} S_v[i, j]) / (n - n_g)`. The covariance of two columns without g, with m = n - n_g, is then

    cov_(g) = ( (n^2 + n_g^2) (n cov - A)  -  n sum_{i in g} (h_vw[i] + h_wv[i])  +  2 n n_g A  -  m s_v s_w ) / m^3

    h_vw[i] = sum_j S_v[i, j] z_w[j]         A = sum_{i in g} z_v[i] z_w[i]         s_v = sum_{i in g} z_v[i]

where the second-order terms approximate `S_v[i, j]` by `z_v[j] - z_v[i]`: variances are 0 to 2 % larger than those from
ranking anew without each cluster, the most with 12 clusters. Every h of a row v comes from one cumulative sum in the
order of column v, so all leave-one-cluster-out matrices cost as much as a few correlation matrices, even if each pair
of columns has its own contexts.

Axes: contexts n, values V, ways W of clustering, groups G of the jackknife.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vatjax.metrics import ranks
from vatjax.metrics.arrays import matmul, namespace, prepend_axes
from vatjax.metrics.resample import JACKKNIFE_GROUPS, LEAST_JACKKNIFE_GROUPS

Array = jax.Array

# If less than this share of a column's variance is left without a group, the column varies in that group alone.
_VARIES = 1e-3
# Correlations without one group in one array; an inference holds about ten such arrays. 1,000 values have 40 groups.
_MOST_REPLICATES = 40_000_000


class Grouping(NamedTuple):
    """Clusters as arrays whose shapes depend on the number of contexts alone, so that calls share compilations.

    Attributes:
        cluster: [ways, contexts] int32.
        member: 1 where a context is in a group of the jackknife, [ways, groups, contexts].
        used: [ways, groups] bool, the groups that have a cluster.
    """

    cluster: Array
    member: Array
    used: Array

    @property
    def sizes(self) -> Array:
        """Returns the number of contexts in each group, [ways, groups]."""
        return self.member.sum(2)

    def sums(self, x: Array) -> Array:
        """Sums [contexts, values] by group of the jackknife, [ways, groups, values]."""
        sums: Array = matmul(self.member, x[None])
        return sums


def _segment_sums(x: Array, index: Array, count: int) -> Array:
    return jnp.zeros((count, *x.shape[1:]), x.dtype).at[index].add(x)


def group_clusters(cluster: Array, dtype: Any, paired_columns: int) -> Grouping:
    """Assigns clusters to at most 256 groups of the jackknife; fewer where all pairs of many values are compared.

    Args:
        cluster: [ways, contexts] int32, numbered from 0.
        dtype: of the sums.
        paired_columns: number of columns of which all pairs are compared, without each group; 1 for means alone.
    """
    xp = namespace(cluster)
    most = max(LEAST_JACKKNIFE_GROUPS, _MOST_REPLICATES // paired_columns**2)
    groups = min(cluster.shape[1], JACKKNIFE_GROUPS, most)
    member = cluster[:, None, :] % groups == xp.arange(groups, dtype=cluster.dtype)[None, :, None]
    return Grouping(cluster, member.astype(dtype), xp.any(member, 2))


def means(d: Array, groups: Grouping) -> tuple[Array, Array]:
    """Returns the mean of each column over the contexts that rate it, [values], and without each group.

    Args:
        d: [contexts, values]; NaN is missing.
        groups: of the contexts.

    Returns:
        (means, [values]; without each group, [ways, groups, values]); NaN where nothing is left.
    """
    xp = namespace(d)
    present = ~xp.isnan(d)
    plain, count = xp.where(present, d, 0), present.astype(d.dtype)
    total, number = xp.sum(plain, 0), xp.sum(count, 0)
    left = number[None, None] - groups.sums(count)
    mean = xp.where(number > 0, total / xp.where(number > 0, number, 1), np.nan)
    # Sums of deviations: a mean far from 0 costs no digits.
    deviation = xp.where(present, d - xp.where(number > 0, mean, 0)[None], 0)
    without = mean[None, None] - groups.sums(deviation) / xp.where(left > 0, left, 1)
    return mean, xp.where(left > 0, without, np.nan)


def mean_over(x: Array, chosen: Array) -> Array:
    """Returns the mean over the chosen columns, [...]; NaN if none is chosen.

    Args:
        x: [..., values].
        chosen: [values] bool.
    """
    xp = namespace(x)
    count = xp.sum(chosen).astype(x.dtype)
    return xp.sum(xp.where(prepend_axes(chosen, x), x, 0), -1) / xp.where(count > 0, count, np.nan)


class Pairs(NamedTuple):
    """Statistics of each pair of columns.

    Attributes:
        r: Spearman's R, [values, values].
        r_without: R without each group, [ways, groups, values, values].
        covariance: of the shifts themselves, [values, values].
        covariance_without: [ways, groups, values, values].
        null_variance: of R if the two columns are independent and clusters differ, [values, values].
        flip_scale: turns the product of flipped ranks into a correlation with that variance, [values, values].
    """

    r: Array
    r_without: Array
    covariance: Array
    covariance_without: Array
    null_variance: Array
    flip_scale: Array


def compare_columns(
    x: Array, ranked: ranks.Ranks, z: Array, groups: Grouping, missing: bool, expected: Array | None = None
) -> Pairs:
    """Compares each column with all others.

    Args:
        x: shifts, [contexts, values].
        ranked: the order of each column.
        z: centred midranks of whole columns, 0 where a rating is missing, [contexts, values].
        groups: of the contexts.
        missing: whether each pair is ranked on the contexts that both columns have; else incomplete columns are NaN.
        expected: R of independent columns, [values, values], where it is not 0.
    """
    expected = jnp.zeros((x.shape[1],) * 2, x.dtype) if expected is None else expected
    present = ranked.present.astype(x.dtype)
    whole = jnp.all(ranked.present, 0)
    plain = jnp.where(ranked.present, x, 0)
    spread = _Spread.of_columns(z, ranked, present, groups)

    def row(v: Array) -> tuple[Array, ...]:
        shared = present * present[:, v, None]
        if missing:
            others = ranks.midranks(ranked, shared) * shared
            column = ranks.Ranks(*(jnp.broadcast_to(part[:, v, None], shared.shape) for part in ranked))
            column_z = ranks.midranks(column, shared) * shared
            column_spread = _Spread.of_one_order(column_z, ranked, v, shared, groups)
            others_spread = _Spread.of_columns(others, ranked, shared, groups)
        else:
            others, column_z = z, jnp.broadcast_to(z[:, v, None], z.shape)
            column_spread, others_spread = spread.column(v), spread
        joint = column_z * others
        h = _h_one_order(others, ranked, v) + _h_columns(column_z, ranked)
        covariance, without = _moment(joint, h * shared, column_z, others, shared, groups)
        varies = (column_spread.variance > ranks.NO_VARIANCE) & (others_spread.variance > ranks.NO_VARIANCE)
        scale = jnp.where(varies, column_spread.variance * others_spread.variance, 1)
        sound = column_spread.still_varies() & others_spread.still_varies() & varies[None, None]
        scale_without = jnp.where(sound, column_spread.without * others_spread.without, 1)
        r = jnp.where(varies, jnp.clip(covariance * lax.rsqrt(scale), -1, 1), jnp.nan)
        r_without = jnp.where(sound, jnp.clip(without * lax.rsqrt(scale_without), -1, 1), jnp.nan)
        count = jnp.sum(shared, 0)
        null = _null_variance(joint - shared * (expected[v] * jnp.sqrt(scale))[None], shared, groups)
        flipped = sum(jnp.sum(_segment_sums(z[:, v, None] * z, way, len(z)) ** 2, 0) for way in groups.cluster[:2])
        return (
            r,
            r_without,
            *_plain_covariance(plain * shared, plain[:, v, None] * shared, shared, groups),
            jnp.where(varies, null / (count**2 * scale), jnp.nan),
            jnp.where(varies & (flipped > 0), 1 / jnp.where(flipped > 0, flipped, 1), jnp.nan),
        )

    r, r_without, covariance, covariance_without, null, scale = lax.map(row, jnp.arange(x.shape[1]))
    null = _positive(null)
    scale = jnp.sqrt(null * scale)
    known = jnp.ones_like(whole) if missing else whole
    both = known[:, None] & known[None, :]
    identity = jnp.eye(len(r), dtype=bool)
    r = jnp.where(identity & ~jnp.isnan(r), 1, (r + r.T) / 2)
    return Pairs(
        jnp.where(both, r, jnp.nan),
        jnp.where(both, jnp.moveaxis(r_without, 0, 2), jnp.nan),
        covariance,
        jnp.moveaxis(covariance_without, 0, 2),
        jnp.where(both, null, jnp.nan),
        jnp.where(both, scale, jnp.nan),
    )


class _Spread(NamedTuple):
    """Variance of ranks, [values], and without each group, [ways, groups, values]."""

    variance: Array
    without: Array

    @classmethod
    def of_columns(cls, z: Array, ranked: ranks.Ranks, shared: Array, groups: Grouping) -> _Spread:
        """Returns the variances of columns, each in its own order."""
        return cls(*_moment(z * z, 2 * _h_columns(z, ranked) * shared, z, z, shared, groups))

    @classmethod
    def of_one_order(cls, z: Array, ranked: ranks.Ranks, v: Array, shared: Array, groups: Grouping) -> _Spread:
        """Returns the variances of column v, ranked on the contexts shared with each other column."""
        return cls(*_moment(z * z, 2 * _h_one_order(z, ranked, v) * shared, z, z, shared, groups))

    def still_varies(self) -> Array:
        """Returns where a column still varies without a group."""
        return self.without > _VARIES * self.variance[None, None]

    def column(self, v: Array) -> _Spread:
        """Returns the spread of one column, in a shape that broadcasts against all columns."""
        return _Spread(self.variance[v, None], self.without[:, :, v, None])


def _h_columns(z: Array, ranked: ranks.Ranks) -> Array:
    """Computes `h[i, w] = sum_j S_w[i, j] z[j, w]`, each column in its own order."""
    table = _table(jnp.take_along_axis(z, ranked.order, axis=0))
    below = jnp.take_along_axis(table, ranked.low, axis=0) + jnp.take_along_axis(table, ranked.high, axis=0)
    return (table[-1:] - below) / 2


def _h_one_order(z: Array, ranked: ranks.Ranks, v: Array) -> Array:
    """Computes `h[i, w] = sum_j S_v[i, j] z[j, w]`, all columns in the order of column v."""
    table = _table(z[ranked.order[:, v]])
    return (table[-1:] - table[ranked.low[:, v]] - table[ranked.high[:, v]]) / 2


def _table(ordered: Array) -> Array:
    return jnp.concatenate([jnp.zeros_like(ordered[:1]), ranks.blocked_cumsum(ordered)])


def _moment(
    joint: Array, h: Array, column: Array, others: Array, shared: Array, groups: Grouping
) -> tuple[Array, Array]:
    """Returns the mean of a product of centred ranks, [values], and without each group, [ways, groups, values]."""
    n = jnp.sum(shared, 0)
    mean = jnp.sum(joint, 0) / jnp.where(n > 0, n, 1)
    inside, changed, first, second, count = (groups.sums(part) for part in (joint, h, column, others, shared))
    total = n[None, None]
    left = total - count
    outside = jnp.sum(joint, 0)[None, None] - inside
    top = total**2 * outside - total * changed
    # The terms within the group approximate S_v[i, j] by z_v[j] - z_v[i].
    top = top + 2 * total * count * inside - left * first * second + count**2 * outside
    return mean, jnp.where(left > 0, top / jnp.where(left > 0, left, 1) ** 3, jnp.nan)


def _null_variance(joint: Array, shared: Array, groups: Grouping) -> Array:
    """Computes the variance of a sum of products of centred ranks of independent columns, [values].

        sum_c (sum_{i in c} z_v z_w)^2 / (1 - n_c / n)

    The divisor corrects for centring ranks within the sample, which makes cluster sums negatively correlated. Under two
    crossed keys it is `V(a) + V(b) - V(a and b)`, which can be negative for a single pair.
    """
    n = jnp.sum(shared, 0)
    parts = []
    for cluster in groups.cluster:
        size = _segment_sums(shared, cluster, len(shared))
        total = _segment_sums(joint, cluster, len(joint))
        rest = 1 - size / jnp.where(n > 0, n, 1)[None]
        parts.append(jnp.sum(total**2 / jnp.where(rest > 0, rest, 1), 0))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1] - parts[2]


def _positive(variance: Array) -> Array:
    """Floors variances of pairs at a tenth of their mean, and rescales them to keep that mean."""
    off = ~jnp.eye(len(variance), dtype=bool) & ~jnp.isnan(variance)
    count = jnp.maximum(jnp.sum(off), 1).astype(variance.dtype)
    mean = jnp.maximum(jnp.sum(jnp.where(off, variance, 0)) / count, 1e-12)
    floored = jnp.maximum(variance, mean / 10)
    return floored * mean / jnp.maximum(jnp.sum(jnp.where(off, floored, 0)) / count, 1e-12)


def _plain_covariance(x: Array, y: Array, shared: Array, groups: Grouping) -> tuple[Array, Array]:
    """Returns the covariance of shifts, [values], and without each group, [ways, groups, values]."""
    n = jnp.sum(shared, 0)
    count = jnp.where(n > 0, n, 1)
    x, y = (shared * (part - (jnp.sum(part, 0) / count)[None]) for part in (x, y))
    inside, first, second, size = (groups.sums(part) for part in (x * y, x, y, shared))
    total = jnp.sum(x * y, 0)
    left = jnp.where(n[None, None] > size, n[None, None] - size, jnp.nan)
    return jnp.where(n > 0, total / count, jnp.nan), (total[None, None] - inside) / left - first * second / left**2
