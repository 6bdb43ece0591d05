"""The configuration of an item source, and the items that it selects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from vatjax import errors, names, store, values
from vatjax.items.asset import SOURCE, bundled
from vatjax.items.read import Inspected, inspect, read
from vatjax.items.table import Items


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of items, with filters and split."""

    file: str = SOURCE
    """The items: "bundled", or a path or bucket address of JSONL, JSON, CSV or TSV, each also gzipped."""
    taxonomy: str = "schwartz"
    """The values of the items: "schwartz", or the path of a taxonomy in YAML, relative to the working folder."""
    layout: Literal["vatjax", "value-actions"] | None = None
    """Column layout of the file; inferred from its columns by default."""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """For a foreign schema: our column, then the file's column."""
    country: tuple[str, ...] = ()
    """Only these countries."""
    topic: tuple[str, ...] = ()
    """Only these topics."""
    type: tuple[str, ...] = ()
    """Only the values of these types."""
    value: tuple[str, ...] = ()
    """Only these values."""
    skip_bad: bool = False
    """Skip bad rows and report their number."""
    test: float = 0.25
    """Expected share of scenes in the test split."""
    seed: int = 0
    """Seed of the split into train and test."""

    @classmethod
    def of_text(cls, text: str) -> Source:
        """Returns the source that a plain text means in a configuration, and in `--items TEXT`: a file."""
        return cls(file=text)

    def filters(self) -> str:
        """Returns the filters that leave items out, as a clause of a message; "" without any."""
        given = {name: getattr(self, name) for name in ("country", "topic", "type", "value")}
        clauses = [f"{name} {', '.join(chosen)}" for name, chosen in given.items() if chosen]
        return f"; only these are chosen: {'; '.join(clauses)}" if clauses else ""

    def __post_init__(self) -> None:
        if not 0 < self.test < 1:
            raise errors.InputError(
                f"test: the share of test scenes must be more than 0 and less than 1, found {self.test}"
            )


def taxonomy_of(source: Source) -> values.Taxonomy:
    """Loads the taxonomy of a source."""
    if source.taxonomy == "schwartz":
        return values.schwartz()
    if names.nearest(source.taxonomy, ["schwartz"]) and not store.path(source.taxonomy).exists():
        raise errors.InputError(f"taxonomy: {names.unknown_name('taxonomy', source.taxonomy, ['schwartz'])}")
    return values.load(source.taxonomy)


def open_source(source: Source) -> Items:
    """Reads the items of a source and applies its filters.

    Raises:
        InputError: as `read` does; also for a filter with an unknown name, and for filters that match nothing.
    """
    if source.file == SOURCE:
        items = _bundled(source)
    else:
        items = read(source.file, taxonomy_of(source), source.columns, source.layout, source.skip_bad)
    return apply_filters(items, source)


def inspect_source(source: Source) -> Inspected:
    """Reads the items of a source like `open_source`, but collects every problem."""
    if source.file == SOURCE:
        items = _bundled(source)
        return Inspected(apply_filters(items, source), "vatjax", [], len(items))
    inspected = inspect(source.file, taxonomy_of(source), source.columns, source.layout)
    if inspected.problems and not source.skip_bad:
        return inspected  # a filter may match nothing because of these problems
    return inspected._replace(items=apply_filters(inspected.items, source))


def apply_filters(items: Items, source: Source) -> Items:
    """Returns the items that match a source's filters."""
    given = {key: getattr(source, key) for key in ("country", "topic", "type", "value") if getattr(source, key)}
    matching = items.where(**given)
    if len(items) and not len(matching):
        filters = "; ".join(f"{key} {', '.join(chosen)}" for key, chosen in given.items())
        raise errors.InputError(f"{source.file}: no item matches all filters at once ({filters})")
    return matching


def _bundled(source: Source) -> Items:
    if source.taxonomy != "schwartz" or source.columns or source.layout:
        raise errors.InputError("the bundled items have their own taxonomy, columns and layout; leave these keys out")
    return bundled()
