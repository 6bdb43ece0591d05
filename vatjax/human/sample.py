"""Which cases people look at: a sample of items in which every stratum has its share."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store
from vatjax.human.questions import questions
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
    """Draws items so that each stratum has its share, to the nearest whole number.

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
    keys = list(zip(*(items.column(key).tolist() for key in strata), strict=True)) if strata else [()] * len(items)
    groups: dict[Any, list[int]] = collections.defaultdict(list)
    for i, own in enumerate(keys):
        groups[own].append(i)
    random = np.random.default_rng(seed)
    order = [groups[key] for key in sorted(groups, key=repr)]
    chosen = [
        int(i)
        for members, share in zip(order, _shares([len(m) for m in order], count, random), strict=True)
        for i in random.permutation(members)[:share]
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


def _shares(sizes: Sequence[int], count: int, random: np.random.Generator) -> list[int]:
    """Whole numbers in proportion to sizes that make up a count: what is left over goes to the largest remainders, and among
    equal ones by lot."""
    exact = np.array(sizes) * count / sum(sizes)
    whole = np.floor(exact).astype(int)
    lot = random.permutation(len(sizes))
    for place in sorted(lot.tolist(), key=lambda i: -round(exact[i] - whole[i], 9))[: count - int(whole.sum())]:
        whole[place] += 1
    return [int(share) for share in whole]


def _case(items: Items, index: int) -> Case:
    item = items[index]
    definition = items.taxonomy.definitions[int(items.value[index])]
    return Case(store.address(list(item))[:10], definition=definition, **item._asdict())


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
        found = json.loads(store.read_text(where))
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
