"""The metrics on planted answers, with no model in between: what they find in worlds whose every number is known.

    circle         intervals must hold the truth as often as they say: gain, mean shifts, debiased nVAT
    independent    nothing is coupled: false alarms of nVAT and of the order test must be as rare as they say
    hub            everything follows one value, which must come out as the hub
    agreement      a style that lifts every rating: the raw coupling is fooled, the ipsatised one must not be

Every seed draws a world, the contexts and, but for the hub, each single answer anew; for coverage it draws some of the
contexts of one large world.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from vatjax import metrics
from vatjax.items import Items, bundled
from vatjax.organism import NOBODY, Persona, World, draw, state
from vatjax.organism.worlds import HUB
from vatjax.study.checks import Check, at_least, mostly, rarely
from vatjax.values import Level, schwartz

TARGET = "Power"
CONTEXTS = 80
POPULATION = 20_000
RESAMPLES = 200
LEVEL = 0.05


class Style(NamedTuple):
    """What mere agreement does to the numbers, over seeds.

    Attributes:
        raw, ipsatised: mean debiased nVAT.
        raw_alarms, ipsatised_alarms: the share of seeds with p <= .05.
    """

    raw: float
    ipsatised: float
    raw_alarms: float
    ipsatised_alarms: float


def calibrate(seeds: int = 40, seed: int = 0) -> tuple[list[Check], Style]:
    """All checks over so many seeds, and what a response style does; another `seed` draws other worlds."""
    drawn = range(seed * seeds, (seed + 1) * seeds)
    found = [*_coverage(drawn), *_independence(drawn), *_hub(drawn)]
    style = response_style(drawn)
    part = "planted agreement"
    found += [
        at_least(part, "raw nVAT is fooled: share of p <= .05", style.raw_alarms, 0.8),
        rarely(part, "ipsatised nVAT: share of p <= .05", round(style.ipsatised_alarms * seeds), seeds, LEVEL),
    ]
    return found, style


def _answers(world: World, contexts: int, persona: Persona, random: np.random.Generator) -> np.ndarray:
    """One answer of each value in each context about its importance, [contexts, values]."""
    places = [f"c{i}" for i in range(contexts)]
    answers: np.ndarray = world.drawn(world.importance(places, [""] * contexts, persona), random) - 3
    return answers


def _inferred(before: Any, after: Any, seed: int, clusters: Any = None, level: Level = "types") -> metrics.Inference:
    taxonomy = schwartz()
    target = jax.numpy.asarray(taxonomy.columns(TARGET, level))
    pre, post = (taxonomy.aggregate(np.float32(x), ~np.isnan(x), level) for x in (before, after))
    return metrics.infer(pre, post, target, clusters, jax.random.key(seed), resamples=RESAMPLES)


def _world(kind: Any, seed: int, contexts: int) -> World:
    return draw([f"c{i}" for i in range(contexts)], [], seed, kind)


def _coverage(seeds: Sequence[int]) -> list[Check]:
    """A population of contexts has the truth; each seed sees a few of them, and one answer to each question."""
    world = _world("circle", 0, POPULATION)
    random = np.random.default_rng(0)
    everybody = [_answers(world, POPULATION, p, random) for p in (NOBODY, Persona(TARGET))]
    whole = everybody[1] - everybody[0]
    shift = schwartz().aggregate(whole, ~np.isnan(whole), "types")
    means = shift.mean(0)
    gain = means[schwartz().types.index(TARGET)]
    r = stats.spearmanr(shift).statistic
    nvat = np.sqrt((r[~np.eye(len(r), dtype=bool)] ** 2).mean())
    held = []
    for seed in seeds:
        rows = np.random.default_rng((1, seed)).choice(POPULATION, CONTEXTS, replace=False)
        found = _inferred(everybody[0][rows], everybody[1][rows], seed)
        held.append(
            [
                _holds(found.gain, gain),
                float(np.mean(_holds(found.shift, means))),
                _holds(found.raw.debiased, nvat),
            ]
        )
    names = ("gain", "mean shifts", "debiased nVAT")
    share = np.mean(np.array(held, float), 0)
    return [
        mostly("planted circle", f"95 % intervals that hold the true {name}", round(s * len(seeds)), len(seeds), 0.95)
        for name, s in zip(names, share, strict=True)
    ]


def _holds(interval: metrics.Estimate, truth: Any) -> Any:
    return (np.asarray(interval.low) <= truth) & (truth <= np.asarray(interval.high))


def _some_scenes(data: Items, seed: int) -> Items:
    """All items of a few random scenes."""
    scenes = np.unique(data.scene_of)
    chosen = np.random.default_rng((2, seed)).choice(scenes, CONTEXTS, replace=False)
    return data.take(np.flatnonzero(np.isin(data.scene_of, chosen)))


def _rated(kind: Any, seed: int, level: Level = "types", single: bool = True) -> metrics.Inference:
    """The tax of a persona in a world of a kind, from single answers about actions or from expected ones."""
    data = _some_scenes(bundled(), seed)
    world = draw(sorted(set(data.country)), sorted(set(data.topic)), seed, kind)
    before, after = (
        state(world, data, "paired", persona, np.random.default_rng((3, seed, i)) if single else None)
        for i, persona in enumerate((NOBODY, Persona(TARGET)))
    )
    return _inferred(before.state, after.state, seed, before.clusters, level)


def _independence(seeds: Sequence[int]) -> list[Check]:
    found = [_rated("independent", seed) for seed in seeds]
    order = [float(metrics.order_test(one.raw.coupling.estimate, _SECTORS).p) for one in found]
    part = "planted independence"
    return [
        rarely(
            part,
            "nVAT above its floor: share of p <= .05",
            sum(float(one.raw.p) <= LEVEL for one in found),
            len(found),
            LEVEL,
        ),
        rarely(part, "order of the circle: share of p <= .05", sum(p <= LEVEL for p in order), len(found), LEVEL),
        mostly(part, "a gain that is told from 0", sum(bool(one.resolved) for one in found), len(found), 0.99),
    ]


_SECTORS = tuple(schwartz().sector_of.tolist())


def _hub(seeds: Sequence[int]) -> list[Check]:
    """The hub is told from the other values in nearly every seed, and has the highest VAT.

    Expected ratings: the noise of single ones is larger than what distinguishes a hub from those that follow it.
    """
    own = schwartz().index(HUB)
    found = [_rated("hub", seed, "values", single=False) for seed in seeds]
    part, count = "planted hub", len(found)
    first = sum(int(np.nanargmax(one.raw.vat)) == own for one in found)
    share = float(np.mean([one.raw.hub_p[own] <= LEVEL and one.raw.hub.estimate[own] > 0 for one in found]))
    return [
        mostly(
            part,
            "nVAT above its floor: share of p <= .05",
            sum(float(one.raw.p) <= LEVEL for one in found),
            count,
            0.99,
        ),
        mostly(part, f"{HUB} has the highest VAT", first, count, 0.9),
        at_least(part, f"share of seeds in which {HUB} is more coupled than the others", share, 0.8),
    ]


def response_style(seeds: Sequence[int]) -> Style:
    """Numbers of a persona that is made of mere agreement, asked what is important."""
    found = []
    for seed in seeds:
        world, random = _world("agreement", seed, CONTEXTS), np.random.default_rng((4, seed))
        before, after = (_answers(world, CONTEXTS, persona, random) for persona in (NOBODY, Persona(TARGET)))
        found.append(_inferred(before, after, seed))
    raw, own = ([getattr(one, kind) for one in found] for kind in ("raw", "ipsatised"))
    return Style(
        *(float(np.mean([one.debiased.estimate for one in kind])) for kind in (raw, own)),
        *(float(np.mean([one.p <= LEVEL for one in kind])) for kind in (raw, own)),
    )
