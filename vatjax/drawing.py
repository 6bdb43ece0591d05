"""How figures look, and how they are written: as PNG, or as SVG whose parts show their values on hover."""

from __future__ import annotations

import contextlib
import html
import io
from collections.abc import Iterator
from typing import Any

from vatjax import errors, store

# Okabe and Ito's colours, distinguishable with any colour vision; the marks make the same distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
# INK, GRID and FAINT stand for the page's colours: of text and lines, of grids, and of values under the floor.
_HOVERS = "_vatjax_hovers"  # attribute of a figure: hover texts by part
INK, GRID, FAINT = "#16181d", "#d5d7dc", "#b4b7be"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Sets the style of figures for a block."""
    import matplotlib as mpl

    settings: Any = {
        "svg.hashsalt": "vatjax",
        "text.parse_math": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
    settings |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with mpl.rc_context(settings):
        yield


def render(figure: Any) -> tuple[bytes, bytes]:
    """Returns a figure as PNG and as SVG; named parts of the SVG show their values on hover."""
    png, svg = io.BytesIO(), io.BytesIO()
    with style():
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode()
    for name, says in getattr(figure, _HOVERS, {}).items():
        opening = f'<g id="{name}">'
        text = text.replace(opening, f"{opening}<title>{html.escape(says)}</title>", 1)
    return png.getvalue(), text.encode()


def set_hover(figure: Any, part: Any, says: str) -> None:
    """Names a part of a figure, and sets its hover text."""
    hovers = getattr(figure, _HOVERS, None)
    if hovers is None:
        hovers = {}
        setattr(figure, _HOVERS, hovers)
    name = f"hover{len(hovers) + 1}"
    hovers[name] = says
    part.set_gid(name)


def save(figure: Any, path: store.Path) -> None:
    """Writes a figure as .svg or .png.

    Raises:
        InputError: if the path ends in neither.
    """
    suffix = str(path).rpartition(".")[2]
    if suffix not in ("png", "svg"):
        raise errors.InputError(f"{path}: expected a path that ends in .svg or .png")
    store.commit(store.path(path), render(figure)[suffix == "svg"])
