"""Multidimensional scaling of types by their coupling, and its fit to the theory's circle.

Majorisation (SMACOF) starts from the theory's circle and moves points until their distances fit the dissimilarities
`sqrt(2 (1 - R))`: the dissimilarities themselves (metric) or any monotone transform (ordinal). A theory-based start and
a free rotation make even noise look somewhat circular, so a congruence must be compared with that of noise:
`circle_fit` gives both.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vatjax.metrics import ranks, resample
from vatjax.metrics.arrays import as_key

Array = jax.Array

_TINY = 1e-12


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=ranks.EXACT)


class CircleFit(NamedTuple):
    """Measured positions compared with the theory's.

    Attributes:
        positions: [types, 2], rotated, mirrored and scaled onto the theory's circle of radius 1; NaN for a type without
            a correlation with another.
        stress: Kruskal's stress-1: 0 where distances fit perfectly.
        congruence: how well positions match the theory's, 0 to 1.
        null: the congruence of the same coupling with its types relabelled at random, [draws].
        null_95: the 95th percentile of `null`.
    """

    positions: Array
    stress: Array
    congruence: Array
    null: Array
    null_95: Array


def circle_fit(
    coupling: Array, angles: Array, key: Array | int, ordinal: bool = False, draws: int = 200, steps: int = 200
) -> CircleFit:
    """Scales a coupling matrix into the plane and compares it with the theory's circle.

    Scaling starts at the theory's circle, so a coupling without any structure stays there: compare the congruence with
    its null.

    Args:
        coupling: R of the types, [types, types]; NaN pairs are ignored.
        angles: the theory's places in radians, [types] (`taxonomy.angles`).
        key: PRNG key or a seed, for the relabellings.
        ordinal: fit the order of the dissimilarities only.
        draws: number of relabellings.
        steps: iterations of the majorisation.
    """
    coupling = jnp.asarray(coupling)
    if jnp.shape(angles) != coupling.shape[:1]:
        raise ValueError(f"expected one angle for each of {coupling.shape[0]} types, found {jnp.shape(angles)}")
    fit: CircleFit = _circle_fit(coupling, jnp.asarray(angles, coupling.dtype), as_key(key), ordinal, draws, steps)
    return fit


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _circle_fit(coupling: Array, angles: Array, key: Array, ordinal: bool, draws: int, steps: int) -> CircleFit:
    theory = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    positions, stress = mds(coupling, theory, ordinal, steps)
    placed = _placed(coupling)

    def relabelled(key: Array) -> Array:
        order = jax.random.permutation(key, coupling.shape[0])
        return congruence(mds(coupling[order][:, order], theory, ordinal, steps)[0], theory, placed[order])

    null = resample.map_in_chunks(relabelled, jax.random.split(key, draws), 50)
    return CircleFit(
        jnp.where(placed[:, None], procrustes(positions, theory, placed), jnp.nan),
        stress,
        congruence(positions, theory, placed),
        null,
        jnp.quantile(null, 0.95),
    )


def _placed(coupling: Array) -> Array:
    """Returns which types have a correlation with another, [types] bool: positions of the others are arbitrary."""
    return jnp.any(~jnp.isnan(coupling) & ~jnp.eye(coupling.shape[0], dtype=bool), axis=1)


@functools.partial(jax.jit, static_argnames=("ordinal", "steps"))
def mds(coupling: Array, start: Array, ordinal: bool = False, steps: int = 200) -> tuple[Array, Array]:
    """Runs multidimensional scaling from a given start.

        X <- V^+ B(X) X      B_ij = -w_ij delta_ij / d_ij(X),  rows summing to 0

    Args:
        coupling: R, [types, types]; NaN pairs get the weight 0.
        start: [types, 2].
        ordinal: replace the dissimilarities by their best monotone fit to the distances before each step.
        steps: number of iterations.

    Returns:
        (positions [types, 2], stress-1).
    """
    types = coupling.shape[0]
    identity = jnp.eye(types, dtype=bool)
    weight = jnp.where(identity | jnp.isnan(coupling), 0, 1).astype(coupling.dtype)
    delta = jnp.sqrt(2 * (1 - jnp.where(weight > 0, jnp.clip(coupling, -1, 1), 1)))
    first, second = jnp.triu_indices(types, 1)
    order = jnp.argsort(jnp.where(weight[first, second] > 0, delta[first, second], jnp.inf))
    laplacian = jnp.diag(jnp.sum(weight, 1)) - weight
    inverse = jnp.linalg.pinv(laplacian)

    def disparities(distance: Array) -> Array:
        """Returns the disparities, the distances to be fitted."""
        target = delta
        if ordinal:
            pairs = isotonic(distance[first, second][order], weight[first, second][order])
            flat = jnp.zeros_like(pairs).at[order].set(pairs)
            target = jnp.zeros_like(delta).at[first, second].set(flat).at[second, first].set(flat)
        size = jnp.sqrt(jnp.sum(weight * delta**2) / jnp.maximum(jnp.sum(weight * target**2), _TINY))
        return target * size

    def step(x: Array, _: None) -> tuple[Array, None]:
        distance = distances(x)
        ratio = jnp.where(distance > _TINY, weight * disparities(distance) / jnp.maximum(distance, _TINY), 0)
        return _product(_product(inverse, jnp.diag(jnp.sum(ratio, 1)) - ratio), x), None

    x, _ = lax.scan(step, start - jnp.mean(start, 0, keepdims=True), None, length=steps)
    distance = distances(x)
    error = jnp.sum(weight * (disparities(distance) - distance) ** 2)
    stress = jnp.sqrt(error / jnp.maximum(jnp.sum(weight * distance**2), _TINY))
    return x, jnp.where(jnp.sum(weight) > 0, stress, jnp.nan)


def distances(x: Array) -> Array:
    """Computes Euclidean distances between rows, [types, types]."""
    square = jnp.sum((x[:, None, :] - x[None, :, :]) ** 2, -1)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def isotonic(y: Array, weight: Array) -> Array:
    """Fits a rising sequence to y by weighted squares: `max over i <= k of min over j >= k of mean(y[i..j])`.

    The minimax formula uses a table of all ranges' means; for the 45 pairs of ten types that is small.
    """
    total = jnp.concatenate([jnp.zeros_like(y[:1]), jnp.cumsum(weight * y)])
    size = jnp.concatenate([jnp.zeros_like(y[:1]), jnp.cumsum(weight)])
    top = total[None, 1:] - total[:-1, None]  # [i, j]: the sum over i..j
    bottom = size[None, 1:] - size[:-1, None]
    n = y.shape[0]
    sound = (jnp.arange(n)[:, None] <= jnp.arange(n)[None, :]) & (bottom > 0)
    mean = jnp.where(sound, top / jnp.where(sound, bottom, 1), jnp.inf)
    least = lax.cummin(mean, axis=1, reverse=True)  # [i, k]: the least mean over i..j with j >= k
    reached = jnp.arange(n)[:, None] <= jnp.arange(n)[None, :]
    return lax.cummax(jnp.max(jnp.where(reached & jnp.isfinite(least), least, -jnp.inf), axis=0))


def congruence(x: Array, y: Array, where: Array | None = None) -> Array:
    """Computes the similarity of two configurations after the best rotation, mirroring and scaling, 0 to 1.

    sum of singular values of X'Y / (norm X norm Y)              = sqrt(1 - disparity) of scipy.spatial.procrustes

    Args:
        x, y: [points, dimensions].
        where: which points count, [points] bool; by default all.
    """
    x, y = _centred(x, where)[0], _centred(y, where)[0]
    size = jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2))
    alike = jnp.sum(jnp.linalg.svd(_product(x.T, y), compute_uv=False)) / jnp.where(size > 0, size, jnp.nan)
    return jnp.minimum(alike, 1)


def _centred(x: Array, where: Array | None) -> tuple[Array, Array]:
    """Returns centred points, 0 where they do not count, and the centre."""
    weight = jnp.ones((x.shape[0], 1), x.dtype) if where is None else where[:, None].astype(x.dtype)
    centre = jnp.sum(weight * x, 0, keepdims=True) / jnp.maximum(jnp.sum(weight), 1)
    return weight * (x - centre), centre


def procrustes(x: Array, onto: Array, where: Array | None = None) -> Array:
    """Moves x as near as possible to `onto` by rotation, mirroring and scaling; `where` as in `congruence`."""
    (x, _), (y, centre) = _centred(x, where), _centred(onto, where)
    left, size, right = jnp.linalg.svd(_product(x.T, y))
    scale = jnp.sum(size) / jnp.maximum(jnp.sum(x**2), _TINY)
    return scale * _product(_product(x, left), right) + centre
