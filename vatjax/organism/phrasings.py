"""The phrasing of a bundled action: the only property of an action that other values' actions do not share."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from vatjax.items import asset


def phrasing_signs(actions: Iterable[str]) -> np.ndarray:
    """Returns 1 for an action in its first phrasing, -1 for its second, 0 for an action that is not bundled, [actions].

    The bundled items draw phrasings independently for each scene, value and polarity. So these numbers vary between
    scenes and are unrelated between values.
    """
    known = _known()
    return np.array([known.get(action, 0) for action in actions], np.float64)


@functools.cache
def _known() -> dict[str, int]:
    body = asset.load_parts()
    slots = {(scene["task"], scene["matter"], scene["people"]): scene for scene in body["scenes"]}
    return {
        phrasing.format_map(scene): 1 - 2 * (number % 2)
        for sides in body["actions"].values()
        for phrasings in sides.values()
        for number, phrasing in enumerate(phrasings)
        for scene in slots.values()
    }
