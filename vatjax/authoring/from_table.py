"""A writer that takes its texts from a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vatjax import errors, names, store, tables
from vatjax.authoring.records import Request, Stage, Text
from vatjax.authoring.writers import Written
from vatjax.items.read import polarity_of
from vatjax.items.table import normalise_text
from vatjax.values import Taxonomy


class TableWriter:
    """A table as a writer. Each row of a scene table is one scene. For an action, matching rows are tried in order: the
    next one when the one before fails a gate.

    Args:
        file: the table.
        stage: the kind of its texts.
        taxonomy: the values that actions may name.

    Raises:
        InputError: for a missing column, for a table without rows, and for each cell of another kind.
    """

    prompts, budgeted = "", False

    def __init__(self, file: str, stage: Stage, taxonomy: Taxonomy | None = None) -> None:
        self.keys = ("country", "topic") if stage == "scene" else ("scene", "value", "polarity")
        self.name, self.file, self.stage = f"table {store.file_address(file)[:16]}", file, stage
        self.taxonomy = taxonomy
        table = tables.read(file)
        problems = [*table.problems, *table.missing_columns((*self.keys, stage))]
        if not problems and not table.rows:
            problems.append(errors.Problem(table.source, 1, "a header without rows"))
        self.texts: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        self.used: set[int] = set()
        places: dict[tuple[str, ...], tuple[str, str]] = {}
        for row, line in zip(table.rows, table.lines, strict=True) if not problems else ():
            try:
                cells = {column: self._cell(column, row.get(column)) for column in (*self.keys, stage)}
            except errors.InputError as error:
                problems.append(errors.Problem(table.source, line, str(error)))
                continue
            key = _key([cells[name] for name in self.keys])
            self.texts.setdefault(key, []).append((cells[stage], line))
            if stage == "scene":
                places.setdefault(key, (cells["country"], cells["topic"]))
        if problems:
            raise errors.all_of(problems)
        self.places = list(places.values())

    def _cell(self, column: str, entry: Any) -> str:
        if not isinstance(entry, str) or not entry.strip():
            raise errors.InputError(f"{column}: expected a text, found {names.short_repr(entry)}")
        text = normalise_text(entry)
        if column == "polarity":
            return polarity_of(text)
        return self.taxonomy.names[self.taxonomy.index(text)] if column == "value" and self.taxonomy else text

    def select_places(self, countries: Sequence[str], topics: Sequence[str]) -> list[tuple[str, str, int]]:
        """Selects (country, topic, number of scenes) by names in any spelling; no names select all.

        Raises:
            InputError: for a name that the table does not have.
        """
        known = [{_key([place[i]]): place[i] for place in self.places} for i in (0, 1)]
        for i, (kind, requested) in enumerate((("country", countries), ("topic", topics))):
            for name in requested:
                if _key([name]) not in known[i]:
                    raise errors.InputError(f"{self.file}: {names.unknown_name(kind, name, sorted(known[i].values()))}")
        chosen = [
            {_key([name]) for name in requested} or set(known[i]) for i, requested in enumerate((countries, topics))
        ]
        return [
            (*place, self.count_scenes(*place))
            for place in self.places
            if _key([place[0]]) in chosen[0] and _key([place[1]]) in chosen[1]
        ]

    def count_scenes(self, country: str, topic: str) -> int:
        """Returns the number of scenes of a country and topic."""
        return len(self.texts.get(_key([country, topic]), ()))

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """Returns each request's text for this attempt, or None if the table has no further one."""
        texts: list[Written | None] = []
        for request in requests:
            candidates = self.texts.get(_key([request.fields[name] for name in self.keys]), [])
            position = attempt if self.stage == "action" else int(request.fields["number"]) - 1
            if position >= len(candidates) or (self.stage == "scene" and attempt):
                texts.append(None)
                continue
            text, line = candidates[position]
            self.used.add(line)
            texts.append(
                Written(Text(text), request.fields.get("scene", ""))
            )  # the prompt, which an action should not repeat
        return texts

    def unused_lines(self) -> list[int]:
        """Returns the lines of rows that were never requested, in order."""
        return sorted(line for candidates in self.texts.values() for _, line in candidates if line not in self.used)


def _key(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(names.canonical(text) if len(text) < 60 else " ".join(text.split()).casefold() for text in texts)
