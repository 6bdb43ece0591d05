"""Many interventions against the same ratings before them: a row each, paired differences, and the front.

    content = comparison.compare(pre, {"a": post_a, "b": post_b}, values.schwartz(), "Power")

Every number is of the contexts that all states have, so that differences are paired.
"""

from __future__ import annotations

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
        first minus the second, paired by cluster; `contexts` in all states, `left_out` of each state, and
        `warnings`.

    Raises:
        InputError: as `analysis.analyse` does, with the name of the state.
    """
    if not posts:
        raise errors.InputError("no state after an intervention is given")
    common, matched = _match(pre, posts, on)
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
    shares = metrics.front_shares([metrics.trade_off(x, member, units, direction) for x in arms.values()])
    rows, warnings = [], dict[str, None]()
    for (name, result), share in zip(analysed.items(), shares, strict=True):
        content = analysis.as_json(result)
        part = content["levels"][content["target_level"]]
        warnings |= dict.fromkeys(content["warnings"])
        rows.append(
            {
                "name": name,
                **{key: part[key] for key in ("gain", "resolved", "off_target_shift", "off_target", "nvat_debiased")},
                "nvat_floor": part["floor"]["nvat_95"],
                "nvat_p": part["p"]["nvat"],
                "front_share": float(share),
            }
        )
    pairs = []
    for one, other in itertools.combinations(arms, 2):
        difference = metrics.difference(arms[one], arms[other], member, units, direction)
        estimates = {key: analysis.estimate_json(getattr(difference, key)) for key in _COMPARED}
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
        "rows": rows,
        "pairs": pairs,
        "resamples": resamples,
        "warnings": list(warnings),
    }


_COMPARED = ("gain", "off_target_shift", "off_target", "nvat")


def _match(
    pre: ValueState, posts: Mapping[str, ValueState], on: Sequence[str] | None
) -> tuple[ValueState, dict[str, ValueState]]:
    """Returns all states on the contexts in which each has a rating, in one order."""
    common = pre
    for name, post in posts.items():
        with errors.named(name):
            common = states.join(common, post, on).pre
    matched = {name: states.join(common, post, on).post for name, post in posts.items()}
    rated = np.all([(common.mask & post.mask).any(1) for post in matched.values()], 0)
    rows = np.flatnonzero(rated)
    if not len(rows):
        raise errors.InputError(f"none of {len(rated)} common contexts has a rating in every state")
    return common.take(rows), {name: post.take(rows) for name, post in matched.items()}
