"""The experiment of `vatjax train`: its cost before it starts, probes of held-out ratings, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vatjax import models, prefix, store
from vatjax.elicit import prefill
from vatjax.models import Model
from vatjax.runtime import processes
from vatjax.train.loop import Finished
from vatjax.train.rows import batch, rows_at_step, tokens_until
from vatjax.train.settings import Prepared, Training
from vatjax.train.steps import export, memory_of
from vatjax.train.trajectory import Probes, trajectory


def run_cost(model: Model, prepared: Prepared, settings: Training, compiled: bool = False) -> dict[str, Any]:
    """Returns the cost of a run: examples, tokens, floating-point operations, and a lower bound on its seconds here.

    Args:
        model: the model.
        prepared: from `prepare`.
        settings: of the run.
        compiled: True to compile a step, and to return its memory too.
    """
    course, data = settings.course, prepared.data
    tokens = tokens_until(data, course.steps, course.seed)
    weights = sum(x.size for x in jax.tree.leaves(model.arrays))
    trained_weights = sum(x.size for x in jax.tree.leaves(prepared.state.progress.trained))
    # For each token 2 per weight forward, 2 backward, and 2 for its gradient; low-rank weights add to the others.
    flops = tokens * (4 * weights + (6 if settings.trained.what == "lora" else 2) * trained_weights)
    cost = {
        "model": settings.model,
        "loss": prepared.loss.name,
        "examples": len(data.examples),
        "validation": 0 if prepared.validation is None else len(prepared.validation.examples),
        "rows": data.shape.rows,
        "length": data.shape.time,
        "filled": data.tokens / (len(data.rows) * data.shape.time),
        "epochs": course.steps / data.steps,
        "tokens": tokens,
        "weights": weights,
        "trained": trained_weights,
        "flops": flops,
        "seconds": prefix.seconds_for(model, 3 * tokens),
    }
    if compiled:
        first = batch(data, rows_at_step(data, 0, course.seed))
        cost["memory"] = memory_of(
            prepared.state, first, prepared.loss, prepared.penalty, course.parts, settings.memory
        )
    return cost


def make_probes(
    model: Model, prepared: Prepared, settings: Training, folder: Any, about: Mapping[str, Any]
) -> Probes | None:
    """Returns probes that rate scenes of the test side during a run; None if the settings have none.

    Args:
        model: before the run: weights that change must not change how they are asked.
        prepared: from `prepare`.
        settings: of the run.
        folder: of its results.
        about: plain data that identifies the run.
    """
    if not settings.course.probe:
        return None
    source = settings.items
    _, test = prepared.items.split(source.test, source.seed)
    scenes = np.random.default_rng(source.seed).permutation(np.unique(test.scene_of))[: settings.probe_scenes or None]
    rated = test.take(np.flatnonzero(np.isin(test.scene_of, scenes)))
    how = prefill.resolve_prefill(model, settings.how)
    return Probes(rated, folder / "trajectory", {**about, "scenes": scenes.tolist()}, how)


def write_results(
    model: Model,
    prepared: Prepared,
    settings: Training,
    ended: Finished,
    probes: Probes | None,
    folder: Any,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes what was trained, and train.json; returns the content of that file."""
    result, step = export(ended.state), int(ended.state.progress.step)
    metrics: dict[str, Any] = next((line for line in reversed(ended.metrics) if line["step"] == step), {})
    content: dict[str, Any] = {
        "target": settings.target,
        "direction": settings.direction,
        "steps": step,
        "ended": ended.stop_reason,
        "reached": int(ended.metrics[-1]["step"]) if ended.metrics else step,
        "metrics": metrics,
    }
    if isinstance(result, models.Edit):
        models.save_edit(result, model, folder / "edit", {"target": settings.target, "loss": prepared.loss.name})
        models.save_adapter(result, model.config, folder / "adapter", model.name)
        content["written"] = [str(folder / "edit"), str(folder / "adapter")]
    else:
        models.save(result, folder / "model", overwrite=True)
        content["written"] = [str(folder / "model")]
    if probes is not None:
        processes.barrier("the trajectory is written")
        taxonomy = prepared.items.taxonomy
        path = trajectory(probes.states(), taxonomy, settings.target, settings.sign)
        content["trajectory"] = path.as_dict(taxonomy)
    content["settings"] = dict(about)
    content = store.nonfinite_to_none(content)
    store.commit_json(folder / "train.json", content)
    return content
