"""Which array module computes: NumPy for arrays of the host, `jax.numpy` for JAX's, traced or not.

Summaries of small arrays are written once for both. Traced they become part of the caller's program; called with concrete
results they run on the host at once, where compiling a few hundred operations would take seconds.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

# An array of NumPy or of JAX.
Arrayish: TypeAlias = Any


def namespace(*arrays: Any) -> Any:
    """Returns `jax.numpy` where one of the arrays is JAX's, and NumPy elsewhere."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def special_functions(xp: Any) -> Any:
    """Returns the special functions of an array module."""
    return special if xp is np else jax.scipy.special


def product(x: Any, y: Any) -> Any:
    """Returns the matrix product of the last two axes, in full float32 on every device."""
    if namespace(x, y) is np:
        return x @ y
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def lift(x: Any, like: Any) -> Any:
    """Returns an array with as many axes as another: axes of length 1 come first."""
    return x.reshape((1,) * (like.ndim - x.ndim) + x.shape)
