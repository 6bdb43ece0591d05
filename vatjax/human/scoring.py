"""What the sheets say: of each question how far annotators agree, and of each annotator how far from the others."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from vatjax import errors
from vatjax.human import agreement
from vatjax.human.agreement import Interval
from vatjax.human.questions import HIGH, LOW, questions
from vatjax.human.sheets import Answers

# An annotator is named as an outlier beyond these, where the interval over cases agrees.
APART = 1.5  # times as far from the others as these are from each other, in the middle
LEANING = 0.5  # points above or below the others
ALIKE = 0.9  # of all answers are one rating
FEW = 0.5  # of the cases are answered


class Asked(NamedTuple):
    """One question.

    Attributes:
        name: of it.
        cases: that somebody has rated.
        twice: cases that at least two have rated.
        two_agree: the share of these in which at least two give the same rating.
        alpha: Krippendorff's, for ordered ratings.
        ac2: Gwet's, with ordinal weights.
        mean: over cases.
    """

    name: str
    cases: int
    twice: int
    two_agree: Interval
    alpha: Interval
    ac2: Interval
    mean: Interval


class Annotator(NamedTuple):
    """One annotator, over all questions.

    Attributes:
        name: of them.
        answered: the share of the cases in which anything is answered.
        distance: how far a rating is from the mean of the others' on average, in points.
        leaning: how far above it.
        alike: the share of the commonest rating among all.
        alpha_without: the mean of alpha over questions without them, less that with them.
        remarks: why they stand out; none where they don't.
    """

    name: str
    answered: float
    distance: Interval
    leaning: Interval
    alike: float
    alpha_without: float
    remarks: tuple[str, ...]


class Scored(NamedTuple):
    """What all sheets come to."""

    questions: tuple[Asked, ...]
    annotators: tuple[Annotator, ...]


def score(answers: Answers, draws: int = 2000, seed: int = 0) -> Scored:
    """Agreement, with intervals over cases.

    Args:
        answers: of `sheets.read`.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: where nothing is rated.
    """
    if draws < 100:
        raise errors.InputError(f"resamples: expected at least 100, found {draws}")
    if np.isnan(answers.ratings).all():
        raise errors.InputError("the sheets hold no rating")
    drawn = agreement.drawn(len(answers.cases), draws, seed)
    asked = tuple(
        _asked(name, agreement.counted(own, LOW, HIGH), drawn)
        for name, own in zip(questions().names, answers.ratings, strict=True)
    )
    return Scored(asked, _annotators(answers, drawn))


def _asked(name: str, counts: np.ndarray, drawn: np.ndarray) -> Asked:
    each = counts.sum(1)
    statistics = (
        agreement.two_agree,
        agreement.alpha,
        agreement.ac2,
        functools.partial(agreement.mean, low=LOW),
    )
    found = [agreement.interval(one, counts, drawn) for one in statistics]
    return Asked(name, int((each >= 1).sum()), int((each >= 2).sum()), *found)


def _annotators(answers: Answers, drawn: np.ndarray) -> tuple[Annotator, ...]:
    ratings = answers.ratings  # [questions, cases, annotators]
    there = ~np.isnan(ratings)
    others = there.sum(2, keepdims=True) - there
    sums = np.where(there, ratings, 0)
    means = (sums.sum(2, keepdims=True) - sums) / np.where(others > 0, others, 1)
    off = np.where(there & (others > 0), ratings - means, np.nan)
    distances = [_over_cases(np.abs(off[..., a]), drawn) for a in range(len(answers.annotators))]
    middle = _middle_of_others(np.array([one.estimate for one in distances]))
    whole = _mean_alpha(ratings)
    found = []
    for a, name in enumerate(answers.annotators):
        leaning = _over_cases(off[..., a], drawn)
        own = ratings[..., a][there[..., a]]
        alike = float(np.unique(own, return_counts=True)[1].max() / len(own)) if len(own) else np.nan
        answered = float(there[..., a].any(0).mean())
        without = _mean_alpha(np.delete(ratings, a, 2)) - whole
        remarks = _remarks(distances[a], float(middle[a]), leaning, alike, answered)
        found.append(Annotator(name, answered, distances[a], leaning, alike, without, remarks))
    return tuple(found)


def _remarks(distance: Interval, middle: float, leaning: Interval, alike: float, answered: float) -> tuple[str, ...]:
    said = []
    if distance.low > middle and distance.estimate > APART * middle:
        said.append(f"{distance.estimate:.2f} points from the others, whose middle is {middle:.2f}")
    if abs(leaning.estimate) > LEANING and leaning.low * leaning.high > 0:
        side = "above" if leaning.estimate > 0 else "below"
        said.append(f"{abs(leaning.estimate):.2f} points {side} the others")
    if alike > ALIKE:
        said.append(f"{alike:.0%} of the answers are the same rating")
    if answered < FEW:
        said.append(f"{answered:.0%} of the cases are answered")
    return tuple(said)


def _over_cases(off: np.ndarray, drawn: np.ndarray) -> Interval:
    """The mean over all ratings of one annotator, [questions, cases], with its interval over cases."""
    there = ~np.isnan(off)
    sums, counts = np.where(there, off, 0).sum(0), there.sum(0)
    if not counts.sum():
        return Interval(np.nan, np.nan, np.nan)
    drawn_counts = drawn @ counts
    found = (drawn @ sums)[drawn_counts > 0] / drawn_counts[drawn_counts > 0]
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _middle_of_others(x: np.ndarray) -> np.ndarray:
    """The median of all others' numbers."""
    rest = [np.delete(x, i) for i in range(len(x))]
    return np.array([np.nanmedian(own) if (~np.isnan(own)).any() else np.nan for own in rest])


def _mean_alpha(ratings: np.ndarray) -> float:
    """The mean of alpha over the questions that have one."""
    one = np.ones((1, ratings.shape[1]))
    every = np.array([agreement.alpha(agreement.counted(own, LOW, HIGH), one)[0] for own in ratings])
    return float(np.nanmean(every)) if (~np.isnan(every)).any() else np.nan
