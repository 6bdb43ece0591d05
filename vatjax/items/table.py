"""`Items`: (scene, action) pairs as columns, with filters, split and pairing."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names
from vatjax.values import Level, Taxonomy

EXPRESS, SUPPRESS = 1, -1
POLARITIES = {EXPRESS: "express", SUPPRESS: "suppress"}

Key = Literal["country", "topic", "value", "type", "group", "polarity"]
KEYS: tuple[Key, ...] = get_args(Key)
_LEVELS: dict[str, Level] = {"value": "values", "type": "types", "group": "groups"}
# Optional column that names the situation that several scenes copy: they are split and clustered by it.
SITUATION = "situation"
_COLUMNS = ("country", "topic", "scene", "value", "polarity", "action", "line")


class Item(NamedTuple):
    """One row: an action that expresses or suppresses a value in a scene."""

    country: str
    topic: str
    scene: str
    value: str
    polarity: str
    action: str


class Scene(NamedTuple):
    """The text that several items share; `Items.split` never divides it."""

    country: str
    topic: str
    text: str


class Pairs(NamedTuple):
    """The express and the suppress action of one value in one scene, as item indices.

    Attributes:
        express: [pairs] item index.
        suppress: [pairs] item index.
        scene: [pairs] scene index.
        value: [pairs] value index.
        unpaired: [rest] items without a partner.
    """

    express: np.ndarray
    suppress: np.ndarray
    scene: np.ndarray
    value: np.ndarray
    unpaired: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """Items as columns, in the order of their file.

    Attributes:
        taxonomy: the values that `value` indexes.
        country, topic, scene, action: [items] text.
        value: [items] int32, index into `taxonomy.names`.
        polarity: [items] int8, +1 express and -1 suppress.
        line: [items] int32, line of the item in its source.
        source: the file's name.
        extra: further columns of the file, kept and written back.
    """

    taxonomy: Taxonomy
    country: np.ndarray
    topic: np.ndarray
    scene: np.ndarray
    value: np.ndarray
    polarity: np.ndarray
    action: np.ndarray
    line: np.ndarray
    source: str
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for column in (*(getattr(self, name) for name in _COLUMNS), *self.extra.values()):
            column.flags.writeable = False  # items are shared between callers, so they are read-only

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index: int) -> Item:
        return Item(
            self.country[index],
            self.topic[index],
            self.scene[index],
            self.taxonomy.names[self.value[index]],
            POLARITIES[int(self.polarity[index])],
            self.action[index],
        )

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Items({len(self)} items, {len(self.scenes)} scenes, source={self.source!r})"

    def sample(self, scenes: int, seed: int = 0, among: np.ndarray | None = None) -> Items:
        """Returns all items of a sample of scenes; all items if `scenes` is 0 or not below their number.

        Args:
            scenes: number of scenes.
            seed: of the sample.
            among: texts of the scenes to draw from; by default all.
        """
        texts = np.unique(self.scene.astype(str)) if among is None else among
        if not scenes or scenes >= len(texts):
            return self
        chosen = np.random.default_rng(seed).choice(texts, scenes, replace=False)
        return self.take(np.flatnonzero(np.isin(self.scene.astype(str), chosen)))

    def take(self, index: np.ndarray) -> Items:
        """Returns the items at these indices, or where this mask is True."""
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[index] for name in _COLUMNS},
            extra={name: column[index] for name, column in self.extra.items()},
        )

    # Scenes and groups ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _scenes(self) -> tuple[tuple[Scene, ...], np.ndarray]:
        return _index_distinct(map(Scene, self.country, self.topic, self.scene))

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """Returns the distinct scenes in order of appearance, [scenes]."""
        return self._scenes[0]

    @property
    def scene_of(self) -> np.ndarray:
        """Returns the index of each item's scene, [items] int32."""
        return self._scenes[1]

    @property
    def situation_of(self) -> np.ndarray:
        """Returns the index of each item's situation, else scene, [items] int32: the unit of independent sampling."""
        if SITUATION not in self.extra:
            return self.scene_of
        return _index_distinct(self.extra[SITUATION].tolist())[1]

    def column(self, key: Key) -> np.ndarray:
        """Returns each item's name under `key`, as counted and filtered by, [items] text."""
        if key == "country":
            return self.country
        if key == "topic":
            return self.topic
        type_of = self.taxonomy.type_of[self.value]
        known, index = {
            "polarity": (POLARITIES.values(), self.polarity == SUPPRESS),
            "value": (self.taxonomy.names, self.value),
            "type": (self.taxonomy.types, type_of),
            "group": ((*self.taxonomy.groups, ""), self.taxonomy.group_of[type_of]),  # -1 is the empty name
        }[key]
        column: np.ndarray = np.array([*known], object)[index.astype(int)]
        return column

    def counts(self, key: Key) -> dict[str, int]:
        """Counts the items of each country, topic, value, type, group or polarity; a value without items counts 0."""
        if key not in KEYS:
            raise errors.InputError(names.unknown_name("key", key, KEYS))
        known = self.taxonomy.level_names(_LEVELS[key]) if key in _LEVELS else ()
        counts = dict.fromkeys(known, 0)
        for name in self.column(key):
            counts[name] = counts.get(name, 0) + 1
        counts.pop("", None)  # a type without a group
        return counts

    # Filters and the split ------------------------------------------------------------------------------------------

    def where(self, **filters: str | Iterable[str]) -> Items:
        """Returns the items that match every filter, for example `where(country="Egypt", type=["Power", "Security"])`.

        Args:
            **filters: country, topic, value, type, group or polarity: one name or several, in any spelling.

        Raises:
            InputError: for a name that no item has, with the nearest name.
        """
        keep = np.ones(len(self), np.bool_)
        for key, chosen in filters.items():
            if key not in KEYS:
                raise errors.InputError(names.unknown_name("filter", key, KEYS))
            chosen = [chosen] if isinstance(chosen, str) else list(chosen)
            if key in _LEVELS:
                masks = [self.taxonomy.mask(name, _LEVELS[key]) for name in chosen]
                keep &= np.any([np.zeros(len(self.taxonomy.names), np.bool_), *masks], axis=0)[self.value]
            else:
                known = list(self.counts(key))
                table = {names.canonical(name): names.canonical(name) for name in known}
                chosen_keys = {names.find(key, name, table, known) for name in chosen}
                matches = {name for name in known if names.canonical(name) in chosen_keys}
                keep &= np.array([name in matches for name in self.column(key)], np.bool_)
        return self.take(keep)

    def split(self, test: float = 0.25, seed: int = 0) -> tuple[Items, Items]:
        """Splits the items into train and test, by situation if the items name one, else by scene.

        The side follows from a hash of the situation's name, or of the scene's text without one. So adding data moves
        no item across the split, all machines split alike, and a scene under two topics stays on one side.

        Args:
            test: expected share of situations in the test split.
            seed: seed of the split.

        Returns:
            (train, test), which share neither a scene nor a situation.

        Raises:
            InputError: for a share outside (0, 1), and for a scene with two situations.
        """
        if not 0 < test < 1:
            raise errors.InputError(f"the share of test scenes must be more than 0 and less than 1, found {test}")
        to_test = np.array([on_test_side(name, test, seed) for name in self._units], np.bool_)
        chosen = to_test[self.scene_of]
        return self.take(~chosen), self.take(chosen)

    @functools.cached_property
    def _units(self) -> tuple[str, ...]:
        """Returns the key that decides each scene's side of the split: its situation, else its text."""
        if SITUATION not in self.extra:
            return tuple(scene.text for scene in self.scenes)
        situations: dict[str, str] = {}
        for text, situation in dict.fromkeys(zip(self.scene.tolist(), self.extra[SITUATION].tolist(), strict=True)):
            if situations.setdefault(text, situation) != situation:
                raise errors.InputError(
                    f"{SITUATION}: the scene {names.short_repr(text)} copies {names.short_repr(situations[text])} and "
                    f"{names.short_repr(situation)}; a scene copies one situation"
                )
        return tuple(situations[scene.text] or scene.text for scene in self.scenes)

    # Pairs ----------------------------------------------------------------------------------------------------------

    def pair(self) -> Pairs:
        """Pairs the express and suppress actions of each value within its scene.

        If a scene has several actions of one value and polarity, the first express is paired with the first suppress,
        and so on. The remaining ones are in `unpaired`.
        """
        waiting: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for i, (scene, value, polarity) in enumerate(
            zip(self.scene_of.tolist(), self.value.tolist(), self.polarity.tolist(), strict=True)
        ):
            sides = waiting.setdefault((scene, value), ([], []))
            sides[polarity == SUPPRESS].append(i)
        rows, unpaired = [], []
        for (scene, value), (express, suppress) in waiting.items():
            matched = min(len(express), len(suppress))
            rows += [(e, s, scene, value) for e, s in zip(express[:matched], suppress[:matched], strict=True)]
            unpaired += express[matched:] + suppress[matched:]
        express_, suppress_, scene_, value_ = np.array(rows, np.int32).reshape(-1, 4).T
        return Pairs(express_, suppress_, scene_, value_, np.array(sorted(unpaired), np.int32))


def _index_distinct(keys: Iterable[Any]) -> tuple[tuple[Any, ...], np.ndarray]:
    """Returns the distinct keys in order of appearance, and each key's index."""
    seen: dict[Any, int] = {}
    index = [seen.setdefault(key, len(seen)) for key in keys]
    return tuple(seen), np.array(index, np.int32)


def normalise_text(text: str) -> str:
    """Normalises text for comparison and storage: composed accents, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def on_test_side(name: str, test: float = 0.25, seed: int = 0) -> bool:
    """Returns True if `Items.split` puts a situation, or a scene without one, on the test side."""
    return _draw(name, seed) < test


def _draw(text: str, seed: int) -> float:
    """Returns a number in [0, 1) that depends only on the words of a scene or situation and on the seed."""
    digest = hashlib.blake2b(f"{seed}\0{normalise_text(text).casefold()}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
