"""Statistics of a study: each arm against the unedited model and against its placebo, and pairs of interventions.

Two interventions are compared at their last level, and at the gain that both reach (`metrics.same_gain`). Levels that
break the model are excluded there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vatjax import analysis, errors, metrics, states, store
from vatjax.edits.outcome import is_broken, utility_loss
from vatjax.edits.trials import circle_distances
from vatjax.interventions import Arm, Cell
from vatjax.items import Items
from vatjax.metrics.intervals import clustered_mean
from vatjax.states import ValueState
from vatjax.store.artifacts import Artifact, ArtifactStore
from vatjax.study.design import Design
from vatjax.values import Taxonomy


def arm_statistics(artifact: Artifact, artifact_store: ArtifactStore, design: Design, items: Items) -> dict[str, Any]:
    """Returns the statistics of one arm as plain data: `analysis.as_json`, with further entries."""
    arm: Arm = artifact.task
    taxonomy, cell = items.taxonomy, arm.cell
    wordings = design.wordings()
    before, after = (
        _mean_state([_load_state(artifact, artifact_store, f"{when} {w}") for w in wordings])
        for when in ("before", "after")
    )
    levels: tuple[analysis.Level, ...] = (level_of(taxonomy, cell.target),) if arm.placebo else analysis.LEVELS
    unanswered = not (before.mask & after.mask)[:, _target_mask(before, taxonomy, cell.target)].any()
    analysed = analysis.analyse(
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
    content = analysis.as_json(analysed)
    content |= _control(analysed, taxonomy, cell)
    content |= _answer_quality(artifact, artifact_store, wordings)
    noise = [
        artifact_store.read_json(artifact.dependencies[f"before {w}"], "about.json").get("numerical_noise")
        for w in wordings
    ]
    content["numerical_noise"] = noise[0]["sd"] if noise[0] else None
    content["agreement"] = _agreement(artifact, artifact_store, wordings)
    content["wordings"] = _wordings(artifact, artifact_store, wordings, taxonomy, cell)
    content["robust"] = _robust(analysed, taxonomy) if artifact.inputs.get("robust") else None
    if unanswered:  # the same structure, without numbers
        given = any(_is_given(artifact, artifact_store, f"after {w}") for w in wordings)
        content = {**_without_numbers(content), **_answer_quality(artifact, artifact_store, wordings)}
        content["broken"] = not given
        reason = "the given ratings have none of the target"
        if not given:
            reason = "no rating of the target is left: the options have too little probability"
        content["warnings"] = [reason]
    elif not arm.placebo:
        content["trade_off"] = {level: _trade_off(analysed, taxonomy, level) for level in levels}
    if arm.placebo and not unanswered and not np.nanmax(np.abs(analysed.joined.post.state - analysed.joined.pre.state)):
        content["warnings"] = [*content["warnings"], f"{arm.placebo}: nothing was found, so that it changes nothing"]
    return content


def _target_mask(state: ValueState, taxonomy: Taxonomy, target: str) -> np.ndarray:
    """Returns a mask of the columns of a state that belong to a target."""
    member = taxonomy.mask(target)
    return np.array([bool(member[taxonomy.index(name)]) for name in state.values])


def _without_numbers(content: Any) -> Any:
    """Returns the same data with None for each measured number; counts of contexts and names stay."""
    if isinstance(content, dict):
        return {k: x if k in ("n", "clusters") else _without_numbers(x) for k, x in content.items()}
    if isinstance(content, list):
        return [_without_numbers(x) for x in content]
    if isinstance(content, bool):
        return False
    return None if isinstance(content, (int, float)) else content


def level_of(taxonomy: Taxonomy, target: str) -> analysis.Level:
    """Returns the level of a target: values for a single value, types for types and groups."""
    return "values" if target in taxonomy.names else "types"


def _load_state(artifact: Artifact, artifact_store: ArtifactStore, need: str, name: str = "state.npz") -> ValueState:
    folder = artifact_store.path(artifact.dependencies[need])
    try:
        return states.load(folder / name)
    except errors.InputError as error:
        raise errors.InputError(f"{error}; remove {folder} and run the study again") from None


def _mean_state(wording_states: Sequence[ValueState]) -> ValueState:
    """Returns the mean over wordings; missing if one of them has no rating."""
    first = wording_states[0]
    if len(wording_states) == 1:
        return first
    mask = np.logical_and.reduce([state.mask for state in wording_states])
    mean = np.mean([np.float64(state.state) for state in wording_states], 0).astype(np.float32)
    return ValueState(np.where(mask, mean, np.nan), mask, first.clusters, first.values, first.contexts, first.meta)


def _control(analysed: analysis.Analysis, taxonomy: Taxonomy, cell: Cell) -> dict[str, Any]:
    """Returns how often the target has the requested sign, and how much of its gain leaks to other types."""
    before, after = (states.align(state, taxonomy) for state in (analysed.joined.pre, analysed.joined.post))
    mask = before.mask & after.mask
    x, y = (np.round(taxonomy.aggregate(np.float64(state.state), mask, "types"), 6) for state in (before, after))
    rated: Any = np.array([mask[:, group].any() for group in taxonomy.members("types")])
    target: Any = taxonomy.column_mask(cell.target)
    control = metrics.control(
        x[:, rated].astype(np.float32),
        y[:, rated].astype(np.float32),
        target[rated],
        states.cluster_labels(analysed.joined.pre)[0],
        cell.sign,
        circle_distances(taxonomy, target)[rated],
    )
    was = float(np.nanmean((np.asarray(control.success.estimate) - control.rise.estimate)[target[rated]]))
    near = {f"{d}": analysis.json_number(x) for d, x in enumerate(control.by_distance.estimate) if np.isfinite(x)}
    return {
        "success": {
            **analysis.estimate_json(control.target_success),
            "before": analysis.json_number(was),
        },
        "leakage": {**analysis.estimate_json(control.leakage), "by_distance": near},
    }


def _trade_off(analysed: analysis.Analysis, taxonomy: Taxonomy, level: analysis.Level) -> dict[str, Any]:
    """Returns gain and mean square shift off target without each cluster, to test if another arm has more gain for less
    shift."""
    level_result = analysed.levels[level]
    columns = [taxonomy.level_names(level).index(name) for name in level_result.names]
    shift = analysis.aggregate_shift(analysed.shift, taxonomy, level)[:, columns].astype(np.float32)
    clusters, _ = states.cluster_labels(analysed.joined.pre, analysed.clusters)
    points = metrics.trade_off(shift, level_result.target, clusters, analysed.direction)
    rounded: dict[str, Any] = jax.tree.map(lambda x: np.float64(x).round(9).tolist(), points._asdict())
    # Replicates are compared between arms: only where they leave out the same contexts.
    contexts = {key: column.tolist() for key, column in analysed.joined.pre.contexts.items()}
    return {**rounded, "contexts": store.address(contexts)}


def _answer_quality(artifact: Artifact, artifact_store: ArtifactStore, wordings: Sequence[str]) -> dict[str, Any]:
    """Returns the option mass and the perplexity, and whether they count as broken."""
    needs = [f"after {w}" for w in wordings]
    if any(_is_given(artifact, artifact_store, need) for need in needs):
        unknown = dict.fromkeys(("mass", "mass_before", "perplexity"))
        return {**unknown, "broken": False, "utility_loss": dict.fromkeys(metrics.Estimate._fields)}
    mass, perplexity, before = _mass_and_perplexity(artifact, artifact_store, needs, wordings)
    masses = [
        np.mean([_mass(artifact, artifact_store, f"{when} {w}")[0] for w in wordings], 0)
        for when in ("before", "after")
    ]
    loss = utility_loss(masses[0], masses[1], _mass(artifact, artifact_store, f"before {wordings[0]}")[1])
    return {
        "mass": analysis.json_number(mass),
        "mass_before": analysis.json_number(before),
        "perplexity": analysis.json_number(perplexity),
        "broken": bool(is_broken(mass, perplexity, before)),
        "utility_loss": {key: analysis.json_number(x) for key, x in loss._asdict().items()},
    }


def _mass(artifact: Artifact, artifact_store: ArtifactStore, need: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the option mass of each prompt, and its scene."""
    arrays = store.load_npz(artifact_store.path(artifact.dependencies[need]) / "mass.npz")
    return np.asarray(arrays["mass"], np.float64), arrays["scene"]


def _agreement(artifact: Artifact, artifact_store: ArtifactStore, wordings: Sequence[str]) -> dict[str, Any] | None:
    """Returns the rise of agreement with all actions, for and against a value alike, in points."""
    names = [f"{when} {w}" for when in ("before", "after") for w in wordings]
    if not all((artifact_store.path(artifact.dependencies[name]) / "agreement.npz").exists() for name in names):
        return None
    agreement_states = {name: _load_state(artifact, artifact_store, name, "agreement.npz") for name in names}
    gap = np.mean([agreement_states[f"after {w}"].state - agreement_states[f"before {w}"].state for w in wordings], 0)
    scene = np.broadcast_to(agreement_states[names[0]].clusters[:, None], gap.shape)
    risen = clustered_mean(np.float64(gap).ravel(), scene.ravel())
    return {key: analysis.json_number(x) for key, x in risen._asdict().items()}


def _wordings(
    artifact: Artifact, artifact_store: ArtifactStore, wordings: Sequence[str], taxonomy: Taxonomy, cell: Cell
) -> dict[str, dict[str, float | None]]:
    """Returns gain and nVAT for each wording separately."""
    by_wording = {}
    target = _target_columns(taxonomy, cell.target)
    for wording in wordings if len(wordings) > 1 else ():
        before, after = (_load_state(artifact, artifact_store, f"{when} {wording}") for when in ("before", "after"))
        shift = _level_shift(before, after, taxonomy, cell.target)
        by_wording[wording] = {
            "gain": analysis.json_number(metrics.gain(shift, target, cell.sign)),
            "nvat": analysis.json_number(metrics.nvat(metrics.spearman(shift))),
        }
    return by_wording


def _robust(analysed: analysis.Analysis, taxonomy: Taxonomy) -> dict[str, Any]:
    """Returns the coupling on fewer scenes, by another correlation, and at the other level."""
    clusters = analysed.joined.pre.clusters
    taxes: dict[str, jax.Array] = {}
    content: dict[str, Any] = {}
    for level in analysis.LEVELS:
        x: Any = analysis.aggregate_shift(analysed.shift, taxonomy, level).astype(np.float32)
        repeated = metrics.robustness(x, clusters, jax.random.key(0))
        taxes[level] = metrics.vat(metrics.spearman(x))
        content[level] = {
            "nvat_80_sd": analysis.json_number(repeated.nvat_sd),
            "agreement_80": analysis.json_number(repeated.agreement),
            "agreement_kendall": analysis.json_number(
                metrics.rank_agreement(taxes[level], metrics.vat(metrics.kendall(x)))
            ),
        }
    levels_agreement = analysis.json_number(
        metrics.types_against_values(taxes["types"], taxes["values"], taxonomy.type_of)
    )
    return {**content, "agreement_levels": levels_agreement}


# Two interventions --------------------------------------------------------------------------------------------------


def compare_interventions(
    artifact: Artifact, artifact_store: ArtifactStore, design: Design, items: Items
) -> dict[str, Any]:
    """Returns the first intervention minus the second, paired by scene: at their last levels, and at the same gain."""
    first_cell, second_cell = artifact.task
    taxonomy, wordings = items.taxonomy, design.wordings()
    before = _mean_state([_load_state(artifact, artifact_store, f"before {w}") for w in wordings])
    target, units = _target_columns(taxonomy, first_cell.target), states.cluster_labels(before)[0]
    last: dict[str, np.ndarray] = {}
    paths: dict[str, list[np.ndarray]] = {}
    for side, cell in (("one", first_cell), ("other", second_cell)):
        whole: dict[float, np.ndarray] = {}
        for level in sorted(cell.intervention.levels(), key=abs):
            needs = [f"{side} {level:.12g} {w}" for w in wordings]
            after = _mean_state([_load_state(artifact, artifact_store, need) for need in needs])
            last[side] = _level_shift(before, after, taxonomy, first_cell.target)
            if not _is_broken(artifact, artifact_store, needs, wordings):
                whole[level] = last[side]
        paths_by_sign = [[shift for level, shift in whole.items() if level * sign > 0] for sign in (1, -1)]
        # A vector works in one of its two directions.
        paths[side] = max(
            paths_by_sign,
            key=lambda path: max((_gain_or_zero(x, target, first_cell.sign) for x in path), default=-np.inf),
        )
    rated = ~np.any([np.isnan(x).all(0) for x in last.values()], 0)
    pair = [last[side][:, rated] for side in ("one", "other")]
    content: dict[str, Any] = {}
    if (target & rated).any():
        difference = metrics.difference(pair[0], pair[1], target[rated], units, first_cell.sign)
        content["last"] = _difference_as_json(difference, design.reading, int(rated.sum()))
    rated = ~np.any([np.isnan(x).all(0) for x in (*paths["one"], *paths["other"])], 0)
    if paths["one"] and paths["other"] and (target & rated).any():
        first, second = (np.stack(paths[side])[:, :, rated] for side in ("one", "other"))
        same = metrics.same_gain(first, second, target[rated], units, first_cell.sign)
        if same.difference is not None:
            difference_json = _difference_as_json(same.difference, design.reading, int(rated.sum()))
            content["same_gain"] = {"at": analysis.json_number(same.gain), **difference_json}
    return content


def against_placebo(artifact: Artifact, artifact_store: ArtifactStore, design: Design, items: Items) -> dict[str, Any]:
    """Returns an arm minus the draws of its placebo at the same level, as `analysis.beyond_draws`.

    Draws that break the model or change nothing, because their finder found nothing, are excluded.
    """
    arm: Arm = artifact.task
    taxonomy, wordings, target = items.taxonomy, design.wordings(), arm.cell.target

    def mean_state(when: str) -> ValueState:
        return _mean_state([_load_state(artifact, artifact_store, f"{when} {w}") for w in wordings])

    before = mean_state("before")

    def shift(side: str) -> np.ndarray:
        own_before = f"before {side} {wordings[0]}" in artifact.dependencies
        return _level_shift(mean_state(f"before {side}") if own_before else before, mean_state(side), taxonomy, target)

    def broken(side: str) -> bool:
        return _is_broken(artifact, artifact_store, [f"{side} {w}" for w in wordings], wordings)

    sides = [f"blind {number}" for number in range(artifact.inputs["draws"])]
    draws = [shift(side) for side in sides if not broken(side)]
    target_columns, moved = _target_columns(taxonomy, target), shift("after")
    draws = [draw for draw in draws if np.isfinite(draw[:, target_columns]).any() and np.nanmax(np.abs(draw)) > 0]
    draws = draws if np.isfinite(moved[:, target_columns]).any() else []  # an arm without answers exceeds no placebo
    units = states.cluster_labels(before)[0]
    return analysis.beyond_draws(moved, draws, target_columns, units, arm.cell.sign, design.reading)


def _is_given(artifact: Artifact, artifact_store: ArtifactStore, need: str) -> bool:
    """Returns True if ratings were given, so that nothing is known of the model that made them."""
    return bool(artifact_store.read_json(artifact.dependencies[need], "about.json").get("given"))


def _is_broken(
    artifact: Artifact, artifact_store: ArtifactStore, needs: Sequence[str], wordings: Sequence[str]
) -> bool:
    """Returns True if an arm keeps the model from answering or writing; False for given ratings."""
    if any(_is_given(artifact, artifact_store, need) for need in needs):
        return False
    return bool(is_broken(*_mass_and_perplexity(artifact, artifact_store, needs, wordings)))


def _mass_and_perplexity(
    artifact: Artifact, artifact_store: ArtifactStore, needs: Sequence[str], wordings: Sequence[str]
) -> tuple[float, float, float]:
    """Returns mean option mass, mean perplexity over wordings (NaN if it is missing in all), and the unedited model's
    mass."""
    about = [artifact_store.read_json(artifact.dependencies[need], "about.json") for need in needs]
    worse = [entry["perplexity"] for entry in about if entry["perplexity"] is not None]
    unedited = [artifact_store.read_json(artifact.dependencies[f"before {w}"], "about.json")["mass"] for w in wordings]
    mass = float(np.mean([entry["mass"] for entry in about]))
    return mass, float(np.mean(worse)) if worse else float("nan"), float(np.mean(unedited))


def _difference_as_json(difference: metrics.Difference, reading: metrics.Reading, values: int) -> dict[str, Any]:
    return {
        "gain": analysis.estimate_json(difference.gain),
        "off_target": analysis.estimate_json(difference.off_target),
        "nvat": analysis.estimate_json(analysis.nvat_in_reading(difference.nvat, reading, values)),
        "p_nvat": analysis.json_number(difference.p_nvat),
    }


def _level_shift(before: ValueState, after: ValueState, taxonomy: Taxonomy, target: str) -> Any:
    """Returns the shift of an intervention at the level of its target.

    Raises:
        InputError: if the ratings after it are not in the contexts of those before it: rows are paired by their place.
    """
    same = before.contexts.keys() == after.contexts.keys() and len(before.clusters) == len(after.clusters)
    if not same or any(list(column) != list(after.contexts[key]) for key, column in before.contexts.items()):
        raise errors.InputError("the ratings after the intervention are not in the contexts of those before it")
    return analysis.level_shift(before, after, taxonomy, level_of(taxonomy, target))


def _target_columns(taxonomy: Taxonomy, target: str) -> Any:
    """Returns a mask of the target's columns at that level."""
    return taxonomy.column_mask(target, level_of(taxonomy, target))


def _gain_or_zero(shift: Any, target: Any, sign: int) -> float:
    """Returns the gain; 0 if it is missing."""
    return float(np.nan_to_num(metrics.gain(shift, target, sign)))
