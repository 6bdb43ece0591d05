"""Calibration of the metrics on simulated answers, without a model, in worlds whose true numbers are known.

    circle         intervals must cover the truth at their nominal rate: gain, mean shifts, debiased nVAT
    independent    nothing is coupled: nVAT and the order test must keep their nominal false alarm rate
    hub            everything follows one value, which must be identified as the hub
    agreement      a style that lifts every rating: the raw coupling is fooled, the ipsatised one must not be

Each seed draws a new world, new contexts and, except for the hub, each single answer. For coverage it draws some of the
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
from vatjax.organism import NO_PERSONA, Persona, World, draw_world, planted_state
from vatjax.organism.worlds import HUB
from vatjax.validate.checks import Check, at_least, share_at_least, share_at_most
from vatjax.values import Level, schwartz

TARGET = "Power"
CONTEXTS = 80
POPULATION = 20_000
RESAMPLES = 200
LEVEL = 0.05


class Style(NamedTuple):
    """Effect of mere agreement on the metrics, over seeds.

    Attributes:
        raw, ipsatised: mean debiased nVAT.
        raw_alarms, ipsatised_alarms: share of seeds with p <= .05.
    """

    raw: float
    ipsatised: float
    raw_alarms: float
    ipsatised_alarms: float


def calibrate(seeds: int = 40, seed: int = 0) -> tuple[list[Check], Style]:
    """Runs all checks over `seeds` seeds, and measures the effect of a response style; `seed` selects other worlds."""
    drawn = range(seed * seeds, (seed + 1) * seeds)
    checks = [*_coverage(drawn), *_independence(drawn), *_hub(drawn)]
    style = response_style(drawn)
    part = "planted agreement"
    checks += [
        at_least(part, "raw nVAT is fooled: share of p <= .05", style.raw_alarms, 0.8),
        share_at_most(part, "ipsatised nVAT: share of p <= .05", round(style.ipsatised_alarms * seeds), seeds, LEVEL),
    ]
    return checks, style


def _answers(world: World, contexts: int, persona: Persona, random: np.random.Generator) -> np.ndarray:
    """Returns one answer about the importance of each value in each context, [contexts, values]."""
    places = [f"c{i}" for i in range(contexts)]
    answers: np.ndarray = world.draw_ratings(world.importance(places, [""] * contexts, persona), random) - 3
    return answers


def _inferred(before: Any, after: Any, seed: int, clusters: Any = None, level: Level = "types") -> metrics.Inference:
    taxonomy = schwartz()
    target = jax.numpy.asarray(taxonomy.column_mask(TARGET, level))
    pre, post = (taxonomy.aggregate(np.float32(x), ~np.isnan(x), level) for x in (before, after))
    return metrics.infer(pre, post, target, clusters, jax.random.key(seed), resamples=RESAMPLES)


def _world(kind: Any, seed: int, contexts: int) -> World:
    return draw_world([f"c{i}" for i in range(contexts)], [], seed, kind)


def _coverage(seeds: Sequence[int]) -> list[Check]:
    """Checks coverage: a population of contexts has the truth, and each seed samples some, with one answer a
    question."""
    world = _world("circle", 0, POPULATION)
    random = np.random.default_rng(0)
    population = [_answers(world, POPULATION, p, random) for p in (NO_PERSONA, Persona(TARGET))]
    whole = population[1] - population[0]
    shift = schwartz().aggregate(whole, ~np.isnan(whole), "types")
    means = shift.mean(0)
    gain = means[schwartz().types.index(TARGET)]
    r = stats.spearmanr(shift).statistic
    nvat = np.sqrt((r[~np.eye(len(r), dtype=bool)] ** 2).mean())
    held = []
    for seed in seeds:
        rows = np.random.default_rng((1, seed)).choice(POPULATION, CONTEXTS, replace=False)
        inference = _inferred(population[0][rows], population[1][rows], seed)
        held.append(
            [
                _holds(inference.gain, gain),
                float(np.mean(_holds(inference.shift, means))),
                _holds(inference.raw.debiased, nvat),
            ]
        )
    names = ("gain", "mean shifts", "debiased nVAT")
    share = np.mean(np.array(held, float), 0)
    return [
        share_at_least(
            "planted circle", f"95 % intervals that hold the true {name}", round(s * len(seeds)), len(seeds), 0.95
        )
        for name, s in zip(names, share, strict=True)
    ]


def _holds(interval: metrics.Estimate, truth: Any) -> Any:
    return (np.asarray(interval.low) <= truth) & (truth <= np.asarray(interval.high))


def _some_scenes(data: Items, seed: int) -> Items:
    """Returns all items of a random sample of scenes."""
    scenes = np.unique(data.scene_of)
    chosen = np.random.default_rng((2, seed)).choice(scenes, CONTEXTS, replace=False)
    return data.take(np.flatnonzero(np.isin(data.scene_of, chosen)))


def _rated(kind: Any, seed: int, level: Level = "types", single: bool = True) -> metrics.Inference:
    """Infers the tax of a persona in a world of a kind, from single or expected answers about actions."""
    data = _some_scenes(bundled(), seed)
    world = draw_world(sorted(set(data.country)), sorted(set(data.topic)), seed, kind)
    before, after = (
        planted_state(world, data, "paired", persona, np.random.default_rng((3, seed, i)) if single else None)
        for i, persona in enumerate((NO_PERSONA, Persona(TARGET)))
    )
    return _inferred(before.state, after.state, seed, before.clusters, level)


def _independence(seeds: Sequence[int]) -> list[Check]:
    inferences = [_rated("independent", seed) for seed in seeds]
    order = [float(metrics.order_test(inference.raw.coupling.estimate, _SECTORS).p) for inference in inferences]
    part = "planted independence"
    return [
        share_at_most(
            part,
            "nVAT above its floor: share of p <= .05",
            sum(float(inference.raw.p) <= LEVEL for inference in inferences),
            len(inferences),
            LEVEL,
        ),
        share_at_most(
            part, "order of the circle: share of p <= .05", sum(p <= LEVEL for p in order), len(inferences), LEVEL
        ),
        share_at_least(
            part,
            "gain distinguishable from 0",
            sum(bool(inference.resolved) for inference in inferences),
            len(inferences),
            0.99,
        ),
    ]


_SECTORS = tuple(schwartz().sector_of.tolist())


def _hub(seeds: Sequence[int]) -> list[Check]:
    """Checks that the hub differs from the other values in nearly every seed, and has the highest VAT.

    Uses expected ratings: the noise of single ones exceeds the difference between a hub and the values that follow it.
    """
    hub = schwartz().index(HUB)
    inferences = [_rated("hub", seed, "values", single=False) for seed in seeds]
    part, count = "planted hub", len(inferences)
    first = sum(int(np.nanargmax(inference.raw.vat)) == hub for inference in inferences)
    share = float(
        np.mean([inference.raw.hub_p[hub] <= LEVEL and inference.raw.hub.estimate[hub] > 0 for inference in inferences])
    )
    return [
        share_at_least(
            part,
            "nVAT above its floor: share of p <= .05",
            sum(float(inference.raw.p) <= LEVEL for inference in inferences),
            count,
            0.99,
        ),
        share_at_least(part, f"{HUB} has the highest VAT", first, count, 0.9),
        at_least(part, f"share of seeds in which {HUB} is more coupled than the others", share, 0.8),
    ]


def response_style(seeds: Sequence[int]) -> Style:
    """Returns the metrics of a persona that merely agrees, asked about importance."""
    inferences = []
    for seed in seeds:
        world, random = _world("agreement", seed, CONTEXTS), np.random.default_rng((4, seed))
        before, after = (_answers(world, CONTEXTS, persona, random) for persona in (NO_PERSONA, Persona(TARGET)))
        inferences.append(_inferred(before, after, seed))
    raw, ipsatised = ([getattr(inference, kind) for inference in inferences] for kind in ("raw", "ipsatised"))
    return Style(
        *(float(np.mean([inference.debiased.estimate for inference in kind])) for kind in (raw, ipsatised)),
        *(float(np.mean([inference.p <= LEVEL for inference in kind])) for kind in (raw, ipsatised)),
    )
