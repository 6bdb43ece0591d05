"""The numbers of a study: of each arm against the model alone, and of two interventions against each other.

At the same gain: where an intervention was measured at several levels, what it does in between is taken from the two levels
on either side, context by context; the model alone is the level with no gain, and levels that break the model are none. So
two interventions are compared where both have the gain that the weaker one can reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vatjax import analysis, errors, metrics, states, store
from vatjax.edits.outcome import breaks
from vatjax.items import Items
from vatjax.states import ValueState
from vatjax.study.arms import Arm, Cell
from vatjax.study.design import Design
from vatjax.study.pieces import Piece, Shelf
from vatjax.study.steering import distances
from vatjax.values import Taxonomy


def result(piece: Piece, shelf: Shelf, design: Design, items: Items) -> dict[str, Any]:
    """What one arm did, as plain data: `analysis.as_json`, and what it leaves out."""
    arm: Arm = piece.task
    taxonomy, cell = items.taxonomy, arm.cell
    wordings = design.wordings()
    before, after = (
        _mean_state([_state(piece, shelf, f"{when} {w}") for w in wordings]) for when in ("before", "after")
    )
    levels: tuple[analysis.Level, ...] = (level_of(taxonomy, cell.target),) if arm.placebo else analysis.LEVELS
    found = analysis.analyse(
        before,
        after,
        taxonomy,
        cell.target,
        cell.sign,
        None,
        design.resamples,
        0,
        design.reading,
        levels,
        not arm.placebo,
    )
    content = analysis.as_json(found)
    content |= _control(found, taxonomy, cell)
    content |= _answered(piece, shelf, wordings)
    content["agreement"] = _agreement(piece, shelf, wordings)
    content["wordings"] = _wordings(piece, shelf, wordings, taxonomy, cell)
    content["robust"] = _robust(found, taxonomy) if piece.decides.get("robust") else None
    if arm.placebo and not np.nanmax(np.abs(found.joined.post.state - found.joined.pre.state)):
        content["warnings"] = [*content["warnings"], f"{arm.placebo}: nothing was found, so that it changes nothing"]
    return content


def level_of(taxonomy: Taxonomy, target: str) -> analysis.Level:
    """The level that a target is of: one value is judged among values, types and groups among types."""
    return "values" if target in taxonomy.names else "types"


def _state(piece: Piece, shelf: Shelf, need: str, name: str = "state.npz") -> ValueState:
    where = shelf.place(piece.needs[need])
    try:
        return states.load(where / name)
    except errors.InputError as error:
        raise errors.InputError(f"{error}; remove {where} and run the study again") from None


def _mean_state(found: Sequence[ValueState]) -> ValueState:
    """The mean over wordings; where one of them has no rating there is none."""
    first = found[0]
    if len(found) == 1:
        return first
    mask = np.logical_and.reduce([one.mask for one in found])
    mean = np.mean([np.float64(one.state) for one in found], 0).astype(np.float32)
    return ValueState(np.where(mask, mean, np.nan), mask, first.clusters, first.values, first.contexts, first.meta)


def _both(found: analysis.Analysis, taxonomy: Taxonomy) -> tuple[np.ndarray, np.ndarray]:
    """Both states, [contexts, values] float32; NaN where one of them has no rating."""
    before, after = (states.align(one, taxonomy) for one in (found.joined.pre, found.joined.post))
    mask = before.mask & after.mask
    x, y = (np.where(mask, np.float32(one.state), np.float32(np.nan)) for one in (before, after))
    return x, y


def _control(found: analysis.Analysis, taxonomy: Taxonomy, cell: Cell) -> dict[str, Any]:
    """How often the target is leaned to as wanted, and how much of what it gained leaks."""
    both = _both(found, taxonomy)
    mask = ~np.isnan(both[0])
    x, y = (taxonomy.aggregate(one, mask, "types") for one in both)
    there = mask.any(0)
    rated = np.array([there[group].any() for group in taxonomy.members("types")])
    own = taxonomy.columns(cell.target)
    made = metrics.control(
        jnp.asarray(x[:, rated], jnp.float32),
        jnp.asarray(y[:, rated], jnp.float32),
        jnp.asarray(own[rated]),
        states.cluster_labels(found.joined.pre)[0],
        cell.sign,
        distances(taxonomy, own)[rated],
    )
    was = float(jnp.nanmean((made.success.estimate - made.rise.estimate)[own[rated]]))
    near = {f"{d}": analysis.number(x) for d, x in enumerate(made.by_distance.estimate) if np.isfinite(x)}
    return {
        "success": {
            **analysis.estimate(made.target_success),
            "before": analysis.number(was),
        },
        "leakage": {**analysis.estimate(made.leakage), "by_distance": near},
    }


def _answered(piece: Piece, shelf: Shelf, wordings: Sequence[str]) -> dict[str, Any]:
    """Whether the model still answers, and still writes."""
    about = [shelf.json(piece.needs[f"after {w}"], "about.json") for w in wordings]
    mass, perplexity = _wholeness(about)
    masses = [np.mean([_mass(piece, shelf, f"{when} {w}")[0] for w in wordings], 0) for when in ("before", "after")]
    lost = 1 - masses[1] / np.maximum(masses[0], 1e-6)
    loss = _over_scenes(lost, _mass(piece, shelf, f"before {wordings[0]}")[1])
    return {
        "mass": analysis.number(mass),
        "perplexity": analysis.number(perplexity),
        "broken": bool(breaks(mass, perplexity)),
        "utility_loss": {key: analysis.number(x) for key, x in loss.items()},
    }


def _mass(piece: Piece, shelf: Shelf, need: str) -> tuple[np.ndarray, np.ndarray]:
    """The option mass of each prompt, and its scene."""
    found = store.load_npz(shelf.place(piece.needs[need]) / "mass.npz")
    return np.asarray(found["mass"], np.float64), found["scene"]


def _over_scenes(x: np.ndarray, scene: np.ndarray) -> dict[str, float]:
    """A mean with the interval that leaving out one scene at a time gives (Student's t)."""
    there = ~np.isnan(x)
    _, group = np.unique(scene[there], return_inverse=True)
    sums, counts = np.bincount(group, x[there]), np.bincount(group)
    count, mean = len(counts), sums.sum() / counts.sum()
    without = (sums.sum() - sums) / (counts.sum() - counts)
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = stats.t.ppf(0.975, count - 1) * error
    return {"estimate": mean, "low": mean - half, "high": mean + half}


def _agreement(piece: Piece, shelf: Shelf, wordings: Sequence[str]) -> dict[str, Any] | None:
    """How far it agrees more with everything, in points; an action for a value and one against it alike."""
    names = [f"{when} {w}" for when in ("before", "after") for w in wordings]
    if not all((shelf.place(piece.needs[name]) / "agreement.npz").exists() for name in names):
        return None
    found = {name: _state(piece, shelf, name, "agreement.npz") for name in names}
    gap = np.mean([found[f"after {w}"].state - found[f"before {w}"].state for w in wordings], 0)
    scene = np.broadcast_to(found[names[0]].clusters[:, None], gap.shape)
    return {key: analysis.number(x) for key, x in _over_scenes(np.float64(gap).ravel(), scene.ravel()).items()}


def _wordings(
    piece: Piece, shelf: Shelf, wordings: Sequence[str], taxonomy: Taxonomy, cell: Cell
) -> dict[str, dict[str, float | None]]:
    """Gain and nVAT under each wording by itself."""
    found = {}
    for wording in wordings if len(wordings) > 1 else ():
        x, y = (
            _columns(_state(piece, shelf, f"{when} {wording}"), taxonomy, cell.target) for when in ("before", "after")
        )
        one = metrics.tax(jnp.asarray(x), jnp.asarray(y), jnp.asarray(_own(taxonomy, cell.target)), cell.sign)
        found[wording] = {"gain": analysis.number(one.gain), "nvat": analysis.number(one.nvat)}
    return found


def _robust(found: analysis.Analysis, taxonomy: Taxonomy) -> dict[str, Any]:
    """What becomes of the coupling on fewer scenes, under another correlation, and at the other level."""
    before, after = _both(found, taxonomy)
    shift = after - before
    clusters = found.joined.pre.clusters
    taxes: dict[str, jax.Array] = {}
    content: dict[str, Any] = {}
    for level in analysis.LEVELS:
        x = jnp.asarray(taxonomy.aggregate(shift, ~np.isnan(shift), level), jnp.float32)
        repeated = metrics.robustness(x, clusters, jax.random.key(0))
        taxes[level] = metrics.vat(metrics.spearman(x))
        content[level] = {
            "nvat_80_sd": analysis.number(repeated.nvat_sd),
            "agreement_80": analysis.number(repeated.agreement),
            "agreement_kendall": analysis.number(metrics.agreement(taxes[level], metrics.vat(metrics.kendall(x)))),
        }
    both = analysis.number(metrics.types_against_values(taxes["types"], taxes["values"], taxonomy.type_of))
    return {**content, "agreement_levels": both}


# Two interventions --------------------------------------------------------------------------------------------------


def comparison(piece: Piece, shelf: Shelf, design: Design, items: Items) -> dict[str, Any]:
    """The first intervention minus the second, paired by scene: as far as each goes, and at the same gain."""
    one, other = piece.task
    taxonomy, wordings = items.taxonomy, design.wordings()
    before = _mean_state([_state(piece, shelf, f"before {w}") for w in wordings])
    start = _columns(before, taxonomy, one.target)
    own = _own(taxonomy, one.target)
    last: dict[str, np.ndarray] = {}
    courses: dict[str, list[Course]] = {}
    for side, cell in (("one", one), ("other", other)):
        found_at: dict[float, np.ndarray] = {}
        for level in sorted(cell.what.levels(), key=abs):
            needs = [f"{side} {level:g} {w}" for w in wordings]
            after = _mean_state([_state(piece, shelf, need) for need in needs])
            shift = _columns(after, taxonomy, one.target) - start
            last[side] = shift
            if not breaks(*_wholeness([shelf.json(piece.needs[need], "about.json") for need in needs])):
                found_at[level] = shift
        courses[side] = [
            Course([shift for _, shift in way], [_gain(shift, own, one.sign) for _, shift in way])
            for sign in (1, -1)
            if (way := [(level, shift) for level, shift in found_at.items() if level * sign > 0])
        ]
    reach = min(max((max(course.gains) for course in found), default=0.0) for found in courses.values())
    units = states.cluster_labels(before)[0]
    found: dict[str, Any] = {"last": _difference([last["one"], last["other"]], own, units, one.sign)}
    if reach > 0:
        both = [
            at_gain(*next(course for course in courses[side] if max(course.gains) >= reach), reach)
            for side in ("one", "other")
        ]
        found["same_gain"] = {"at": analysis.number(reach), **_difference(both, own, units, one.sign)}
    return found


class Course(NamedTuple):
    """What an intervention does from the model alone on, one way: shifts of each level, and the gains."""

    shifts: list[np.ndarray]
    gains: list[float]


def _wholeness(about: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean option mass and mean perplexity over wordings; NaN for a perplexity that none has."""
    worse = [one["perplexity"] for one in about if one["perplexity"] is not None]
    return float(np.mean([one["mass"] for one in about])), float(np.mean(worse)) if worse else float("nan")


def at_gain(shifts: Sequence[np.ndarray], gains: Sequence[float], wanted: float) -> np.ndarray:
    """What an intervention does where it has a gain, between the first level that has as much and the one before.

    Args:
        shifts: of each level, [contexts, values], the slightest first.
        gains: of each level.
        wanted: above 0, and at most the highest of them.
    """
    low, below = 0.0, np.zeros_like(shifts[0])
    for shift, gain in zip(shifts, gains, strict=True):
        if gain >= wanted:
            share = np.float32((wanted - low) / (gain - low))
            found: np.ndarray = (1 - share) * below + share * shift
            return found
        low, below = gain, shift
    raise errors.InputError(f"a gain of {wanted:g} is not reached: the highest is {max(gains):g}")


def against_placebo(piece: Piece, shelf: Shelf, design: Design, items: Items) -> dict[str, Any]:
    """Returns an arm minus the draws of its placebo at the same level: the mean, and the p of the draw that comes nearest.

    A draw that breaks the model, and one that changes nothing, since its finder found nothing, is no evidence.
    """
    arm: Arm = piece.task
    taxonomy, wordings = items.taxonomy, design.wordings()
    before = _mean_state([_state(piece, shelf, f"before {w}") for w in wordings])
    target = arm.cell.target
    start, own = _columns(before, taxonomy, target), _own(taxonomy, target)

    def shift(side: str) -> np.ndarray:
        after = _mean_state([_state(piece, shelf, f"{side} {w}") for w in wordings])
        found: np.ndarray = _columns(after, taxonomy, target) - start
        return found

    def broken(side: str) -> bool:
        return bool(breaks(*_wholeness([shelf.json(piece.needs[f"{side} {w}"], "about.json") for w in wordings])))

    sides = [f"blind {number}" for number in range(piece.decides["draws"])]
    moved, others = shift("after"), [shift(side) for side in sides if not broken(side)]
    others = [other for other in others if np.nanmax(np.abs(other)) > 0]
    if not others:
        nothing = {"estimate": None, "low": None, "high": None}
        return {"gain": nothing, "nvat": nothing, "p_nvat": None, "draws": 0}
    units = states.cluster_labels(before)[0]
    each = [_compared([moved, other], own, units, arm.cell.sign) for other in others]
    return {
        "gain": analysis.over_draws([one.gain for one in each]),
        "nvat": analysis.over_draws([one.nvat for one in each]),
        "p_nvat": analysis.number(max(float(one.p_nvat) for one in each)),
        "draws": len(others),
    }


def _compared(pair: Sequence[np.ndarray], own: np.ndarray, clusters: np.ndarray, sign: int) -> metrics.Difference:
    rated = ~np.isnan(pair[0]).all(0) & ~np.isnan(pair[1]).all(0)
    compared: metrics.Difference = jax.tree.map(
        np.asarray, metrics.difference(pair[0][:, rated], pair[1][:, rated], own[rated], clusters, sign)
    )
    return compared


def _difference(pair: Sequence[np.ndarray], own: np.ndarray, clusters: np.ndarray, sign: int) -> dict[str, Any]:
    found = _compared(pair, own, clusters, sign)
    return {
        "gain": analysis.estimate(found.gain),
        "off_target": analysis.estimate(found.off_target),
        "nvat": analysis.estimate(found.nvat),
        "p_nvat": analysis.number(found.p_nvat),
    }


def _columns(state: ValueState, taxonomy: Taxonomy, target: str) -> np.ndarray:
    """A state at the level that its target is of."""
    aligned = states.align(state, taxonomy)
    x = np.where(aligned.mask, np.float32(aligned.state), np.nan)
    return np.asarray(taxonomy.aggregate(x, aligned.mask, level_of(taxonomy, target)), np.float32)


def _own(taxonomy: Taxonomy, target: str) -> np.ndarray:
    """Which columns of that level are the target."""
    return taxonomy.columns(target, level_of(taxonomy, target))


def _gain(shift: np.ndarray, own: np.ndarray, sign: int) -> float:
    """The gain; 0 where there is none."""
    found = float(metrics.gain(jnp.asarray(shift), jnp.asarray(own), sign))
    return found if np.isfinite(found) else 0.0
