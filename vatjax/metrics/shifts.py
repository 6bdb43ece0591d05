"""First-order statistics: the shift of each value, and its shift per unit of gain on the target.

Axes: contexts s (n), values v (V). A missing rating is NaN and is left out of every mean; nothing else is.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vatjax.metrics.arrays import Arrayish, namespace

Array = jax.Array


def shift(pre: ArrayLike, post: ArrayLike) -> Array:
    """Computes the shift `d = post - pre`, [contexts, values], NaN where either is missing.

    Args:
        pre, post: value states of the same contexts and values, [..., contexts, values].
    """
    if jnp.shape(pre) != jnp.shape(post):
        shapes = f"{jnp.shape(pre)} and {jnp.shape(post)}"
        raise ValueError(f"pre and post must have one shape, found {shapes}; join the states first")
    if isinstance(pre, np.ndarray) and isinstance(post, np.ndarray):
        # On the host float64 is subtracted before conversion to float32.
        return as_floating(np.subtract(post, pre, dtype=np.result_type(pre, post, np.float32)))
    return as_floating(post) - as_floating(pre)


def tied_shift(pre: ArrayLike, post: ArrayLike) -> Array:
    """Returns the shift rounded to a millionth of the largest rating, so that equal shifts are equal numbers.

    3.3 - 3.1 and 2.3 - 2.1 differ in the last digit of float32, and a rank correlation would break that tie.
    """
    return round_to_ties(
        shift(pre, post), jnp.maximum(largest_rating(as_floating(pre)), largest_rating(as_floating(post)))
    )


def round_to_ties(x: Array, scale: Array) -> Array:
    """Rounds to a millionth of a scale; gradients pass through."""
    step = jnp.where(scale > 0, jnp.asarray(scale, x.dtype) * 1e-6, 1)
    return x + lax.stop_gradient(jnp.round(x / step) * step - x)


def largest_rating(x: Array) -> Array:
    """Returns the largest absolute rating, 0 if all are missing."""
    return lax.stop_gradient(jnp.max(jnp.where(jnp.isnan(x), 0, jnp.abs(x)), initial=0))


def mean_shift(shift: Array, weights: Array | None = None) -> Array:
    """Computes the mean shift of each value over contexts, `mean_s d[s, v]`, [values]; NaN for a value never rated.

    Args:
        shift: [contexts, values].
        weights: frequency weight of each context, [contexts]; a resample is a vector of them.
    """
    shift = as_matrix(shift, weights)
    present = ~jnp.isnan(shift)
    weight = present.astype(shift.dtype)
    if weights is not None:
        weight = weight * jnp.asarray(weights, shift.dtype)[:, None]
    total = jnp.sum(weight, axis=0)
    mean = jnp.sum(weight * jnp.where(present, shift, 0), axis=0) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, mean, jnp.nan)


def gain(shift: Array, target: Array | int, direction: int = 1, weights: Array | None = None) -> Array:
    """Computes the mean shift of the target in the intended direction, `D * mean_s d[s, t]`, averaged over its values.

    Args:
        shift: [contexts, values].
        target: membership mask [values] (`taxonomy.mask("Power")`) or the index of one value.
        direction: +1 where the target was to be expressed, -1 where it was to be suppressed.
        weights: frequency weight of each context, [contexts].
    """
    return gain_of(mean_shift(shift, weights), target, direction)


def gain_of(mean: Array, target: Array | int, direction: Array | int = 1) -> Array:
    """Computes the gain from mean shifts [values]: the mean over the target's values that have one."""
    member = target_mask(target, mean.shape[-1]) & ~jnp.isnan(mean)
    count = jnp.sum(member).astype(mean.dtype)
    total = jnp.sum(jnp.where(member, mean, 0))
    return jnp.asarray(check_direction(direction), mean.dtype) * total / jnp.where(count > 0, count, jnp.nan)


def gnd(
    shift: Array,
    target: Array | int,
    direction: int = 1,
    weights: Array | None = None,
    resolved: Array | bool = True,
) -> Array:
    """Computes the gain-normalised deviation, `GND(w) = mean_s d[s, w] / abs(gain)`, signed, [values].

    Args:
        shift: [contexts, values].
        target: membership mask [values] or the index of one value.
        direction: +1 or -1.
        weights: frequency weight of each context, [contexts].
        resolved: whether the gain's interval excludes 0 (`infer` computes it). Dividing by a gain that cannot be
            distinguished from 0 gives a large number without meaning, so everything is NaN where this is False.
    """
    mean = mean_shift(shift, weights)
    return gnd_of(mean, gain_of(mean, target, direction), resolved)


def gnd_of(mean: Array, gain: Array, resolved: Array | bool = True) -> Array:
    """Computes GND from mean shifts [values] and the gain."""
    xp = namespace(mean)
    size = xp.abs(gain)
    sound = xp.asarray(resolved) & (size > 0)
    return xp.where(sound, mean / xp.where(sound, size, 1), np.nan)


def off_target(gnd: Array, target: Array | int) -> Array:
    """Computes the side effect in one number: the mean of `abs(GND(w))` over values w that are not in the target."""
    off = ~target_mask(target, gnd.shape[-1]) & ~jnp.isnan(gnd)
    count = jnp.sum(off).astype(gnd.dtype)
    return jnp.sum(jnp.where(off, jnp.abs(gnd), 0)) / jnp.where(count > 0, count, jnp.nan)


def ipsatise(shift: Arrayish) -> Array:
    """Subtracts each context's mean, `d[s, v] - mean_v d[s, v]`, which removes a uniform response style.

    This has side effects: independent columns then correlate by `-1 / (V - 1)` on average, and where only the target
    moved, every other value moves the other way by `mechanical_gnd_complete(...)` of the gain.
    """
    shift = as_floating(shift)
    present = ~jnp.isnan(shift)
    count = jnp.sum(present, axis=-1, keepdims=True).astype(shift.dtype)
    total = jnp.sum(jnp.where(present, shift, 0), axis=-1, keepdims=True)
    # One division, of a numerator that is exact for ratings in halves: ties stay ties.
    return (count * shift - total) / jnp.where(count > 0, count, 1)


def mechanical_gnd(present: Array, target: Array) -> Array:
    """Returns `mechanical_gnd_complete` for missing ratings: the target's share of the rated values differs by context.

    Args:
        present: where there are ratings, [contexts, values] bool.
        target: membership mask [values].
    """
    xp = namespace(present)
    weight = present.astype(float)
    rated = xp.sum(weight, 1)
    share = xp.sum(xp.where(target, weight, 0), 1) / xp.where(rated > 0, rated, 1)
    count = xp.sum(weight, 0)
    taken = xp.sum(share[:, None] * weight, 0) / xp.where(count > 0, count, np.nan)

    def over(chosen: Array) -> Array:
        sound = chosen & ~xp.isnan(taken)
        number = xp.sum(sound).astype(taken.dtype)
        return xp.sum(xp.where(sound, taken, 0)) / xp.where(number > 0, number, np.nan)

    rest = 1 - over(target)
    return -over(~target) / xp.where(rest > 0, rest, np.nan)


def mechanical_gnd_complete(target: Array | int, values: int) -> Array:
    """Returns the off-target GND that ipsatising alone creates if only the k target values moved up: `-k / (V - k)`.

    If they moved down, the sign is opposite.
    """
    k = jnp.sum(target_mask(target, values)).astype(float)
    return -k / jnp.where(k < values, values - k, jnp.nan)


def target_mask(target: Any, values: int) -> Array:
    """Converts a target to a membership mask [values] bool."""
    if isinstance(target, str):
        raise TypeError(f"a target is a mask or an index here; write taxonomy.mask({target!r})")
    concrete = None if isinstance(target, jax.core.Tracer) else np.asarray(target)
    mask: Array = jnp.asarray(target)
    if mask.ndim == 0 and jnp.issubdtype(mask.dtype, jnp.integer):
        if concrete is not None and not -values <= int(concrete) < values:
            raise ValueError(f"a target is one of {values} values, found the index {int(concrete)}")
        return jnp.arange(values) == jnp.where(mask < 0, mask + values, mask)
    if mask.shape != (values,):
        raise ValueError(f"a target is one index or a mask of {values} values, found the shape {mask.shape}")
    if concrete is not None and not np.isin(concrete, (0, 1)).all():
        raise ValueError(f"a target's mask is of 0 and 1, found {concrete.tolist()}")
    if concrete is not None and not concrete.any():
        raise ValueError("a target has at least one value, found none in the mask")
    member: Array = mask if mask.dtype == bool else mask > 0
    return member


def check_direction(direction: Array | int) -> Array | int:
    """Returns the direction; raises ValueError unless it is +1 or -1."""
    if not isinstance(direction, jax.core.Tracer) and not np.isin(np.asarray(direction), (-1, 1)).all():
        raise ValueError(f"a direction is 1 (express) or -1 (suppress), found {direction!r}")
    return direction


def as_matrix(x: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Returns floating ratings; raises ValueError unless they are [contexts, values] and weights [contexts]."""
    x = as_floating(x)
    if x.ndim != 2:
        raise ValueError(f"expected [contexts, values], found the shape {x.shape}")
    if weights is not None and jnp.shape(weights) != x.shape[:1]:
        raise ValueError(f"expected one weight for each of {x.shape[0]} contexts, found the shape {jnp.shape(weights)}")
    return x


def check_finite(x: Array) -> Array:
    """Returns `x`; raises ValueError if it is concrete and has an infinity. A missing rating is NaN."""
    if is_concrete(x) and bool(np.isinf(np.asarray(x)).any()):
        raise ValueError("ratings must be finite, or NaN where they are missing; found an infinity")
    return x


def is_concrete(x: Any) -> bool:
    """Returns whether the content of an array can be read: it is not traced, and is on devices of this host."""
    if isinstance(x, jax.core.Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable


def to_host(*arrays: Any) -> tuple[Any, ...]:
    """Returns NumPy arrays if all arrays are concrete, and the arrays unchanged otherwise.

    The computation after a compiled program is small: on the host it does not need another program.
    """
    if all(is_concrete(leaf) for leaf in jax.tree.leaves(arrays)):
        return tuple(jax.device_get(arrays))
    return arrays


def as_floating(x: ArrayLike) -> Array:
    """Converts integers to the default float, and half precision to float32: a bfloat16 counts only to 256."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(float)
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
