"""The data card: counts of passed and rejected texts with reasons, and the outcomes of each gate, as plain data."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vatjax import config
from vatjax.authoring.pipeline import BuildResult
from vatjax.authoring.records import Record, Request
from vatjax.authoring.settings import Build
from vatjax.authoring.tokenize_words import tokenize_words
from vatjax.items import Items
from vatjax.items.table import on_test_side
from vatjax.values import Taxonomy


def build_card(settings: Build, result: BuildResult, taxonomy: Taxonomy, items: Items | None) -> dict[str, Any]:
    """Summarises a build as plain data.

    Args:
        settings: settings of the build.
        result: result of the build.
        taxonomy: the values.
        items: the items built, or None if no action passed.
    """
    types = {name: taxonomy.types[int(kind)] for name, kind in zip(taxonomy.names, taxonomy.type_of, strict=True)}
    last = [(record.request, record.passed) for record in (*result.scenes, *result.actions, *result.apart)]
    ends = [*last, *((request, None) for request in result.unwritten)]
    return {
        "settings": {key: x for key, x in config.to_dict(settings).items() if key != "out"},
        "scenes": _stage(result, result.scenes, "scene"),
        "actions": _stage(result, result.actions, "action"),
        "gates": _gates(result.records),
        "variants": _variants(result.records),
        "countries": _outcomes(ends, lambda request: request.fields["country"]),
        "topics": _outcomes(ends, lambda request: request.fields["topic"]),
        "types": _outcomes(
            [one for one in ends if one[0].stage == "action"], lambda entry: types[entry.fields["value"]]
        ),
        "balance": _balance(items),
        "split": _split(settings, result),
        "unused": [{"file": file, "line": line} for file, line in result.unused],
        **{
            name: sorted({str(record.origin[key]) for record in result.records if record.origin[key] is not None})
            for name, key in (
                ("prompts", "prompts"),
                ("writers", "writer"),
                ("judging", "judging"),
                ("judges", "judge"),
            )
        },
    }


def _stage(result: BuildResult, passed: Sequence[Record], stage: str) -> dict[str, Any]:
    apart = [record for record in result.apart if record.request.stage == stage]
    unwritten = sum(record.stage == stage for record in result.unwritten)
    lengths = [len(tokenize_words(record.text)) for record in passed]
    return {
        "wanted": len(passed) + len(apart) + unwritten,
        "passed": len(passed),
        "rewritten": sum(record.attempt > 0 for record in passed),
        "apart": len(apart),
        "unwritten": unwritten,
        "why": dict(collections.Counter(record.gate for record in apart)),
        "words": {"least": min(lengths), "median": statistics.median(lengths), "most": max(lengths)}
        if lengths
        else None,
    }


def _gates(records: Iterable[Record]) -> dict[str, Any]:
    """Counts the attempts that each gate saw, by outcome."""
    summary: dict[str, Any] = {}
    for record in records:
        for verdict in record.verdicts:
            counts = summary.setdefault(
                f"{record.request.stage} {verdict.gate}",
                {"seen": 0, "passed": 0, "failed": 0, "abstained": 0, "scores": []},
            )
            counts["seen"] += 1
            counts["passed" if verdict.passed else "abstained" if verdict.passed is None else "failed"] += 1
            if verdict.score is not None:
                counts["scores"].append(verdict.score)
    for counts in summary.values():
        scores = counts.pop("scores")
        counts["median"] = statistics.median(scores) if scores else None
    return summary


def _variants(records: Sequence[Record]) -> dict[str, Any]:
    """Counts, for each prompt variant, the first attempts, those that pass all gates, and failures by gate."""
    summary: dict[str, Any] = {}
    for record in records:
        if record.attempt or not record.request.variant:
            continue
        counts = summary.setdefault(
            f"{record.request.stage} {record.request.variant}", {"asked": 0, "passed": 0, "failed": {}}
        )
        counts["asked"] += 1
        counts["passed"] += record.passed
        if not record.passed:
            counts["failed"][record.gate] = counts["failed"].get(record.gate, 0) + 1
    return summary


def _outcomes(ends: Iterable[tuple[Request, bool | None]], key: Callable[[Request], str]) -> dict[str, dict[str, int]]:
    """Counts requests by outcome for each `key`; passed is None for a text that a table does not have."""
    summary: dict[str, dict[str, int]] = {}
    for request, passed in ends:
        counts = summary.setdefault(key(request), {"passed": 0, "apart": 0, "unwritten": 0})
        counts["unwritten" if passed is None else "passed" if passed else "apart"] += 1
    return summary


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


def _split(settings: Build, result: BuildResult) -> dict[str, Any]:
    """Counts scenes on both sides of the split, and refused near-duplicates by where their nearest text is."""
    test = sum(on_test_side(scene.text, settings.test) for scene in result.scenes)
    twins = [v.why for record in result.records for v in record.verdicts if v.gate == "duplicate" and v.passed is False]
    places = ("in the same scene", "in another scene", "across the split")
    return {
        "train": len(result.scenes) - test,
        "test": test,
        "refused": {place: sum(why.endswith(place) for why in twins) for place in places},
    }
