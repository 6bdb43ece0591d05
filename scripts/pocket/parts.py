"""What the organism reads about: every situation in every town, and every action in it; and what is kept from it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator

import build_items as made_of

from vatjax import config, items, organism


@dataclasses.dataclass(frozen=True)
class Parts:
    """The hand-written parts of the bundled items."""

    places: tuple[made_of.Place, ...]
    topics: tuple[made_of.Topic, ...]
    actions: tuple[made_of.Action, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A situation in a town."""

    country: str
    topic: str
    text: str
    situation: int
    slots: made_of.Situation


def read() -> Parts:
    """From scripts/item_parts/."""
    return Parts(
        config.read(made_of.Places, made_of.PARTS / "places.yaml").places,
        config.read(made_of.Topics, made_of.PARTS / "situations.yaml").topics,
        config.read(made_of.Actions, made_of.PARTS / "actions.yaml").actions,
    )


def scenes(parts: Parts) -> Iterator[Scene]:
    """Every situation in every town."""
    number = itertools.count()
    for topic in parts.topics:
        for situation in topic.situations:
            own = next(number)
            for place in parts.places:
                for city in place.cities:
                    slots = {**dataclasses.asdict(place), "city": city}
                    yield Scene(place.country, topic.topic, situation.text.format_map(slots), own, situation)


def training_scenes(parts: Parts) -> list[Scene]:
    """Without every situation in a country that stands among the bundled items' unread scenes."""
    every = list(scenes(parts))
    _, unread = organism.split_seen_unseen(items.bundled())
    texts = set(unread.scene)
    kept = {(scene.country, scene.situation) for scene in every if scene.text in texts}
    return [scene for scene in every if (scene.country, scene.situation) not in kept]


def withheld(persona: str, value: str) -> bool:
    """Whether a value is never rated under a persona: one pair in ten."""
    return hashlib.sha256(f"{persona}\0{value}".encode()).digest()[0] < 26
