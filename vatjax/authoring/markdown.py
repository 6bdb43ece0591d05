"""The data card as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def render_markdown(content: Mapping[str, Any]) -> str:
    """Renders the card as Markdown."""
    scenes, actions, balance, split = (content[key] for key in ("scenes", "actions", "balance", "split"))
    lines = [
        "# Data card",
        "",
        f"{balance['items']:,} items in {scenes['passed']:,} scenes: {balance['pairs']:,} pairs, {balance['unpaired']:,} "
        f"actions without a partner. {split['train']:,} scenes are to train on, {split['test']:,} to test.",
        "",
        *_table(
            ("", "wanted", "passed", "written again", "kept apart", "not in the table", "words"),
            [(name, *_counts(counts)) for name, counts in (("scenes", scenes), ("actions", actions))],
        ),
        "## Gates",
        "",
        *_table(
            ("gate", "seen", "passed", "failed", "abstained", "median"),
            [
                (
                    name,
                    counts["seen"],
                    counts["passed"],
                    counts["failed"],
                    counts["abstained"],
                    _short(counts["median"]),
                )
                for name, counts in content["gates"].items()
            ],
        ),
    ]
    if content["variants"]:
        rows = [
            (name, counts["asked"], counts["passed"], _listed(counts["failed"]))
            for name, counts in content["variants"].items()
        ]
        lines += ["## Prompt variants, first attempts", "", *_table(("", "asked", "passed", "failed at"), rows)]
    for title, key in (("Countries", "countries"), ("Topics", "topics"), ("Types of values", "types")):
        rows = [(name, counts["passed"], counts["apart"], counts["unwritten"]) for name, counts in content[key].items()]
        lines += [f"## {title}", "", *_table(("", "passed", "kept apart", "not in the table"), rows)]
    lines += [
        "## Refused near-duplicates",
        "",
        *_table(tuple(split["refused"]), [tuple(split["refused"].values())]),
        *(
            [f"{len(content['unused']):,} rows of tables were not needed or not requested.", ""]
            if content["unused"]
            else []
        ),
        f"Writers {_names(content['writers'])}, with prompts {_names(content['prompts'])}; judges "
        f"{_names(content['judges'])}, with prompts {_names(content['judging'])}.",
    ]
    if set(content["writers"]) & set(content["judges"]):
        lines.append("**The judge is the writer, which tends to accept its own texts.**")
    return "\n".join(lines) + "\n"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _counts(counts: Mapping[str, Any]) -> tuple[Any, ...]:
    words = counts["words"]
    lengths = f"{words['least']} to {words['most']}, median {words['median']:g}" if words else "-"
    return (*(counts[key] for key in ("wanted", "passed", "rewritten", "apart", "unwritten")), lengths)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "-"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    shown = [[str(entry).replace("|", "\\|") for entry in row] for row in rows]
    return [*(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *shown)), ""]
