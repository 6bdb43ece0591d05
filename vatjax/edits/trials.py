"""Trials of an intervention and its placebos, all measured alike on scenes that none of them was found from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vatjax import elicit, metrics, prefix
from vatjax.edits.outcome import is_broken, perplexities, utility_loss
from vatjax.items import Items
from vatjax.metrics import Estimate
from vatjax.models import Model
from vatjax.runtime.progress import OnProgress, ignore_progress, stage_progress
from vatjax.values import Taxonomy

RESAMPLES = 1000


class Push(NamedTuple):
    """Condition that a model is rated under, and its role in an experiment.

    Attributes:
        condition: an edit, examples, or an instruction.
        placebo: name of the placebo it is a draw of; empty for a real push.
    """

    condition: elicit.Condition = elicit.Condition()
    placebo: str = ""


class Trial(NamedTuple):
    """Measured effect of one push.

    Attributes:
        name: of the push.
        placebo: name of the placebo it was a draw of; empty for a real push.
        gain: of the target.
        resolved: True if the gain can be distinguished from 0.
        p: of the gain.
        off_target: debiased root mean square GND of the other types; NaN if the gain is not resolved.
        nvat: of the types, debiased.
        success_before: share of contexts in which the unedited model leans in the requested direction.
        success: the same under the push.
        leakage: rise of the other types' success over the target's.
        by_distance: the same of the types at each distance on the circle, from 0.
        mass: mean option mass.
        mass_before: the same of the unedited model.
        utility_loss: share of the option mass that the push removes.
        perplexity: of neutral text, relative to the unedited model; 1 without an edit, NaN for a model that reads it
            worse than by chance.
    """

    name: str
    placebo: str
    gain: Estimate
    resolved: bool
    p: float
    off_target: Estimate
    nvat: Estimate
    success_before: float
    success: Estimate
    leakage: Estimate
    by_distance: Estimate
    mass: float
    mass_before: float
    utility_loss: Estimate
    perplexity: float

    @property
    def broken(self) -> bool:
        """Returns True if the model no longer answers, or no longer writes."""
        return is_broken(self.mass, self.perplexity, self.mass_before)


def run_trials(
    model: Model,
    items: Items,
    target: str,
    pushes: Mapping[str, Push],
    direction: int = 1,
    how: elicit.ElicitConfig | None = None,
    seed: int = 0,
    size: prefix.Size | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Trial]:
    """Rates a model without any push, and under each of them.

    Args:
        model: the model.
        items: rated items, of scenes that no push was found from or shows.
        target, direction: the target, and the direction to push it.
        pushes: by name.
        how: elicitation settings; `paired` by default.
        seed: of the resampling.
        size: amount computed at once.
        on_progress: called with the completed fraction.
    """
    how = how or elicit.ElicitConfig()
    results: list[Trial] = []

    def rate(push: Push, place: int = 0) -> elicit.Rated:
        part = stage_progress(on_progress, place / (len(pushes) + 1), (place + 1) / (len(pushes) + 1))
        return elicit.ratings(
            model,
            items,
            how,
            **push.condition._asdict(),
            size=size,
            on_progress=part,
        )

    before = rate(Push())
    for place, (name, push) in enumerate(pushes.items(), 1):
        ratings = before, rate(push, place)
        results.append(_trial(model, items.taxonomy, target, direction, name, push, ratings, seed))
    return results


class PlaceboSummary(NamedTuple):
    """Joint effect of all draws of a placebo.

    Attributes:
        name: of the placebo.
        draws: number of draws.
        gain: their mean, with the interval over draws.
        resolved: True if it can be distinguished from 0; then the placebo is not neutral.
    """

    name: str
    draws: int
    gain: Estimate
    resolved: bool


def summarise_placebos(results: Sequence[Trial]) -> list[PlaceboSummary]:
    """Pools the draws of each placebo: the effect of a single draw may be chance."""
    summaries = []
    for name in dict.fromkeys(trial.placebo for trial in results if trial.placebo):
        gains = np.array([float(trial.gain.estimate) for trial in results if trial.placebo == name])
        gains = gains[np.isfinite(gains)]  # a draw without ratings is not informative
        if len(gains) > 1:
            half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
            mean = gains.mean()
            interval = Estimate(*(jnp.asarray(x) for x in (mean, mean - half, mean + half)))
            summaries.append(PlaceboSummary(name, len(gains), interval, bool(abs(mean) > half)))
    return summaries


def _trial(
    model: Model,
    taxonomy: Taxonomy,
    target: str,
    direction: int,
    name: str,
    push: Push,
    rated: tuple[elicit.Rated, elicit.Rated],
    seed: int,
) -> Trial:
    member = taxonomy.column_mask(target)
    x, y = (
        jnp.asarray(taxonomy.aggregate(np.float32(rating.state.state), rating.state.mask, "types")) for rating in rated
    )
    clusters = rated[0].state.clusters
    inference = metrics.infer(
        x, y, jnp.asarray(member), clusters, jax.random.key(seed), direction=direction, resamples=RESAMPLES
    )
    controlled = metrics.control(x, y, jnp.asarray(member), clusters, direction, circle_distances(taxonomy, member))
    masses = [rating.shares.sum(-1).mean(0) for rating in rated]
    edit = push.condition.edit
    perplexity = 1.0 if edit is None else float(perplexities(model, [edit])[0])
    return Trial(
        name,
        push.placebo,
        _to_host(inference.gain),
        bool(inference.resolved),
        float(inference.first.gain_p),
        _to_host(inference.off_target),
        _to_host(inference.raw.debiased),
        float(jnp.nanmean((controlled.success.estimate - controlled.rise.estimate)[member])),
        _to_host(controlled.target_success),
        _to_host(controlled.leakage),
        _to_host(controlled.by_distance),
        float(masses[1].mean()),
        float(masses[0].mean()),
        utility_loss(masses[0], masses[1], rated[0].clusters),
        perplexity,
    )


def _to_host(estimate: Estimate) -> Estimate:
    """Copies an estimate to the host."""
    copied: Estimate = jax.tree.map(np.asarray, estimate)
    return copied


def circle_distances(taxonomy: Taxonomy, member: np.ndarray) -> np.ndarray:
    """Returns the number of sectors between each type and the nearest of the target's, [types]; 1 without a circle."""
    if not taxonomy.circle:
        return np.where(member, 0, 1)
    sector = np.asarray(taxonomy.sector_of)
    count = int(sector.max()) + 1
    apart = np.abs(sector[:, None] - sector[member][None, :])
    nearest: np.ndarray = np.minimum(apart, count - apart).min(1)
    return nearest
