"""The figures of a report; the page embeds their SVG in its own colours."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vatjax.drawing import COLOURS, FAINT, GRID, INK, set_hover, style
from vatjax.study.arm_groups import ArmGroup
from vatjax.values import Taxonomy

_LINE = 0.17  # smallest distance of two names on the circle, in radii


# An aim -------------------------------------------------------------------------------------------------------------


def plot_levels(group: ArmGroup, styles: Mapping[str, tuple[str, str]], ordered: Collection[str]) -> Any:
    """Plots gain, others' shift and nVAT along examples, strengths and steps; None without several levels."""
    from matplotlib.figure import Figure

    kinds: dict[str, list[str]] = {}
    for name, rows in group.real.items():
        if len(rows) > 1 and name in ordered:
            kinds.setdefault(rows[0]["unit"], []).append(name)
    if not kinds:
        return None
    shown = (("gain", "gain"), ("off_target_shift", "others' shift"), ("nvat_debiased", "nVAT, debiased"))
    with style():
        figure = Figure(figsize=(9.4, 2.5 * len(kinds)))
        axes = figure.subplots(len(kinds), 3, squeeze=False)
        for line, (unit, names) in zip(axes, kinds.items(), strict=True):
            for axis, (key, title) in zip(line, shown, strict=True):
                for name in names:
                    rows = sorted(group.real[name], key=lambda row: float(row["amount"]))
                    colour, mark = styles[name]
                    x = [row["amount"] for row in rows]
                    y = [np.nan if row[key] is None else row[key] for row in rows]
                    axis.plot(x, y, f"{mark}-", color=colour, markersize=4, linewidth=1, label=name)
                    low, high = ([row.get(f"{key}_{end}") for row in rows] for end in ("low", "high"))
                    if None not in low and None not in high:
                        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                axis.axhline(0, color=GRID, linewidth=0.8, zorder=0)
                axis.set(xlabel=unit, title=title)
            line[0].legend(fontsize=8)
    return figure


# An arm -------------------------------------------------------------------------------------------------------------


def plot_arm(content: Mapping[str, Any], taxonomy: Taxonomy, title: str, colour: str) -> Any:
    """Plots one arm: coupling of the types, their places on the circle, and each value's shift and VAT.

    Args:
        content: of `Study.result`.
        taxonomy: of its values.
        title: of the figure.
        colour: of its intervention.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(9.4, 15))
        grid = figure.add_gridspec(4, 2, height_ratios=(1.15, 1.1, 1, 1))
        types = content["levels"]["types"]
        _coupling(figure.add_subplot(grid[0, 0]), types)
        if taxonomy.circle and tuple(types["names"]) == tuple(taxonomy.types):
            _circle(figure.add_subplot(grid[0, 1]), types, taxonomy, colour)
        else:
            _bars(figure.add_subplot(grid[0, 1]), types, "shift", "mean shift of types (points)", colour)
        _radar(figure.add_subplot(grid[1, 0]), types, colour)
        _chords(figure.add_subplot(grid[1, 1]), types)
        values = content["levels"].get("values", types)
        _bars(figure.add_subplot(grid[2, :]), values, "shift", "mean shift (points), with intervals", colour)
        _bars(
            figure.add_subplot(grid[3, :]),
            values,
            "vat_debiased",
            "VAT without noise: how far each moves with the others",
            colour,
        )
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _coupling(axis: Any, types: Mapping[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    names, r = types["names"], _matrix(types["coupling"]["estimate"])
    np.fill_diagonal(r, np.nan)
    low, high = (_matrix(types["coupling_band"][end]) for end in ("low", "high"))
    image = axis.imshow(r, cmap="PuOr", vmin=-1, vmax=1)
    for i, j in itertools.product(range(len(names)), repeat=2):
        if np.isfinite(r[i, j]):
            # Invisible, but it receives the pointer: fully transparent patches have no surface in SVG.
            cell = axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, linewidth=0, facecolor=INK, alpha=0.004))
            set_hover(axis.figure, cell, f"{names[i]}, {names[j]}: {r[i, j]:.2f} [{low[i, j]:.2f}, {high[i, j]:.2f}]")
    rows, columns = np.nonzero(np.isfinite(r) & (low * high > 0))
    axis.plot(columns, rows, ".", color=INK, markersize=4)
    short = [_short(name, 14) for name in names]
    axis.set_xticks(range(len(names)), short, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(names)), short, fontsize=7)
    axis.set_title("coupling R (dot: clear of 0, all pairs taken together)")
    axis.figure.colorbar(image, ax=axis, shrink=0.7)


def _radar(axis: Any, types: Mapping[str, Any], colour: str) -> None:
    """Plots VAT(v) / nVAT around the circle of types, as published, with that of noise alone.

    Nothing here is clipped, and the axes are plain ones. Matplotlib names clip paths by the last digits of a layout, or
    by their place in memory, so that two equal reports would differ in bytes.
    """
    names = types["names"]
    nvat, floor = types["nvat"]["estimate"] or np.nan, types["floor"]["nvat"] or np.nan
    place = _around(len(names))
    shares = [
        np.array([np.nan if vat[n] is None else vat[n] / size for n in names], float)
        for vat, size in ((types["floor"]["vat"], floor), (types["vat"], nvat))
    ]
    most = float(np.nanmax([1.0, *np.concatenate(shares)])) * 1.05
    turn = np.linspace(0, 2 * np.pi, 200)
    for ring in (0.5, 1.0):
        axis.plot(ring / most * np.cos(turn), ring / most * np.sin(turn), color=GRID, linewidth=0.6, clip_on=False)
        axis.text(0, ring / most, f"{ring:g}", ha="center", va="bottom", fontsize=6)
    for share, shade in zip(shares, (FAINT, colour), strict=True):
        points = place * (share / most)[:, None]
        axis.plot(*np.concatenate([points, points[:1]]).T, color=shade, linewidth=1.2, clip_on=False)
    _name(axis, names, place)
    axis.set_title("VAT / nVAT (grey: noise alone)")


def _around(count: int) -> np.ndarray:
    """Returns places around a circle of radius 1, clockwise from the top, [count, 2]."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _name(axis: Any, names: Sequence[str], place: np.ndarray) -> None:
    """Writes names outside a circle of radius 1, on axes without ticks."""
    for name, (x, y) in zip(names, place, strict=True):
        side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        axis.text(1.1 * x, 1.12 * y, _short(name, 14), ha=side, va="center", fontsize=6.5)
    axis.set(xticks=[], yticks=[], xlim=(-1.9, 1.9), ylim=(-1.3, 1.3))
    axis.set_aspect("equal")
    for edge in axis.spines.values():
        edge.set_visible(False)


def _chords(axis: Any, types: Mapping[str, Any]) -> None:
    """Plots the couplings that are clear of 0 when all pairs are taken together, as chords of a circle."""
    names, r = types["names"], _matrix(types["coupling"]["estimate"])
    low, high = (_matrix(types["coupling_band"][end]) for end in ("low", "high"))
    place, along = _around(len(names)), np.linspace(0, 1, 40)[:, None]
    for i, j in itertools.combinations(range(len(names)), 2):
        if low[i, j] * high[i, j] > 0:
            middle = 0.25 * (place[i] + place[j])
            curve = (1 - along) ** 2 * place[i] + 2 * along * (1 - along) * middle + along**2 * place[j]
            shade = COLOURS[0] if r[i, j] > 0 else COLOURS[1]
            axis.plot(*curve.T, color=shade, linewidth=4 * abs(r[i, j]), alpha=0.7, clip_on=False)
    axis.plot(*place.T, "o", color=INK, markersize=3, clip_on=False)
    _name(axis, names, place)
    axis.set_title("couplings clear of 0 (blue: together; orange: apart)")


def _matrix(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.array([[np.nan if x is None else x for x in row] for row in rows], float)


def _circle(axis: Any, types: Mapping[str, Any], taxonomy: Taxonomy, colour: str) -> None:
    """Plots measured places, joined to those of the theory."""
    import jax
    import jax.numpy as jnp

    from vatjax import metrics

    r = _matrix(types["coupling"]["estimate"])
    fit = metrics.circle_fit(jnp.asarray(r, jnp.float32), jnp.asarray(taxonomy.angles, jnp.float32), jax.random.key(0))
    places = np.asarray(fit.positions)
    theory = np.stack([np.cos(taxonomy.angles), np.sin(taxonomy.angles)], 1)
    turn = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(turn), np.sin(turn), color=GRID, linewidth=0.8)
    for measured, expected in zip(places, theory, strict=True):
        axis.plot(*zip(measured, expected, strict=True), color=FAINT, linewidth=0.7)
        axis.plot(*expected, "o", color=FAINT, markersize=3)
        axis.plot(*measured, "o", color=colour, markersize=5)
    for name, measured, height in zip(types["names"], places, _apart(places), strict=True):
        right = measured[0] >= 0
        axis.annotate(
            _short(name, 16),
            measured,
            xytext=(measured[0] + (0.08 if right else -0.08), height),
            ha="left" if right else "right",
            va="center",
            fontsize=7,
            color=INK,
        )
    axis.plot([], [], "o", color=colour, markersize=5, label="measured")
    axis.plot([], [], "o", color=FAINT, markersize=3, label="theory")
    axis.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1.04, -0.06))
    axis.set_aspect("equal")
    axis.set(xticks=[], yticks=[], xlim=(-1.7, 1.9), ylim=(-1.6, 1.6))
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(f"circle: congruence {float(fit.congruence):.2f}, chance {float(fit.null_95):.2f}")


def _apart(places: np.ndarray) -> np.ndarray:
    """Returns heights for names next to places, on each side far enough apart to be read."""
    heights = places[:, 1].astype(float).copy()
    for side in (places[:, 0] >= 0, places[:, 0] < 0):
        order = np.flatnonzero(side)[np.argsort(heights[side], kind="stable")]
        for _ in range(50):
            gaps = np.diff(heights[order])
            for i in np.flatnonzero(gaps < _LINE):
                push = (_LINE - gaps[i]) / 2
                heights[order[i]] -= push
                heights[order[i + 1]] += push
            if (np.diff(heights[order]) >= _LINE - 1e-3).all():
                break
    return heights


def _bars(axis: Any, level: Mapping[str, Any], key: str, title: str, colour: str) -> None:
    names, estimates = level["names"], level[key]
    target, x = set(level["target_names"]), np.arange(len(names))
    middle = np.array([np.nan if estimates[n]["estimate"] is None else estimates[n]["estimate"] for n in names], float)
    ends = [
        np.array([np.nan if estimates[n][end] is None else estimates[n][end] for n in names], float)
        for end in ("low", "high")
    ]
    q_values = _discovered(level, target) if key == "shift" else {}
    together = level["p"]["vat_together"] if key == "vat_debiased" else {}
    colours = []
    for name in names:
        under = key == "vat_debiased" and not (together.get(name) is not None and together[name] <= 0.05)
        unsure = key == "shift" and q_values.get(name, 0.0) > 0.05
        colours.append(FAINT if under or unsure else colour)
    bars = axis.bar(x, middle, color=colours, width=0.75, edgecolor=[INK if n in target else "none" for n in names])
    for name, bar, size, low, high in zip(names, bars, middle, *ends, strict=True):
        if np.isfinite(size):
            set_hover(
                axis.figure, bar, f"{name}: {size:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")
            )
    error = np.clip(np.stack([middle - ends[0], ends[1] - middle]), 0, None)
    axis.errorbar(x, middle, yerr=np.where(np.isnan(error), 0, error), fmt="none", ecolor=INK, linewidth=0.6)
    axis.axhline(0, color=GRID, linewidth=0.8)
    axis.set_xticks(x, [_short(name, 30) for name in names], rotation=90 if len(names) > 12 else 45, fontsize=6.5)
    if len(names) <= 12:
        for label in axis.get_xticklabels():
            label.set_ha("right")
    axis.set_xlim(-0.7, len(names) - 0.3)
    axis.set_title(f"{title} (outlined: the target; grey: not distinguishable from noise)")


def _discovered(level: Mapping[str, Any], target: set[str]) -> dict[str, float]:
    """Returns q of each value's shift, without the target's values."""
    from vatjax import metrics

    p = {name: x for name, x in level["p"]["shift"].items() if name not in target and x is not None}
    if not p:
        return {}
    return dict(zip(p, np.asarray(metrics.false_discovery(np.array(list(p.values())))).tolist(), strict=True))


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
