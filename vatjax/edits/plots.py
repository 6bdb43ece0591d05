"""Figures of a sweep of edits."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from vatjax.edits.sweeping import Curve, Point, validity


def sweep_figure(
    points: Sequence[Point], curves: Sequence[Curve], title: str, placebo_points: Sequence[Point] = ()
) -> bytes:
    """Draws preference and utility odds over the strength, with a line and its fit for each choice of layers, as a PNG.

    Args:
        points: from `edits.sweep`.
        curves: fitted to the points.
        title: of the figure.
        placebo_points: points of a placebo, drawn in grey.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    fits = {curve.layers: curve for curve in curves}
    for number, place in enumerate(dict.fromkeys(point.layers for point in points)):
        place_points = sorted((point for point in points if point.layers == place), key=lambda point: point.strength)
        m = np.array([point.strength for point in place_points])
        grid = np.linspace(m.min(), m.max(), 200)
        label = "layer " + ", ".join(map(str, place)) if len(place) < 4 else f"{len(place)} layers"
        for axis, which in zip(axes, ("preference", "utility"), strict=True):
            y = [getattr(point.outcome, which) for point in place_points]
            axis.plot(m, y, "o", color=f"C{number % 10}", label=label, markersize=4)
            if place in fits:
                q = getattr(fits[place], which)
                d = validity(grid, q[2:])
                fit = (q[0] * grid + q[1]) * d if which == "preference" else q[0] + q[1] * d
                axis.plot(grid, fit, color=f"C{number % 10}", linewidth=1)
    for axis, which in zip(axes, ("preference", "utility"), strict=True) if placebo_points else ():
        place_points = sorted(placebo_points, key=lambda point: point.strength)
        y = [getattr(point.outcome, which) for point in place_points]
        axis.plot(
            [point.strength for point in place_points], y, "x--", color="0.6", label="random", markersize=4, linewidth=1
        )
    for axis, name in zip(axes, ("preference odds (nats)", "utility odds (nats)"), strict=True):
        axis.set(xlabel="strength", ylabel=name)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes[0].legend(fontsize="small")
    figure.suptitle(title)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=150, metadata={"Software": None})
    return written.getvalue()
