"""Makes vatjax/assets/items.json from the hand-written parts in scripts/item_parts/.

    python scripts/build_items.py            # writes the asset
    python scripts/build_items.py --check    # ends with status 1 if the asset is not what the parts give

For each country and topic the seed draws two of the topic's situations and a town for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random
import sys

from vatjax import config, names, store, values
from vatjax.items import asset as bundled

PARTS = pathlib.Path(__file__).parent / "item_parts"
SEED = 20260101
SCENES_EACH = 2


@dataclasses.dataclass(frozen=True)
class Place:
    country: str
    cities: tuple[str, ...]
    council: str
    worship: str
    feast: str


@dataclasses.dataclass(frozen=True)
class Places:
    places: tuple[Place, ...]


@dataclasses.dataclass(frozen=True)
class Situation:
    text: str
    task: str
    matter: str
    people: str


@dataclasses.dataclass(frozen=True)
class Topic:
    topic: str
    situations: tuple[Situation, ...]


@dataclasses.dataclass(frozen=True)
class Topics:
    topics: tuple[Topic, ...]


@dataclasses.dataclass(frozen=True)
class Action:
    value: str
    express: tuple[str, ...]
    suppress: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Actions:
    actions: tuple[Action, ...]


def scenes(places: Places, topics: Topics, rng: random.Random) -> list[dict[str, str]]:
    """Two scenes for each country and topic; every situation of a topic is used equally often, give or take one."""
    drawn = []
    for topic in topics.topics:
        deck: list[Situation] = []
        for place in places.places:
            chosen: list[Situation] = []
            while len(chosen) < SCENES_EACH:
                if not deck:
                    deck = rng.sample(topic.situations, len(topic.situations))
                fresh = [situation for situation in deck if situation not in chosen]
                chosen.append(fresh[0] if fresh else rng.choice([s for s in topic.situations if s not in chosen]))
                if fresh:
                    deck.remove(fresh[0])
            for situation, city in zip(chosen, rng.sample(place.cities, SCENES_EACH), strict=True):
                text = situation.text.format(
                    city=city,
                    country=place.country,
                    council=place.council,
                    worship=place.worship,
                    feast=place.feast,
                )
                drawn.append(
                    {
                        "country": place.country,
                        "topic": topic.topic,
                        "situation": f"{topic.topic} {1 + topic.situations.index(situation)}",
                        "scene": text,
                        "task": situation.task,
                        "matter": situation.matter,
                        "people": situation.people,
                    }
                )
    return drawn


def build() -> bytes:
    """The asset's bytes."""
    places = config.read(Places, PARTS / "places.yaml")
    topics = config.read(Topics, PARTS / "situations.yaml")
    actions = config.read(Actions, PARTS / "actions.yaml")
    given = [action.value for action in actions.actions]
    if tuple(given) != values.schwartz().names:
        sys.exit("actions.yaml must have every value once, in the taxonomy's order")
    for action in actions.actions:
        for text in (*action.express, *action.suppress):
            if names.canonical(action.value) in names.canonical(text):
                sys.exit(f"an action of {action.value!r} names it: {text}")
    phrasings = {a.value: {"express": list(a.express), "suppress": list(a.suppress)} for a in actions.actions}
    body = {"seed": SEED, "scenes": scenes(places, topics, random.Random(SEED)), "actions": phrasings}
    asset = {"sha256": bundled.digest(body), "parts": body}
    return (json.dumps(asset, ensure_ascii=False, indent=1) + "\n").encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    content = build()
    if not parser.parse_args().check:
        store.commit(bundled.ASSET, content)
        print(f"{bundled.ASSET}: {len(content):,} bytes")
    elif bundled.ASSET.read_bytes() != content:
        sys.exit(f"{bundled.ASSET} is not what scripts/item_parts gives; run scripts/build_items.py")


if __name__ == "__main__":
    main()
