"""A whole experiment with one edit or with examples: found or drawn on the train side, tried with placebos on the test side.

experiment = edits.edit_experiment(model, items, "Power", finder=edits.Finder("conva"), placebos=4)
experiment.edit, experiment.points, experiment.trials
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import elicit, errors, prompts
from vatjax.edits.candidates import Candidate, Finder, Place, find_candidate, placebo_pushes, sample_target_scenes
from vatjax.edits.placebo import random_like
from vatjax.edits.sweeping import (
    MIN_STRENGTHS,
    STRENGTHS,
    Curve,
    Point,
    best_point,
    fit_curve,
    no_gain_reason,
    sweep,
)
from vatjax.edits.trials import Push, Trial, run_trials
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.prompts import ElicitConfig, Shot
from vatjax.runtime.progress import OnProgress, ignore_progress

OnStage = Callable[[str, int], None]
"""Callback that takes a stage that begins, and the number of tokens that it computes; 0 if it is unknown."""


class NoGain(errors.InputError):
    """Error of a sweep without any gain.

    Attributes:
        points: of the sweep.
        best: the best of them; None if all break the model.
    """

    def __init__(self, reason: str, points: Sequence[Point], best: Point | None) -> None:
        super().__init__(reason)
        self.points, self.best = points, best


class Experiment(NamedTuple):
    """Result of an experiment.

    Attributes:
        trials: of the intervention and its placebos on the test side.
        edit: the edit at the chosen strength; None for examples.
        shots: the longest list of examples; empty for an edit.
        facts: how the edit was found.
        best: the chosen point of the sweep; None for examples.
        points, placebo_points: the sweep of the edit, and of a random edit in the chosen place.
        curves: fitted to the points of each place.
    """

    trials: list[Trial]
    edit: Edit | None = None
    shots: Sequence[Shot] = ()
    facts: Mapping[str, Any] = {}
    best: Point | None = None
    points: Sequence[Point] = ()
    placebo_points: Sequence[Point] = ()
    curves: Sequence[Curve] = ()


class Callbacks(NamedTuple):
    """Callbacks of an experiment."""

    on_stage: OnStage = lambda *_: None
    on_progress: OnProgress = ignore_progress
    on_message: Callable[[str], None] = lambda _: None


def sweep_train_side(
    model: Model,
    items: Items,
    target: str,
    candidate: Candidate,
    strengths: Sequence[float],
    direction: int = 1,
    *,
    scenes: int = 12,
    test: float = 0.25,
    seed: int = 0,
    how: ElicitConfig | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Point]:
    """Sweeps a candidate over its places and strengths, on scenes of the train side that have pairs of the target.

    Args:
        model: the model.
        items: all items.
        target, direction: of the push.
        candidate: from `find_candidate`.
        strengths: to try in each place.
        scenes: number of scenes; 0 for all.
        test, seed: of the split.
        how: elicitation settings of a pair.
        on_progress: called with the completed fraction.
    """
    rated = sample_target_scenes(items.split(test, seed)[0], target, scenes, seed)
    return sweep(
        model, rated, target, candidate.make, candidate.places, strengths, direction, how=how, on_progress=on_progress
    )


def best_of(points: Sequence[Point]) -> Point:
    """Returns the point with the largest gain that does not break the model.

    Raises:
        NoGain: if there is none, or its gain is not above 0.
    """
    best = best_point(points)
    reason = no_gain_reason(best)
    if best is None or reason:
        raise NoGain(reason, points, best)
    return best


def edit_experiment(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    *,
    finder: Finder | None = None,
    places: Sequence[Place] = (),
    strengths: Sequence[float] = STRENGTHS,
    scenes: int = 12,
    placebos: int = 4,
    how: ElicitConfig | None = None,
    callbacks: Callbacks | None = None,
) -> Experiment:
    """Finds an edit, chooses its place and strength on the train side, and tries it with placebos on the test side.

    Args:
        model: the model; it needs a tokenizer.
        items: all items; the finder's settings have their split.
        target, direction: of the push.
        finder: settings of the search.
        places: places to try; by default those of `find_candidate`.
        strengths: to try in each place.
        scenes: number of train scenes of the sweep; 0 for all.
        placebos: draws of each placebo.
        how: elicitation settings.
        callbacks: called while it runs.

    Raises:
        NoGain: if no place and strength gives a gain above 0.
    """
    finder, how, callbacks = finder or Finder(), how or ElicitConfig(), callbacks or Callbacks()
    pair_how, split = how.of_pairs(), dict[str, Any](test=finder.test, seed=finder.seed)
    train, test = items.split(**split)

    def swept(tried: Candidate) -> list[Point]:
        return sweep_train_side(
            model,
            items,
            target,
            tried,
            strengths,
            direction,
            scenes=scenes,
            **split,
            how=pair_how,
            on_progress=callbacks.on_progress,
        )

    callbacks.on_stage(
        f"finding an edit by {finder.method} from up to {finder.pairs} contrast pairs of the train side", 0
    )
    candidate = find_candidate(model, items, target, direction, finder, places, pair_how)
    sweep_tokens = _tokens(model, sample_target_scenes(train, target, scenes, finder.seed), pair_how)
    points = len(candidate.places) * len(strengths)
    tried = f"{_counted(len(candidate.places), 'place')} and {_counted(len(strengths), 'strength')}"
    callbacks.on_stage(f"a sweep of {tried}", sweep_tokens * (points + 1))
    sweep_points = swept(candidate)
    best = best_of(sweep_points)
    edit = best.strength * candidate.make(best.layers)
    placebo_points: list[Point] = []
    if placebos:
        other = random_like(candidate.make(best.layers), placebos)  # not among the draws of the trials
        callbacks.on_stage("a sweep of a random edit", sweep_tokens * (len(strengths) + 1))
        placebo_points = swept(candidate._replace(make=lambda _: other, places=[best.layers]))
    pushes: dict[str, Push] = {finder.method: Push(elicit.Condition(edit=edit))}
    pushes |= placebo_pushes(candidate, best.layers, best.strength, placebos, callbacks.on_message)
    return Experiment(
        _run_trials(model, test, target, pushes, direction, how, callbacks),
        edit,
        facts={**candidate.facts(best.layers), "layers": list(best.layers), "strength": best.strength},
        best=best,
        points=sweep_points,
        placebo_points=placebo_points,
        curves=_fit_curves(sweep_points, candidate.places),
    )


def shots_experiment(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    *,
    counts: Sequence[int] = (2, 4, 8),
    test: float = 0.25,
    seed: int = 0,
    placebos: int = 4,
    how: ElicitConfig | None = None,
    callbacks: Callbacks | None = None,
) -> Experiment:
    """Draws examples from the train side, and tries them next to neutral ones on the test side.

    Args:
        model: the model; it needs a tokenizer.
        items: all items.
        target, direction: of the push.
        counts: numbers of examples.
        test, seed: of the split.
        placebos: draws of neutral examples.
        how: elicitation settings.
        callbacks: called while it runs.
    """
    how, callbacks = how or ElicitConfig(), callbacks or Callbacks()
    drawn: dict[str, Any] = {"test": test, "seed": seed}
    shown = {
        count: prompts.demonstrations(items, target, direction, count, how.scales()[0], **drawn) for count in counts
    }
    pushes = {_counted(count, "shot"): Push(elicit.Condition(shots)) for count, shots in shown.items()}
    callbacks.on_stage(f"rating {_counted(placebos, 'draw')} of neutral examples", 0)
    for number in range(placebos):
        callbacks.on_progress(number / placebos)
        neutral = elicit.neutral_shots(model, items, max(counts), target, how, draw=number, **drawn)
        pushes[f"neutral shots {number + 1}"] = Push(elicit.Condition(neutral), "neutral shots")
    trials = _run_trials(model, items.split(**drawn)[1], target, pushes, direction, how, callbacks)
    return Experiment(trials, shots=shown[max(counts)])


def _run_trials(
    model: Model,
    test: Items,
    target: str,
    pushes: Mapping[str, Push],
    direction: int,
    how: ElicitConfig,
    callbacks: Callbacks,
) -> list[Trial]:
    """Rates the test side under every push."""
    times = len(pushes) + 1
    stage = f"rating the test side {times} times: unedited, edited, and under placebos"
    callbacks.on_stage(stage, times * _tokens(model, test, how))
    return run_trials(model, test, target, pushes, direction, how, on_progress=callbacks.on_progress)


def _tokens(model: Model, items: Items, how: ElicitConfig) -> int:
    """Returns the tokens of rating the items once; 0 for written answers."""
    return 0 if how.reading == "generate" else elicit.cost(model, items, how).computed


def _fit_curves(points: Sequence[Point], places: Sequence[Place]) -> list[Curve]:
    """Returns a curve for each place with enough finite points."""
    finite = [point for point in points if np.isfinite([point.outcome.preference, point.outcome.utility]).all()]
    by_place = [[point for point in finite if point.layers == place] for place in places]
    return [fit_curve(fittable) for fittable in by_place if len(fittable) >= MIN_STRENGTHS]


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' * (count != 1)}"
