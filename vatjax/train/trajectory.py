"""Values during a run: the same questions are asked every few steps, and compared with the answers at the start.

drift time of a value: the first step from which its shift stays at 95 % or more of the last one, with the same sign
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vatjax import elicit, errors, metrics, prefix, states, store
from vatjax.items import Items
from vatjax.metrics.arrays import mean_present
from vatjax.models import Edit
from vatjax.prompts import ElicitConfig
from vatjax.runtime import processes
from vatjax.states import ValueState
from vatjax.train.steps import State, export
from vatjax.values import Taxonomy

DRIFT_SHARE = 0.95


class Probes:
    """A callback of `loop.run` that rates a model in training and saves its value states.

    Args:
        items: the items to rate; they should not be trained on.
        path: a folder with one file per state; states that exist are not computed again.
        about: plain data that identifies the run; each run gets its own subfolder.
        how: the question; `paired` by default.
        size: sizes of one pass.
    """

    def __init__(
        self,
        items: Items,
        path: store.Path,
        about: Any = None,
        how: ElicitConfig | None = None,
        size: prefix.Size | None = None,
    ) -> None:
        self._items, self._how, self._size = items, how or ElicitConfig(), size
        self._folder = store.path(path) / store.address(about)[:12]

    def __call__(self, state: State, step: int) -> None:
        """Rates the state of a step, unless its file exists."""
        path = self._folder / f"step-{step:06d}.npz"
        if processes.global_all(path.exists()):
            return
        exported = export(state)
        model, edit = (state.base, exported) if isinstance(exported, Edit) else (exported, None)
        states.save(elicit.ratings(model, self._items, self._how, edit=edit, size=self._size).state, path)

    def states(self) -> dict[int, ValueState]:
        """Loads the rated states, by step."""
        paths = sorted(self._folder.glob("step-*.npz"), key=lambda path: path.name)
        return {int(path.name.removeprefix("step-").removesuffix(".npz")): states.load(path) for path in paths}


class Trajectory(NamedTuple):
    """Gain and tax of a run by step, relative to its start.

    Attributes:
        steps: [points], without the start.
        gain: [points], of the target's types.
        nvat: [points], of types.
        off_target: [points], mean absolute GND of the other types.
        shift: [points, types], mean over contexts.
        values: [points, values], mean over contexts.
        drift_time: [values], drift time of each value; NaN for values that have not moved.
    """

    steps: np.ndarray
    gain: np.ndarray
    nvat: np.ndarray
    off_target: np.ndarray
    shift: np.ndarray
    values: np.ndarray
    drift_time: np.ndarray

    def as_dict(self, taxonomy: Taxonomy) -> dict[str, Any]:
        """Converts to plain data, with names of types and values."""
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
        return {"points": points, "drift_time": dict(zip(taxonomy.names, self.drift_time.tolist(), strict=True))}


def trajectory(by_step: dict[int, ValueState], taxonomy: Taxonomy, target: str, direction: int = 1) -> Trajectory:
    """Computes gain and tax of every rated step relative to the first.

    Args:
        by_step: value states by step, of the same contexts; the smallest step is the start.
        taxonomy: of the items.
        target, direction: the value, type or group that was pushed, and the sign of the push.
    """
    if len(by_step) < 2:
        raise errors.InputError(
            f"trajectory: expected a start and at least one later step, found {len(by_step)} states"
        )
    first, *later = sorted(by_step)
    on_target = jnp.asarray(taxonomy.column_mask(target))

    def types(state: ValueState) -> jnp.ndarray:
        plain = np.where(state.mask, state.state, np.nan)
        return jnp.asarray(taxonomy.aggregate(np.float32(plain), state.mask, "types"))

    before = by_step[first]
    taxes, values = [], []
    for step in later:
        if by_step[step].state.shape != before.state.shape:
            raise errors.InputError(f"step {step}: its contexts differ from those of step {first}")
        taxes.append(metrics.tax(types(before), types(by_step[step]), on_target, direction))
        both = before.mask & by_step[step].mask
        moved = np.where(both, by_step[step].state - before.state, 0).sum(0)
        values.append(np.where(both.any(0), moved / np.maximum(both.sum(0), 1), np.nan))
    off = ~np.asarray(on_target)
    shift = np.stack(values)
    return Trajectory(
        np.array(later),
        np.array([float(tax.gain) for tax in taxes]),
        np.array([float(tax.nvat) for tax in taxes]),
        np.array([mean_present(np.abs(np.asarray(tax.gnd)[off])) for tax in taxes]),
        np.stack([np.asarray(tax.shift) for tax in taxes]),
        shift,
        drift_time(later, shift),
    )


def drift_time(steps: Sequence[int], shift: np.ndarray) -> np.ndarray:
    """Computes the first step from which each value's shift stays at 95 % or more of the last one, [values] float64.

    Args:
        steps: [points], ascending.
        shift: [points, values], relative to the start.
    """
    last = shift[-1]
    moved = np.isfinite(last) & (last != 0)
    share = np.where(moved, shift / np.where(moved, last, 1), 0)
    below = ~(share >= DRIFT_SHARE)
    # The point after the last one that is still below.
    place = np.where(below.any(0), len(steps) - np.argmax(below[::-1], 0), 0)
    return np.where(moved, np.asarray(steps, np.float64)[np.minimum(place, len(steps) - 1)], np.nan)
