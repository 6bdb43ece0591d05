"""Content hash of weights: the same on every mesh and machine, and another one for any other bits.

Each array is hashed where it lies: every entry is mixed with its index, and the mixed words are summed modulo 2^32, in
four lanes. Integer sums do not depend on their order, so that no array has to leave the devices.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.runtime import processes

Array = jax.Array

_LANES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)


def fingerprint(tree: Any) -> str:
    """Returns 32 hexadecimal digits that identify a pytree of arrays: a model's weights, or an edit."""
    whole = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), lanes in zip(leaves, processes.fetch(_all_lanes([leaf for _, leaf in leaves])), strict=True):
        whole.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} ".encode())
        whole.update(np.asarray(lanes).tobytes())
    return whole.hexdigest()[:32]


@jax.jit
def _all_lanes(leaves: list[Array]) -> list[Array]:
    """Hashes a whole tree in one program, so that a run compiles few."""
    return [_lanes(leaf) for leaf in leaves]


def _lanes(x: Array) -> Array:
    """Computes four sums over all entries, [4] uint32."""
    x = x.astype(jnp.uint16) if x.dtype == jnp.bool_ else x
    wide = jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16
    bits = jax.lax.bitcast_convert_type(x, wide).astype(jnp.uint32)
    index = jnp.zeros((), jnp.uint32)
    for axis, length in enumerate(x.shape):
        place = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        index = index * np.uint32(length % 2**32) + place
    return jnp.stack([jnp.sum(_mix(bits, index, np.uint32(lane)), dtype=jnp.uint32) for lane in _LANES])


def _mix(bits: Array, index: Array, lane: np.uint32) -> Array:
    """Spreads each bit over a word: multiplications with odd numbers, and shifts to bring high bits down."""
    word = (bits ^ (index * lane)) * np.uint32(0x85EBCA6B) + lane
    word = (word ^ (word >> np.uint32(15))) * lane
    word = (word ^ (word >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return word ^ (word >> np.uint32(16)) ^ index
