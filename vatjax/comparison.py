"""Many interventions against the same ratings before them: a row each, paired differences, and the front.

    content = comparison.compare(pre, {"a": post_a, "b": post_b}, values.schwartz(), "Power")

Every number is of the ratings that all states have, so that differences are paired: a cell that is missing in one state is
left out of all.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vatjax import analysis, errors, metrics, states
from vatjax.metrics import Reading
from vatjax.states import ValueState
from vatjax.values import Taxonomy


def compare(
    pre: ValueState,
    posts: Mapping[str, ValueState],
    taxonomy: Taxonomy,
    target: str | Sequence[str],
    direction: int = 1,
    on: Sequence[str] | None = None,
    resamples: int = analysis.RESAMPLES,
    seed: int = 0,
    reading: Reading = "rms",
    clusters: str = "",
    unit: analysis.Unit = "points",
) -> dict[str, Any]:
    """Compares interventions with the same target, as plain data.

    Args:
        pre: the state before.
        posts: the state after each intervention, by name.
        taxonomy, target, direction, on, resamples, seed, reading, clusters, unit: as in `analysis.analyse`.

    Returns:
        `rows`: name, gain, off_target_shift, off_target, nvat_debiased with intervals, p of nVAT, front_share; `pairs`: the
        first minus the second, paired by cluster; `contexts` in all states, contexts `left_out` and cells
        `missing` of each state, and `warnings`. An arm without a resolved gain above 0 has no `front_share`, as in a study.

    Raises:
        InputError: as `analysis.analyse` does, with the name of the state.
    """
    if not posts:
        raise errors.InputError("no state after an intervention is given")
    common, matched, missing = _match(pre, posts, on)
    analysed = {}
    for name, post in matched.items():
        with errors.named(name):
            analysed[name] = analysis.analyse(
                common,
                post,
                taxonomy,
                target,
                direction,
                on,
                resamples,
                seed,
                reading,
                order=False,
                clusters=clusters,
                unit=unit,
            )
    first = next(iter(analysed.values()))
    level = first.level_of_target
    shifts = {name: analysis.aggregate_shift(result.shift, taxonomy, level) for name, result in analysed.items()}
    rated = ~np.any([np.isnan(x).all(0) for x in shifts.values()], 0)
    member = np.any([taxonomy.column_mask(name, level) for name in first.target.split(", ")], 0)[rated]
    if not member.any():
        raise errors.InputError(f"no value of the target {first.target!r} is rated in all states")
    units, keys = states.cluster_labels(first.joined.pre, clusters)
    arms = {name: np.float32(x[:, rated]) for name, x in shifts.items()}
    contents = {name: analysis.as_json(result) for name, result in analysed.items()}
    parts = {name: content["levels"][content["target_level"]] for name, content in contents.items()}
    competes = [name for name, part in parts.items() if part["resolved"] and part["gain"]["estimate"] > 0]
    points = [metrics.trade_off(arms[name], member, units, direction) for name in competes]
    shares = dict(zip(competes, metrics.front_shares(points) if points else (), strict=True))
    rows, warnings = [], dict.fromkeys(missing_lines(missing))
    for name, part in parts.items():
        warnings |= dict.fromkeys(contents[name]["warnings"])
        rows.append(
            {
                "name": name,
                **{key: part[key] for key in ("gain", "resolved", "off_target_shift", "off_target", "nvat_debiased")},
                "nvat_floor": part["floor"]["nvat_95"],
                "nvat_p": part["p"]["nvat"],
                "front_share": analysis.json_number(shares.get(name, np.nan)),
            }
        )
    pairs = []
    for one, other in itertools.combinations(arms, 2):
        difference = metrics.difference(arms[one], arms[other], member, units, direction)
        scaled = difference._replace(nvat=analysis.nvat_in_reading(difference.nvat, reading, len(member)))
        estimates = {key: analysis.estimate_json(getattr(scaled, key)) for key in _COMPARED}
        pairs.append({"first": one, "second": other, **estimates, "nvat_p": analysis.json_number(difference.p_nvat)})
    return {
        "target": first.target,
        "direction": "express" if direction == 1 else "suppress",
        "level": level,
        "contexts": len(first.joined.pre.clusters),
        "clusters": int(first.finest.inference.clusters),
        "clustered_by": keys,
        "left_out": {"before": len(pre.clusters) - len(common.clusters)}
        | {name: len(post.clusters) - len(common.clusters) for name, post in posts.items()},
        "missing": missing,
        "rows": rows,
        "pairs": pairs,
        "resamples": resamples,
        "warnings": list(warnings),
    }


_COMPARED = ("gain", "off_target_shift", "off_target", "nvat")


def missing_lines(missing: Mapping[str, int]) -> list[str]:
    """Returns a line for each state that lacks ratings which others have."""
    return [
        f"{name}: {count:,} ratings that other states have are missing; they are left out of all"
        for name, count in missing.items()
        if count
    ]


def _match(
    pre: ValueState, posts: Mapping[str, ValueState], on: Sequence[str] | None
) -> tuple[ValueState, dict[str, ValueState], dict[str, int]]:
    """Returns all states on the ratings that each of them has, in one order, and how many each lacks of the others'."""
    common = pre
    for name, post in posts.items():
        with errors.named(name):
            common = states.join(common, post, on).pre
    matched = {name: states.join(common, post, on).post for name, post in posts.items()}
    masks = {"before": common.mask, **{name: post.mask for name, post in matched.items()}}
    everywhere, somewhere = np.all(list(masks.values()), 0), np.any(list(masks.values()), 0)
    rows = np.flatnonzero(everywhere.any(1))
    if not len(rows):
        raise errors.InputError(f"none of {len(everywhere)} common contexts has a rating in every state")

    def shared(state: ValueState) -> ValueState:
        cells = np.where(everywhere, state.state, np.nan).astype(state.state.dtype)
        return dataclasses.replace(state, state=cells, mask=everywhere).take(rows)

    missing = {name: int((somewhere & ~mask).sum()) for name, mask in masks.items()}
    return shared(common), {name: shared(post) for name, post in matched.items()}, missing
