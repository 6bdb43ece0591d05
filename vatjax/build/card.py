"""The data card: what was made, what was kept apart and why, and how the gates went, as plain data and as Markdown."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vatjax import config
from vatjax.build.making import Made
from vatjax.build.records import Record
from vatjax.build.settings import Build
from vatjax.items import Items
from vatjax.items.table import on_test_side
from vatjax.values import Taxonomy


def card(settings: Build, made: Made, taxonomy: Taxonomy, items: Items | None) -> dict[str, Any]:
    """Everything that is worth saying of a data set, as plain data.

    Args:
        settings: what was wanted.
        made: what came of it.
        taxonomy: the values.
        items: what was made; None where nothing was.
    """
    types = {name: taxonomy.types[int(kind)] for name, kind in zip(taxonomy.names, taxonomy.type_of, strict=True)}
    last = [*made.scenes, *made.actions, *made.apart]
    return {
        "settings": {key: x for key, x in config.to_dict(settings).items() if key != "out"},
        "scenes": _stage(made, made.scenes, "scene"),
        "actions": _stage(made, made.actions, "action"),
        "gates": _gates(made.records),
        "variants": _variants(made.records),
        "countries": _outcomes(last, lambda one: one.request.fields["country"]),
        "topics": _outcomes(last, lambda one: one.request.fields["topic"]),
        "types": _outcomes(
            [one for one in last if one.request.stage == "action"], lambda one: types[one.request.fields["value"]]
        ),
        "balance": _balance(items),
        "split": _split(settings, made),
        "prompts": made.records[0].origin["prompts"] if made.records else None,
        "writers": sorted({str(one.origin["writer"]) for one in made.records}),
        "judges": sorted({str(one.origin["judge"]) for one in made.records}),
    }


def _stage(made: Made, passed: Sequence[Record], stage: str) -> dict[str, Any]:
    apart = [one for one in made.apart if one.request.stage == stage]
    unwritten = sum(one.stage == stage for one in made.unwritten)
    lengths = [len(one.text.split()) for one in passed]
    return {
        "wanted": len(passed) + len(apart) + unwritten,
        "passed": len(passed),
        "rewritten": sum(one.attempt > 0 for one in passed),
        "apart": len(apart),
        "unwritten": unwritten,
        "why": dict(collections.Counter(one.gate for one in apart)),
        "words": {"least": min(lengths), "median": statistics.median(lengths), "most": max(lengths)}
        if lengths
        else None,
    }


def _gates(records: Iterable[Record]) -> dict[str, Any]:
    """Of every gate how many attempts it saw, and what became of them."""
    found: dict[str, Any] = {}
    for record in records:
        for one in record.verdicts:
            own = found.setdefault(
                f"{record.request.stage} {one.gate}",
                {"seen": 0, "passed": 0, "failed": 0, "abstained": 0, "scores": []},
            )
            own["seen"] += 1
            own["passed" if one.passed else "abstained" if one.passed is None else "failed"] += 1
            if one.score is not None:
                own["scores"].append(one.score)
    for own in found.values():
        scores = own.pop("scores")
        own["median"] = statistics.median(scores) if scores else None
    return found


def _variants(records: Sequence[Record]) -> dict[str, Any]:
    """Of every way to ask, how many first attempts pass each gate that they come to, and all of them."""
    found: dict[str, Any] = {}
    for record in records:
        if record.attempt:
            continue
        own = found.setdefault(
            f"{record.request.stage} {record.request.variant}", {"asked": 0, "passed": 0, "failed": {}}
        )
        own["asked"] += 1
        own["passed"] += record.passed
        if not record.passed:
            own["failed"][record.gate] = own["failed"].get(record.gate, 0) + 1
    return found


def _outcomes(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for record in records:
        own = found.setdefault(key(record), {"passed": 0, "apart": 0})
        own["passed" if record.passed else "apart"] += 1
    return found


def _balance(items: Items | None) -> dict[str, Any]:
    if items is None:
        return {"items": 0, "pairs": 0, "unpaired": 0, "express": 0, "suppress": 0}
    pairs = items.pair()
    express = int((items.polarity > 0).sum())
    return {
        "items": len(items),
        "pairs": len(pairs.express),
        "unpaired": len(pairs.unpaired),
        "express": express,
        "suppress": len(items) - express,
    }


def _split(settings: Build, made: Made) -> dict[str, Any]:
    """How scenes fall to both sides; a near-duplicate across them is no item, since its gate has refused it."""
    test = sum(on_test_side(one.text, settings.test) for one in made.scenes)
    twins = [v.why for one in made.records for v in one.verdicts if v.gate == "duplicate" and v.passed is False]
    where = ("in the same scene", "in another scene", "across the split")
    return {
        "train": len(made.scenes) - test,
        "test": test,
        "refused": {place: sum(why.endswith(place) for why in twins) for place in where},
    }


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
        "## Ways to ask, at the first attempt",
        "",
        *_table(
            ("", "asked", "passed", "failed at"),
            [(name, own["asked"], own["passed"], _listed(own["failed"])) for name, own in content["variants"].items()],
        ),
    ]
    for title, key in (("Countries", "countries"), ("Topics", "topics"), ("Types of values", "types")):
        rows = [(name, own["passed"], own["apart"]) for name, own in content[key].items()]
        lines += [f"## {title}", "", *_table(("", "passed", "kept apart"), rows)]
    lines += [
        "## Near-duplicates that were refused",
        "",
        *_table(tuple(split["refused"]), [tuple(split["refused"].values())]),
        f"Prompts of version {content['prompts']}; writers {', '.join(content['writers'])}; judges "
        f"{', '.join(content['judges'])}.",
    ]
    if set(content["writers"]) & set(content["judges"]):
        lines.append("**The judge is the writer: it is easily pleased with itself.**")
    return "\n".join(lines) + "\n"


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
