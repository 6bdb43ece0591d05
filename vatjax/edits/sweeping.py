"""Sweeps of an edit over layers and strengths, and curves of its effect and its cost.

Both odds of `outcome` are fitted as functions of the strength m, with a validity that decays away from some m0, on each
side at a separate rate:

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
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.prefix import Size
from vatjax.prompts import ElicitConfig
from vatjax.runtime.progress import OnProgress, ignore_progress

STRENGTHS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
MIN_STRENGTHS = 8  # for the fit of a curve, which has seven parameters
MIN_VALIDITY = 0.9  # lowest validity in the useful range


class Point(NamedTuple):
    """One edit of a sweep.

    Attributes:
        layers: edited layers.
        strength: of the edit.
        outcome: as measured.
    """

    layers: tuple[int, ...]
    strength: float
    outcome: Outcome


class Curve(NamedTuple):
    """A fit of both odds over the strengths of one choice of layers.

    Attributes:
        layers: edited layers.
        preference, utility: parameters: (a, b) and (c, d), then m0, log L and p below it, log L and p above it.
        preference_r2, utility_r2: share of the variance that the fits explain; NaN for constant odds.
        useful: the range of swept strengths with a utility validity above .9; NaN if it is empty.
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
    how: ElicitConfig | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Point]:
    """Measures an edit at several choices of layers, each at several strengths, with the same compiled programs.

    Args:
        model: the model.
        items: to ask about; they must allow `paired`.
        target, direction: of the edits.
        make: callable; returns the edit of some layers, at strength 1.
        layers: choices of layers.
        strengths: for each choice.
        texts, size, at_once, how, on_progress: as in `outcomes`.
    """
    if not layers or not strengths:
        raise errors.InputError("a sweep needs at least one layer and one strength")
    points = list(itertools.product(layers, strengths))
    edit_at = {place: make(place) for place in layers}
    every = [float(s) * edit_at[place] for place, s in points]
    results = outcomes(model, items, target, every, direction, texts, size, at_once, how, on_progress)
    return [Point(tuple(place), float(s), outcome) for (place, s), outcome in zip(points, results, strict=True)]


def best_point(points: Sequence[Point]) -> Point | None:
    """Returns the point with the highest gain that does not break the model; None if every point does."""
    whole = [point for point in points if not point.outcome.broken]
    return max(whole, key=lambda point: point.outcome.gain, default=None)


def no_gain_reason(best: Point | None) -> str:
    """Returns why the best point of a sweep cannot be used; "" if it gains."""
    if best is None:
        return "every strength breaks the model"
    return "" if best.outcome.gain > 0 else "no strength gives a gain above 0"


# Curves -------------------------------------------------------------------------------------------------------------


def validity(m: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Returns D(m), from m0, log L and p below it, log L and p above it."""
    m0, below, p_below, above, p_above = shape
    low = m < m0
    decay: np.ndarray = (1 + (m - m0) ** 2 / np.exp(np.where(low, below, above))) ** -np.where(low, p_below, p_above)
    return decay


def fit_curve(points: Sequence[Point], unedited: tuple[float, float] | None = None) -> Curve:
    """Fits both odds of the points of one choice of layers.

    Args:
        points: with the same layers.
        unedited: preference and utility odds at strength 0, if known.
    """
    m = np.array([point.strength for point in points])
    preference = np.array([point.outcome.preference for point in points])
    utility = np.array([point.outcome.utility for point in points])
    if unedited is not None:
        m = np.append(m, 0.0)
        preference, utility = np.append(preference, unedited[0]), np.append(utility, unedited[1])
    finite = np.isfinite(preference) & np.isfinite(utility)
    m, preference, utility = m[finite], preference[finite], utility[finite]
    if len(set(m.tolist())) < MIN_STRENGTHS:
        raise errors.InputError(f"a curve needs at least {MIN_STRENGTHS} strengths, found {len(set(m.tolist()))}")
    slope, span = np.polyfit(m, preference, 1), float(np.ptp(utility)) or 1.0
    most = 8 * (float(np.abs(preference).max()) + 1)
    liked, liked_r2 = _fit(
        m, preference, lambda x, q: (q[0] * x + q[1]) * validity(x, q[2:]), slope, ((-most, most), (-most, most))
    )
    # Without bounds, a low c with a large d would make any decay look slight.
    low = float(utility.min())
    used, used_r2 = _fit(
        m,
        utility,
        lambda x, q: q[0] + q[1] * validity(x, q[2:]),
        np.array([low - span / 2, 1.5 * span]),
        ((low - span, low), (0.0, 4 * span)),
    )
    grid = np.linspace(m.min(), m.max(), 1001)
    valid = validity(grid, used[2:]) > MIN_VALIDITY
    if not used_r2 > 0.5:  # a utility that does not fall keeps its validity
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
    """Returns the best fit of several starts, and the share of the variance that it explains."""
    reach = float(np.abs(m).max())
    low = [bounds[0][0], bounds[1][0], m.min(), np.log(reach**2 / 1e4), 0.0, np.log(reach**2 / 1e4), 0.0]
    high = [bounds[0][1], bounds[1][1], m.max(), np.log(reach**2 * 1e4), 8.0, np.log(reach**2 * 1e4), 8.0]
    fits = [
        optimize.least_squares(
            lambda q: form(m, q) - y,
            np.clip([*linear, centre, np.log(width), 0.5, np.log(width), 0.5], low, high),
            bounds=(low, high),
        )
        for centre in (0.0, reach / 8, -reach / 8)
        for width in (reach**2 / 16, reach**2)
    ]
    best = min(fits, key=lambda fit: float(fit.cost))
    total = float(((y - y.mean()) ** 2).sum())
    return best.x, 1 - 2 * float(best.cost) / total if total > 1e-12 * max(1.0, float((y**2).sum())) else float("nan")
