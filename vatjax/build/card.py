"""The data card: what was made, what was kept apart and why, and how the gates went, as plain data."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vatjax import config
from vatjax.build.making import Made
from vatjax.build.records import Record, Request
from vatjax.build.settings import Build
from vatjax.build.words import words
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
    last = [(one.request, one.passed) for one in (*made.scenes, *made.actions, *made.apart)]
    ends = [*last, *((one, None) for one in made.unwritten)]
    return {
        "settings": {key: x for key, x in config.to_dict(settings).items() if key != "out"},
        "scenes": _stage(made, made.scenes, "scene"),
        "actions": _stage(made, made.actions, "action"),
        "gates": _gates(made.records),
        "variants": _variants(made.records),
        "countries": _outcomes(ends, lambda one: one.fields["country"]),
        "topics": _outcomes(ends, lambda one: one.fields["topic"]),
        "types": _outcomes([one for one in ends if one[0].stage == "action"], lambda one: types[one.fields["value"]]),
        "balance": _balance(items),
        "split": _split(settings, made),
        "unused": [{"file": file, "line": line} for file, line in made.unused],
        **{
            name: sorted({str(one.origin[key]) for one in made.records if one.origin[key] is not None})
            for name, key in (
                ("prompts", "prompts"),
                ("writers", "writer"),
                ("judging", "judging"),
                ("judges", "judge"),
            )
        },
    }


def _stage(made: Made, passed: Sequence[Record], stage: str) -> dict[str, Any]:
    apart = [one for one in made.apart if one.request.stage == stage]
    unwritten = sum(one.stage == stage for one in made.unwritten)
    lengths = [len(words(one.text)) for one in passed]
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
        if record.attempt or not record.request.variant:
            continue
        own = found.setdefault(
            f"{record.request.stage} {record.request.variant}", {"asked": 0, "passed": 0, "failed": {}}
        )
        own["asked"] += 1
        own["passed"] += record.passed
        if not record.passed:
            own["failed"][record.gate] = own["failed"].get(record.gate, 0) + 1
    return found


def _outcomes(ends: Iterable[tuple[Request, bool | None]], key: Callable[[Request], str]) -> dict[str, dict[str, int]]:
    """What became of all that was wanted: None is what a table does not have."""
    found: dict[str, dict[str, int]] = {}
    for request, passed in ends:
        own = found.setdefault(key(request), {"passed": 0, "apart": 0, "unwritten": 0})
        own["unwritten" if passed is None else "passed" if passed else "apart"] += 1
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
