"""Items from files: column maps, known layouts, and every check on the way in."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.items.table import EXPRESS, POLARITIES, SUPPRESS, Items
from vatjax.values import Taxonomy, schwartz

COLUMNS = ("country", "topic", "scene", "value", "polarity", "action")

_POLARITY = {
    **dict.fromkeys(("express", "expresses", "positive", "+1", "+", "1"), EXPRESS),
    **dict.fromkeys(("suppress", "suppresses", "negative", "-1", "-"), SUPPRESS),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a data set writes items.

    Attributes:
        name: what a user calls it.
        columns: our column -> the file's column; a column that is absent is made from `scene`.
        scene: for data without scenes, the sentence that stands for one.
        about: one line for people.
    """

    name: str
    columns: Mapping[str, str]
    scene: str = ""
    about: str = ""


NATIVE = Layout("vatjax", {name: name for name in COLUMNS}, about="one row an item, with its scene's text")
VALUE_ACTIONS = Layout(
    "value-actions",
    {name: name for name in COLUMNS if name != "scene"},
    scene="A person in {country} faces an everyday decision that has to do with {topic}.",
    about="published value-action data: no scenes, so country and topic stand for one",
)
LAYOUTS = {layout.name: layout for layout in (NATIVE, VALUE_ACTIONS)}


class Inspected(NamedTuple):
    """What reading a file gave: the good items and everything that was wrong with the others."""

    items: Items
    layout: str
    problems: list[errors.Problem]
    rows: int


def read(
    where: store.Path,
    taxonomy: Taxonomy | None = None,
    columns: Mapping[str, str] | None = None,
    layout: str | None = None,
    skip_bad: bool = False,
) -> Items:
    """Reads items from JSONL, a JSON array, CSV or TSV, each also gzipped.

    Args:
        where: local path or bucket URI.
        taxonomy: the values that the items are about; Schwartz's by default.
        columns: our column -> the file's, for a foreign schema, for example `{"action": "text"}`.
        layout: "vatjax" or "value-actions"; told from the columns by default.
        skip_bad: go on without bad rows and warn how many there were.

    Raises:
        InputError: with file and line of each problem, unless `skip_bad`.
    """
    found = inspect(where, taxonomy, columns, layout)
    if found.problems:
        if not skip_bad:
            raise errors.all_of(found.problems, "Nothing was read. To go on without the bad rows: skip_bad.")
        warnings.warn(f"{where}: skipped {len(found.problems)} problems of {found.rows} rows", stacklevel=2)
    if not len(found.items):
        raise errors.InputError(f"{where}: no items")
    return found.items


def inspect(
    where: store.Path,
    taxonomy: Taxonomy | None = None,
    columns: Mapping[str, str] | None = None,
    layout: str | None = None,
) -> Inspected:
    """Reads what can be read and collects every problem, instead of stopping at one.

    Raises:
        InputError: only where the file as a whole can't be used: missing, not text, without the needed columns.
    """
    taxonomy = taxonomy or schwartz()
    table = tables.read(where)
    chosen = _layout(layout, columns or {}, table)
    checker = _Checker(taxonomy, chosen, table)
    rows = [checker.row(line, row) for line, row in zip(table.lines, table.rows, strict=True)]
    good = [row for row in rows if row is not None]
    items = _items(taxonomy, good, table, chosen)
    problems = table.problems + checker.problems
    problems += _crossing(items)
    problems.sort(key=lambda problem: problem.line or 0)
    return Inspected(items, chosen.name, problems, len(table.rows) + len(table.problems))


def _layout(name: str | None, columns: Mapping[str, str], table: tables.Table) -> Layout:
    """The layout by name or by the columns found, with the user's column map laid over it."""
    for ours in columns:
        if ours not in COLUMNS:
            raise errors.InputError(f"column map: {names.unknown('column', ours, COLUMNS)}")
    if name is not None and name not in LAYOUTS:
        raise errors.InputError(names.unknown("layout", name, LAYOUTS))
    chosen = NATIVE if name is None else LAYOUTS[name]
    if name is None and columns.get("scene", "scene") not in table.columns and table.rows:
        chosen = VALUE_ACTIONS if "scene" not in columns else NATIVE
    chosen = dataclasses.replace(chosen, columns={**chosen.columns, **columns})
    absent = [theirs for theirs in chosen.columns.values() if theirs not in table.columns]
    if absent and (table.rows or table.columns):
        hints = [f"{ours}: {theirs}" for theirs, ours in _guesses(absent, chosen, table.columns)]
        hint = f" (perhaps {{{', '.join(hints)}}})" if hints else ""
        raise errors.InputError(
            f"{table.source}: missing column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))}; "
            f"found {', '.join(map(repr, table.columns))}; map ours to theirs with `columns`{hint}"
        )
    return chosen


def _guesses(absent: list[str], layout: Layout, found: tuple[str, ...]) -> list[tuple[str, str]]:
    spare = [name for name in found if name not in layout.columns.values()]
    by_theirs = {theirs: ours for ours, theirs in layout.columns.items()}
    pairs = [(names.nearest(name, spare), by_theirs[name]) for name in absent]
    return [(theirs, ours) for theirs, ours in pairs if theirs is not None]


class _Row(NamedTuple):
    line: int
    country: str
    topic: str
    scene: str
    value: int
    polarity: int
    action: str
    fields: dict[str, Any]


class _Checker:
    """Turns one row after the other into a checked one, remembering what it saw to find duplicates."""

    def __init__(self, taxonomy: Taxonomy, layout: Layout, table: tables.Table):
        self.taxonomy, self.layout, self.source = taxonomy, layout, table.source
        self.problems: list[errors.Problem] = []
        self.seen: dict[tuple[Any, ...], int] = {}
        self.values: dict[str, int] = {}

    def row(self, line: int, row: dict[str, Any]) -> _Row | None:
        before = len(self.problems)
        text = {
            ours: self.text(line, row, theirs) for ours, theirs in self.layout.columns.items() if ours != "polarity"
        }
        polarity = self.polarity(line, row, self.layout.columns["polarity"])
        value = self.value(line, text["value"]) if text["value"] else -1
        if len(self.problems) > before:
            return None
        if "scene" not in text:
            text["scene"] = self.layout.scene.format(country=text["country"], topic=text["topic"])
        key = (text["country"], text["topic"], text["scene"], value, polarity, text["action"])
        first = self.seen.setdefault(key, line)
        if first != line:
            self.bad(line, f"the same item as on line {first}")
            return None
        rest = {name: entry for name, entry in row.items() if name not in self.layout.columns.values()}
        return _Row(line, text["country"], text["topic"], text["scene"], value, polarity, text["action"], rest)

    def bad(self, line: int, message: str) -> None:
        self.problems.append(errors.Problem(self.source, line, message))

    def text(self, line: int, row: dict[str, Any], column: str) -> str:
        entry = row.get(column)
        if isinstance(entry, str) and entry.strip():
            return entry.strip()
        if column not in row:
            self.bad(line, f"no column {column!r}")
        elif isinstance(entry, str):
            self.bad(line, f"{column}: empty text")
        else:
            self.bad(line, f"{column}: expected text, found {_shown(entry)}")
        return ""

    def value(self, line: int, name: str) -> int:
        index = self.values.get(name)
        if index is None:
            try:
                index = self.taxonomy.index(name)
            except errors.InputError as error:
                self.bad(line, str(error))
                return -1
            self.values[name] = index
        return index

    def polarity(self, line: int, row: dict[str, Any], column: str) -> int:
        entry = row.get(column)
        if isinstance(entry, (str, int)) and not isinstance(entry, bool):
            sign = _POLARITY.get(str(entry).strip().lower())
            if sign is not None:
                return sign
        if column not in row:
            self.bad(line, f"no column {column!r}")
        else:
            self.bad(line, f"{column}: expected 'express' or 'suppress' (or +1, -1), found {_shown(entry)}")
        return 0


def _shown(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) <= 40 else text[:37] + "..."


def _items(taxonomy: Taxonomy, rows: list[_Row], table: tables.Table, layout: Layout) -> Items:
    def texts(name: str) -> np.ndarray:
        column = np.empty(len(rows), object)
        column[:] = [getattr(row, name) for row in rows]
        return column

    extra = {}
    for name in table.columns:
        if name not in layout.columns.values():
            extra[name] = np.empty(len(rows), object)
            extra[name][:] = [row.fields.get(name) for row in rows]
    return Items(
        taxonomy=taxonomy,
        country=texts("country"),
        topic=texts("topic"),
        scene=texts("scene"),
        value=np.array([row.value for row in rows], np.int32),
        polarity=np.array([row.polarity for row in rows], np.int8),
        action=texts("action"),
        line=np.array([row.line for row in rows], np.int32),
        source=table.source,
        extra=extra,
    )


def _crossing(items: Items) -> list[errors.Problem]:
    """Where the data bring their own `split` column, a scene must lie on one side of it."""
    if "split" not in items.extra:
        return []
    side: dict[int, tuple[Any, int]] = {}
    problems = []
    for scene, line, split in zip(items.scene_of.tolist(), items.line.tolist(), items.extra["split"], strict=True):
        first, first_line = side.setdefault(scene, (split, line))
        if split != first:
            message = f"the scene crosses the split: {split!r} here and {first!r} on line {first_line}"
            problems.append(errors.Problem(items.source, line, message))
    return problems


def write(items: Items, where: store.Path) -> None:
    """Writes items as JSONL, JSON, CSV or TSV, each also gzipped; `read` gives the same items back."""
    extra = list(items.extra)
    rows = ((*item, *(items.extra[name][i] for name in extra)) for i, item in enumerate(items))
    tables.write(where, (*COLUMNS, *extra), rows)


__all__ = ["COLUMNS", "LAYOUTS", "POLARITIES", "Inspected", "Layout", "inspect", "read", "write"]
