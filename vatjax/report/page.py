"""The page of a report: one self-contained HTML file, which fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vatjax.drawing import FAINT, GRID, INK
from vatjax.names import printable

_STYLE = """
:root { color-scheme: light dark; --ink: #16181d; --dim: #5b616e; --paper: #fbfbfa; --card: #ffffff; --line: #d5d7dc;
  --faint: #b4b7be; --link: #0b5cad; --warn: #a63a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9ec; --dim: #a4a9b5; --paper: #14161a; --card: #1b1e24;
  --line: #3a3f49; --faint: #5d636f; --link: #7db8f5; --warn: #ff9d66; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.25rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
h1, h2, h3, p, li, summary, pre { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; font-size: .8rem; }
a { color: var(--link); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.dim { color: var(--dim); font-size: .9rem; }
.warn { color: var(--warn); }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px; margin: .75rem 0; }
.wide:focus-visible, summary:focus-visible, a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
figure { margin: 0; padding: .5rem; min-width: 42rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--dim); font-size: .85rem; padding-top: .25rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; position: sticky; top: 0; background: var(--card); }
td.number, th.number { text-align: right; }
td.text { white-space: normal; min-width: 16rem; }
tr > :first-child { position: sticky; left: 0; background: var(--card); box-shadow: 1px 0 0 var(--line); min-width: 8rem; max-width: 16rem;
  white-space: normal; z-index: 1; }
tr.blind td { color: var(--dim); }
tr.blind td:first-child { padding-left: 1.4rem; }
tr.aim td { font-weight: 600; background: var(--paper); max-width: none; }
tr.aim span { position: sticky; left: .6rem; }
tr.broken td:first-child { color: var(--warn); }
.scrolls { background: linear-gradient(to right, var(--card) 2rem, transparent 4rem),
  linear-gradient(to left, var(--card) 1rem, transparent 3rem) right, radial-gradient(farthest-side at 100% 50%, var(--dim), transparent)
  right / .6rem 100%; background-repeat: no-repeat; background-attachment: local, local, scroll; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .75rem; }
.sides > div { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .75rem; background: var(--card); }
blockquote { margin: .4rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .35rem 0; font-weight: 600; }
@media (min-width: 66rem) { main > .wide:has(table) { margin-inline: calc(29.75rem - min(50vw - 1.5rem, 44rem)); } }
@media print { details:not([open]) > *:not(summary) { display: block; } .wide { overflow: visible; } }
"""


class Figure(NamedTuple):
    """A figure on the page.

    Attributes:
        svg: as `drawing.render` returns it.
        says: its caption, and its text for screen readers.
    """

    svg: bytes
    says: str


def escape(text: object) -> str:
    """Escapes text for use inside an element and inside quotes."""
    return html.escape(printable(str(text)), quote=True)


def page(title: str, body: Iterable[str]) -> bytes:
    """Returns a whole page."""
    text = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{text}\n</main>\n</body>\n</html>\n"
    ).encode()


def heading(text: object, level: int = 2, name: str = "") -> str:
    """Returns a heading; `name` is its link target."""
    return f"<h{level}{f' id={chr(34)}{escape(name)}{chr(34)}' if name else ''}>{escape(text)}</h{level}>"


def paragraph(text: object, kind: str = "") -> str:
    """Returns a paragraph."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</p>"


def bullet_list(texts: Iterable[object]) -> str:
    """Returns a list of sentences; "" for none."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def links(targets: Iterable[tuple[str, str]]) -> str:
    """Returns links to sections of the page."""
    items = "".join(f'<li><a href="#{escape(name)}">{escape(text)}</a></li>' for name, text in targets)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def figure(content: Figure, number: int) -> str:
    """Returns a figure in the page's own colours; a narrow page scrolls it, also by keyboard."""
    svg = content.svg.decode()
    svg = svg[svg.index("<svg") :]
    # Every drawing uses the same ids; on one page they must differ.
    for mark in ('id="', 'xlink:href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}f{number}-")
    for drawn, page_colour in ((INK, "var(--ink)"), (GRID, "var(--line)"), (FAINT, "var(--faint)")):
        svg = svg.replace(drawn, page_colour)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(content.says)}" ', 1)
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(content.says)}"><figure>{svg}'
        f"<figcaption>{escape(content.says)}</figcaption></figure></div>"
    )


def file_links(names: Iterable[str]) -> str:
    """Returns links to files next to the page."""
    items = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in names)
    return f'<p class="dim">Files: {items}</p>'


def table(
    columns: Sequence[str], rows: Iterable[tuple[str, Sequence[object]]], says: str, texts: Sequence[int] = ()
) -> str:
    """Returns a table whose first column stays in place when the others are scrolled.

    Args:
        columns: their names.
        rows: each a CSS class ("" for none) and its cells; a single cell is a heading of the rows that follow.
        says: its text for screen readers.
        texts: columns of sentences, which may wrap.
    """

    def kind(i: int) -> str:
        return ' class="text"' if i in texts else ' class="number"' if i else ""

    head = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(columns))
    lines = []
    for name, cells in rows:
        row_html = "".join(f"<td{kind(i)}>{escape(cell)}</td>" for i, cell in enumerate(cells))
        if len(cells) == 1:  # a heading of the rows that follow
            row_html = f'<td colspan="{len(columns)}"><span>{escape(cells[0])}</span></td>'
        lines.append(f"<tr{f' class={chr(34)}{name}{chr(34)}' if name else ''}>{row_html}</tr>")
    return (
        f'<div class="wide scrolls" tabindex="0" role="group" aria-label="{escape(says)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def transcript(item: Mapping[str, Any]) -> str:
    """Returns one prompt, with its rating and the model's written answer before and after."""
    context = ", ".join(str(x) for key, x in item["context"].items() if key in ("country", "topic"))
    sides = "".join(_side(name, item[name]) for name in ("before", "after"))
    head = f"{item['value']} ({context}): " if context else f"{item['value']}: "
    before, after = (item[name]["rating"] for name in ("before", "after"))
    shown = " to ".join("-" if x is None else f"{x:.2f}" for x in (before, after))
    return (
        f"<h4>{escape(head)}rating {escape(shown)}</h4><blockquote>{escape(item['asked'])}</blockquote>"
        f'<div class="sides">{sides}</div>'
    )


def _side(name: str, side: Mapping[str, Any]) -> str:
    """Returns the answer on one side; the full prompt is collapsed."""
    rating = "-" if side["rating"] is None else f"{side['rating']:.2f}"
    prompt = f"<pre>{escape(side['prompt'])}</pre>"
    written = side["written"] or "(nothing)"
    return (
        f"<div><strong>{escape(name)}</strong> <span class=dim>rating {rating}, mass {side['mass']:.2f}; written "
        f"without a prefill:</span><blockquote>{escape(written)}</blockquote>"
        f"{collapsible('its prompt in full', [prompt])}</div>"
    )


def collapsible(summary: object, body: Iterable[str]) -> str:
    """Returns a section that is collapsed under its summary."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(body)}</details>"
