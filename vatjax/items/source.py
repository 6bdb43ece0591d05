"""What a configuration says about items, and the items it stands for."""

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
    """Where items come from and which of them are used."""

    file: str = SOURCE
    """The items: "bundled", or a path or bucket address of JSONL, JSON, CSV or TSV, each also gzipped."""
    taxonomy: str = "schwartz"
    """The values they are about: "schwartz", or the path of a taxonomy in YAML, from the working folder."""
    layout: Literal["vatjax", "value-actions"] | None = None
    """How the file is laid out; told from its columns if not given."""
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
    """Go on without bad rows, and say how many there were."""
    test: float = 0.25
    """The share of scenes, on average, that is kept for testing."""
    seed: int = 0
    """Which division into train and test."""

    def filters(self) -> str:
        """Returns the filters that leave items out, as a clause of a message; "" without any."""
        given = {name: getattr(self, name) for name in ("country", "topic", "type", "value")}
        said = [f"{name} {', '.join(wanted)}" for name, wanted in given.items() if wanted]
        return f"; only these are chosen: {'; '.join(said)}" if said else ""

    def __post_init__(self) -> None:
        if not 0 < self.test < 1:
            raise errors.InputError(
                f"test: the share of test scenes must be more than 0 and less than 1, found {self.test}"
            )


def taxonomy_of(source: Source) -> values.Taxonomy:
    """The taxonomy that a source names."""
    if source.taxonomy == "schwartz":
        return values.schwartz()
    if names.nearest(source.taxonomy, ["schwartz"]) and not store.path(source.taxonomy).exists():
        raise errors.InputError(f"taxonomy: {names.unknown('taxonomy', source.taxonomy, ['schwartz'])}")
    return values.load(source.taxonomy)


def open_source(source: Source) -> Items:
    """The items that a source stands for, filtered.

    Raises:
        InputError: as `read` does, and where a filter names nothing or leaves nothing.
    """
    if source.file == SOURCE:
        items = _bundled(source)
    else:
        items = read(source.file, taxonomy_of(source), source.columns, source.layout, source.skip_bad)
    return filtered(items, source)


def inspect_source(source: Source) -> Inspected:
    """Like `open_source`, but with every problem collected."""
    if source.file == SOURCE:
        items = _bundled(source)
        return Inspected(filtered(items, source), "vatjax", [], len(items))
    found = inspect(source.file, taxonomy_of(source), source.columns, source.layout)
    if found.problems and not source.skip_bad:
        return found  # a filter that finds nothing may itself be one of the problems' effects
    return found._replace(items=filtered(found.items, source))


def filtered(items: Items, source: Source) -> Items:
    """The items that a source's filters keep."""
    wanted = {key: getattr(source, key) for key in ("country", "topic", "type", "value") if getattr(source, key)}
    kept = items.where(**wanted)
    if len(items) and not len(kept):
        filters = "; ".join(f"{key} {', '.join(chosen)}" for key, chosen in wanted.items())
        raise errors.InputError(f"{source.file}: no item matches all filters at once ({filters})")
    return kept


def _bundled(source: Source) -> Items:
    if source.taxonomy != "schwartz" or source.columns or source.layout:
        raise errors.InputError("the bundled items have their own taxonomy, columns and layout; leave these keys out")
    return bundled()
