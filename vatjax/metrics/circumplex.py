"""Browne's circular stochastic process model: types are places on a circle, and coupling falls with their distance.

    rho_ij = z_i z_j (b_0 + sum_k b_k cos k (a_i - a_j))       b >= 0, sum b = 1, 0 < z <= 1

a are the angles, z^2 the communalities (the share of a type that the circle accounts for), b the shape of the fall. The
model is fitted by least squares over pairs of types with the Levenberg-Marquardt method, started at the theory's angles
and at random ones. A softmax and a sigmoid keep b and z within their bounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vatjax.metrics.arrays import as_key

Array = jax.Array


class Circumplex(NamedTuple):
    """Fitted circumplex model.

    Attributes:
        angles: [types], radians in [0, 2 pi), rotated and mirrored onto the theory's.
        communality: z^2, [types].
        weights: b_0 .. b_K.
        implied: the coupling that the model implies, [types, types].
        rmsr: the root mean square of the residual correlations.
        explained: the share of the squared correlations that the model reproduces.
        spread: the standard deviation of rmsr over starts: large if the loss has several local minima.
    """

    angles: Array
    communality: Array
    weights: Array
    implied: Array
    rmsr: Array
    explained: Array
    spread: Array


def circumplex(
    coupling: Array, angles: Array, key: Array | int, harmonics: int = 3, starts: int = 16, steps: int = 100
) -> Circumplex:
    """Fits the circular process model.

    Args:
        coupling: R of the types, [types, types]; NaN pairs are left out.
        angles: the theory's angles, [types]: the first start, and the angles that the result is aligned with.
        key: PRNG key or a seed, for the other starts.
        harmonics: K.
        starts: number of starts in all; the best fit is returned.
        steps: iterations of each fit.
    """
    coupling = jnp.asarray(coupling)
    if jnp.shape(angles) != coupling.shape[:1]:
        raise ValueError(f"expected one angle for each of {coupling.shape[0]} types, found {jnp.shape(angles)}")
    fit: Circumplex = _circumplex(coupling, jnp.asarray(angles, coupling.dtype), as_key(key), harmonics, starts, steps)
    return fit


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _circumplex(coupling: Array, theory: Array, key: Array, harmonics: int, starts: int, steps: int) -> Circumplex:
    types = coupling.shape[0]
    first, second = jnp.triu_indices(types, 1)
    present = ~jnp.isnan(coupling[first, second])
    observed = jnp.where(present, coupling[first, second], 0)

    def unpack(parameters: Array) -> tuple[Array, Array, Array]:
        turn = jnp.concatenate([jnp.zeros(1, parameters.dtype), parameters[: types - 1]])
        z = jax.nn.sigmoid(parameters[types - 1 : 2 * types - 1])
        free = jnp.concatenate([jnp.zeros(1, parameters.dtype), parameters[2 * types - 1 :]])
        return turn, z, jax.nn.softmax(free)

    def implied(parameters: Array) -> Array:
        turn, z, b = unpack(parameters)
        apart = turn[:, None] - turn[None, :]
        waves = jnp.cos(jnp.arange(harmonics + 1, dtype=apart.dtype)[:, None, None] * apart[None])
        return z[:, None] * z[None, :] * jnp.einsum("k,kij->ij", b, waves, precision=lax.Precision.HIGHEST)

    def residual(parameters: Array) -> Array:
        return jnp.where(present, implied(parameters)[first, second] - observed, 0)

    def start(key: Array, chosen: Array) -> Array:
        random = jax.random.uniform(key, (types,), coupling.dtype, 0, 2 * jnp.pi)
        place = jnp.where(chosen, theory, random)
        ease = jnp.full(types, 1.0, coupling.dtype)  # z of about .73
        return jnp.concatenate([place[1:] - place[0], ease, jnp.zeros(harmonics, coupling.dtype)])

    keys = jax.random.split(key, starts)
    begun = jax.vmap(start)(keys, jnp.arange(starts) == 0)
    fitted = jax.vmap(lambda x: levenberg_marquardt(residual, x, steps))(begun)
    error = jax.vmap(lambda x: jnp.sum(residual(x) ** 2))(fitted)
    best = fitted[jnp.argmin(error)]
    turn, z, b = unpack(best)
    pairs = jnp.sum(present).astype(coupling.dtype)
    pairs = jnp.where(pairs > 0, pairs, jnp.nan)
    total = jnp.sum(observed**2)
    return Circumplex(
        align_angles(turn, theory),
        z**2,
        b,
        implied(best),
        jnp.sqrt(jnp.min(error) / pairs),
        1 - jnp.min(error) / jnp.where(total > 0, total, jnp.nan),
        jnp.std(jnp.sqrt(error / pairs)),
    )


def levenberg_marquardt(residual: Callable[[Array], Array], start: Array, steps: int) -> Array:
    """Minimises squares by damped Gauss-Newton steps; a step that does not help raises the damping instead."""

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        x, damping = carry
        r, jacobian = residual(x), jax.jacfwd(residual)(x)
        gram = jnp.einsum("ni,nj->ij", jacobian, jacobian, precision=lax.Precision.HIGHEST)
        slope = jnp.einsum("ni,n->i", jacobian, r, precision=lax.Precision.HIGHEST)
        system = gram + damping * (jnp.diag(jnp.diagonal(gram)) + 1e-6 * jnp.eye(len(x), dtype=x.dtype))
        move = jnp.linalg.solve(system, slope)
        tried = x - jnp.where(jnp.isfinite(move), move, 0)
        better = jnp.sum(residual(tried) ** 2) < jnp.sum(r**2)
        damping = jnp.clip(jnp.where(better, damping / 3, damping * 4), 1e-7, 1e7)
        return (jnp.where(better, tried, x), damping), None

    (x, _), _ = lax.scan(step, (start, jnp.asarray(1e-2, start.dtype)), None, length=steps)
    return x


def align_angles(angles: Array, towards: Array) -> Array:
    """Returns angles rotated onto others, and mirrored if that brings them nearer; in [0, 2 pi)."""

    def fit(a: Array) -> tuple[Array, Array]:
        real, imaginary = jnp.sum(jnp.cos(towards - a)), jnp.sum(jnp.sin(towards - a))
        return jnp.hypot(real, imaginary), a + jnp.arctan2(imaginary, real)

    (plain_match, plain), (mirrored_match, mirrored) = fit(angles), fit(-angles)
    return jnp.mod(jnp.where(plain_match >= mirrored_match, plain, mirrored), 2 * jnp.pi)
