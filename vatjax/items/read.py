"""Reads items from files: column maps, known layouts and input validation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.items.table import EXPRESS, POLARITIES, SUPPRESS, Items, normalise_text
from vatjax.values import Taxonomy, schwartz

COLUMNS = ("country", "topic", "scene", "value", "polarity", "action")

_POLARITY = {
    **dict.fromkeys(("express", "expresses", "positive", "+1", "+", "1"), EXPRESS),
    **dict.fromkeys(("suppress", "suppresses", "negative", "-1", "-"), SUPPRESS),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The column layout of a data set.

    Attributes:
        name: name of the layout in options.
        columns: our column -> the file's column.
        scene: template of a scene for data without a `scene` column.
    """

    name: str
    columns: Mapping[str, str]
    scene: str = ""


NATIVE = Layout("vatjax", {name: name for name in COLUMNS})
VALUE_ACTIONS = Layout(  # published value-action data: without scenes; country and topic replace them
    "value-actions",
    {name: name for name in COLUMNS if name != "scene"},
    scene="A person in {country} faces an everyday decision that has to do with {topic}.",
)
LAYOUTS = {layout.name: layout for layout in (NATIVE, VALUE_ACTIONS)}


class Inspected(NamedTuple):
    """The result of reading a file: the valid items and the problems of the other rows.

    Attributes:
        items: the valid items.
        layout: the name of the layout.
        problems: all problems, by line.
        rows: number of rows read, valid or not.
        lost: True if the end of the file could not be reached.
    """

    items: Items
    layout: str
    problems: list[errors.Problem]
    rows: int
    lost: bool = False

    @property
    def skipped(self) -> int:
        """Returns the number of rows that are not among the items."""
        return len({problem.line for problem in self.problems})

    def skip_message(self) -> str:
        """Returns a message with the number of skipped rows."""
        rest = "; the rest of the file could not be read" if self.lost else ""
        return f"skipped {self.skipped} of {self.rows} rows{rest}"


def read(
    path: store.Path,
    taxonomy: Taxonomy | None = None,
    columns: Mapping[str, str] | None = None,
    layout: str | None = None,
    skip_bad: bool = False,
) -> Items:
    """Reads items from JSONL, a JSON array, CSV or TSV, each also gzipped.

    Names of countries and topics that differ in spelling alone take the first spelling; scenes are compared and kept
    with composed accents and single spaces.

    Args:
        path: local path or bucket URI.
        taxonomy: the values that the items are about; Schwartz's by default.
        columns: our column -> the file's, for a foreign schema, for example `{"action": "text"}`.
        layout: "vatjax" or "value-actions"; inferred from the columns by default.
        skip_bad: skip bad rows and warn with their number.

    Raises:
        InputError: with file and line of each problem, unless `skip_bad`.
    """
    inspected = inspect(path, taxonomy, columns, layout)
    if inspected.problems:
        if not skip_bad:
            raise errors.all_of(inspected.problems, "Nothing was read. To skip the bad rows: skip_bad.")
        warnings.warn(f"{path}: {inspected.skip_message()}", stacklevel=2)
    if not len(inspected.items):
        raise errors.InputError(f"{path}: no items")
    return inspected.items


def inspect(
    path: store.Path,
    taxonomy: Taxonomy | None = None,
    columns: Mapping[str, str] | None = None,
    layout: str | None = None,
) -> Inspected:
    """Reads all valid rows and collects every problem, instead of stopping at the first.

    Raises:
        InputError: only if the file as a whole is unusable: missing, not text, without the required columns.
    """
    taxonomy = taxonomy or schwartz()
    table = tables.read(path)
    chosen = _resolve_layout(layout, columns or {}, table)
    checker = _Checker(taxonomy, chosen, table)
    rows = [checker.row(line, row) for line, row in zip(table.lines, table.rows, strict=True)]
    items = _items(taxonomy, [row for row in rows if row is not None], table, chosen)
    problems = sorted(table.problems + checker.problems, key=lambda problem: problem.line or 0)
    return Inspected(items, chosen.name, problems, len(table.rows) + len(table.problems), table.lost)


def _resolve_layout(name: str | None, columns: Mapping[str, str], table: tables.Table) -> Layout:
    """Returns the layout by name or inferred from the columns, overridden by the user's column map.

    Columns are matched in any spelling. Data count as having no scenes only if no column resembles one.
    """
    for ours in columns:
        if ours not in COLUMNS:
            raise errors.InputError(f"column map: {names.unknown_name('column', ours, COLUMNS)}")
    if name is not None and name not in LAYOUTS:
        raise errors.InputError(names.unknown_name("layout", name, LAYOUTS))
    by_canonical_name = {names.canonical(column): column for column in reversed(table.columns)}
    spelt = {ours: by_canonical_name.get(names.canonical(ours), ours) for ours in COLUMNS}
    chosen = NATIVE if name is None else LAYOUTS[name]
    spare = [column for column in table.columns if column not in (*columns.values(), *spelt.values())]
    sceneless = "scene" not in columns and spelt["scene"] not in table.columns
    if name is None and sceneless and not names.nearest("scene", spare) and not names.nearest("scenario", spare):
        chosen = VALUE_ACTIONS
    chosen = dataclasses.replace(chosen, columns={ours: spelt[ours] for ours in chosen.columns} | dict(columns))
    absent = {ours: theirs for ours, theirs in chosen.columns.items() if theirs not in table.columns}
    if absent and (table.rows or table.columns):
        guesses = {ours: names.nearest(theirs, spare) for ours, theirs in absent.items()}
        hints = ", ".join(f"{ours}: {theirs}" for ours, theirs in guesses.items() if theirs is not None)
        raise errors.InputError(
            f"{table.source}: missing column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent.values()))}; "
            f"found {names.short_list(table.columns)}; map ours to theirs with `columns`{f' (perhaps {{{hints}}})' * bool(hints)}"
        )
    return chosen


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
    """A stateful row validator: detects duplicates, spelling variants and scenes that cross the split."""

    def __init__(self, taxonomy: Taxonomy, layout: Layout, table: tables.Table):
        self.taxonomy, self.layout, self.source = taxonomy, layout, table.source
        self.problems: list[errors.Problem] = []
        self.items: dict[tuple[Any, ...], int] = {}
        self.values: dict[str, int | str] = {}
        self.spellings: dict[str, dict[str, str]] = {"country": {}, "topic": {}}
        self.splits: dict[str, tuple[Any, int]] = {}

    def row(self, line: int, row: dict[str, Any]) -> _Row | None:
        before = len(self.problems)
        text = {
            ours: self.text(line, row, theirs) for ours, theirs in self.layout.columns.items() if ours != "polarity"
        }
        polarity = self.polarity(line, row, self.layout.columns["polarity"])
        value = self.value(line, text["value"]) if text["value"] else -1
        if len(self.problems) > before:
            return None
        for key, known in self.spellings.items():
            text[key] = known.setdefault(names.canonical(text[key]) or text[key], text[key])
        text["scene"] = normalise_text(text.get("scene") or self.layout.scene.format_map(text))
        item = (text["country"], text["topic"], text["scene"], value, polarity, text["action"])
        first = self.items.setdefault(item, line)
        if first != line:
            self.add_problem(line, f"the same item as on line {first}")
            return None
        if "split" in row and not self.on_one_side(line, text["scene"], row["split"]):
            return None
        rest = {name: entry for name, entry in row.items() if name not in self.layout.columns.values()}
        return _Row(line, text["country"], text["topic"], text["scene"], value, polarity, text["action"], rest)

    def add_problem(self, line: int, message: str) -> None:
        self.problems.append(errors.Problem(self.source, line, message))

    def text(self, line: int, row: dict[str, Any], column: str) -> str:
        entry = row.get(column)
        if isinstance(entry, str) and entry.strip():
            return entry.strip()
        if column not in row:
            self.add_problem(line, f"no column {column!r}")
        elif isinstance(entry, str):
            self.add_problem(line, f"{column}: empty text")
        else:
            self.add_problem(line, f"{column}: expected text, found {names.short_repr(entry)}")
        return ""

    def value(self, line: int, name: str) -> int:
        if name not in self.values:
            try:
                self.values[name] = self.taxonomy.index(name)
            except errors.InputError as error:
                self.values[name] = str(error)
        index = self.values[name]
        if isinstance(index, str):
            self.add_problem(line, index)
            return -1
        return index

    def polarity(self, line: int, row: dict[str, Any], column: str) -> int:
        entry = row.get(column)
        if isinstance(entry, (str, int)) and not isinstance(entry, bool):
            sign = _POLARITY.get(str(entry).strip().lower())
            if sign is not None:
                return sign
        if column not in row:
            self.add_problem(line, f"no column {column!r}")
        else:
            self.add_problem(
                line, f"{column}: expected 'express' or 'suppress' (or +1, -1), found {names.short_repr(entry)}"
            )
        return 0

    def on_one_side(self, line: int, scene: str, split: Any) -> bool:
        """Checks that a scene lies on one side of the data's own `split` column."""
        side, first = self.splits.setdefault(scene, (split, line))
        if side != split:
            self.add_problem(
                line,
                f"the scene crosses the split: {names.short_repr(split)} here and {names.short_repr(side)} on line {first}",
            )
        return bool(side == split)


def polarity_of(text: str) -> str:
    """Returns "express" or "suppress" for any accepted spelling of a polarity.

    Raises:
        InputError: for any other text.
    """
    sign = _POLARITY.get(text.strip().lower())
    if sign is None:
        raise errors.InputError(
            f"polarity: expected 'express' or 'suppress' (or +1, -1), found {names.short_repr(text)}"
        )
    return POLARITIES[sign]


def _items(taxonomy: Taxonomy, rows: list[_Row], table: tables.Table, layout: Layout) -> Items:
    def texts(name: str) -> np.ndarray:
        column = np.empty(len(rows), object)
        column[:] = [getattr(row, name) for row in rows]
        return column

    extra = {}
    for name in table.columns:
        if name not in layout.columns.values():
            column = np.empty(len(rows), object)
            column[:] = [row.fields.get(name) for row in rows]
            extra[_unreserved_name(name, table.columns)] = column
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


def _unreserved_name(name: str, taken: tuple[str, ...]) -> str:
    """Renames a further column that has one of our names: the file's own `action` next to the mapped one."""
    if name not in COLUMNS:
        return name
    spare = f"other_{name}"
    while spare in taken:
        spare = f"other_{spare}"
    return spare


def write(items: Items, path: store.Path) -> None:
    """Writes items as JSONL, JSON, CSV or TSV, each also gzipped; `read` gives the same items back."""
    extra = list(items.extra)
    rows = ((*item, *(items.extra[name][i] for name in extra)) for i, item in enumerate(items))
    tables.write(path, (*COLUMNS, *extra), rows)
