"""The data card as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def markdown(content: Mapping[str, Any]) -> str:
    """The card for people."""
    scenes, actions, balance, split = (content[key] for key in ("scenes", "actions", "balance", "split"))
    lines = [
        "# Data card",
        "",
        f"{balance['items']:,} items in {scenes['passed']:,} scenes: {balance['pairs']:,} pairs, {balance['unpaired']:,} "
        f"actions without a partner. {split['train']:,} scenes are to train on, {split['test']:,} to test.",
        "",
        *_table(
            ("", "wanted", "passed", "written again", "kept apart", "not in the table", "words"),
            [(name, *_counts(own)) for name, own in (("scenes", scenes), ("actions", actions))],
        ),
        "## Gates",
        "",
        *_table(
            ("gate", "seen", "passed", "failed", "abstained", "median"),
            [
                (name, own["seen"], own["passed"], own["failed"], own["abstained"], _short(own["median"]))
                for name, own in content["gates"].items()
            ],
        ),
    ]
    if content["variants"]:
        rows = [
            (name, own["asked"], own["passed"], _listed(own["failed"])) for name, own in content["variants"].items()
        ]
        lines += ["## Ways to ask, at the first attempt", "", *_table(("", "asked", "passed", "failed at"), rows)]
    for title, key in (("Countries", "countries"), ("Topics", "topics"), ("Types of values", "types")):
        rows = [(name, own["passed"], own["apart"], own["unwritten"]) for name, own in content[key].items()]
        lines += [f"## {title}", "", *_table(("", "passed", "kept apart", "not in the table"), rows)]
    lines += [
        "## Near-duplicates that were refused",
        "",
        *_table(tuple(split["refused"]), [tuple(split["refused"].values())]),
        *(
            [f"{len(content['unused']):,} rows of tables were not needed, or ask for what nobody wants.", ""]
            if content["unused"]
            else []
        ),
        f"Writers {_names(content['writers'])}, with prompts {_names(content['prompts'])}; judges "
        f"{_names(content['judges'])}, with prompts {_names(content['judging'])}.",
    ]
    if set(content["writers"]) & set(content["judges"]):
        lines.append("**The judge is the writer: it is easily pleased with itself.**")
    return "\n".join(lines) + "\n"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _counts(own: Mapping[str, Any]) -> tuple[Any, ...]:
    words = own["words"]
    said = f"{words['least']} to {words['most']}, median {words['median']:g}" if words else "-"
    return (*(own[key] for key in ("wanted", "passed", "rewritten", "apart", "unwritten")), said)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "-"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    shown = [[str(entry).replace("|", "\\|") for entry in row] for row in rows]
    return [*(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *shown)), ""]
