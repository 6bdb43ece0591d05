"""The tax with intervals, noise floor, debiased value and p, for raw and ipsatised shifts.

    result = metrics.infer(pre, post, target, clusters, key)
    result.gain.estimate, result.gain.low, result.gain.high
    result.raw.debiased                      # debiased nVAT and its interval
    result.raw.p, result.first.gain_p

`moved` and `coupled` document how each interval and each p is computed. All draws come from one compiled program, whose
shapes depend on the number of contexts, values and draws alone.
"""

from __future__ import annotations

import functools
import html
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import corrections, coupling, intervals, moved, null, pairs, resample, shifts
from vatjax.metrics import coupled as second_order
from vatjax.metrics.arrays import Arrayish, as_key, matmul, namespace, prepend_axes
from vatjax.metrics.coupled import Coupled
from vatjax.metrics.intervals import Estimate
from vatjax.metrics.moved import Moved
from vatjax.text_table import html_table

Array = jax.Array


class Tax(NamedTuple):
    """Point estimates of the tax.

    Attributes:
        gain: scalar.
        shift: mean shift, [values].
        gnd: gain-normalised deviation, [values].
        off_target: mean absolute GND off target, scalar.
        coupling: R, [values, values].
        vat: [values].
        nvat: scalar, reading "rms".
        gini: scalar.
    """

    gain: Array
    shift: Array
    gnd: Array
    off_target: Array
    coupling: Array
    vat: Array
    nvat: Array
    gini: Array


class EqualTypes(NamedTuple):
    """Coupling of types as if each were the mean of equally many values.

    The mean of many values is less noisy than that of few, so that large types look more coupled than small ones.

    Attributes:
        coupling: [types, types].
        hub: the debiased mean square correlation of each type minus that of the others, [types].
        hub_p: two-sided, corrected for all types, [types].
    """

    coupling: Array
    hub: Estimate
    hub_p: Array


class Inference(NamedTuple):
    """Tax of one intervention.

    Attributes:
        contexts, clusters: how many the numbers are based on; of two crossed keys the smaller number of clusters.
        first: first-order statistics; also available as `gain`, `resolved`, `shift`, `gnd` and `off_target`.
        ipsatised_first: the same after subtracting each context's mean.
        mechanical: the off-target GND that ipsatising alone creates; opposite to the target's own shift.
        raw: coupling of the raw shifts.
        ipsatised: coupling after subtracting each context's mean, tested against its own null.
        equal: the raw coupling of types of equal size; None without `type_of`.
    """

    contexts: Any
    clusters: Any
    first: Moved
    ipsatised_first: Moved
    mechanical: Array
    raw: Coupled
    ipsatised: Coupled
    equal: EqualTypes | None

    @property
    def gain(self) -> Estimate:
        """Returns the mean shift of the target in the intended direction, scalar."""
        return self.first.gain

    @property
    def resolved(self) -> Array:
        """Returns whether the gain's interval excludes 0."""
        return self.first.resolved

    @property
    def shift(self) -> Estimate:
        """Returns the mean shift, [values]."""
        return self.first.shift

    @property
    def gnd(self) -> Estimate:
        """Returns the gain-normalised deviation, [values]."""
        return self.first.gnd

    @property
    def off_target(self) -> Estimate:
        """Returns the root mean square GND off target, scalar."""
        return self.first.off_target

    @property
    def nvat(self) -> Estimate:
        """Returns the system-level tax of the raw shifts as measured, scalar; `raw.debiased` is the debiased one."""
        return self.raw.nvat

    @property
    def p(self) -> Array:
        """Returns the p of the nVAT of the raw shifts under independent values, scalar."""
        return self.raw.p

    def _repr_html_(self) -> str:
        if isinstance(self.gain.estimate, jax.core.Tracer) or jnp.ndim(self.gain.estimate):
            return html.escape(repr(self))
        numbers = {
            "gain (points)": (self.gain, self.first.gain_p),
            "off target (points per point)": (self.off_target, self.first.off_target_p),
            "nVAT": (self.raw.nvat, self.raw.p),
            "nVAT, debiased": (self.raw.debiased, self.raw.p),
        }
        rows = [
            (name, *(f"{float(x):.3f}" for x in (interval.estimate, interval.low, interval.high, p)))
            for name, (interval, p) in numbers.items()
        ]
        return html_table(("", "estimate", "low", "high", "p"), rows)

    def __repr__(self) -> str:
        if isinstance(self.gain.estimate, jax.core.Tracer) or jnp.ndim(self.gain.estimate):
            return f"Inference({jnp.shape(self.raw.vat)} values)"
        gain, debiased = (
            f"{float(interval.estimate):.3f} [{float(interval.low):.3f}, {float(interval.high):.3f}]"
            for interval in (self.gain, self.raw.debiased)
        )
        return (
            f"Inference({self.contexts} contexts in {self.clusters} clusters, gain {gain}, nVAT "
            f"{float(self.raw.nvat.estimate):.3f}, debiased {debiased}, p {float(self.raw.p):.3f})"
        )


def tax(pre: Array, post: Array, target: Array | int, direction: int = 1, missing: bool | None = None) -> Tax:
    """Computes point estimates of the tax, in one call that composes with `jit`, `vmap` and `grad`.

    Args:
        pre, post: value states of the same contexts, [contexts, values].
        target: membership mask [values] or the index of one value.
        direction: +1 where the target was to be expressed, -1 where it was to be suppressed.
        missing: whether to couple columns pair by pair, as in `spearman`: traced data with missing ratings need True.
    """
    d = shifts.tied_shift(pre, post)
    mean = shifts.mean_shift(d)
    gain = shifts.gain_of(mean, target, direction)
    gnd = shifts.gnd_of(mean, gain)
    r = coupling.spearman(d, missing=missing)
    vat = coupling.vat(r)
    return Tax(gain, mean, gnd, shifts.off_target(gnd, target), r, vat, coupling.nvat(r), coupling.gini(vat))


def infer(
    pre: Arrayish, post: Arrayish, target: Arrayish, clusters: Any, key: Array | int, **options: Any
) -> Inference:
    """Computes the tax with intervals, floor, debiased value and p, raw and ipsatised.

    Args:
        pre, post: value states of the same contexts, [contexts, values]; NaN is missing.
        target: membership mask [values] or the index of one value.
        clusters: [contexts] labels, or [contexts, 2] of two crossed keys, concrete; None makes each context its own cluster.
        key: PRNG key or a seed.
        options: of `infer_shift`.
    """
    for state in (pre, post):
        shifts.check_finite(jnp.asarray(state))
    return infer_shift(shifts.tied_shift(pre, post), target, clusters, key, **options)


def infer_shift(
    shift: Arrayish,
    target: Arrayish,
    clusters: Any = None,
    key: Array | int | None = None,
    *,
    direction: int = 1,
    resamples: int = 2000,
    labels: Arrayish = None,
    missing: bool | None = None,
    first_order: Arrayish = None,
    type_of: Any = None,
) -> Inference:
    """Computes the tax of given shifts, as `infer` does for two states.

    Args:
        shift: post state minus pre state, [contexts, values]; NaN is missing. Equal shifts should be equal numbers: see
            `metrics.tied_shift`.
        target: membership mask [values] or the index of one value.
        clusters: as in `infer`.
        key: PRNG key or a seed; 0 by default.
        direction: +1 or -1.
        resamples: draws of the null.
        labels: [contexts, values] of a `labelled` state, whose labels alone create coupling; real if types are means.
        missing: whether to couple columns pair by pair, as in `spearman`: traced data with missing ratings need True.
        first_order: contexts used for gain, shift and GND, [contexts] bool; all by default. In a `dense` state they are
            the contexts whose own value is in the target.
        type_of: [values], each value's type, concrete; adds the coupling of types of equal size.
    """
    d = shifts.check_finite(shifts.as_matrix(shift))
    if resamples < 1:
        raise ValueError(f"expected at least one resample, found {resamples}")
    groups = resample.clusters_of(clusters, d.shape[0])
    member, sign = shifts.target_mask(target, d.shape[1]), jnp.asarray(shifts.check_direction(direction), d.dtype)
    key = as_key(key)
    missing = coupling.has_missing(d) if missing is None else missing
    if labels is not None:
        labels = jnp.asarray(labels, d.dtype)
        if labels.shape != d.shape:
            raise ValueError(f"expected labels of the shape {d.shape}, found {labels.shape}")
        if len(groups.index) > 1:
            raise ValueError("labelled states take clusters of one key; choose one of the crossed keys")
    counted = np.ones(d.shape[0], bool) if first_order is None else first_order
    types = None if type_of is None else tuple(int(x) for x in np.asarray(type_of))
    if types is not None and len(types) != d.shape[1]:
        raise ValueError(f"expected a type for each of {d.shape[1]} values, found {len(types)}")
    expected = None
    if labels is None and shifts.is_concrete(d) and shifts.is_concrete(key):
        expected = jnp.asarray(null.ipsatised_coupling_on_host(np.asarray(d), key))
    counted = jnp.asarray(counted, bool)
    drawn = _drawn(d, jnp.asarray(groups.index), key, labels, counted, expected, resamples, missing)
    # Small arrays are summarised on the host: compiling hundreds of operations on them would take seconds.
    both, draws, member, sign = shifts.to_host(*drawn, member, sign)
    if namespace(both) is np:
        with np.errstate(all="ignore"):
            summary = _summary(both, draws, groups.index, member, sign, types)
    else:
        summary = _compiled_summary(both, draws, jnp.asarray(groups.index), member, sign, types)
    return Inference(d.shape[0], groups.count, *summary)


def _summary(
    both: Array,
    draws: second_order.Draws,
    cluster: Arrayish,
    member: Array,
    sign: Array,
    type_of: tuple[int, ...] | None,
) -> tuple[Moved, Moved, Array, Coupled, Coupled, EqualTypes | None]:
    """Returns the parts of an inference, raw and ipsatised, from the output of `_drawn`."""
    xp, groups = namespace(both), pairs.group_clusters(cluster, both.dtype, both.shape[-1])
    groups_of_means = pairs.group_clusters(cluster, both.dtype, 1)

    def summarise(d: Array, drawn: second_order.Draws) -> tuple[Moved, Coupled]:
        second, largest = second_order.summarise_coupling(drawn.compared, drawn.null, groups)
        return moved.summarise_shifts(d, member, sign, groups_of_means, largest), second

    if xp is np:
        parts = [summarise(d, jax.tree.map(lambda x, i=i: x[i], draws)) for i, d in enumerate(both)]
    else:
        stacked = jax.vmap(summarise)(both, draws)
        parts = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(2)]
    (first, raw), (ipsatised_first, ipsatised) = parts
    mechanical = shifts.mechanical_gnd(~xp.isnan(both[0]), member) * xp.sign(sign * first.gain.estimate)
    equal = None
    if type_of is not None:
        equal = _equal_types(jax.tree.map(lambda x: x[0], draws.compared), type_of, groups)
    return first, ipsatised_first, mechanical, raw, ipsatised, equal


_compiled_summary = functools.partial(jax.jit, static_argnums=5)(_summary)


@functools.partial(jax.jit, static_argnums=(6, 7))
def _drawn(
    d: Array,
    cluster: Array,
    key: Array,
    labels: Array | None,
    counted: Array,
    expected: Array | None,
    resamples: int,
    missing: bool,
) -> tuple[Array, second_order.Draws]:
    """Returns the shifts used for the first order, and draws, each of raw and of ipsatised shifts, [2, ...]."""
    groups = pairs.group_clusters(cluster, d.dtype, d.shape[-1])
    plain = shifts.round_to_ties(shifts.ipsatise(d), shifts.largest_rating(d))
    if expected is None and labels is None:
        expected = null.ipsatised_coupling(d, key)
    both_labels = None if labels is None else jnp.stack([labels, shifts.ipsatise(labels)])

    def draw_shift(d: Array, ipsatised: Array, labels: Array | None) -> tuple[Array, second_order.Draws]:
        counted_shift = jnp.where(counted[:, None], d, jnp.nan)
        deviation = jnp.nan_to_num(counted_shift - shifts.mean_shift(counted_shift)[None])
        return counted_shift, second_order.draw_null(
            d, groups, key, resamples, missing, deviation, ipsatised, labels, expected
        )

    return jax.vmap(draw_shift)(jnp.stack([d, plain]), jnp.array([False, True]), both_labels)


def _equal_types(compared: pairs.Pairs, type_of: tuple[int, ...], groups: pairs.Grouping) -> EqualTypes:
    xp, used = namespace(compared.r), groups.used
    r, without = (equal_size_coupling(x, type_of) for x in (compared.r, compared.r_without))
    variance = intervals.jackknife_variance(without, used)
    _, _, sound = second_order.debiased_square(r, without, variance)
    row, rows = second_order.row_squares(r, without, variance, sound)
    hub, error = (
        second_order.hub_excess(row),
        xp.sqrt(intervals.jackknife_variance(second_order.hub_excess(rows), used)),
    )
    freedom = second_order.satterthwaite_degrees(groups.sizes)
    half = intervals.t_quantile(freedom, dtype=r.dtype) * error
    p = corrections.holm(intervals.p_of_t(hub, error, freedom))
    return EqualTypes(r, Estimate(hub, hub - half, hub + half), p)


def equal_size_coupling(r: Arrayish, type_of: Any) -> Array:
    """Computes the coupling of types as if each were the mean of as many values as the smallest type has.

        R(a, b) = mean_{v in a, w in b} R_vw / sqrt(var_a var_b)        var_a = (1 + (m - 1) mean_{v != v' in a} R_vv') / m

    Args:
        r: R of the values, [..., values, values]; values without a correlation are left out.
        type_of: [values], each value's type, concrete.
    """
    xp = namespace(r)
    type_of = np.asarray(type_of)
    types = int(type_of.max()) + 1
    member = xp.asarray(type_of[None, :] == np.arange(types)[:, None])
    known = xp.any(coupling.off_diagonal(r), -1)  # [..., values]
    known = known[..., None, :]
    inside = (prepend_axes(member, known) & known).astype(r.dtype)
    sizes = xp.sum(inside, -1)
    members = xp.min(xp.where(sizes > 0, sizes, np.inf), -1, keepdims=True)
    clean = xp.where(xp.isnan(r), 0, r)
    total = matmul(matmul(inside, clean), xp.swapaxes(inside, -1, -2))
    within_sum = xp.diagonal(total, axis1=-2, axis2=-1) - sizes
    within = within_sum / xp.where(sizes > 1, sizes * (sizes - 1), 1)
    variance = (1 + (members - 1) * within) / members
    scale = sizes * xp.sqrt(xp.maximum(variance, 0))
    scale = scale[..., :, None] * scale[..., None, :]
    equal = xp.where(scale > 0, xp.clip(total / xp.where(scale > 0, scale, 1), -1, 1), np.nan)
    identity = xp.eye(types, dtype=bool)
    return xp.where(prepend_axes(identity, equal) & ~xp.isnan(equal), 1, equal)
