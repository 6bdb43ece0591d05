"""Randomisation test of the circular order of types by their coupling.

The test of hypothesised order relations (Hubert and Arabie 1987): the circle predicts that of any two pairs of types,
the pair that lies closer together is coupled more strongly. The correspondence index counts how often this holds,

    CI = (agreements - violations) / comparisons               in [-1, 1]

and the p-value is the share of all circular arrangements of the types with at least this index, each counted once: 10
types have 9! / 2 = 181,440 orders, and 10! / 4 = 907,200 arrangements where two of them share a sector.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax.metrics import ranks, resample
from vatjax.metrics.arrays import Arrayish

Array = jax.Array

MOST_TYPES = 10
_AT_ONCE = 4096


class OrderTest(NamedTuple):
    """Randomisation test of a circular order.

    Attributes:
        correspondence: the correspondence index of the hypothesised order.
        p: the share of all arrangements whose index is at least as high.
        comparisons: number of comparisons of two pairs of types.
        arrangements: number of arrangements.
    """

    correspondence: Array
    p: Array
    comparisons: Array
    arrangements: int


def order_test(coupling: Arrayish, sectors: Sequence[int] | None = None) -> OrderTest:
    """Tests whether neighbours on the circle are coupled more strongly, against every possible order.

    Args:
        coupling: R of the types in the hypothesised order, [types, types]; NaN pairs are left out.
        sectors: the slice of the circle that each type lies in (`taxonomy.sector_of`), where at most two types share
            one; by default each has its own.

    Returns:
        The exact test: arrangements are enumerated, not sampled.
    """
    types = coupling.shape[-1]
    slots = tuple(range(types)) if sectors is None else tuple(int(sector) for sector in sectors)
    if not 4 <= types <= MOST_TYPES:
        raise ValueError(f"the exact test takes 4 to {MOST_TYPES} types, found {types}; analyse types, not values")
    if len(slots) != types:
        raise ValueError(f"expected one sector for each of {types} types, found {len(slots)}")
    test: OrderTest = _order_test(jnp.asarray(coupling), slots)
    return test


@functools.partial(jax.jit, static_argnums=1)
def _order_test(coupling: Array, slots: tuple[int, ...]) -> OrderTest:
    types = len(slots)
    first, second = np.triu_indices(types, 1)
    r = coupling[first, second]
    present = ~jnp.isnan(r)
    both = present[:, None] & present[None, :]
    stronger = jnp.where(both, jnp.sign(r[:, None] - r[None, :]), 0)
    distance = _distances(slots)
    steps = np.arange(distance[first, second].min(), distance.max(), dtype=distance.dtype)

    def index(places: Array) -> tuple[Array, Array]:
        """Returns agreements minus violations, and the number of comparisons, for types at these places, [types].

        Each pair is compared with the pairs that lie one step further apart than `steps`, by products of 0/1 matrices.
        """
        apart = jnp.asarray(distance)[places[first], places[second]]
        within = ((apart[None, :] <= steps[:, None]) & present[None, :]).astype(r.dtype)
        beyond = ((apart[None, :] == steps[:, None] + 1) & present[None, :]).astype(r.dtype)
        won = jnp.einsum("si,ij->sj", within, stronger, precision=ranks.EXACT)
        count = jnp.sum(jnp.sum(within, 1) * jnp.sum(beyond, 1))
        return jnp.sum(won * beyond), count.astype(jnp.int32)

    def ratio(places: Array) -> Array:
        score, count = index(places)
        return score / jnp.where(count > 0, count, 1).astype(score.dtype)

    places = ranks.hide_constant(jnp.asarray(_arrangements(slots)))
    observed = jnp.arange(types, dtype=places.dtype)
    hypothesised, comparisons = ratio(observed), index(observed)[1]
    others = resample.map_in_chunks(ratio, places, _AT_ONCE)
    as_good = jnp.mean((others >= hypothesised - 1e-6).astype(r.dtype))
    sound = comparisons > 0
    return OrderTest(
        jnp.where(sound, hypothesised, jnp.nan), jnp.where(sound, as_good, jnp.nan), comparisons, len(places)
    )


def distance_profile(coupling: Array, sectors: Sequence[int] | None = None) -> Array:
    """Computes the mean coupling of types at each distance on the circle, [distances], neighbours first.

    If two types share a sector, the first entry is theirs, at distance 0.
    """
    types = coupling.shape[-1]
    slots = tuple(range(types)) if sectors is None else tuple(int(sector) for sector in sectors)
    apart = _distances(slots)
    first, second = np.triu_indices(types, 1)
    r, apart = jnp.asarray(coupling)[first, second], apart[first, second]
    present = ~jnp.isnan(r)
    means = []
    for distance in range(int(apart.min()), int(apart.max()) + 1):
        chosen = jnp.asarray(apart == distance) & present
        count = jnp.sum(chosen).astype(r.dtype)
        means.append(jnp.sum(jnp.where(chosen, r, 0)) / jnp.where(count > 0, count, jnp.nan))
    return jnp.stack(means)


def _distances(slots: tuple[int, ...]) -> np.ndarray:
    """Returns the number of steps between two places along the circle, [types, types]."""
    sectors = max(slots) + 1
    step = np.abs(np.subtract.outer(slots, slots))
    apart: np.ndarray = np.minimum(step, sectors - step).astype(np.int8)
    return apart


@functools.cache
def _arrangements(slots: tuple[int, ...]) -> np.ndarray:
    """Returns all arrangements of the types over the places with distinct distances, [arrangements, types] int8.

    Rotating or mirroring the circle, or swapping two types that share a sector, does not change any distance.
    """
    types = len(slots)
    shared = [slot for slot in set(slots) if slots.count(slot) > 1]
    if not shared:
        places = np.array(list(itertools.permutations(range(1, types))), np.int8)
        places = np.concatenate([np.zeros((len(places), 1), np.int8), places], axis=1)
        unmirrored: np.ndarray = places[places[:, 1] < places[:, 2]]
        return unmirrored
    if len(shared) > 1 or slots.count(shared[0]) > 2:
        raise ValueError("at most two types may share one sector")
    double = [place for place, slot in enumerate(slots) if slot == shared[0]]
    single = [place for place in range(types) if place not in double]
    orders = np.array(list(itertools.permutations(single)), np.int8)
    # Mirroring about the double sector exchanges the sectors at equal distance on both sides of it.
    sectors = max(slots) + 1
    mirror = {slot: (2 * shared[0] - slot) % sectors for slot in slots}
    turned = next(place for place in single if mirror[slots[place]] != slots[place])
    image = slots.index(mirror[slots[turned]])
    where = np.argsort(orders, axis=1)
    orders = orders[where[:, single.index(turned)] < where[:, single.index(image)]]
    blocks = []
    for pair in itertools.combinations(range(types), 2):
        block = np.empty((len(orders), types), np.int8)
        block[:, list(pair)] = double
        block[:, [i for i in range(types) if i not in pair]] = orders
        blocks.append(block)
    arranged: np.ndarray = np.concatenate(blocks)
    return arranged
