"""Value states: their arrays, their file format, conversion from tables of ratings, and joining of two states.

    state = states.load("pre.npz")                         # .state [contexts, values], .mask, .clusters, .values
    state = states.read_ratings("human.csv", scale=(1, 5)) # one row a context, one column a value
    pre, post = states.join(pre, post)[:2]                 # the same contexts and values, in the same order

A state holds signed, centred evidence: positive is for the value, 0 is neutral. A missing rating is False in the mask
and NaN in the array, never 0. NumPy only: metrics take the arrays, and JAX takes them from here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import drawing, errors, names, store, tables
from vatjax.text_table import html_table
from vatjax.values import Taxonomy, schwartz

_MISSING = ("", "na", "n/a", "nan", "null", "none")
# With more ratings outside the scale than this, the scale itself is wrong.
_FEW_OUTSIDE = 3
_ARRAYS = ("state", "mask", "clusters", "values")


@dataclasses.dataclass(frozen=True, eq=False)
class ValueState:
    """Signed, centred evidence for each value in each context.

    Attributes:
        state: [contexts, values] float; NaN where a rating is missing.
        mask: [contexts, values] bool; True where a rating is present.
        clusters: [contexts] int32; contexts of one scene share a number.
        values: [values] names, in the taxonomy's order.
        contexts: context key -> [contexts] text, for example `{"country": ..., "topic": ...}`; join keys.
        meta: provenance of the state; plain JSON data.
        labels: of a `labelled` state, which values each context's action supports (1) or violates (-1), [contexts, values];
            None elsewhere. Labels alone create coupling, so that no p of such a state means anything without them.
        mass: the least probability of all options together among the prompts of each cell, [contexts, values]; None
            if the state does not come from probabilities.
    """

    state: np.ndarray
    mask: np.ndarray
    clusters: np.ndarray
    values: tuple[str, ...]
    contexts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labels: np.ndarray | None = None
    mass: np.ndarray | None = None

    def __post_init__(self) -> None:
        clusters = np.asarray(self.clusters)
        if clusters.ndim != 1 or not np.issubdtype(clusters.dtype, np.integer):
            raise ValueError(f"clusters must be one whole number a context, found {clusters.dtype} {clusters.shape}")
        if clusters.size and not -(2**31) <= clusters.min() <= clusters.max() < 2**31:
            raise ValueError("cluster numbers must fit 32 bits")
        if len(set(self.values)) < len(self.values) or not all(isinstance(name, str) for name in self.values):
            raise ValueError(f"values must be different names, found {names.short_list(self.values)}")
        self._keep("clusters", clusters.astype(np.int32))
        self._keep("state", np.array(self.state))
        self._keep("mask", np.array(self.mask))
        shape = (len(clusters), len(self.values))
        for name in ("state", "mask"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has the shape {getattr(self, name).shape}, expected {shape}")
        if self.mask.dtype != bool or not np.issubdtype(self.state.dtype, np.floating):
            raise ValueError(f"state must be floating and mask bool, found {self.state.dtype} and {self.mask.dtype}")
        if self.labels is not None:
            labels = np.array(self.labels)
            if labels.shape != shape or not np.isin(labels, (-1, 0, 1)).all():
                raise ValueError(f"labels must be -1, 0 or 1 in the shape {shape}, found the shape {labels.shape}")
            self._keep("labels", labels.astype(np.int8))
        if self.mass is not None:
            if np.shape(self.mass) != shape:
                raise ValueError(f"mass has the shape {np.shape(self.mass)}, expected {shape}")
            self._keep("mass", np.array(self.mass, np.float32))
        for key, column in self.contexts.items():
            if len(column) != shape[0]:
                raise ValueError(f"the context key {key!r} has {len(column)} entries, expected {shape[0]}")
        if not np.isfinite(self.state[self.mask]).all():
            raise ValueError("a rating that the mask calls present is not finite")
        if not np.isnan(self.state[~self.mask]).all():
            raise ValueError("a rating that the mask calls missing must be NaN")

    def _keep(self, name: str, array: np.ndarray) -> None:
        """Stores an array as a read-only field."""
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    def __repr__(self) -> str:
        missing = int((~self.mask).sum())
        return (
            f"ValueState({len(self.clusters)} contexts x {len(self.values)} values, "
            f"{len(np.unique(self.clusters))} clusters, {missing} missing)"
        )

    def frame(self) -> Any:
        """Returns a `pandas.DataFrame` with a row for each context: its keys, then its values in points from the middle of the
        scale. Written as a table it is read again with `--scale -2:2` for ratings of 1 to 5."""
        return tables.data_frame(
            [
                {key: column[i] for key, column in self.contexts.items()}
                | dict(zip(self.values, self.state[i].tolist(), strict=True))
                for i in range(len(self.clusters))
            ]
        )

    def _repr_html_(self) -> str:
        mean, spread = self._moments()
        count = self.mask.sum(0)
        rows = [
            (name, f"{mean[i]:.2f}", f"{spread[i]:.2f}", f"{count[i]:,}")
            for i, name in enumerate(self.values)
            if count[i]
        ]
        return html_table(("value", "mean (points)", "standard deviation", "contexts"), rows)

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and standard deviation of each value's ratings over contexts; NaN without any rating."""
        count = np.where(self.mask.any(0), self.mask.sum(0), np.nan)
        mean = np.where(self.mask, np.float64(self.state), 0.0).sum(0) / count
        square = np.where(self.mask, np.square(self.state - mean), 0.0).sum(0) / count
        return mean, np.sqrt(square)

    def plot(self, path: store.Path) -> None:
        """Writes a figure of each value's mean rating and its standard deviation over contexts, as .svg or .png."""
        from matplotlib.figure import Figure

        mean, spread = self._moments()
        with drawing.style():
            figure = Figure(figsize=(6.0, 0.6 + 0.17 * len(self.values)))
            axis = figure.subplots()
            place = np.arange(len(self.values))
            bars = axis.barh(
                place, np.nan_to_num(mean), xerr=np.nan_to_num(spread), color=drawing.COLOURS[0], height=0.7
            )
            for bar, name, x, y in zip(bars, self.values, mean, spread, strict=True):
                drawing.set_hover(figure, bar, f"{name}: {x:.2f}, standard deviation {y:.2f}")
            axis.set_yticks(place, self.values, fontsize=7)
            axis.set(ylim=(len(self.values) - 0.4, -0.6), xlabel="mean rating (points from the middle)")
            axis.axvline(0, color=drawing.INK, linewidth=0.8)
        drawing.save(figure, path)

    def take(self, rows: np.ndarray, columns: np.ndarray | None = None) -> ValueState:
        """Returns the given contexts (and values), by ordered indices or by masks; clusters keep their numbers."""
        chosen = np.arange(len(self.values)) if columns is None else np.arange(len(self.values))[columns]
        return dataclasses.replace(
            self,
            state=self.state[rows][:, chosen],
            mask=self.mask[rows][:, chosen],
            clusters=self.clusters[rows],
            values=tuple(self.values[i] for i in chosen),
            contexts={key: column[rows] for key, column in self.contexts.items()},
            labels=None if self.labels is None else self.labels[rows][:, chosen],
            mass=None if self.mass is None else self.mass[rows][:, chosen],
        )


# On disk ------------------------------------------------------------------------------------------------------------


def save(state: ValueState, path: store.Path) -> None:
    """Commits a state as one `.npz`: `state`, `mask`, `clusters`, `values`, and as JSON `contexts` and `meta`.

    A `labelled` state has its `labels` too, one that was elicited from probabilities its option `mass`.
    """
    optional = {"labels": state.labels, "mass": state.mass}
    contexts = {key: [str(entry) for entry in column] for key, column in state.contexts.items()}
    store.commit_npz(
        path,
        {name: array for name, array in optional.items() if array is not None}
        | {
            "state": state.state,
            "mask": state.mask,
            "clusters": state.clusters,
            "values": np.array(state.values, str),
            "contexts": np.frombuffer(json.dumps(contexts).encode(), np.uint8),  # a text array pads to the longest
            "meta": np.array(json.dumps(state.meta, sort_keys=True, allow_nan=False)),
        },
    )


def load(path: store.Path) -> ValueState:
    """Reads a state that `save` wrote.

    Raises:
        InputError: if the file is not a complete value state; nothing in it is ever executed.
    """
    try:
        arrays = store.load_npz(path)
        absent = [name for name in _ARRAYS if name not in arrays]
        if absent:
            raise ValueError(f"no array {', '.join(absent)}; found {', '.join(arrays) or 'none'}")
        contexts = store.parse_json(arrays["contexts"].tobytes()) if "contexts" in arrays else {}
        return ValueState(
            state=arrays["state"],
            mask=arrays["mask"],
            clusters=arrays["clusters"],
            values=tuple(arrays["values"].tolist()),
            contexts={str(key): np.array(column, object) for key, column in contexts.items()},
            meta=store.parse_json(str(arrays["meta"])) if "meta" in arrays else {},
            labels=arrays.get("labels"),
            mass=arrays.get("mass"),
        )
    except errors.InputError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.InputError(f"{path}: not a value state: {error}") from None


def align(state: ValueState, taxonomy: Taxonomy) -> ValueState:
    """Returns the state with a column for every value of the taxonomy, in its order; values that it lacks are missing.

    Raises:
        InputError: if the state has a value that the taxonomy lacks.
    """
    place = [taxonomy.index(name) for name in state.values]
    shape = (len(state.clusters), len(taxonomy.names))
    whole, mask = np.full(shape, np.nan, state.state.dtype), np.zeros(shape, np.bool_)
    whole[:, place], mask[:, place] = state.state, state.mask
    labels = None
    if state.labels is not None:
        labels = np.zeros(shape, np.int8)
        labels[:, place] = state.labels
    mass = None
    if state.mass is not None:
        mass = np.full(shape, np.nan, np.float32)
        mass[:, place] = state.mass
    return dataclasses.replace(state, state=whole, mask=mask, values=taxonomy.names, labels=labels, mass=mass)


# Ratings from anywhere ----------------------------------------------------------------------------------------------


def read_ratings(
    path: store.Path,
    taxonomy: Taxonomy | None = None,
    scale: tuple[float, float] = (1.0, 5.0),
    clusters: str | Sequence[str] | None = None,
    keys: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> ValueState:
    """Reads a table of ratings: one row a context, one column a value, every other column a context key.

    A rating r on the scale LOW..HIGH becomes r - (LOW + HIGH) / 2, with its sign reversed if the scale is written
    HIGH..LOW (`scale=(4, 1)`: 1 is the strongest agreement). An empty cell, `NA`, `NaN` or null is missing. Decimal commas
    are read in tables whose cells are separated by semicolons or tabs. A long table has a row a rating, with the columns
    `value` and `rating`.

    Args:
        path: CSV, TSV, JSONL or a JSON array, each also gzipped.
        taxonomy: the taxonomy whose values the columns are matched to; Schwartz's by default.
        scale: the ratings at the weak and at the strong end of agreement.
        clusters: the context keys whose rows belong together; by default `scene` if present, else each row
            is its own cluster.
        keys: columns that are context keys although their names look like values.
        missing: further spellings of a missing rating.

    Raises:
        InputError: names file, line and column of each problem.
    """
    taxonomy = taxonomy or schwartz()
    if len(scale) != 2 or not all(math.isfinite(end) for end in scale) or scale[0] == scale[1]:
        raise errors.InputError(f"a scale is two different numbers, the weak and the strong end, found {scale}")
    table = tables.read(path)
    if _is_long(table, taxonomy, keys):
        table = _widen(table, taxonomy, keys)
    problems = list(table.problems)
    columns, other = _columns(table, taxonomy, keys)
    values = sorted(columns)
    read = _Ratings(
        scale, {*_MISSING, *(spelling.strip().lower() for spelling in missing)}, table.delimiter in (";", "\t")
    )
    state = np.full((len(table.rows), len(values)), np.nan)
    contexts: dict[str, list[str]] = {key: [] for key in other}
    for i, (line, row) in enumerate(zip(table.lines, table.rows, strict=True)):
        for j, value in enumerate(values):
            try:
                state[i, j] = read.rating(row.get(columns[value]), line, columns[value])
            except ValueError as error:
                problems.append(errors.Problem(table.source, line, f"{columns[value]}: {error}"))
        for key in other:
            try:
                contexts[key].append(_key(row.get(key)))
            except ValueError as error:
                problems.append(errors.Problem(table.source, line, f"{key}: {error}"))
    problems += read.outside_problems(table.source)
    if problems:
        raise errors.all_of(sorted(problems, key=lambda problem: problem.line or 0))
    if not table.rows:
        raise errors.InputError(f"{path}: no rows")
    texts = {key: np.array(column, object) for key, column in contexts.items()}
    grouping = [clusters] if isinstance(clusters, str) else clusters
    if grouping is None:
        grouping = ["scene"] if "scene" in texts else []
    meta = {
        "source": str(path),
        "protocol": "ratings",
        "scale": list(scale),
        "found": [read.least, read.most] if read.least <= read.most else None,
        "numeric_keys": [key for key in other if key not in keys and _is_rating(texts[key], scale)],
        "taxonomy": taxonomy.name,
    }
    return ValueState(
        state=state,
        mask=np.isfinite(state),
        clusters=_clusters(texts, grouping, len(state), table.source),
        values=tuple(taxonomy.names[value] for value in values),
        contexts=texts,
        meta=meta,
    )


def _is_rating(column: np.ndarray, scale: tuple[float, float]) -> bool:
    """Returns whether a context key looks like a value's ratings: numbers on the scale, of which several differ."""
    try:
        numbers = np.array([float(entry) for entry in column])
    except ValueError:
        return False
    return 2 < len(np.unique(numbers)) < len(numbers) and bool(
        ((min(scale) <= numbers) & (numbers <= max(scale))).all()
    )


@dataclasses.dataclass
class _Ratings:
    """Parser of cells into centred ratings; records the range that they cover."""

    scale: tuple[float, float]
    missing: set[str]
    decimal_commas: bool
    least: float = math.inf
    most: float = -math.inf
    outside_scale: list[tuple[int, str, float]] = dataclasses.field(default_factory=list)

    def rating(self, cell: Any, line: int, column: str) -> float:
        """Returns one centred rating, NaN for a missing one."""
        spelling = f"{cell:g}" if isinstance(cell, (int, float)) and not isinstance(cell, bool) else cell
        if cell is None or (isinstance(spelling, str) and spelling.strip().lower() in self.missing):
            return math.nan
        if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
            raise ValueError(f"expected a rating, found {names.short_repr(cell)}")
        text = (
            cell.replace(",", ".") if isinstance(cell, str) and self.decimal_commas and cell.count(",") == 1 else cell
        )
        try:
            rating = float(text)
        except (ValueError, OverflowError):
            rating = math.inf
        if isinstance(cell, str) and (math.isinf(rating) or "_" in cell):
            comma = (
                "; decimal commas are read where semicolons separate the cells"
                if re.fullmatch(r"\s*-?\d+,\d+\s*", cell)
                else f"; if it stands for a missing one, add --missing {json.dumps(cell.strip(), ensure_ascii=False)}"
            )
            raise ValueError(f"expected a rating, found {names.short_repr(cell)}{comma}")
        if math.isnan(rating):
            return math.nan
        self.least, self.most = min(self.least, rating), max(self.most, rating)
        low, high = self.scale
        if not min(low, high) <= rating <= max(low, high):
            self.outside_scale.append((line, column, rating))
        return (rating - (low + high) / 2) * (1 if low < high else -1)

    def outside_problems(self, source: str) -> list[errors.Problem]:
        """Returns a problem for each rating outside the scale, if these are few.

        Raises:
            InputError: if they are many, with the scale that would hold all ratings.
        """
        low, high = min(self.scale), max(self.scale)
        if len(self.outside_scale) > _FEW_OUTSIDE:
            bottom = self.least if self.least < low else low
            ends = [
                _rounded(bottom, math.floor),
                _rounded(max(self.most, high) if self.most > high else self.most, math.ceil),
            ]
            raise errors.InputError(
                f"{source}: ratings go from {self.least:g} to {self.most:g}, and the scale from {low:g} to {high:g}; set the "
                f"scale, such as --scale {':'.join(ends)} (or {':'.join(reversed(ends))} where the lowest is the strongest)"
            )
        return [
            errors.Problem(source, line, f"{column}: the rating {rating:g} lies outside the scale {low:g}:{high:g}")
            for line, column, rating in self.outside_scale
        ]


def _rounded(x: float, outwards: Callable[[float], int]) -> str:
    """Returns a number with at most two decimals, rounded so that the scale still holds it."""
    return f"{outwards(x * 100 + (-1e-9 if outwards is math.ceil else 1e-9)) / 100:g}"


def _is_long(table: tables.Table, taxonomy: Taxonomy, keys: Sequence[str]) -> bool:
    """Returns whether a table has a row a rating: the columns `value` and `rating`, and no column that is a value."""
    named = {names.canonical(column) for column in table.columns}
    return {"value", "rating"} <= named and not any(
        taxonomy.match(column) for column in table.columns if column not in keys
    )


def _widen(table: tables.Table, taxonomy: Taxonomy, on: Sequence[str] = ()) -> tables.Table:
    """Returns a long table as a wide one: rows that agree in all other columns are one context."""
    column_of = {names.canonical(column): column for column in table.columns}
    value, rating = column_of["value"], column_of["rating"]
    keys = [column for column in table.columns if column not in (value, rating)]
    if on:
        keys = [column for column in keys if column in on]
    wide = tables.Table(table.source, delimiter=table.delimiter, problems=list(table.problems), lost=table.lost)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    used: dict[str, None] = {}
    for line, row in zip(table.lines, table.rows, strict=True):
        name = taxonomy.match(str(row.get(value, "")))
        if name is None:
            wide.add_problem(line, f"{value}: {names.unknown_name('value', str(row.get(value, '')), taxonomy.names)}")
            continue
        place = tuple(str(row.get(key)) for key in keys)
        if place not in rows:
            rows[place] = {key: row.get(key) for key in keys}
            wide.lines.append(line)
        while name in rows[place]:  # rated again in the same context: one more row
            place = (*place, "again")
            if place not in rows:
                rows[place] = {key: row.get(key) for key in keys}
                wide.lines.append(line)
        rows[place][name] = row.get(rating)
        used[name] = None
    if len(used) > 1 and len(rows) > 1 and len(rows) == len(table.rows) and keys:
        single = [key for key in keys if len({str(row.get(key)) for row in table.rows}) == len(table.rows)]
        differing = f": {names.short_list(single)} differs in each row" if single else ""
        others = [key for key in keys if key not in single]
        raise errors.InputError(
            f"{table.source}: each rating would be a context by itself{differing}; name the columns that make a context"
            + (f", such as --on {','.join(others)}" if others else " with --on")
        )
    wide.rows = list(rows.values())
    wide.columns = (*keys, *used)
    return wide


def _columns(table: tables.Table, taxonomy: Taxonomy, keys: Sequence[str]) -> tuple[dict[int, str], list[str]]:
    """Returns the column of each value, and the columns that hold no value.

    A column whose name nearly is a value's is an error: as a context key it would silently remove that value.
    """
    columns: dict[int, str] = {}
    other = []
    for column in table.columns:
        name = None if column in keys else taxonomy.match(column)
        if name is None:
            close = None if column in keys else names.nearest(column, taxonomy.names, cutoff=0.8)
            if close is not None:
                raise errors.InputError(
                    f"{table.source}: unknown column {column!r}; did you mean {close!r}? (if it is a context key, name it in --on)"
                )
            other.append(column)
            continue
        value = taxonomy.index(name)
        if value in columns:
            raise errors.InputError(f"{table.source}: the columns {columns[value]!r} and {column!r} are both {name!r}")
        columns[value] = column
    if not columns and not table.problems:
        raise errors.InputError(
            f"{table.source}: no column is a value of the taxonomy {taxonomy.name!r} "
            f"(such as {taxonomy.names[0]!r}); found {names.short_list(table.columns)}"
        )
    return columns, other


def _key(cell: Any) -> str:
    """Returns one context key as text."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, (bool, int, float)):
        return json.dumps(cell)
    raise ValueError(f"expected a context key, found {'nothing' if cell is None else names.short_repr(cell)}")


def _clusters(contexts: Mapping[str, np.ndarray], keys: Sequence[str], rows: int, source: str) -> np.ndarray:
    """Gives rows that agree in all keys the same number; without keys each row has its own."""
    known = {names.canonical(key): key for key in contexts}
    keys = [names.find(f"{source}: cluster column", key, known, list(contexts)) for key in keys]
    for key in keys:
        blank = sum(not str(entry).strip() for entry in contexts[key])
        if 0 < blank < rows:
            raise errors.InputError(
                f"{source}: {blank:,} of {rows:,} contexts have nothing in the cluster column {key!r}, and would be one cluster"
            )
    if not keys:
        return np.arange(rows, dtype=np.int32)
    seen: dict[tuple[str, ...], int] = {}
    rows_of_keys = zip(*(contexts[key] for key in keys), strict=True)
    return np.array([seen.setdefault(row, len(seen)) for row in rows_of_keys], np.int32)


# Keys of two-way clusters, if a state has both: an effect of a country shows in all its topics.
CROSSED = ("country", "topic")
_FEWEST = 5


def cluster_labels(state: ValueState, choice: str = "") -> tuple[np.ndarray, str]:
    """Returns the clusters that a state is resampled by, and the keys that they are made of.

    Args:
        state: with its context keys.
        choice: keys joined by commas (rows that agree in all of them belong together), or two such choices joined by `+`
            (rows that agree in either are alike: two-way clustering). By default country and topic if both are present,
            cross, and have at least 5 entries each; else the state's own clusters, the scenes.

    Returns:
        ([contexts] labels, or [contexts, 2] of two crossed keys; the choice as text, empty for the state's own clusters).
    """
    if choice:
        ways = [[name.strip() for name in part.split(",") if name.strip()] for part in choice.split("+")]
        if len(ways) > 2 or not all(ways) or (len(ways) == 2 and set(ways[0]) == set(ways[1])):
            raise errors.InputError(
                f"clusters: expected keys such as scene, country,topic or country+topic (two-way), found {choice!r}"
            )
        labels = [_clusters(state.contexts, keys, len(state.clusters), "clusters") for keys in ways]
        return (np.stack(labels, 1) if len(labels) > 1 else labels[0]), "+".join(",".join(keys) for keys in ways)
    if state.labels is None and all(key in state.contexts for key in CROSSED):
        labels = [_clusters(state.contexts, [key], len(state.clusters), "clusters") for key in CROSSED]
        fewest = min(int(column.max(initial=0)) + 1 for column in labels)
        both = len({*zip(*(column.tolist() for column in labels), strict=True)})
        if fewest >= _FEWEST and both > max(int(column.max()) + 1 for column in labels):
            return np.stack(labels, 1), "+".join(CROSSED)
    return state.clusters, ""


def average_duplicates(state: ValueState, keys: Sequence[str] = ()) -> ValueState:
    """Returns the state with the mean of each context's rows; a rating that some rows lack is the mean of the others.

    Args:
        state: with context keys.
        keys: that name a context; all of them by default.
    """
    chosen = [
        names.find("context key", key, {names.canonical(k): k for k in state.contexts}, list(state.contexts))
        for key in keys
    ]
    chosen = chosen or list(state.contexts)
    if not chosen:
        return state
    index = _clusters(state.contexts, chosen, len(state.clusters), "the state")
    first = np.unique(index, return_index=True)[1]
    if len(first) == len(index):
        return state
    count = np.zeros((len(first), len(state.values)))
    total = np.zeros_like(count)
    np.add.at(count, index, state.mask)
    np.add.at(total, index, np.where(state.mask, np.float64(state.state), 0))
    mean = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    return dataclasses.replace(
        state.take(first), state=mean, mask=count > 0, contexts={key: state.contexts[key][first] for key in chosen}
    )


def common_values(*several: ValueState) -> tuple[ValueState, ...]:
    """Returns states with the values that all of them have.

    Raises:
        InputError: if they have none in common.
    """
    common = [name for name in several[0].values if all(name in state.values for state in several)]
    if not common:
        raise errors.InputError("the states have no value in common")
    return tuple(
        state.take(np.arange(len(state.clusters)), np.array([state.values.index(name) for name in common]))
        for state in several
    )


# Joining ------------------------------------------------------------------------------------------------------------


class Joined(NamedTuple):
    """Two states on the contexts they share.

    Attributes:
        pre, post: same contexts, same values, same order; clusters are those of `pre`.
        keys: the context keys on which rows were matched; empty where rows were matched by position.
        only_pre, only_post: numbers of contexts that the other state lacks.
    """

    pre: ValueState
    post: ValueState
    keys: tuple[str, ...]
    only_pre: int
    only_post: int


def join(pre: ValueState, post: ValueState, on: Sequence[str] | None = None) -> Joined:
    """Matches the contexts of two states on the keys that both have, and their values by name.

    Two states without any key are matched by position, which needs equally many rows.

    Args:
        pre, post: the states.
        on: the keys to match on; by default all common ones. Omit keys that distinguish the two, such as the model.

    Raises:
        InputError: if values differ, a key stands for several rows, or no context is in both.
    """
    if set(pre.values) != set(post.values):
        raise errors.InputError(
            f"the two states have different values: {_difference(pre.values, post.values)}; compare those that both have with "
            "--values common"
        )
    _check_comparable(pre, post)
    columns = np.array([post.values.index(name) for name in pre.values])
    if not pre.contexts and not post.contexts and not on:
        if len(pre.clusters) != len(post.clusters):
            raise errors.InputError(
                f"without context columns rows are matched by position, which needs equally many; "
                f"found {len(pre.clusters)} and {len(post.clusters)}"
            )
        matched = post.take(np.arange(len(post.clusters)), columns)
        return Joined(pre, dataclasses.replace(matched, clusters=pre.clusters), (), 0, 0)
    keys = _common_keys(pre, post, on)
    first = _rows_by_key(pre, tuple(keys), pre.meta.get("source", "the first state"))
    second = _rows_by_key(post, tuple(keys.values()), post.meta.get("source", "the second state"))
    common = [key for key in first if key in second]
    if not common:
        raise errors.InputError(
            f"the two states have no context in common: {_explain_mismatch(tuple(keys), first, second)}"
        )
    rows = np.array([first[key] for key in common]), np.array([second[key] for key in common])
    matched = dataclasses.replace(post.take(rows[1], columns), clusters=pre.clusters[rows[0]])
    return Joined(pre.take(rows[0]), matched, tuple(keys), len(first) - len(common), len(second) - len(common))


# Settings that two states must share to be compared, if both record them: (name, path in the meta).
_COMPARED = (
    ("protocol", ("how", "protocol")),
    ("scale's low end", ("how", "low")),
    ("scale's high end", ("how", "high")),
    ("prefill", ("how", "prefill")),
    ("form", ("form",)),
    ("reading", ("reads",)),
    ("scale", ("scale",)),
    ("labels", ("labels", "sha256")),
)


def _check_comparable(pre: ValueState, post: ValueState) -> None:
    """Raises `InputError` if the states' numbers mean different things; skips settings that a table does not record."""
    for setting, path in _COMPARED:
        first, second = (meta_entry(state.meta, path) for state in (pre, post))
        both_elicited = all("how" in state.meta for state in (pre, post))
        if first != second and (both_elicited or (first is not None and second is not None)):
            raise errors.InputError(
                f"the two states can't be compared: the {setting} of the first is {first or 'none'}, of the second "
                f"{second or 'none'}"
            )


def meta_entry(meta: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Returns the entry of a state's meta under a path of keys, or None."""
    entry: Any = meta
    for key in path:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry


def _common_keys(pre: ValueState, post: ValueState, on: Sequence[str] | None) -> dict[str, str]:
    """Returns the keys to match on: the first state's name -> the second's, in any spelling."""
    theirs = {names.canonical(key): key for key in post.contexts}
    ours = {names.canonical(key): key for key in pre.contexts}
    if on is not None:
        chosen = [names.find("context key", key, ours, list(pre.contexts)) for key in on]
        return {key: names.find("context key", key, theirs, list(post.contexts)) for key in chosen}
    keys = {key: theirs[name] for name, key in ours.items() if name in theirs}
    if not keys:
        raise errors.InputError(
            f"the two states have no context column in common: the first has {names.short_list(pre.contexts)}, "
            f"the second {names.short_list(post.contexts)}"
        )
    return keys


def _explain_mismatch(keys: Sequence[str], first: Any, second: Any) -> str:
    """Explains why no context is in both: names the key that never matches, if there is one."""
    for i, key in enumerate(keys):
        if len(keys) > 1 and not {row[i] for row in first} & {row[i] for row in second}:
            return f"{_example([key], [next(iter(first))[i:]])} against {_example([key], [next(iter(second))[i:]])}; leave {key!r} out: --on {','.join(other for other in keys if other != key)}"
    return f"{_example(keys, first)} against {_example(keys, second)}"


def _rows_by_key(state: ValueState, keys: Sequence[str], which: str) -> dict[tuple[str, ...], int]:
    rows: dict[tuple[str, ...], int] = {}
    for i, key in enumerate(zip(*(state.contexts[name] for name in keys), strict=True)):
        if key in rows:
            raise errors.InputError(
                f"{which}: several rows for one context: {_example(keys, [key])} (rows {rows[key] + 1} and {i + 1}); average "
                "them with --duplicates mean, or add the column that distinguishes them"
            )
        rows[key] = i
    return rows


def _example(keys: Sequence[str], rows: Any) -> str:
    return ", ".join(f"{name}={entry!r}" for name, entry in zip(keys, next(iter(rows)), strict=False))


def _difference(pre: Sequence[str], post: Sequence[str]) -> str:
    parts = []
    for which, present, other in (("first", pre, post), ("second", post, pre)):
        only = [name for name in present if name not in other]
        if only:
            more = f" and {len(only) - 5} more" if len(only) > 5 else ""
            parts.append(f"only the {which} has {', '.join(only[:5])}{more}")
    return "; ".join(parts)
