"""The gain-tax plane of a study's arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vatjax.drawing import COLOURS, FAINT, GRID, INK, MARKS, set_hover, style
from vatjax.study.arm_groups import ArmGroup
from vatjax.study.columns import Row, is_placebo
from vatjax.summary import format_interval


def intervention_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns a colour and a mark for each intervention; if colours repeat, the marks differ."""
    return {
        name: (COLOURS[i % len(COLOURS)], MARKS[(i + i // len(COLOURS)) % len(MARKS)]) for i, name in enumerate(names)
    }


def plot_gain_tax(group: ArmGroup, styles: Mapping[str, tuple[str, str]]) -> Any:
    """Plots gain against tax, with intervals: others' shift on the left, co-movement on the right."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(9.4, 4.0))
        axes = figure.subplots(1, 2)
        for axis, key, title in (
            (axes[0], "off_target_shift", "others' shift (points, root mean square)"),
            (axes[1], "nvat_debiased", "nVAT of the types, debiased"),
        ):
            for name, rows in group.blind.items():
                for row in rows:
                    _point(axis, row, key, FAINT, styles[name][1], size=3)
            for name, rows in group.real.items():
                colour, mark = styles[name]
                x, y = ([row[k] for row in rows] for k in ("gain", key))
                axis.plot(*_complete_pairs(x, y), "-", color=colour, linewidth=0.8, alpha=0.6)
                for row in rows:
                    _point(axis, row, key, colour, mark, hollow=row["broken"])
                axis.plot([], [], mark, color=colour, label=name)
            axis.set(xlabel=f"gain of {group.target} (points)", title=title)
            axis.axvline(0, color=GRID, linewidth=0.8, zorder=0)
            axis.set_ylim(bottom=0)
        front = sorted(
            (row for rows in group.real.values() for row in rows if row["front"]), key=lambda row: float(row["gain"])
        )
        if len(front) > 1:
            axes[0].step(
                [row["gain"] for row in front],
                [row["off_target_shift"] for row in front],
                where="pre",
                color=INK,
                linewidth=1,
                linestyle=":",
                label="front",
            )
        if group.blind:
            axes[0].plot([], [], "o", color=FAINT, markersize=3, label="placebos")
        axes[0].legend(fontsize=8)
    return figure


def _point(axis: Any, row: Row, key: str, colour: str, mark: str, size: float = 6, hollow: bool = False) -> None:
    if row["gain"] is None or row[key] is None:
        return
    low, high = row["gain_low"], row["gain_high"]
    x = None if low is None else [[max(row["gain"] - low, 0)], [max(high - row["gain"], 0)]]
    below, above = row.get(f"{key}_low"), row.get(f"{key}_high")
    y = None if below is None or above is None else [[max(row[key] - below, 0)], [max(above - row[key], 0)]]
    drawn = axis.errorbar(
        row["gain"],
        row[key],
        xerr=x,
        yerr=y,
        fmt=mark,
        color=colour,
        markersize=size,
        linewidth=0.9,
        markerfacecolor="none" if hollow else colour,
    )
    name = f"{row['placebo']} {row['draw'] + 1}" if is_placebo(row) else row["intervention"]
    place = f"{name} {row['amount']:g} {row['unit']}".rstrip()
    set_hover(
        axis.figure,
        drawn[0],
        f"{place}: gain {_interval(row, 'gain')}, {_interval(row, key)}{' (broken)' * hollow}",
    )


def _complete_pairs(x: Sequence[Any], y: Sequence[Any]) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _interval(row: Row, key: str) -> str:
    return format_interval({"estimate": row[key], "low": row.get(f"{key}_low"), "high": row.get(f"{key}_high")})
