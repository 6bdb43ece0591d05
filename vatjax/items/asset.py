"""The bundled items: every scene crossed with every value and polarity, in plain English.

The asset holds the scenes and the action phrasings; this module expands them to 29,568 items, deterministically.
`scripts/build_items.py` builds the asset from hand-written parts.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vatjax import errors
from vatjax.items.table import EXPRESS, SITUATION, SUPPRESS, Items
from vatjax.values import schwartz

ASSET = pathlib.Path(__file__).parent.parent / "assets" / "items.json"
SOURCE = "bundled"


@functools.cache
def bundled() -> Items:
    """Returns the bundled items: 12 countries, 11 topics, 2 scenes for each, 56 values, 2 polarities."""
    return expand_parts(load_parts())


def load_parts() -> dict[str, Any]:
    """Reads the parts of the asset, `seed`, `scenes` and `actions`, for `expand_parts`.

    Raises:
        InputError: if the asset is missing or damaged.
    """
    try:
        content = json.loads(ASSET.read_text(encoding="utf-8"))
        body: dict[str, Any] = content["parts"]
        if digest(body) != content["sha256"]:
            raise ValueError("the content does not match its hash")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(f"{ASSET}: the bundled items are damaged ({error}); install vatjax again") from None
    return body


def digest(body: object) -> str:
    """Computes the content hash of the parts, which the asset stores as `sha256`."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def expand_parts(body: Mapping[str, Any]) -> Items:
    """Crosses every scene with every value and polarity.

    Args:
        body: `seed`, `scenes` (country, topic, scene, the situation that it copies, and the slots task, matter, people)
            and `actions` (value -> polarity -> phrasings with those slots).
    """
    taxonomy = schwartz()
    scenes, actions = body["scenes"], [body["actions"][name] for name in taxonomy.names]
    sides = (EXPRESS, SUPPRESS)
    texts = np.empty((len(scenes), len(actions), len(sides)), object)
    for i, scene in enumerate(scenes):
        draws = hashlib.shake_128(f"{body['seed']}\0{scene['scene']}".encode()).digest(texts[i].size)
        for j, action in enumerate(actions):
            for k, phrasings in enumerate((action["express"], action["suppress"])):
                phrasing = phrasings[draws[j * len(sides) + k] % len(phrasings)]
                texts[i, j, k] = phrasing.format_map(scene)

    def spread(key: str) -> np.ndarray:
        return np.repeat(np.array([scene[key] for scene in scenes], object), len(actions) * len(sides))

    values = np.repeat(np.arange(len(actions), dtype=np.int32), len(sides))
    return Items(
        taxonomy=taxonomy,
        country=spread("country"),
        topic=spread("topic"),
        scene=spread("scene"),
        value=np.tile(values, len(scenes)),
        polarity=np.tile(np.array(sides, np.int8), len(scenes) * len(actions)),
        action=texts.ravel(),
        line=np.arange(1, texts.size + 1, dtype=np.int32),
        source=SOURCE,
        extra={SITUATION: spread(SITUATION)},
    )
