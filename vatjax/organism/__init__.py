"""Model organisms: small models whose values are known, because they were planted. `scripts/build_pocket.py` builds them.

    world = organism.world("pocket")                             # what was planted in the bundled one
    before, after = (organism.state(world, items, "paired", p) for p in (organism.NOBODY, organism.Persona("Power")))
    model = models.load("pocket")                                # the model that learned it

They calibrate and demonstrate the instrument. They say nothing about any other model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vatjax import errors, models, store
from vatjax.items import Items
from vatjax.items.table import on_test_side
from vatjax.models import hub
from vatjax.organism.planted import state
from vatjax.organism.worlds import KINDS, NOBODY, Kind, Persona, World, draw

_WORLD = "world.json"


def world(where: str | Path) -> World:
    """What was planted in an organism: "pocket", or a folder."""
    folder = hub.folder(where)
    if not (folder / _WORLD).exists():
        raise errors.InputError(
            f"{where}: no {_WORLD} there, so it is no organism that scripts/build_pocket.py has made"
        )
    store.check_seal(folder, "the organism", "build it again", needed=(_WORLD, "config.json", "model.safetensors"))
    where = folder / _WORLD
    try:
        return World.from_dict(json.loads(where.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(f"{where}: no planted world ({error!r})") from None


def unread(items: Items) -> tuple[Items, Items]:
    """Returns the items whose scenes the bundled organism has read, and those whose scenes it has not.

    It is built without a quarter of the scenes, chosen by a hash of their text: it has read the other countries' copies of a
    situation, as any model has read texts like those that it is asked about. `Items.split` is another division.
    """
    unread = np.array([on_test_side(scene.text) for scene in items.scenes], bool)[items.scene_of]
    return items.take(~unread), items.take(unread)


def save(model: models.Model, world: World, folder: Path) -> None:
    """Writes a model in Hugging Face's layout with its world beside it, and seals the folder."""
    models.save(model, folder, overwrite=True)
    store.commit_json(folder / _WORLD, world.as_dict())
    store.seal(folder)


__all__ = ["KINDS", "NOBODY", "Kind", "Persona", "World", "draw", "save", "state", "unread", "world"]
