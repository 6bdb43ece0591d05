"""Layers times strengths: where an edit works, how far it can be pushed, and what the push costs.

The two odds of `outcome`, as functions of the strength m, are fitted with a validity that decays away from some m0, on
each side at a pace of its own:

    D(m)          = (1 + (m - m0)^2 / L)^-p                 L, p for m below m0, and others for m above it
    preference(m) = (a m + b) D(m)
    utility(m)    = c + d D(m)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from vatjax import errors
from vatjax.edits.outcome import Outcome, outcomes
from vatjax.elicit import Size
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.progress import OnProgress, silent
from vatjax.prompts import How

STRENGTHS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
LEAST = 8  # strengths that a curve is fitted to, which has seven numbers of its own
VALID = 0.9  # of the validity, within the useful range


class Point(NamedTuple):
    """One edit of a sweep.

    Attributes:
        layers: that are edited.
        strength: of the edit.
        outcome: what it does.
    """

    layers: tuple[int, ...]
    strength: float
    outcome: Outcome


class Curve(NamedTuple):
    """A fit of both odds over the strengths of one choice of layers.

    Attributes:
        layers: of the edits.
        preference, utility: what was fitted: (a, b) and (c, d), then m0, L and p below it, L and p above it.
        preference_r2, utility_r2: the share of the variance that the fits explain; NaN where nothing varies.
        useful: the strengths between which the utility's validity is above .9, within what was swept; NaN for none.
    """

    layers: tuple[int, ...]
    preference: np.ndarray
    utility: np.ndarray
    preference_r2: float
    utility_r2: float
    useful: tuple[float, float]


def sweep(
    model: Model,
    items: Items,
    target: str,
    make: Callable[[tuple[int, ...]], Edit],
    layers: Sequence[tuple[int, ...]],
    strengths: Sequence[float] = STRENGTHS,
    direction: int = 1,
    texts: Sequence[str] | None = None,
    size: Size | None = None,
    at_once: int = 0,
    how: How | None = None,
    on_progress: OnProgress = silent,
) -> list[Point]:
    """Measures an edit in several places, each at several strengths, all in the same compiled programs.

    Args:
        model: the model.
        items: what is asked about; they must allow `paired`.
        target, direction: what was to be pushed, and which way.
        make: the edit in some layers, at strength 1.
        layers: the places.
        strengths: at each of them.
        texts, size, at_once, how, on_progress: as in `outcomes`.
    """
    if not layers or not strengths:
        raise errors.InputError("a sweep needs at least one layer and one strength")
    points = list(itertools.product(layers, strengths))
    made = {place: make(place) for place in layers}
    every = [float(s) * made[place] for place, s in points]
    found = outcomes(model, items, target, every, direction, texts, size, at_once, how, on_progress)
    return [Point(tuple(place), float(s), one) for (place, s), one in zip(points, found, strict=True)]


def best(points: Sequence[Point]) -> Point | None:
    """The point with the highest gain among those that leave the model whole; None where there is none."""
    whole = [point for point in points if not point.outcome.broken]
    return max(whole, key=lambda point: point.outcome.gain, default=None)


# Curves -------------------------------------------------------------------------------------------------------------


def validity(m: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """D(m), from m0, log L and p below it, log L and p above it."""
    m0, below, p_below, above, p_above = shape
    low = m < m0
    decay: np.ndarray = (1 + (m - m0) ** 2 / np.exp(np.where(low, below, above))) ** -np.where(low, p_below, p_above)
    return decay


def curve(points: Sequence[Point], unedited: tuple[float, float] | None = None) -> Curve:
    """Fits both odds of the points of one choice of layers.

    Args:
        points: with the same layers.
        unedited: preference and utility odds at strength 0, where they are known.
    """
    m = np.array([point.strength for point in points])
    preference = np.array([point.outcome.preference for point in points])
    utility = np.array([point.outcome.utility for point in points])
    if unedited is not None:
        m = np.append(m, 0.0)
        preference, utility = np.append(preference, unedited[0]), np.append(utility, unedited[1])
    there = np.isfinite(preference) & np.isfinite(utility)
    m, preference, utility = m[there], preference[there], utility[there]
    if len(set(m.tolist())) < LEAST:
        raise errors.InputError(f"a curve needs at least {LEAST} strengths, found {len(set(m.tolist()))}")
    slope, span = np.polyfit(m, preference, 1), float(np.ptp(utility)) or 1.0
    most = 8 * (float(np.abs(preference).max()) + 1)
    liked, liked_r2 = _fit(
        m, preference, lambda x, q: (q[0] * x + q[1]) * validity(x, q[2:]), slope, ((-most, most), (-most, most))
    )
    # A height that the utility never comes near would make any decay look slight.
    low = float(utility.min())
    used, used_r2 = _fit(
        m,
        utility,
        lambda x, q: q[0] + q[1] * validity(x, q[2:]),
        np.array([low - span / 2, 1.5 * span]),
        ((low - span, low), (0.0, 4 * span)),
    )
    grid = np.linspace(m.min(), m.max(), 1001)
    valid = validity(grid, used[2:]) > VALID
    if not used_r2 > 0.5:  # what does not fall has no validity to lose
        valid = np.ones_like(valid)
    if not valid.any():
        return Curve(points[0].layers, liked, used, liked_r2, used_r2, (float("nan"), float("nan")))
    centre = int(np.argmin(np.abs(grid))) if valid[np.argmin(np.abs(grid))] else int(np.argmax(valid))
    low = centre - int(np.argmin(valid[centre::-1])) + 1 if not valid[centre::-1].all() else 0
    high = centre + int(np.argmin(valid[centre:])) - 1 if not valid[centre:].all() else len(grid) - 1
    return Curve(points[0].layers, liked, used, liked_r2, used_r2, (float(grid[low]), float(grid[high])))


def _fit(
    m: np.ndarray,
    y: np.ndarray,
    form: Callable[[np.ndarray, np.ndarray], np.ndarray],
    linear: np.ndarray,
    bounds: tuple[tuple[float, float], tuple[float, float]],
) -> tuple[np.ndarray, float]:
    """The best of several starts, and the share of the variance that it explains."""
    reach = float(np.abs(m).max())
    low = [bounds[0][0], bounds[1][0], m.min(), np.log(reach**2 / 1e4), 0.0, np.log(reach**2 / 1e4), 0.0]
    high = [bounds[0][1], bounds[1][1], m.max(), np.log(reach**2 * 1e4), 8.0, np.log(reach**2 * 1e4), 8.0]
    found = [
        optimize.least_squares(
            lambda q: form(m, q) - y,
            np.clip([*linear, centre, np.log(width), 0.5, np.log(width), 0.5], low, high),
            bounds=(low, high),
        )
        for centre in (0.0, reach / 8, -reach / 8)
        for width in (reach**2 / 16, reach**2)
    ]
    best = min(found, key=lambda one: float(one.cost))
    total = float(((y - y.mean()) ** 2).sum())
    return best.x, 1 - 2 * float(best.cost) / total if total > 1e-12 * max(1.0, float((y**2).sum())) else float("nan")
