"""A real intervention beside its placebos, all measured in the same way on scenes that none of them was found from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vatjax import edits, elicit, metrics
from vatjax.edits.outcome import breaks
from vatjax.items import Items
from vatjax.metrics import Estimate
from vatjax.models import Edit, Model
from vatjax.progress import OnProgress, silent, within
from vatjax.prompts import Shot
from vatjax.values import Taxonomy

RESAMPLES = 1000


class Push(NamedTuple):
    """What a model is put under: an edit, examples, or an instruction.

    Attributes:
        edit, shots, instruction: one of them; what is not given does nothing.
        placebo: what it is a draw of, where it is not meant to push.
    """

    edit: Edit | None = None
    shots: Sequence[Shot] = ()
    instruction: str = ""
    placebo: str = ""


class Trial(NamedTuple):
    """What one of several pushes did.

    Attributes:
        name: of the push.
        placebo: what it was a draw of, where it was not meant to push.
        gain: of the target.
        resolved: whether the gain is told from 0.
        p: of the gain.
        off_target: mean absolute GND of the other types; NaN where the gain is not resolved.
        nvat: of the types, debiased.
        success_before: the share of contexts in which the target is leaned to as wanted, of the model alone.
        success: the same under the push.
        leakage: rise of the other types' success over the target's.
        by_distance: the same of the types at each distance on the circle, from 0.
        mass: mean option mass.
        mass_before: the same of the model alone.
        utility_loss: the share of the option mass that was there before and is not any more.
        perplexity: on neutral text, in units of the unedited model's; 1 where nothing is edited, NaN for a model that reads
            it worse than by chance.
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
        """Returns whether the model has stopped to answer, or to write."""
        return breaks(self.mass, self.perplexity, self.mass_before)


def trials(
    model: Model,
    items: Items,
    target: str,
    pushes: Mapping[str, Push],
    direction: int = 1,
    how: elicit.How | None = None,
    seed: int = 0,
    size: elicit.Size | None = None,
    on_progress: OnProgress = silent,
) -> list[Trial]:
    """Asks a model without any push, and under each of them.

    Args:
        model: the model.
        items: what is asked about: scenes that no push was found from or shows.
        target, direction: what is to be pushed, and which way.
        pushes: by name.
        how: how it is asked; `paired` by default.
        seed: of the resampling.
        size: how much is computed at one time.
        on_progress: is called with the completed fraction.
    """
    how = how or elicit.How()
    made: list[Trial] = []

    def asked(push: Push, place: int = 0) -> elicit.Rated:
        part = within(on_progress, place / (len(pushes) + 1), (place + 1) / (len(pushes) + 1))
        return elicit.ratings(
            model,
            items,
            how,
            shots=push.shots,
            instruction=push.instruction,
            edit=push.edit,
            size=size,
            on_progress=part,
        )

    before = asked(Push())
    for place, (name, push) in enumerate(pushes.items(), 1):
        both = before, asked(push, place)
        made.append(_trial(model, items.taxonomy, target, direction, name, push, both, seed))
    return made


class Blind(NamedTuple):
    """What all draws of a placebo did together.

    Attributes:
        name: of the placebo.
        draws: how many.
        gain: their mean, with the interval that the draws themselves give.
        resolved: whether it is told from 0: then the placebo is none.
    """

    name: str
    draws: int
    gain: Estimate
    resolved: bool


def blind(found: Sequence[Trial]) -> list[Blind]:
    """Draws of each placebo taken together: what one of them does by chance is no effect of the placebo."""
    made = []
    for name in dict.fromkeys(one.placebo for one in found if one.placebo):
        gains = np.array([float(one.gain.estimate) for one in found if one.placebo == name])
        gains = gains[np.isfinite(gains)]  # a draw that leaves no rating says nothing
        if len(gains) > 1:
            half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
            mean = gains.mean()
            interval = Estimate(*(jnp.asarray(x) for x in (mean, mean - half, mean + half)))
            made.append(Blind(name, len(gains), interval, bool(abs(mean) > half)))
    return made


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
    member = taxonomy.columns(target)
    x, y = (jnp.asarray(taxonomy.aggregate(np.float32(one.state.state), one.state.mask, "types")) for one in rated)
    clusters = rated[0].state.clusters
    own = metrics.infer(
        x, y, jnp.asarray(member), clusters, jax.random.key(seed), direction=direction, resamples=RESAMPLES
    )
    controlled = metrics.control(x, y, jnp.asarray(member), clusters, direction, distances(taxonomy, member))
    masses = [one.shares.sum(-1).mean(0) for one in rated]
    perplexity = 1.0 if push.edit is None else float(edits.perplexities(model, [push.edit])[0])
    return Trial(
        name,
        push.placebo,
        _plain(own.gain),
        bool(own.resolved),
        float(own.first.gain_p),
        _plain(own.off_target),
        _plain(own.raw.debiased),
        float(jnp.nanmean((controlled.success.estimate - controlled.rise.estimate)[member])),
        _plain(controlled.target_success),
        _plain(controlled.leakage),
        _plain(controlled.by_distance),
        float(masses[1].mean()),
        float(masses[0].mean()),
        _loss(*masses),
        perplexity,
    )


def _plain(estimate: Estimate) -> Estimate:
    """The same on the host."""
    found: Estimate = jax.tree.map(np.asarray, estimate)
    return found


def _loss(before: np.ndarray, after: np.ndarray) -> Estimate:
    """The share of the mass that is gone, with the interval of a mean over prompts."""
    lost = 1 - after / np.maximum(before, 1e-6)
    half = 1.96 * lost.std(ddof=1) / np.sqrt(len(lost))
    return Estimate(*(jnp.asarray(x) for x in (lost.mean(), lost.mean() - half, lost.mean() + half)))


def distances(taxonomy: Taxonomy, member: np.ndarray) -> np.ndarray:
    """How many sectors of the circle lie between each type and the nearest of the target's, [types]; 1 without a circle."""
    if not taxonomy.circle:
        return np.where(member, 0, 1)
    sector = np.asarray(taxonomy.sector_of)
    count = int(sector.max()) + 1
    apart = np.abs(sector[:, None] - sector[member][None, :])
    nearest: np.ndarray = np.minimum(apart, count - apart).min(1)
    return nearest
