"""Which cases people look at: a sample of items in which every stratum has its share."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store
from vatjax.human.questions import questions
from vatjax.human.shares import shares
from vatjax.items import Items
from vatjax.items.table import KEYS, Key

_FILE = "sample.json"


class Case(NamedTuple):
    """One item that is looked at, by a name of its own."""

    name: str
    country: str
    topic: str
    scene: str
    value: str
    definition: str
    polarity: str
    action: str


class Sample(NamedTuple):
    """What annotators are given.

    Attributes:
        cases: in the order of the items.
        meta: where they are from, and how they were drawn.
    """

    cases: tuple[Case, ...]
    meta: Mapping[str, Any]


def sample(items: Items, count: int, strata: Sequence[Key] = ("country", "topic", "polarity"), seed: int = 0) -> Sample:
    """Draws items so that each stratum has its share.

    Of every combination of the keys the share is rounded down or up; which are rounded up is chosen so that every country,
    every topic, every polarity and every two of them come as near to their shares as they can.

    Args:
        items: to draw from.
        count: how many.
        strata: what divides them.
        seed: another seed, another draw.

    Raises:
        InputError: for more cases than items, and for strata that there are not.
    """
    if not 1 <= count <= len(items):
        raise errors.InputError(f"cases: expected 1 to {len(items):,}, found {count:,}")
    for key in strata:
        if key not in KEYS:
            raise errors.InputError(names.unknown("stratum", key, KEYS))
    if seed < 0:
        raise errors.InputError(f"draw: expected 0 or more, found {seed}")
    keys = list(zip(*(items.column(key).tolist() for key in strata), strict=True)) if strata else [()] * len(items)
    groups: dict[Any, list[int]] = collections.defaultdict(list)
    for i, own in enumerate(keys):
        groups[own].append(i)
    random = np.random.default_rng(seed)
    cells = sorted(groups, key=repr)
    chosen = [
        int(i)
        for cell, share in zip(cells, shares(cells, [len(groups[cell]) for cell in cells], count, random), strict=True)
        for i in random.permutation(groups[cell])[:share]
    ]
    cases = tuple(_case(items, i) for i in sorted(chosen))
    if len({case.name for case in cases}) < len(cases):
        raise errors.InputError(f"{items.source}: the same item stands there twice; `vatjax items check` names it")
    meta = {
        "items": {"source": items.source, "count": len(items), "sha256": store.address([list(item) for item in items])},
        "strata": list(strata),
        "seed": seed,
        "questions": questions().version,
    }
    return Sample(cases, meta)


def _case(items: Items, index: int) -> Case:
    """An item as a case; its name begins with a letter, since a spreadsheet takes 2168359e82 for a number."""
    item = items[index]
    definition = items.taxonomy.definitions[int(items.value[index])]
    return Case(f"c{store.address(list(item))[:10]}", definition=definition, **item._asdict())


def save(drawn: Sample, folder: store.Path) -> None:
    """Writes a sample, which sheets are read against."""
    cases = [case._asdict() for case in drawn.cases]
    store.commit_json(store.path(folder) / _FILE, {**drawn.meta, "cases": cases})


def load(folder: store.Path) -> Sample:
    """Reads a sample.

    Raises:
        InputError: for a folder without one, and for a damaged one.
    """
    where = store.path(folder) / _FILE
    if not where.exists():
        raise errors.InputError(f"{folder}: no {_FILE} there; `vatjax human sample` writes it")
    try:
        found = dict(json.loads(store.read_text(where)))
        cases = tuple(Case(**{key: str(case[key]) for key in Case._fields}) for case in found.pop("cases"))
        if found["questions"] != questions().version:
            raise errors.InputError(
                f"{where}: asked with version {found['questions']} of the questions; this package has {questions().version}"
            )
    except errors.InputError:
        raise
    except (ValueError, KeyError, TypeError):
        raise errors.InputError(f"{where}: no sample, or damaged") from None
    return Sample(cases, found)
