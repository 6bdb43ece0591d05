"""Writes a build's files: items, scenes, rejected texts, every attempt, the card, and a folder in the Hub's layout.

items.jsonl      items as `vatjax.items.read` reads them, with their provenance
scenes.jsonl     the scenes that passed
apart.jsonl      texts that never passed, with the reason
unwritten.jsonl  requests without a text in the table
records.jsonl    every attempt, with the verdict of each gate
card.json, card.md
hub/             README.md and data/train.jsonl, data/test.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from vatjax import config, store
from vatjax.authoring.card import build_card
from vatjax.authoring.markdown import render_markdown
from vatjax.authoring.pipeline import BuildResult
from vatjax.authoring.settings import Build
from vatjax.authoring.to_items import to_items
from vatjax.items import write
from vatjax.values import Taxonomy

_OF_ITEMS = ("items.jsonl", "hub/README.md", "hub/data/train.jsonl", "hub/data/test.jsonl")


def publish(settings: Build, result: BuildResult, taxonomy: Taxonomy) -> dict[str, Any]:
    """Writes all files of a build; equal builds give equal bytes.

    Returns:
        The card.
    """
    folder = store.path(settings.out)
    items = to_items(result, taxonomy)
    content = build_card(settings, result, taxonomy, items)
    for name, records in (("scenes", result.scenes), ("apart", result.apart), ("records", result.records)):
        _write_lines(folder / f"{name}.jsonl", (record.as_dict() for record in records))
    _write_lines(
        folder / "unwritten.jsonl", ({"stage": request.stage, **request.fields} for request in result.unwritten)
    )
    if items is None:  # files of an earlier build with other settings
        for name in _OF_ITEMS:
            _remove(folder / name)
    else:
        write(items, folder / "items.jsonl")
        sides = dict(zip(("train", "test"), items.split(settings.test), strict=True))
        for side, part in sides.items():
            file = folder / "hub" / "data" / f"{side}.jsonl"
            write(part, file) if len(part) else _remove(file)
        text = _readme(content, [side for side, part in sides.items() if len(part)])
        store.commit(folder / "hub" / "README.md", text.encode())
    store.commit_json(folder / "card.json", store.nonfinite_to_none(content))
    store.commit(folder / "card.md", render_markdown(content).encode())
    return content


def _remove(file: Any) -> None:
    if file.exists():
        file.unlink()


def _write_lines(path: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(store.nonfinite_to_none(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    store.commit(path, text.encode())


def _readme(content: Mapping[str, Any], sides: list[str]) -> str:
    """Returns the card with the header that tells the Hub the data files."""
    header = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": side, "path": f"data/{side}.jsonl"} for side in sides],
            }
        ],
        "language": content["settings"]["gates"]["language"] or "und",
    }
    return f"---\n{config.to_yaml(header)}---\n{render_markdown(content)}"
