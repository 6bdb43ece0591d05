"""Choice of the array module: NumPy for host arrays, `jax.numpy` for JAX arrays, traced or not.

Summaries of small arrays are written once for both. Under tracing they become part of the caller's program. On concrete
results they run on the host at once, since compiling a few hundred operations would take seconds.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

# A NumPy or JAX array.
Arrayish: TypeAlias = Any


def as_key(key: Any) -> jax.Array:
    """Returns a PRNG key; a whole number is a seed, None is the seed 0.

    Raises:
        TypeError: for anything else.
    """
    if key is None or isinstance(key, (int, np.integer)):
        return jax.random.key(0 if key is None else int(key))
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)) and jnp.shape(key) != (2,):
        raise TypeError(f"expected a seed or a PRNG key such as jax.random.key(0), found {key!r}")
    return key


def mean_present(x: np.ndarray) -> float:
    """Returns the mean of the entries without NaN; NaN if there are none, without a warning."""
    present = x[~np.isnan(x)]
    return float(present.mean()) if present.size else float("nan")


def namespace(*arrays: Any) -> Any:
    """Returns `jax.numpy` if any of the arrays is a JAX array, else NumPy."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def special_functions(xp: Any) -> Any:
    """Returns the special functions of an array module."""
    return special if xp is np else jax.scipy.special


def matmul(x: Any, y: Any) -> Any:
    """Returns the matrix product of the last two axes, in full float32 on every device."""
    if namespace(x, y) is np:
        return x @ y
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def prepend_axes(x: Any, like: Any) -> Any:
    """Returns `x` with leading axes of length 1, so that it has as many axes as `like`."""
    return x.reshape((1,) * (like.ndim - x.ndim) + x.shape)
