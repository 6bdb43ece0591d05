"""The numbers of a study: of each arm against the model alone, against its placebo, and of two interventions.

Two interventions are compared at their last level, and at the gain that both reach (`metrics.same_gain`). Levels that break
the model do not count there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
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
    unanswered = not (before.mask & after.mask)[:, _member(before, taxonomy, cell.target)].any()
    found = analysis.analyse(
        before,
        before if unanswered else after,
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
    noise = [shelf.json(piece.needs[f"before {w}"], "about.json").get("numerical_noise") for w in wordings]
    content["numerical_noise"] = noise[0]["sd"] if noise[0] else None
    content["agreement"] = _agreement(piece, shelf, wordings)
    content["wordings"] = _wordings(piece, shelf, wordings, taxonomy, cell)
    content["robust"] = _robust(found, taxonomy) if piece.decides.get("robust") else None
    if unanswered:  # the shape of the numbers, without any of them
        content = {**_without_numbers(content), **_answered(piece, shelf, wordings), "broken": True}
        content["warnings"] = ["no rating of the target is left: the options have too little probability"]
    elif not arm.placebo:
        content["trade_off"] = {level: _trade_off(found, taxonomy, level) for level in levels}
    if arm.placebo and not unanswered and not np.nanmax(np.abs(found.joined.post.state - found.joined.pre.state)):
        content["warnings"] = [*content["warnings"], f"{arm.placebo}: nothing was found, so that it changes nothing"]
    return content


def _member(state: ValueState, taxonomy: Taxonomy, target: str) -> np.ndarray:
    """Which columns of a state belong to a target."""
    member = taxonomy.mask(target)
    return np.array([bool(member[taxonomy.index(name)]) for name in state.values])


def _without_numbers(content: Any) -> Any:
    """The same data with None for every number that was measured; counts of contexts and names stay."""
    if isinstance(content, dict):
        return {k: x if k in ("n", "clusters") else _without_numbers(x) for k, x in content.items()}
    if isinstance(content, list):
        return [_without_numbers(x) for x in content]
    if isinstance(content, bool):
        return False
    return None if isinstance(content, (int, float)) else content


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


def _control(found: analysis.Analysis, taxonomy: Taxonomy, cell: Cell) -> dict[str, Any]:
    """How often the target is leaned to as wanted, and how much of what it gained leaks."""
    before, after = (states.align(one, taxonomy) for one in (found.joined.pre, found.joined.post))
    mask = before.mask & after.mask
    x, y = (np.round(taxonomy.aggregate(np.float64(one.state), mask, "types"), 6) for one in (before, after))
    rated: Any = np.array([mask[:, group].any() for group in taxonomy.members("types")])
    own: Any = taxonomy.columns(cell.target)
    made = metrics.control(
        x[:, rated].astype(np.float32),
        y[:, rated].astype(np.float32),
        own[rated],
        states.cluster_labels(found.joined.pre)[0],
        cell.sign,
        distances(taxonomy, own)[rated],
    )
    was = float(np.nanmean((np.asarray(made.success.estimate) - made.rise.estimate)[own[rated]]))
    near = {f"{d}": analysis.number(x) for d, x in enumerate(made.by_distance.estimate) if np.isfinite(x)}
    return {
        "success": {
            **analysis.estimate(made.target_success),
            "before": analysis.number(was),
        },
        "leakage": {**analysis.estimate(made.leakage), "by_distance": near},
    }


def _trade_off(found: analysis.Analysis, taxonomy: Taxonomy, level: analysis.Level) -> dict[str, Any]:
    """Gain and mean square shift off target without each cluster: how sure it is that no other arm has more for less."""
    own = found.levels[level]
    columns = [taxonomy.level_names(level).index(name) for name in own.names]
    shift = analysis.aggregated(found.shift, taxonomy, level)[:, columns].astype(np.float32)
    clusters, _ = states.cluster_labels(found.joined.pre, found.clusters)
    points = metrics.trade_off(shift, own.target, clusters, found.direction)
    rounded: dict[str, Any] = jax.tree.map(lambda x: np.float64(x).round(9).tolist(), points._asdict())
    # Replicates are compared between arms: only where they leave out the same contexts.
    contexts = {key: column.tolist() for key, column in found.joined.pre.contexts.items()}
    return {**rounded, "contexts": store.address(contexts)}


def _answered(piece: Piece, shelf: Shelf, wordings: Sequence[str]) -> dict[str, Any]:
    """Returns whether the model still answers, and still writes."""
    mass, perplexity, before = _wholeness(piece, shelf, [f"after {w}" for w in wordings], wordings)
    masses = [np.mean([_mass(piece, shelf, f"{when} {w}")[0] for w in wordings], 0) for when in ("before", "after")]
    lost = 1 - masses[1] / np.maximum(masses[0], 1e-6)
    loss = _over_scenes(lost, _mass(piece, shelf, f"before {wordings[0]}")[1])
    return {
        "mass": analysis.number(mass),
        "mass_before": analysis.number(before),
        "perplexity": analysis.number(perplexity),
        "broken": bool(breaks(mass, perplexity, before)),
        "utility_loss": {key: analysis.number(x) for key, x in loss.items()},
    }


def _mass(piece: Piece, shelf: Shelf, need: str) -> tuple[np.ndarray, np.ndarray]:
    """The option mass of each prompt, and its scene."""
    found = store.load_npz(shelf.place(piece.needs[need]) / "mass.npz")
    return np.asarray(found["mass"], np.float64), found["scene"]


def _over_scenes(x: np.ndarray, scene: np.ndarray) -> dict[str, float]:
    """A mean with the interval that leaving out one scene at a time gives (Student's t)."""
    there = ~np.isnan(x)
    if len(np.unique(scene[there])) < 2:
        return dict.fromkeys(("estimate", "low", "high"), math.nan)
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
    own = _own(taxonomy, cell.target)
    for wording in wordings if len(wordings) > 1 else ():
        before, after = (_state(piece, shelf, f"{when} {wording}") for when in ("before", "after"))
        shift = _shift(before, after, taxonomy, cell.target)
        found[wording] = {
            "gain": analysis.number(metrics.gain(shift, own, cell.sign)),
            "nvat": analysis.number(metrics.nvat(metrics.spearman(shift))),
        }
    return found


def _robust(found: analysis.Analysis, taxonomy: Taxonomy) -> dict[str, Any]:
    """What becomes of the coupling on fewer scenes, under another correlation, and at the other level."""
    clusters = found.joined.pre.clusters
    taxes: dict[str, jax.Array] = {}
    content: dict[str, Any] = {}
    for level in analysis.LEVELS:
        x: Any = analysis.aggregated(found.shift, taxonomy, level).astype(np.float32)
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
    own, units = _own(taxonomy, one.target), states.cluster_labels(before)[0]
    last: dict[str, np.ndarray] = {}
    paths: dict[str, list[np.ndarray]] = {}
    for side, cell in (("one", one), ("other", other)):
        whole: dict[float, np.ndarray] = {}
        for level in sorted(cell.what.levels(), key=abs):
            needs = [f"{side} {level:g} {w}" for w in wordings]
            after = _mean_state([_state(piece, shelf, need) for need in needs])
            last[side] = _shift(before, after, taxonomy, one.target)
            if not breaks(*_wholeness(piece, shelf, needs, wordings)):
                whole[level] = last[side]
        ways = [[shift for level, shift in whole.items() if level * sign > 0] for sign in (1, -1)]
        # A vector works in one of its two directions.
        paths[side] = max(ways, key=lambda way: max((_gain(x, own, one.sign) for x in way), default=-np.inf))
    rated = ~np.any([np.isnan(x).all(0) for x in last.values()], 0)
    pair = [last[side][:, rated] for side in ("one", "other")]
    found: dict[str, Any] = {}
    if (own & rated).any():
        found["last"] = _numbers_of(metrics.difference(pair[0], pair[1], own[rated], units, one.sign))
    rated = ~np.any([np.isnan(x).all(0) for x in (*paths["one"], *paths["other"])], 0)
    if paths["one"] and paths["other"] and (own & rated).any():
        first, second = (np.stack(paths[side])[:, :, rated] for side in ("one", "other"))
        same = metrics.same_gain(first, second, own[rated], units, one.sign)
        if same.difference is not None:
            found["same_gain"] = {"at": analysis.number(same.at), **_numbers_of(same.difference)}
    return found


def against_placebo(piece: Piece, shelf: Shelf, design: Design, items: Items) -> dict[str, Any]:
    """Returns an arm minus the draws of its placebo at the same level, as `analysis.beyond_draws`.

    A draw that breaks the model, and one that changes nothing, since its finder found nothing, is not evidence.
    """
    arm: Arm = piece.task
    taxonomy, wordings, target = items.taxonomy, design.wordings(), arm.cell.target
    before = _mean_state([_state(piece, shelf, f"before {w}") for w in wordings])

    def shift(side: str) -> np.ndarray:
        after = _mean_state([_state(piece, shelf, f"{side} {w}") for w in wordings])
        return _shift(before, after, taxonomy, target)

    def broken(side: str) -> bool:
        return bool(breaks(*_wholeness(piece, shelf, [f"{side} {w}" for w in wordings], wordings)))

    sides = [f"blind {number}" for number in range(piece.decides["draws"])]
    draws = [shift(side) for side in sides if not broken(side)]
    own, moved = _own(taxonomy, target), shift("after")
    draws = [draw for draw in draws if np.isfinite(draw[:, own]).any() and np.nanmax(np.abs(draw)) > 0]
    draws = draws if np.isfinite(moved[:, own]).any() else []  # an arm without an answer goes beyond nothing
    return analysis.beyond_draws(moved, draws, own, states.cluster_labels(before)[0], arm.cell.sign)


def _wholeness(piece: Piece, shelf: Shelf, needs: Sequence[str], wordings: Sequence[str]) -> tuple[float, float, float]:
    """Mean option mass, mean perplexity over wordings, and the unedited model's mass; NaN for a perplexity that none has."""
    about = [shelf.json(piece.needs[need], "about.json") for need in needs]
    worse = [one["perplexity"] for one in about if one["perplexity"] is not None]
    unedited = [shelf.json(piece.needs[f"before {w}"], "about.json")["mass"] for w in wordings]
    mass = float(np.mean([one["mass"] for one in about]))
    return mass, float(np.mean(worse)) if worse else float("nan"), float(np.mean(unedited))


def _numbers_of(found: metrics.Difference) -> dict[str, Any]:
    return {
        "gain": analysis.estimate(found.gain),
        "off_target": analysis.estimate(found.off_target),
        "nvat": analysis.estimate(found.nvat),
        "p_nvat": analysis.number(found.p_nvat),
    }


def _shift(before: ValueState, after: ValueState, taxonomy: Taxonomy, target: str) -> Any:
    """What an intervention did at the level that its target is of."""
    return analysis.level_shift(before, after, taxonomy, level_of(taxonomy, target))


def _own(taxonomy: Taxonomy, target: str) -> Any:
    """Which columns of that level are the target."""
    return taxonomy.columns(target, level_of(taxonomy, target))


def _gain(shift: Any, own: Any, sign: int) -> float:
    """The gain; 0 where there is none."""
    return float(np.nan_to_num(metrics.gain(shift, own, sign)))
