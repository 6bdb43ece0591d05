"""Draws the cases for human annotation: a stratified sample of items with proportional allocation."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store
from vatjax.human.questions import questions
from vatjax.human.shares import proportional_allocation
from vatjax.items import Items
from vatjax.items.table import KEYS, Key

_FILE = "sample.json"


class Case(NamedTuple):
    """One item to annotate, with a unique name."""

    name: str
    country: str
    topic: str
    scene: str
    value: str
    definition: str
    polarity: str
    action: str


class Sample(NamedTuple):
    """The cases that annotators rate.

    Attributes:
        cases: in the order of the items.
        meta: source of the items, strata, seed and version of the questions.
    """

    cases: tuple[Case, ...]
    meta: Mapping[str, Any]


def sample(items: Items, count: int, strata: Sequence[Key] = ("country", "topic", "polarity"), seed: int = 0) -> Sample:
    """Draws a stratified sample with proportional allocation.

    The share of each combination of keys is rounded down or up. The rounding is chosen so that each country, topic and
    polarity, and each pair of these, comes as near to its exact share as possible.

    Args:
        items: the items to draw from.
        count: number of cases.
        strata: keys that divide the items into strata.
        seed: seed of the draw.

    Raises:
        InputError: for more cases than items, and for an unknown stratum key.
    """
    if not 1 <= count <= len(items):
        raise errors.InputError(f"cases: expected 1 to {len(items):,}, found {count:,}")
    for key in strata:
        if key not in KEYS:
            raise errors.InputError(names.unknown_name("stratum", key, KEYS))
    if seed < 0:
        raise errors.InputError(f"draw: expected 0 or more, found {seed}")
    keys = list(zip(*(items.column(key).tolist() for key in strata), strict=True)) if strata else [()] * len(items)
    groups: dict[Any, list[int]] = collections.defaultdict(list)
    for i, stratum in enumerate(keys):
        groups[stratum].append(i)
    random = np.random.default_rng(seed)
    cells = sorted(groups, key=repr)
    chosen = [
        int(i)
        for cell, share in zip(
            cells, proportional_allocation(cells, [len(groups[cell]) for cell in cells], count, random), strict=True
        )
        for i in random.permutation(groups[cell])[:share]
    ]
    cases = tuple(_case(items, i) for i in sorted(chosen))
    if len({case.name for case in cases}) < len(cases):
        raise errors.InputError(f"{items.source}: duplicate item; `vatjax items check` shows its lines")
    meta = {
        "items": {"source": items.source, "count": len(items), "sha256": store.address([list(item) for item in items])},
        "strata": list(strata),
        "seed": seed,
        "questions": questions().version,
    }
    return Sample(cases, meta)


def _case(items: Items, index: int) -> Case:
    """Converts an item to a case; the name begins with a letter, since a spreadsheet reads 2168359e82 as a number."""
    item = items[index]
    definition = items.taxonomy.definitions[int(items.value[index])]
    return Case(f"c{store.address(list(item))[:10]}", definition=definition, **item._asdict())


def save(drawn: Sample, folder: store.Path) -> None:
    """Writes a sample to `folder`; sheets are later checked against it."""
    cases = [case._asdict() for case in drawn.cases]
    store.commit_json(store.path(folder) / _FILE, {**drawn.meta, "cases": cases})


def load(folder: store.Path) -> Sample:
    """Reads the sample of a folder.

    Raises:
        InputError: if the folder has no sample, or a damaged one.
    """
    path = store.path(folder) / _FILE
    if not path.exists():
        raise errors.InputError(f"{folder}: {_FILE} not found; `vatjax human sample` writes it")
    try:
        content = dict(store.read_json(path))
        cases = tuple(Case(**{key: str(case[key]) for key in Case._fields}) for case in content.pop("cases"))
        if content["questions"] != questions().version:
            raise errors.InputError(
                f"{path}: drawn with version {content['questions']} of the questions; this package has {questions().version}"
            )
    except errors.InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise errors.InputError(f"{path}: not a sample, or damaged") from None
    return Sample(cases, content)
