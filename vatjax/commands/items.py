"""`vatjax items check`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from vatjax import errors
from vatjax.commands import show
from vatjax.items import Inspected, Source, inspect_source, protocols
from vatjax.items.table import Key
from vatjax.names import printable

_SHOWN = 50


@dataclasses.dataclass(frozen=True)
class Check:
    """Reads items and reports their contents, the protocols that they allow, and the problems of each line. Exits with
    status 2 if there are problems."""

    path: Annotated[str | None, Positional, tyro.conf.arg(metavar="[FILE]")] = None
    """The file to check, in place of --items."""
    items: Source = dataclasses.field(default_factory=Source)
    """The items: --items FILE is short for --items.file FILE."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if self.path is not None and self.items.file not in (Source.file, self.path):
            raise errors.InputError(f"two files are given: {self.path!r} and {self.items.file!r}")
        source = self.items if self.path is None else dataclasses.replace(self.items, file=self.path)
        inspected = inspect_source(source)
        for problem in inspected.problems[:_SHOWN]:
            print(printable(str(problem)), file=sys.stderr)
        if len(inspected.problems) > _SHOWN:
            print(f"... and {len(inspected.problems) - _SHOWN} more problems", file=sys.stderr)
        summary = summarise(inspected, source)
        if self.json:
            show.print_json(summary)
        elif len(inspected.items):
            _print(summary)
        if not len(inspected.items):
            print(f"{printable(source.file)}: no items", file=sys.stderr)
            return 2
        if inspected.problems and source.skip_bad:
            print(printable(inspected.skip_message()), file=sys.stderr)
        return 2 if inspected.problems and not source.skip_bad else 0


def summarise(inspected: Inspected, source: Source) -> dict[str, Any]:
    """Returns the contents of the items as plain data."""
    data = inspected.items
    train, test = data.split(source.test, source.seed)
    pairs = data.pair()
    keys: tuple[tuple[str, Key], ...] = (
        ("countries", "country"),
        ("topics", "topic"),
        ("types", "type"),
        ("values", "value"),
        ("polarities", "polarity"),
    )
    return {
        "source": source.file,
        "layout": inspected.layout,
        "taxonomy": data.taxonomy.name,
        "rows": inspected.rows,
        "items": len(data),
        "scenes": len(data.scenes),
        "pairs": len(pairs.express),
        "unpaired": len(pairs.unpaired),
        "split": {"train_scenes": len(train.scenes), "test_scenes": len(test.scenes), "seed": source.seed},
        **{plural: data.counts(key) for plural, key in keys},
        "protocols": {protocol.name: protocol._asdict() for protocol in protocols(data)},
        "problems": [problem._asdict() for problem in inspected.problems],
        "skipped": inspected.skipped if source.skip_bad else 0,
        "lost": inspected.lost,
    }


def _print(summary: dict[str, Any]) -> None:
    split = summary["split"]
    print(
        f"{summary['source']}: {summary['items']:,} items in {summary['scenes']:,} scenes, "
        f"{summary['pairs']:,} express/suppress pairs, {summary['unpaired']:,} items without a partner\n"
        f"layout {summary['layout']}, taxonomy {summary['taxonomy']}; "
        f"split by scene: {split['train_scenes']:,} train, {split['test_scenes']:,} test (seed {split['seed']})"
    )
    for plural in ("countries", "topics", "types"):
        show.print_table((plural, "items"), [(name, f"{count:,}") for name, count in summary[plural].items()])
    absent = [name for name, count in summary["values"].items() if count == 0]
    if absent:
        print(f"{len(absent)} values have no item: {', '.join(absent)}\n")
    rows = [
        (name, "yes" if entry["allowed"] else "no", f"{entry['contexts']:,}", f"{entry['clusters']:,}", entry["reason"])
        for name, entry in summary["protocols"].items()
    ]
    show.print_table(("protocol", "possible", "contexts", "clusters", "why"), rows)
