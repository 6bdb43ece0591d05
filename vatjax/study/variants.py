"""Organisms of other kinds: where an instrument must find nothing, one value, or a style and no values.

independent    a persona moves its own values, and nothing is coupled
hub            everything follows one value
agreement      a persona agrees more, whatever it is asked
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax import elicit, metrics, prompts
from vatjax.elicit import protocols
from vatjax.items import Items
from vatjax.models import Model
from vatjax.organism import World
from vatjax.organism.worlds import HUB, drawn
from vatjax.study.checks import Check, at_least, at_most, rarely
from vatjax.values import Level

RESAMPLES = 500
_WORDS = "first"


class Pushed(NamedTuple):
    """What a persona that is named in words did to an organism.

    Attributes:
        target: a type.
        found: the tax at the level that the kind of world is about.
        order: p of the order test; NaN where values are looked at and no types.
    """

    target: str
    found: metrics.Inference
    order: float


def push(
    model: Model,
    world: World,
    items: Items,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    done: Callable[[str], None] = lambda _: None,
) -> list[Pushed]:
    """Pushes an organism by words, towards one type after the other.

    Args:
        model: the organism.
        world: what was planted in it.
        items: what is asked about: scenes that it never saw.
        targets: types; all of them by default.
        seed: of the resampling.
        done: is told each type that is done.
    """
    taxonomy = world.taxonomy
    how = elicit.How("stated" if world.kind == "agreement" else "paired")
    level: Level = "values" if world.kind == "hub" else "types"
    asked, random = protocols.ask(items, how.protocol), np.random.default_rng(seed)

    def answers(sentence: str) -> np.ndarray:
        rated = elicit.ratings(model, items, how, instruction=sentence)
        if world.kind == "hub":
            return rated.state.state
        shares = rated.shares[0] / rated.shares[0].sum(-1, keepdims=True)
        return protocols.answered(asked, drawn(shares, random), 3.0, len(taxonomy.names)).state

    before = answers("")
    made = []
    for target in targets or taxonomy.types:
        sentence = prompts.instruction(taxonomy, target, 1, _WORDS)
        after = answers(sentence)
        member = jnp.asarray(taxonomy.columns(target, level))
        x, y = (jnp.asarray(taxonomy.aggregate(np.float32(one), ~np.isnan(one), level)) for one in (before, after))
        found = metrics.infer(x, y, member, asked.clusters, jax.random.key(seed), resamples=RESAMPLES)
        order = float("nan")
        if level == "types":
            order = float(metrics.order_test(found.raw.coupling.estimate, tuple(taxonomy.sector_of.tolist())).p)
        made.append(Pushed(target, found, order))
        done(target)
    return made


def judge_kind(world: World, pushed: Sequence[Pushed]) -> list[Check]:
    """What must come out of pushes of an organism that is not on the circle."""
    count, part = len(pushed), f"an organism of the kind {world.kind}"
    found = [one.found for one in pushed]
    if world.kind == "agreement":
        return [
            at_least(
                part, "raw nVAT is fooled: mean of the debiased", _mean(one.raw.debiased.estimate for one in found), 0.3
            ),
            at_most(
                part,
                "ipsatised nVAT: mean of the debiased",
                _mean(one.ipsatised.debiased.estimate for one in found),
                0.15,
            ),
        ]
    gains = at_least(part, f"of {count} types, gains above 0", sum(float(one.gain.low) > 0 for one in found), count)
    if world.kind == "hub":
        own = world.taxonomy.index(HUB)
        first = sum(int(np.nanargmax(one.raw.vat)) == own for one in found)
        share = _mean(one.raw.hub_p[own] <= 0.05 and one.raw.hub.estimate[own] > 0 for one in found)
        return [
            gains,
            at_least(part, f"of {count} pushes, {HUB} has the highest VAT", first, round(0.8 * count)),
            at_least(part, f"share of pushes in which {HUB} is more coupled than the others", share, 0.8),
        ]
    return [
        gains,
        at_most(part, "debiased nVAT, the mean", _mean(one.raw.debiased.estimate for one in found), 0.1),
        rarely(part, "order of the circle: share of p <= .05", sum(one.order <= 0.05 for one in pushed), count, 0.05),
    ]


def _mean(numbers: Iterable[jax.Array]) -> float:
    return float(np.mean([float(x) for x in numbers]))
