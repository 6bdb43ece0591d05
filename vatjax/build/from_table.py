"""A writer that has its texts from a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vatjax import errors, names, store, tables
from vatjax.build.records import Request, Stage, Text
from vatjax.build.writers import Written
from vatjax.items.read import polarity_of
from vatjax.items.table import plain
from vatjax.values import Taxonomy


class TableWriter:
    """Texts from a file. Of scenes each row is one; of actions the first row with its fields is taken, where that fails the
    next, and so on to the last.

    Args:
        file: the table.
        stage: what its texts are.
        taxonomy: of actions, the values that there are.

    Raises:
        InputError: for a table that lacks a column or has no rows, and for every cell that is no text, no value, or no side.
    """

    prompts, budgeted = "", False

    def __init__(self, file: str, stage: Stage, taxonomy: Taxonomy | None = None) -> None:
        self.keys = ("country", "topic") if stage == "scene" else ("scene", "value", "polarity")
        self.name, self.file, self.stage = f"table {store.file_address(file)[:16]}", file, stage
        self.taxonomy = taxonomy
        table = tables.read(file)
        problems = [*table.problems, *table.lacking((*self.keys, stage))]
        if not problems and not table.rows:
            problems.append(errors.Problem(table.source, 1, "a header, and no rows"))
        self.texts: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        self.used: set[int] = set()
        places: dict[tuple[str, ...], tuple[str, str]] = {}
        for row, line in zip(table.rows, table.lines, strict=True) if not problems else ():
            try:
                own = {column: self._cell(column, row.get(column)) for column in (*self.keys, stage)}
            except errors.InputError as error:
                problems.append(errors.Problem(table.source, line, str(error)))
                continue
            key = _key([own[name] for name in self.keys])
            self.texts.setdefault(key, []).append((own[stage], line))
            if stage == "scene":
                places.setdefault(key, (own["country"], own["topic"]))
        if problems:
            raise errors.all_of(problems)
        self.places = list(places.values())

    def _cell(self, column: str, entry: Any) -> str:
        if not isinstance(entry, str) or not entry.strip():
            raise errors.InputError(f"{column}: expected a text, found {names.shown(entry)}")
        text = plain(entry)
        if column == "polarity":
            return polarity_of(text)
        return self.taxonomy.names[self.taxonomy.index(text)] if column == "value" and self.taxonomy else text

    def wanted(self, countries: Sequence[str], topics: Sequence[str]) -> list[tuple[str, str, int]]:
        """Countries and topics of the scenes, in any spelling, and how many each has; without names all of them.

        Raises:
            InputError: for a name that the table does not have.
        """
        known = [{_key([place[i]]): place[i] for place in self.places} for i in (0, 1)]
        for i, (kind, asked) in enumerate((("country", countries), ("topic", topics))):
            for name in asked:
                if _key([name]) not in known[i]:
                    raise errors.InputError(f"{self.file}: {names.unknown(kind, name, sorted(known[i].values()))}")
        chosen = [{_key([name]) for name in asked} or set(known[i]) for i, asked in enumerate((countries, topics))]
        return [
            (*place, self.count(*place))
            for place in self.places
            if _key([place[0]]) in chosen[0] and _key([place[1]]) in chosen[1]
        ]

    def count(self, country: str, topic: str) -> int:
        """How many scenes there are of a country and topic."""
        return len(self.texts.get(_key([country, topic]), ()))

    def write(self, requests: Sequence[Request], attempt: int) -> list[Written | None]:
        """The texts whose turn it is."""
        found: list[Written | None] = []
        for request in requests:
            own = self.texts.get(_key([request.fields[name] for name in self.keys]), [])
            place = attempt if self.stage == "action" else int(request.fields["number"]) - 1
            if place >= len(own) or (self.stage == "scene" and attempt):
                found.append(None)
                continue
            text, line = own[place]
            self.used.add(line)
            found.append(Written(Text(text), request.fields.get("scene", "")))  # which an action should not repeat
        return found

    def unused(self) -> list[int]:
        """Lines that nobody has asked for, in their order."""
        return sorted(line for own in self.texts.values() for _, line in own if line not in self.used)


def _key(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(names.canonical(text) if len(text) < 60 else " ".join(text.split()).casefold() for text in texts)
