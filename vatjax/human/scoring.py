"""Scores the sheets: agreement on each question, and each annotator's deviation from the others."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatjax import errors
from vatjax.human import agreement
from vatjax.human.agreement import Interval
from vatjax.human.answers import Answers
from vatjax.human.questions import HIGH, LOW, questions

# Thresholds for flagging an annotator as an outlier. Distance and bias also need an interval over cases that excludes
# their reference. All but the last need at least three annotators.
OUTLIER_DISTANCE_RATIO = 1.5  # ratio of an annotator's distance to the median distance of the others
OUTLIER_BIAS = 0.5  # mean signed difference from the median of all, in points
OUTLIER_MODAL_SHARE = 0.9  # share of the most frequent rating,
OUTLIER_MODAL_EXCESS = 0.1  # and its excess over the median share of the others
MIN_ANSWERED = 0.5  # share of answered questions


class QuestionScore(NamedTuple):
    """Agreement on one question.

    Attributes:
        name: name of the question.
        cases: number of cases with a rating.
        twice: number of cases with at least two ratings.
        two_agree: share of these in which at least two annotators give the same rating.
        same_stance: share of these in which at least two annotators are on the same side of the middle, or in it.
        alpha: Krippendorff's ordinal alpha.
        ac2: Gwet's AC2 with ordinal weights.
        mean: mean rating over cases.
    """

    name: str
    cases: int
    twice: int
    two_agree: Interval
    same_stance: Interval
    alpha: Interval
    ac2: Interval
    mean: Interval


class Annotator(NamedTuple):
    """One annotator, over all questions.

    Attributes:
        name: name of the annotator.
        answered: share of all questions that the annotator has answered.
        distance: mean absolute difference from the mean of the others' ratings, in points.
        leaning: bias: mean signed difference from the case median over all annotators. A median is used since one
            biased annotator barely moves it; a mean would make the others seem biased the other way.
        alike: share of the most frequent rating.
        alpha_without: mean of alpha over questions without the annotator, minus that with the annotator.
        remarks: reasons to flag the annotator as an outlier; empty if there are none.
    """

    name: str
    answered: float
    distance: Interval
    leaning: Interval
    alike: float
    alpha_without: float
    remarks: tuple[str, ...]


class Scores(NamedTuple):
    """The scores of all questions and annotators."""

    questions: tuple[QuestionScore, ...]
    annotators: tuple[Annotator, ...]


def score(answers: Answers, draws: int = 2000, seed: int = 0) -> Scores:
    """Computes agreement, with bootstrap intervals over cases.

    Args:
        answers: ratings from `answers.read`.
        draws: number of bootstrap draws.
        seed: seed of the bootstrap.

    Raises:
        InputError: if the sheets contain no ratings.
    """
    drawn = agreement.bootstrap_weights(len(answers.cases), draws, seed)
    if np.isnan(answers.ratings).all():
        raise errors.InputError("the sheets contain no ratings")
    question_scores = tuple(
        _score_question(name, agreement.count_ratings(ratings, LOW, HIGH), drawn)
        for name, ratings in zip(questions().names, answers.ratings, strict=True)
    )
    return Scores(question_scores, _score_annotators(answers, drawn))


def _score_question(name: str, counts: np.ndarray, drawn: np.ndarray) -> QuestionScore:
    each = counts.sum(1)
    statistics = (
        agreement.two_agree,
        agreement.same_stance,
        agreement.alpha,
        agreement.ac2,
        functools.partial(agreement.mean_rating, low=LOW),
    )
    intervals = [agreement.bootstrap_interval(statistic, counts, drawn) for statistic in statistics]
    return QuestionScore(name, int((each >= 1).sum()), int((each >= 2).sum()), *intervals)


def _score_annotators(answers: Answers, drawn: np.ndarray) -> tuple[Annotator, ...]:
    ratings = answers.ratings  # [questions, cases, annotators]
    rated = ~np.isnan(ratings)
    others = rated.sum(2, keepdims=True) - rated
    comparable = rated & (others > 0)
    sums = np.where(rated, ratings, 0)
    means = (sums.sum(2, keepdims=True) - sums) / np.where(others > 0, others, 1)
    deviations = np.where(comparable, np.abs(ratings - means), np.nan)
    signed_deviations = np.where(comparable, ratings - _medians(ratings), np.nan)
    indices = range(len(answers.annotators))
    distances = [_mean_over_cases(deviations[..., a], drawn) for a in indices]
    alike = [_modal_share(ratings[..., a][rated[..., a]]) for a in indices]
    middles = _medians_of_others([interval.estimate for interval in distances]), _medians_of_others(alike)
    whole = _mean_alpha(ratings)
    annotators = []
    for a, name in enumerate(answers.annotators):
        annotator = Annotator(
            name,
            float(rated[..., a].mean()),
            distances[a],
            _mean_over_cases(signed_deviations[..., a], drawn),
            alike[a],
            _mean_alpha(np.delete(ratings, a, 2)) - whole,
            (),
        )
        annotators.append(
            annotator._replace(remarks=_remarks(annotator, len(indices) > 2, *(medians[a] for medians in middles)))
        )
    return tuple(annotators)


def _remarks(annotator: Annotator, three: bool, distance: float, alike: float) -> tuple[str, ...]:
    """Returns the reasons to flag an annotator as an outlier relative to the median of the others. With two annotators
    only missing answers are flagged, since either may be the outlier."""
    remarks = []
    if three and annotator.distance.low > distance and annotator.distance.estimate > OUTLIER_DISTANCE_RATIO * distance:
        remarks.append(f"{annotator.distance.estimate:.2f} points from the others, whose median is {distance:.2f}")
    if three and abs(annotator.leaning.estimate) > OUTLIER_BIAS and annotator.leaning.low * annotator.leaning.high > 0:
        side = "above" if annotator.leaning.estimate > 0 else "below"
        remarks.append(f"{abs(annotator.leaning.estimate):.2f} points {side} the median of all")
    if three and annotator.alike > OUTLIER_MODAL_SHARE and annotator.alike - alike > OUTLIER_MODAL_EXCESS:
        remarks.append(f"{annotator.alike:.0%} of the answers are the same rating; the others' median is {alike:.0%}")
    if annotator.answered < MIN_ANSWERED:
        remarks.append(f"{annotator.answered:.0%} of the questions are answered")
    return tuple(remarks)


def _medians(ratings: np.ndarray) -> np.ndarray:
    """Computes the median over annotators of each question and case, [questions, cases, 1]; 0 without ratings."""
    unrated = np.isnan(ratings).all(2, keepdims=True)
    medians: np.ndarray = np.nanmedian(np.where(unrated, 0, ratings), 2, keepdims=True)
    return medians


def _modal_share(ratings: np.ndarray) -> float:
    """Returns the share of the most frequent rating; NaN without ratings."""
    return float(np.unique(ratings, return_counts=True)[1].max() / len(ratings)) if len(ratings) else np.nan


def _mean_over_cases(off: np.ndarray, drawn: np.ndarray) -> Interval:
    """Averages one annotator's deviations, [questions, cases], with a bootstrap interval over cases."""
    rated = ~np.isnan(off)
    return agreement.ratio_interval(np.where(rated, off, 0).sum(0), rated.sum(0), drawn)


def _medians_of_others(x: Sequence[float]) -> list[float]:
    """Returns, for each entry, the median of all other entries."""
    rest = [np.delete(np.array(x), i) for i in range(len(x))]
    return [float(np.nanmedian(others)) if (~np.isnan(others)).any() else np.nan for others in rest]


def _mean_alpha(ratings: np.ndarray) -> float:
    """Averages alpha over the questions for which it is defined."""
    unit_weights = np.ones((1, ratings.shape[1]))
    every = np.array(
        [
            agreement.alpha(agreement.count_ratings(question_ratings, LOW, HIGH), unit_weights)[0]
            for question_ratings in ratings
        ]
    )
    return float(np.nanmean(every)) if (~np.isnan(every)).any() else np.nan
