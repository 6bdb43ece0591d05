"""What a run does to values on its way: the same questions are asked every few steps, and compared with the beginning.

drift time of a value: the first step from which on its shift has at least 95 % of its last size, the same way
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vatjax import elicit, errors, metrics, states, store
from vatjax.items import Items
from vatjax.models import Edit, hosts
from vatjax.prompts import How
from vatjax.states import ValueState
from vatjax.train.steps import State, result
from vatjax.values import Taxonomy

ARRIVED = 0.95


class Probes:
    """Rates a model in training, and keeps its states: `loop.run` calls it.

    Args:
        items: what is asked about; none of it should be trained on.
        where: a folder; each state is a file in it, and one that is there is not asked for again.
        about: what decides a run, as plain data: each run has a folder of its own there.
        how: the question; `paired` by default.
        size: how much is computed at one time.
    """

    def __init__(
        self,
        items: Items,
        where: store.Path,
        about: Any = None,
        how: How | None = None,
        size: elicit.Size | None = None,
    ) -> None:
        self._items, self._how, self._size = items, how or How(), size
        self._where = store.path(where) / store.address(about)[:12]

    def __call__(self, state: State, step: int) -> None:
        """Rates the state of a step."""
        place = self._where / f"step-{step:06d}.npz"
        if hosts.everywhere(place.exists()):
            return
        made = result(state)
        model, edit = (state.base, made) if isinstance(made, Edit) else (made, None)
        states.save(elicit.ratings(model, self._items, self._how, edit=edit, size=self._size).state, place)

    def states(self) -> dict[int, ValueState]:
        """What was rated, by step."""
        found = sorted(self._where.glob("step-*.npz"), key=lambda path: path.name)
        return {int(path.name.removeprefix("step-").removesuffix(".npz")): states.load(path) for path in found}


class Trajectory(NamedTuple):
    """A run's gain and tax on its way.

    Attributes:
        steps: [points], without the beginning, against which all of them are.
        gain: [points], of the target's types.
        nvat: [points], of types.
        off_target: [points], mean absolute GND of the other types.
        shift: [points, types], mean over contexts.
        values: [points, values], likewise.
        arrived: [values], each value's drift time; NaN for one that has not moved.
    """

    steps: np.ndarray
    gain: np.ndarray
    nvat: np.ndarray
    off_target: np.ndarray
    shift: np.ndarray
    values: np.ndarray
    arrived: np.ndarray

    def as_dict(self, taxonomy: Taxonomy) -> dict[str, Any]:
        """Plain data, with names."""
        points = [
            {
                "step": int(step),
                "gain": float(self.gain[i]),
                "nvat": float(self.nvat[i]),
                "off_target": float(self.off_target[i]),
                "shift": dict(zip(taxonomy.types, self.shift[i].tolist(), strict=True)),
            }
            for i, step in enumerate(self.steps)
        ]
        return {"points": points, "drift_time": dict(zip(taxonomy.names, self.arrived.tolist(), strict=True))}


def trajectory(found: dict[int, ValueState], taxonomy: Taxonomy, target: str, direction: int = 1) -> Trajectory:
    """Gain and tax at every step that was rated, against the first.

    Args:
        found: states by step, of the same contexts; the least step is the beginning.
        taxonomy: of the items.
        target, direction: what was pushed, and which way.
    """
    if len(found) < 2:
        raise errors.InputError(f"a trajectory needs a beginning and at least one step, found {len(found)} states")
    first, *later = sorted(found)
    own = jnp.asarray(taxonomy.columns(target))

    def types(state: ValueState) -> jnp.ndarray:
        plain = np.where(state.mask, state.state, np.nan)
        return jnp.asarray(taxonomy.aggregate(np.float32(plain), state.mask, "types"))

    before = found[first]
    made, values = [], []
    for step in later:
        if found[step].state.shape != before.state.shape:
            raise errors.InputError(f"step {step}: other contexts were rated than at step {first}")
        made.append(metrics.tax(types(before), types(found[step]), own, direction))
        both = before.mask & found[step].mask
        moved = np.where(both, found[step].state - before.state, 0).sum(0)
        values.append(np.where(both.any(0), moved / np.maximum(both.sum(0), 1), np.nan))
    off = ~np.asarray(own)
    shift = np.stack(values)
    return Trajectory(
        np.array(later),
        np.array([float(one.gain) for one in made]),
        np.array([float(one.nvat) for one in made]),
        np.array([float(np.nanmean(np.abs(np.asarray(one.gnd)[off]))) for one in made]),
        np.stack([np.asarray(one.shift) for one in made]),
        shift,
        drift_time(later, shift),
    )


def drift_time(steps: Sequence[int], shift: np.ndarray) -> np.ndarray:
    """The first step from which on each value's shift has at least 95 % of its last size, [values] float64.

    Args:
        steps: [points], rising.
        shift: [points, values], against the beginning.
    """
    last = shift[-1]
    moved = np.isfinite(last) & (last != 0)
    share = np.where(moved, shift / np.where(moved, last, 1), 0)
    below = ~(share >= ARRIVED)
    # The point behind the last one that is still below.
    place = np.where(below.any(0), len(steps) - np.argmax(below[::-1], 0), 0)
    return np.where(moved, np.asarray(steps, np.float64)[np.minimum(place, len(steps) - 1)], np.nan)
