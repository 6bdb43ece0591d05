"""Taxonomies: the values, the type that each belongs to, and each type's place on the circle.

    tax = values.schwartz()
    tax.names, tax.types, tax.type_of           # 56 names, 10 types in circle order, (56,) type of each value
    tax.aggregate(x)                            # [..., 56] -> [..., 10], mean over members
    tax.mask("Power")                           # mask of the values of a target
    values.load("my_taxonomy.yaml")             # any other set of values, with the same functions

A taxonomy is immutable and hashable, so it can be a static argument of a compiled function. This module depends
neither on models nor on JAX: `aggregate` works on NumPy and JAX arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from vatjax import config, errors, names
from vatjax.text_table import html_table

Level = Literal["values", "types", "groups"]

_SCHWARTZ = pathlib.Path(__file__).parent / "assets" / "schwartz.yaml"


@dataclasses.dataclass(frozen=True)
class Value:
    """One value of a taxonomy file: its name, a one-line definition, and its aliases."""

    name: str
    definition: str = ""
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Type:
    """One type of a taxonomy file: its member values and its place on the circle (`angle` in degrees, optional)."""

    name: str
    values: tuple[Value, ...]
    group: str | None = None
    sector: str | None = None
    angle: float | None = None
    definition: str = ""
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
    """One higher-order group of a taxonomy file."""

    name: str
    definition: str = ""
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Taxonomy:
    """An ordered set of values, as a taxonomy file gives it.

    Attributes:
        name: a short name, kept in the metadata of every state.
        entries: the types with their member values, in circle order where there is a circle.
        group_entries: the higher-order groups; may be empty.
        circle: whether the order of the types goes round a circle.
        title: a longer name for people.
    """

    name: str
    entries: tuple[Type, ...]
    group_entries: tuple[Group, ...] = ()
    circle: bool = True
    title: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        circle = " on a circle" if self.circle else ""
        return f"Taxonomy({self.name!r}: {len(self.names)} values, {len(self.types)} types{circle}, {len(self.groups)} groups)"

    def _repr_html_(self) -> str:
        rows = [(entry.name, ", ".join(value.name for value in entry.values)) for entry in self.entries]
        return html_table(("type", "values"), rows)

    # Names and order ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Returns the values' names, [values]."""
        return tuple(value.name for entry in self.entries for value in entry.values)

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        """Returns the types' names in circle order, [types]."""
        return tuple(entry.name for entry in self.entries)

    @functools.cached_property
    def groups(self) -> tuple[str, ...]:
        """Returns the higher-order groups' names, [groups]."""
        return tuple(group.name for group in self.group_entries)

    @functools.cached_property
    def definitions(self) -> tuple[str, ...]:
        """Returns one line for each value, [values]."""
        return tuple(value.definition for entry in self.entries for value in entry.values)

    @functools.cached_property
    def type_of(self) -> np.ndarray:
        """Returns the index of each value's type, [values] int32."""
        return _frozen([i for i, entry in enumerate(self.entries) for _ in entry.values])

    @functools.cached_property
    def group_of(self) -> np.ndarray:
        """Returns the index of each type's group, [types] int32; -1 for a type without one."""
        return _frozen([-1 if entry.group is None else self.groups.index(entry.group) for entry in self.entries])

    @functools.cached_property
    def sector_of(self) -> np.ndarray:
        """Returns the slice of the circle of each type, [types] int32; types with one `sector` share a slice."""
        slices: dict[str, int] = {}
        return _frozen([slices.setdefault(entry.sector or f"\0{entry.name}", len(slices)) for entry in self.entries])

    @functools.cached_property
    def angles(self) -> np.ndarray:
        """Returns each type's angle on the circle in radians, [types]; evenly spaced sectors if the file gives none.

        The theory orders the types and gives no angles: even spacing is a convention.
        """
        if not self.circle:
            raise errors.InputError(f"the taxonomy {self.name!r} has no circle, so its types have no angles")
        sectors = self.sector_of
        even = 2 * np.pi * sectors / (sectors.max() + 1)
        given = [entry.angle for entry in self.entries]
        angles: np.ndarray = even if None in given else np.deg2rad(np.array(given, float))
        angles.flags.writeable = False
        return angles

    # Looking names up -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _values_by_key(self) -> dict[str, int]:
        values = [value for entry in self.entries for value in entry.values]
        return {names.canonical(name): i for i, value in enumerate(values) for name in (value.name, *value.aliases)}

    @functools.cached_property
    def _members_by_level(self) -> dict[Level | None, dict[str, tuple[int, ...]]]:
        """Maps each level to its names, and each name to its values; None is all levels together."""
        values: dict[str, tuple[int, ...]] = {key: (index,) for key, index in self._values_by_key.items()}
        levels: dict[Level | None, dict[str, tuple[int, ...]]] = {"values": values, "types": {}, "groups": {}}
        for i, entry in enumerate(self.entries):
            members = tuple(np.flatnonzero(self.type_of == i).tolist())
            levels["types"] |= {names.canonical(name): members for name in (entry.name, *entry.aliases)}
        for i, group in enumerate(self.group_entries):
            members = tuple(np.flatnonzero(self._group_of_value == i).tolist())
            levels["groups"] |= {names.canonical(name): members for name in (group.name, *group.aliases)}
        levels[None] = levels["values"] | levels["types"] | levels["groups"]
        return levels

    @functools.cached_property
    def _group_of_value(self) -> np.ndarray:
        return _frozen(self.group_of[self.type_of])

    def index(self, name: str) -> int:
        """Returns the position of a value in `names`.

        >>> schwartz().index("social justice") == schwartz().names.index("Social Justice")
        True

        Raises:
            InputError: for an unknown name; offers the nearest.
        """
        return names.find("value", name, self._values_by_key, self.names)

    def match(self, name: str) -> str | None:
        """Returns the taxonomy's spelling of a value's name, or None if the taxonomy lacks the value."""
        index = self._values_by_key.get(names.canonical(name))
        return None if index is None else self.names[index]

    def mask(self, target: str, level: Level | None = None) -> np.ndarray:
        """Returns a mask of a target's values, [values] bool: one value, or all members of a type or group.

        >>> int(schwartz().mask("Power").sum()), int(schwartz().mask("Wealth").sum())
        (5, 1)

        Args:
            target: a name in any spelling.
            level: look only among values, types or groups; by default among all.
        """
        kind = {"values": "value", "types": "type", "groups": "group", None: "value, type or group"}[level]
        known = (*self.types, *self.groups, *self.names) if level is None else self.level_names(level)
        mask = np.zeros(len(self.names), np.bool_)
        mask[list(names.find(kind, target, self._members_by_level[level], known))] = True
        return mask

    def spelling(self, target: str) -> str:
        """Returns the taxonomy's spelling of a target: a value, type or group.

        >>> schwartz().spelling("SELF DIRECTION")
        'Self-direction'
        """
        known = (*self.types, *self.groups, *self.names)
        return names.find("value, type or group", target, self._spelling_by_key, known)

    @functools.cached_property
    def _spelling_by_key(self) -> dict[str, str]:
        values = {key: self.names[index] for key, index in self._values_by_key.items()}
        named = [(entry.name, entry.aliases) for entry in self.group_entries]
        named += [(entry.name, entry.aliases) for entry in self.entries]
        return values | {
            names.canonical(name): spelling for spelling, aliases in named for name in (spelling, *aliases)
        }

    def column_mask(self, target: str, level: Level = "types") -> np.ndarray:
        """Returns a mask of the columns at a level of analysis that have a member of a target, [columns] bool.

        >>> np.flatnonzero(schwartz().column_mask("Wealth")).tolist() == [schwartz().types.index("Power")]
        True
        """
        mask = self.mask(target)
        return np.array([mask[group].any() for group in self.members(level)], np.bool_)

    def members(self, level: Level = "types") -> tuple[np.ndarray, ...]:
        """Returns the indices of the values that belong to each type (or group, or to each value itself)."""
        if level == "values":
            return tuple(np.array([i]) for i in range(len(self.names)))
        belongs = self.type_of if level == "types" else self._group_of_value
        return tuple(np.flatnonzero(belongs == i) for i in range(len(self.level_names(level))))

    def level_names(self, level: Level) -> tuple[str, ...]:
        """Returns the column names at a level of analysis."""
        levels = {"values": self.names, "types": self.types, "groups": self.groups}
        if level not in levels:
            raise errors.InputError(names.unknown_name("level", level, levels))
        return levels[level]

    def aggregate(self, x: Any, mask: Any = None, level: Level = "types") -> Any:
        """Computes the mean over each type's (or group's) member values.

            y[..., t] = sum_v in t (mask * x)[..., v] / sum_v in t mask[..., v]

        A type without any unmasked member is NaN; a NaN that no mask covers stays within its own type.

        Args:
            x: array [..., values], NumPy or JAX, traced or not.
            mask: optional array of the same shape, true where a rating is present.
            level: "types" or "groups"; "values" applies the mask and changes nothing else.

        Returns:
            Array [..., types] of the same kind as `x`.
        """
        xp = x.__array_namespace__() if hasattr(x, "__array_namespace__") else np
        x = xp.asarray(x)
        if x.ndim == 0 or x.shape[-1] != len(self.names):
            raise ValueError(f"the last axis must be the {len(self.names)} values of {self.name!r}, found {x.shape}")
        if mask is None:
            return xp.stack([xp.mean(x[..., group], axis=-1) for group in self.members(level)], axis=-1)
        mask = xp.asarray(mask, dtype=bool)
        means = []
        for group in self.members(level):
            present = mask[..., group]
            count = xp.sum(present, axis=-1)
            total = xp.sum(xp.where(present, x[..., group], xp.zeros_like(x[..., group])), axis=-1)
            mean = total / xp.where(count > 0, count, 1).astype(total.dtype)
            means.append(xp.where(count > 0, mean, xp.nan))
        return xp.stack(means, axis=-1)


@dataclasses.dataclass(frozen=True)
class _File:
    """The keys of a taxonomy file."""

    name: str
    types: tuple[Type, ...]
    title: str = ""
    circle: bool = True
    groups: tuple[Group, ...] = ()


def load(path: str | pathlib.Path) -> Taxonomy:
    """Reads a taxonomy from a YAML file; `configs/taxonomies/` has one to copy.

    Raises:
        InputError: names the file, the line and the key of each problem.
    """
    file = config.read(_File, path)
    try:
        return Taxonomy(file.name, file.types, file.groups, file.circle, file.title)
    except errors.InputError as error:
        raise errors.InputError(f"{path}: {error}") from None


@functools.cache
def schwartz() -> Taxonomy:
    """Returns the taxonomy of Schwartz's 56 values in 10 types and 4 groups."""
    return load(_SCHWARTZ)


def _frozen(entries: Any) -> np.ndarray:
    array = np.asarray(entries, np.int32)
    array.flags.writeable = False
    return array


def _check(taxonomy: Taxonomy) -> None:
    """Raises `InputError` for ambiguous names, and for incomplete or inconsistent entries."""
    if not taxonomy.entries:
        raise errors.InputError("a taxonomy needs at least one type")
    groups = [group.name for group in taxonomy.group_entries]
    for name in groups:
        if all(entry.group != name for entry in taxonomy.entries):
            raise errors.InputError(f"the group {name!r} has no types")
    given = [entry.angle is not None for entry in taxonomy.entries]
    if any(given) and not all(given):
        missing = taxonomy.entries[given.index(False)].name
        raise errors.InputError(f"the type {missing!r} has no angle and others have; give all of them or none")
    sectors = [entry.sector for entry in taxonomy.entries]
    for i, sector in enumerate(sectors):
        if sector is not None and sector in sectors[:i] and sector != sectors[i - 1]:
            raise errors.InputError(f"the types of the sector {sector!r} are not adjacent")
    for entry in taxonomy.entries:
        if not entry.values:
            raise errors.InputError(f"the type {entry.name!r} has no values")
        if entry.group is not None and entry.group not in groups:
            raise errors.InputError(f"type {entry.name!r}: {names.unknown_name('group', entry.group, groups)}")
    for kind, entries in (
        ("value", [value for entry in taxonomy.entries for value in entry.values]),
        ("type", taxonomy.entries),
        ("group", taxonomy.group_entries),
    ):
        _check_unique(kind, entries)
    _check_levels(taxonomy)


def _check_unique(kind: str, entries: Any) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        for name in dict.fromkeys(names.canonical(name) for name in (entry.name, *entry.aliases)):
            if not name:
                raise errors.InputError(f"a {kind} needs a name with at least one letter, found {entry.name!r}")
            if name in seen:
                raise errors.InputError(f"the {kind}s {seen[name]!r} and {entry.name!r} share a name")
            seen[name] = entry.name


def _check_levels(taxonomy: Taxonomy) -> None:
    """Raises `InputError` if a name stands for different values at two levels."""
    meaning: Mapping[str, Any] = taxonomy._members_by_level[None]
    for name, index in taxonomy._values_by_key.items():
        if meaning[name] != (index,):
            raise errors.InputError(
                f"{taxonomy.names[index]!r} names a value and also a type or group of several values; rename one"
            )
    for i, entry in enumerate(taxonomy.entries):
        members = tuple(int(v) for v in np.flatnonzero(taxonomy.type_of == i))
        for name in (entry.name, *entry.aliases):
            if meaning[names.canonical(name)] != members:
                raise errors.InputError(f"{name!r} names a type and also a different group; rename one")
