"""Model organisms: small models with known, planted values. `scripts/build_pocket.py` builds them.

    world = organism.load_world("pocket")                        # the planted world of the bundled organism
    personas = (organism.NO_PERSONA, organism.Persona("Power"))
    before, after = (organism.planted_state(world, items, "paired", persona) for persona in personas)
    model = models.load("pocket")                                # the model trained on it

They calibrate and demonstrate the instrument. They are not evidence about any other model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vatjax import errors, models, store
from vatjax.items import Items
from vatjax.items.table import on_test_side
from vatjax.models import hub
from vatjax.organism.planted import planted_state
from vatjax.organism.worlds import NO_PERSONA, Persona, World, draw_world

_WORLD = "world.json"


def load_world(path: str | Path) -> World:
    """Loads the planted world of an organism: "pocket", or a folder."""
    folder = hub.local_folder(path)
    if not (folder / _WORLD).exists():
        raise errors.InputError(f"{path}: {_WORLD} not found; expected an organism built by scripts/build_pocket.py")
    store.verify_checksums(
        folder, "the organism", "build it again", required=(_WORLD, "config.json", "model.safetensors")
    )
    path = folder / _WORLD
    try:
        return World.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(f"{path}: not a planted world ({error!r})") from None


def split_seen_unseen(items: Items) -> tuple[Items, Items]:
    """Splits items by scene into those that the bundled organism was trained on and the others: (seen, unseen).

    Its training leaves out a quarter of the scenes, by a hash of their text. It has seen other countries' copies of
    their situations, as any model has seen similar texts. `Items.split` is a different split.
    """
    unseen = np.array([on_test_side(scene.text) for scene in items.scenes], bool)[items.scene_of]
    return items.take(~unseen), items.take(unseen)


def save(model: models.Model, world: World, folder: Path) -> None:
    """Writes a model in Hugging Face's layout together with its world, and seals the folder."""
    models.save(model, folder, overwrite=True)
    store.commit_json(folder / _WORLD, world.as_dict())
    store.write_checksums(folder)


__all__ = [
    "NO_PERSONA",
    "Persona",
    "World",
    "draw_world",
    "load_world",
    "planted_state",
    "save",
    "split_seen_unseen",
]
