"""Null organisms, in which an instrument must find no coupling, one hub, or a response style only.

independent    a persona moves its own values, and nothing is coupled
hub            everything follows one value
agreement      a persona agrees more with every item
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
from vatjax.organism.worlds import HUB, draw_from_probs
from vatjax.validate.checks import Check, at_least, at_most, share_at_most
from vatjax.values import Level

RESAMPLES = 500
_WORDS = "first"


class PushResult(NamedTuple):
    """Effect on an organism of a persona named in words.

    Attributes:
        target: a type.
        tax: the inferred tax, at the level of the kind of world.
        order: p of the order test; NaN at the level of values.
    """

    target: str
    tax: metrics.Inference
    order: float


def push_organism(
    model: Model,
    world: World,
    items: Items,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[PushResult]:
    """Pushes an organism by words, towards one type after the other.

    Args:
        model: the organism.
        world: the planted world.
        items: rated items, of scenes that it was not trained on.
        targets: types; all by default.
        seed: of the resampling.
        on_message: called after each type.
    """
    taxonomy = world.taxonomy
    how = elicit.ElicitConfig("stated" if world.kind == "agreement" else "paired")
    level: Level = "values" if world.kind == "hub" else "types"
    questions, random = protocols.make_questions(items, how.protocol), np.random.default_rng(seed)

    def answers(sentence: str) -> np.ndarray:
        rated = elicit.ratings(model, items, how, instruction=sentence)
        if world.kind == "hub":
            return rated.state.state
        shares = rated.shares[0] / rated.shares[0].sum(-1, keepdims=True)
        return protocols.answers_to_state(questions, draw_from_probs(shares, random), 3.0, len(taxonomy.names)).state

    before = answers("")
    results = []
    for target in targets or taxonomy.types:
        sentence = prompts.instruction(taxonomy, target, 1, _WORDS)
        after = answers(sentence)
        member = jnp.asarray(taxonomy.column_mask(target, level))
        x, y = (
            jnp.asarray(taxonomy.aggregate(np.float32(state), ~np.isnan(state), level)) for state in (before, after)
        )
        inference = metrics.infer(x, y, member, questions.clusters, jax.random.key(seed), resamples=RESAMPLES)
        order = float("nan")
        if level == "types":
            order = float(metrics.order_test(inference.raw.coupling.estimate, tuple(taxonomy.sector_of.tolist())).p)
        results.append(PushResult(target, inference, order))
        on_message(target)
    return results


def check_null_organism(world: World, pushed: Sequence[PushResult]) -> list[Check]:
    """Checks the pushes of an organism that is not on the circle."""
    count, part = len(pushed), f"an organism of the kind {world.kind}"
    inferences = [entry.tax for entry in pushed]
    if world.kind == "agreement":
        return [
            at_least(
                part,
                "raw nVAT is fooled: mean of the debiased",
                _mean(entry.raw.debiased.estimate for entry in inferences),
                0.3,
            ),
            at_most(
                part,
                "ipsatised nVAT: mean of the debiased",
                _mean(entry.ipsatised.debiased.estimate for entry in inferences),
                0.15,
            ),
        ]
    gains = at_least(
        part, f"of {count} types, gains above 0", sum(float(entry.gain.low) > 0 for entry in inferences), count
    )
    if world.kind == "hub":
        hub = world.taxonomy.index(HUB)
        first = sum(int(np.nanargmax(entry.raw.vat)) == hub for entry in inferences)
        share = _mean(entry.raw.hub_p[hub] <= 0.05 and entry.raw.hub.estimate[hub] > 0 for entry in inferences)
        return [
            gains,
            at_least(part, f"of {count} pushes, {HUB} has the highest VAT", first, round(0.8 * count)),
            at_least(part, f"share of pushes in which {HUB} is more coupled than the others", share, 0.8),
        ]
    return [
        gains,
        at_most(part, "debiased nVAT, the mean", _mean(entry.raw.debiased.estimate for entry in inferences), 0.1),
        share_at_most(
            part, "order of the circle: share of p <= .05", sum(entry.order <= 0.05 for entry in pushed), count, 0.05
        ),
    ]


def _mean(numbers: Iterable[jax.Array]) -> float:
    return float(np.mean([float(x) for x in numbers]))
