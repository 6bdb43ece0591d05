"""Which of its phrasings a bundled action has: the only thing about an action that no other value's action shares."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from vatjax.items import asset


def signs(actions: Iterable[str]) -> np.ndarray:
    """1 for an action in the first of its phrasings, -1 for one in the second, 0 for one that is not bundled, [actions].

    The bundled items draw phrasings for each scene, value and polarity by itself: so these numbers vary from scene to scene
    without any relation between values.
    """
    known = _known()
    return np.array([known.get(action, 0) for action in actions], np.float64)


@functools.cache
def _known() -> dict[str, int]:
    body = asset.parts()
    slots = {(scene["task"], scene["matter"], scene["people"]): scene for scene in body["scenes"]}
    return {
        phrasing.format_map(scene): 1 - 2 * (number % 2)
        for sides in body["actions"].values()
        for phrasings in sides.values()
        for number, phrasing in enumerate(phrasings)
        for scene in slots.values()
    }
