"""Value states: what they are, how they lie on disk, how ratings from anywhere become one, how two are joined.

    state = states.load("pre.npz")                         # .state [contexts, values], .mask, .clusters, .values
    state = states.read_ratings("human.csv", scale=(1, 5)) # one row a context, one column a value
    pre, post = states.join(pre, post)[:2]                 # the same contexts and values, in the same order

A state holds signed, centred evidence: positive is for the value, 0 is neutral. What was not rated is False in the mask
and NaN in the array, never 0. NumPy only: metrics take the arrays, and JAX takes them from here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, names, store, tables
from vatjax.values import Taxonomy, schwartz

_MISSING = ("", "na", "n/a", "nan", "null", "none")
_ARRAYS = ("state", "mask", "clusters", "values", "keys", "contexts", "meta")


@dataclasses.dataclass(frozen=True, eq=False)
class ValueState:
    """Signed, centred evidence for each value in each context.

    Attributes:
        state: [contexts, values] float; NaN where there is no rating.
        mask: [contexts, values] bool; True where there is one.
        clusters: [contexts] int32; contexts of one scene share a number.
        values: [values] names, in the taxonomy's order.
        contexts: context key -> [contexts] text, for example `{"country": ..., "topic": ...}`; what rows are joined on.
        meta: what produced the state; plain JSON data.
    """

    state: np.ndarray
    mask: np.ndarray
    clusters: np.ndarray
    values: tuple[str, ...]
    contexts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.clusters), len(self.values))
        for name in ("state", "mask"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has the shape {getattr(self, name).shape}, expected {shape}")
        if self.mask.dtype != bool or not np.issubdtype(self.state.dtype, np.floating):
            raise ValueError(f"state must be floating and mask bool, found {self.state.dtype} and {self.mask.dtype}")
        for key, column in self.contexts.items():
            if len(column) != shape[0]:
                raise ValueError(f"the context key {key!r} has {len(column)} entries, expected {shape[0]}")
        if not np.isfinite(self.state[self.mask]).all():
            raise ValueError("a rating that the mask calls present is not finite")
        if not np.isnan(self.state[~self.mask]).all():
            raise ValueError("a rating that the mask calls missing must be NaN")

    def __repr__(self) -> str:
        missing = int((~self.mask).sum())
        return (
            f"ValueState({len(self.clusters)} contexts x {len(self.values)} values, "
            f"{len(np.unique(self.clusters))} clusters, {missing} missing)"
        )

    def take(self, rows: np.ndarray, columns: np.ndarray | None = None) -> ValueState:
        """These contexts (and these values) in this order; clusters keep their numbers."""
        chosen = np.arange(len(self.values)) if columns is None else columns
        return dataclasses.replace(
            self,
            state=self.state[rows][:, chosen],
            mask=self.mask[rows][:, chosen],
            clusters=self.clusters[rows],
            values=tuple(self.values[i] for i in chosen),
            contexts={key: column[rows] for key, column in self.contexts.items()},
        )


# On disk ------------------------------------------------------------------------------------------------------------


def save(state: ValueState, where: store.Path) -> None:
    """Commits a state as one `.npz`: `state`, `mask`, `clusters`, `values`, `keys`, `contexts` and JSON `meta`."""
    keys = tuple(state.contexts)
    columns = [np.asarray(state.contexts[key], str) for key in keys]
    store.commit_npz(
        where,
        {
            "state": state.state,
            "mask": state.mask,
            "clusters": state.clusters.astype(np.int32),
            "values": np.array(state.values, str),
            "keys": np.array(keys, str),
            "contexts": np.stack(columns, 1) if columns else np.zeros((len(state.clusters), 0), "U1"),
            "meta": np.array(json.dumps(state.meta, sort_keys=True, allow_nan=False)),
        },
    )


def load(where: store.Path) -> ValueState:
    """Reads a state that `save` wrote.

    Raises:
        InputError: where the file is not a whole value state; nothing in it is ever executed.
    """
    try:
        arrays = store.load_npz(where)
        absent = [name for name in _ARRAYS[:4] if name not in arrays]
        if absent:
            raise ValueError(f"no array {', '.join(absent)}; found {', '.join(arrays) or 'none'}")
        rows = len(arrays["clusters"])
        keys, contexts = arrays.get("keys", np.zeros(0, str)), arrays.get("contexts", np.zeros((rows, 0), str))
        return ValueState(
            state=arrays["state"],
            mask=arrays["mask"],
            clusters=arrays["clusters"],
            values=tuple(arrays["values"].tolist()),
            contexts={str(key): contexts[:, i].astype(object) for i, key in enumerate(keys)},
            meta=json.loads(str(arrays["meta"])) if "meta" in arrays else {},
        )
    except OSError as error:
        raise errors.InputError(f"{where}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, EOFError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise errors.InputError(f"{where}: not a value state: {error}") from None


# Ratings from anywhere ----------------------------------------------------------------------------------------------


def read_ratings(
    where: store.Path,
    taxonomy: Taxonomy | None = None,
    scale: tuple[float, float] = (1.0, 5.0),
    clusters: Sequence[str] | None = None,
) -> ValueState:
    """Reads a wide table of ratings: one row a context, one column a value, every other column a context key.

    A rating r on the scale LOW..HIGH becomes r - (LOW + HIGH) / 2, with its sign turned where the scale is written
    HIGH..LOW (`scale=(4, 1)`: 1 is the strongest agreement). An empty cell, `NA`, `NaN` or null is missing.

    Args:
        where: CSV, TSV, JSONL or a JSON array, each also gzipped.
        taxonomy: whose values the columns are matched to; Schwartz's by default.
        scale: the ratings at the weak and at the strong end of agreement.
        clusters: the context keys whose rows belong together; by default `scene` where there is one, else each row
            stands alone.

    Raises:
        InputError: names file, line and column of each problem.
    """
    taxonomy = taxonomy or schwartz()
    table = tables.read(where)
    problems = list(table.problems)
    columns, keys = _columns(table, taxonomy)
    values = sorted(columns)
    state = np.full((len(table.rows), len(values)), np.nan)
    for i, (line, row) in enumerate(zip(table.lines, table.rows, strict=True)):
        for j, value in enumerate(values):
            try:
                state[i, j] = _rating(row.get(columns[value]), scale)
            except ValueError as error:
                problems.append(errors.Problem(table.source, line, f"{columns[value]}: {error}"))
    if problems:
        raise errors.all_of(sorted(problems, key=lambda problem: problem.line or 0))
    if not table.rows:
        raise errors.InputError(f"{where}: no rows")
    contexts = {key: np.array([_text(row.get(key)) for row in table.rows], object) for key in keys}
    grouping = tuple(clusters) if clusters is not None else ("scene",) * ("scene" in contexts)
    meta = {"source": str(where), "protocol": "ratings", "scale": list(scale), "taxonomy": taxonomy.name}
    return ValueState(
        state=state.astype(np.float32),
        mask=np.isfinite(state),
        clusters=_clusters(contexts, grouping, len(state), table.source),
        values=tuple(taxonomy.names[value] for value in values),
        contexts=contexts,
        meta=meta,
    )


def _columns(table: tables.Table, taxonomy: Taxonomy) -> tuple[dict[int, str], list[str]]:
    """Which column holds which value, and the columns that hold none."""
    columns: dict[int, str] = {}
    keys = []
    for column in table.columns:
        name = taxonomy.match(column)
        if name is None:
            keys.append(column)
            continue
        value = taxonomy.index(name)
        if value in columns:
            raise errors.InputError(f"{table.source}: the columns {columns[value]!r} and {column!r} are both {name!r}")
        columns[value] = column
    if not columns and not table.problems:
        raise errors.InputError(
            f"{table.source}: no column is a value of the taxonomy {taxonomy.name!r} "
            f"(such as {taxonomy.names[0]!r}); found {', '.join(map(repr, table.columns)) or 'no columns'}"
        )
    return columns, keys


def _rating(cell: Any, scale: tuple[float, float]) -> float:
    """One centred rating, NaN for a missing one."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        return math.nan
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        raise ValueError(f"expected a rating, found {cell!r}")
    try:
        rating = float(cell)
    except (ValueError, OverflowError):
        raise ValueError(f"expected a rating, found {cell!r}") from None
    if math.isnan(rating):
        return math.nan
    low, high = scale
    if not min(low, high) <= rating <= max(low, high):
        raise ValueError(f"the rating {rating:g} lies outside the scale {low:g}:{high:g}")
    return (rating - (low + high) / 2) * (1 if low < high else -1)


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell.strip()
    return "" if cell is None else json.dumps(cell, sort_keys=True)


def _clusters(contexts: Mapping[str, np.ndarray], keys: Sequence[str], rows: int, source: str) -> np.ndarray:
    """Numbers rows that agree in all the keys alike; without keys each row has its own number."""
    for key in keys:
        if key not in contexts:
            raise errors.InputError(f"{source}: {names.unknown('cluster column', key, contexts)}")
    if not keys:
        return np.arange(rows, dtype=np.int32)
    seen: dict[tuple[str, ...], int] = {}
    rows_of_keys = zip(*(contexts[key] for key in keys), strict=True)
    return np.array([seen.setdefault(row, len(seen)) for row in rows_of_keys], np.int32)


# Joining ------------------------------------------------------------------------------------------------------------


class Joined(NamedTuple):
    """Two states on the contexts they share.

    Attributes:
        pre, post: same contexts, same values, same order; clusters are those of `pre`.
        keys: the context keys on which rows were matched; empty where rows were matched by position.
        only_pre, only_post: how many contexts the other one lacks.
    """

    pre: ValueState
    post: ValueState
    keys: tuple[str, ...]
    only_pre: int
    only_post: int


def join(pre: ValueState, post: ValueState) -> Joined:
    """Matches the contexts of two states on the keys that both have, and their values by name.

    Without a common key, rows are matched by position, which needs equally many.

    Raises:
        InputError: where values differ, a key stands for several rows, or no context is in both.
    """
    if set(pre.values) != set(post.values):
        raise errors.InputError(f"the two states have different values: {_difference(pre.values, post.values)}")
    columns = np.array([post.values.index(name) for name in pre.values])
    keys = tuple(key for key in pre.contexts if key in post.contexts)
    if not keys:
        if len(pre.clusters) != len(post.clusters):
            raise errors.InputError(
                f"without a common context column rows are matched by position, which needs equally many; "
                f"found {len(pre.clusters)} and {len(post.clusters)}"
            )
        matched = post.take(np.arange(len(post.clusters)), columns)
        return Joined(pre, dataclasses.replace(matched, clusters=pre.clusters), keys, 0, 0)
    first, second = _rows_by_key(pre, keys, "first"), _rows_by_key(post, keys, "second")
    common = [key for key in first if key in second]
    if not common:
        raise errors.InputError(
            f"the two states have no context in common: {_example(keys, first)} against {_example(keys, second)}"
        )
    rows = np.array([first[key] for key in common]), np.array([second[key] for key in common])
    matched = post.take(rows[1], columns)
    matched = dataclasses.replace(matched, clusters=pre.clusters[rows[0]])
    return Joined(pre.take(rows[0]), matched, keys, len(first) - len(common), len(second) - len(common))


def _rows_by_key(state: ValueState, keys: Sequence[str], which: str) -> dict[tuple[str, ...], int]:
    rows: dict[tuple[str, ...], int] = {}
    for i, key in enumerate(zip(*(state.contexts[name] for name in keys), strict=True)):
        if key in rows:
            raise errors.InputError(
                f"the {which} state has several rows for one context: {_example(keys, [key])} "
                f"(rows {rows[key] + 1} and {i + 1})"
            )
        rows[key] = i
    return rows


def _example(keys: Sequence[str], rows: Any) -> str:
    return ", ".join(f"{name}={entry!r}" for name, entry in zip(keys, next(iter(rows)), strict=True))


def _difference(pre: Sequence[str], post: Sequence[str]) -> str:
    parts = []
    for which, own, other in (("first", pre, post), ("second", post, pre)):
        only = [name for name in own if name not in other]
        if only:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            parts.append(f"only the {which} has {', '.join(only[:5])}{more}")
    return "; ".join(parts)
