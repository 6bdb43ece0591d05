"""What a build leaves: items, scenes, what was kept apart, every attempt, the card, and a folder as the Hub wants it.

items.jsonl      what `vatjax.items.read` reads, with where each item came from
scenes.jsonl     the scenes that passed
apart.jsonl      what never passed, with its reason
unwritten.jsonl  what a table has no text for
records.jsonl    every attempt, with what each gate said
card.json, card.md
hub/             README.md and data/train.jsonl, data/test.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from vatjax import config, store
from vatjax.build.as_items import items_of
from vatjax.build.card import card
from vatjax.build.making import Made
from vatjax.build.markdown import markdown
from vatjax.build.settings import Build
from vatjax.items import write
from vatjax.values import Taxonomy

_OF_ITEMS = ("items.jsonl", "hub/README.md", "hub/data/train.jsonl", "hub/data/test.jsonl")


def publish(settings: Build, made: Made, taxonomy: Taxonomy) -> dict[str, Any]:
    """Writes everything; equal builds give equal bytes.

    Returns:
        The card.
    """
    folder = store.path(settings.out)
    items = items_of(made, taxonomy)
    content = card(settings, made, taxonomy, items)
    for name, records in (("scenes", made.scenes), ("apart", made.apart), ("records", made.records)):
        _lines(folder / f"{name}.jsonl", (one.plain() for one in records))
    _lines(folder / "unwritten.jsonl", ({"stage": one.stage, **one.fields} for one in made.unwritten))
    if items is None:  # of an earlier build with other settings
        for name in _OF_ITEMS:
            _gone(folder / name)
    else:
        write(items, folder / "items.jsonl")
        sides = dict(zip(("train", "test"), items.split(settings.test), strict=True))
        for side, own in sides.items():
            file = folder / "hub" / "data" / f"{side}.jsonl"
            write(own, file) if len(own) else _gone(file)
        text = _readme(content, [side for side, own in sides.items() if len(own)])
        store.commit(folder / "hub" / "README.md", text.encode())
    store.commit_json(folder / "card.json", store.finite(content))
    store.commit(folder / "card.md", markdown(content).encode())
    return content


def _gone(file: Any) -> None:
    if file.exists():
        file.unlink()


def _lines(where: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(store.finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    store.commit(where, text.encode())


def _readme(content: Mapping[str, Any], sides: list[str]) -> str:
    """The card behind the header by which the Hub knows the files."""
    header = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": side, "path": f"data/{side}.jsonl"} for side in sides],
            }
        ],
        "language": content["settings"]["gates"]["language"] or "und",
    }
    return f"---\n{config.to_yaml(header)}---\n{markdown(content)}"
