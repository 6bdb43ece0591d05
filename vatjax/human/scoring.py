"""What the sheets say: of each question how far annotators agree, and of each annotator how far from the others."""

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

# An annotator is named as an outlier beyond these, where the interval over cases agrees; the first three want two others.
APART = 1.5  # times as far from the others as these are, in the middle
LEANING = 0.5  # points above or below what is in the middle of everybody's
ALIKE = 0.9  # of all answers are one rating,
MORE = 0.1  # and that much more than of the others, in the middle
FEW = 0.5  # of the questions are answered


class Asked(NamedTuple):
    """One question.

    Attributes:
        name: of it.
        cases: that somebody has rated.
        twice: cases that at least two have rated.
        two_agree: the share of these in which at least two give the same rating.
        same_stance: the share of these in which at least two are for it, against it, or in the middle alike.
        alpha: Krippendorff's, for ordered ratings.
        ac2: Gwet's, with ordinal weights.
        mean: over cases.
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
        name: of them.
        answered: the share of all questions that they have answered.
        distance: how far a rating is from the mean of the others' on average, in points.
        leaning: how far it is above the median of everybody's, their own with it: one who leans does not move it, as they
            would a mean, so that the others don't seem to lean to the other side.
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
        answers: of `answers.read`.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: where nothing is rated.
    """
    drawn = agreement.drawn(len(answers.cases), draws, seed)
    if np.isnan(answers.ratings).all():
        raise errors.InputError("the sheets hold no rating")
    asked = tuple(
        _asked(name, agreement.counted(own, LOW, HIGH), drawn)
        for name, own in zip(questions().names, answers.ratings, strict=True)
    )
    return Scored(asked, _annotators(answers, drawn))


def _asked(name: str, counts: np.ndarray, drawn: np.ndarray) -> Asked:
    each = counts.sum(1)
    statistics = (
        agreement.two_agree,
        agreement.same_stance,
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
    met = there & (others > 0)
    sums = np.where(there, ratings, 0)
    means = (sums.sum(2, keepdims=True) - sums) / np.where(others > 0, others, 1)
    far = np.where(met, np.abs(ratings - means), np.nan)
    above = np.where(met, ratings - _medians(ratings), np.nan)
    everybody = range(len(answers.annotators))
    distances = [_over_cases(far[..., a], drawn) for a in everybody]
    alike = [_alike(ratings[..., a][there[..., a]]) for a in everybody]
    middles = _middle_of_others([one.estimate for one in distances]), _middle_of_others(alike)
    whole = _mean_alpha(ratings)
    found = []
    for a, name in enumerate(answers.annotators):
        one = Annotator(
            name,
            float(there[..., a].mean()),
            distances[a],
            _over_cases(above[..., a], drawn),
            alike[a],
            _mean_alpha(np.delete(ratings, a, 2)) - whole,
            (),
        )
        found.append(one._replace(remarks=_remarks(one, len(everybody) > 2, *(own[a] for own in middles))))
    return tuple(found)


def _remarks(one: Annotator, three: bool, distance: float, alike: float) -> tuple[str, ...]:
    """Why somebody stands out, held against the middle of the others; of two nobody can say which it is."""
    said = []
    if three and one.distance.low > distance and one.distance.estimate > APART * distance:
        said.append(f"{one.distance.estimate:.2f} points from the others, whose middle is {distance:.2f}")
    if three and abs(one.leaning.estimate) > LEANING and one.leaning.low * one.leaning.high > 0:
        side = "above" if one.leaning.estimate > 0 else "below"
        said.append(f"{abs(one.leaning.estimate):.2f} points {side} the middle of all")
    if three and one.alike > ALIKE and one.alike - alike > MORE:
        said.append(f"{one.alike:.0%} of the answers are the same rating, of the others' {alike:.0%}")
    if one.answered < FEW:
        said.append(f"{one.answered:.0%} of the questions are answered")
    return tuple(said)


def _medians(ratings: np.ndarray) -> np.ndarray:
    """Of each question and case the median over annotators, [questions, cases, 1]; 0 where nobody has said anything."""
    nobody = np.isnan(ratings).all(2, keepdims=True)
    found: np.ndarray = np.nanmedian(np.where(nobody, 0, ratings), 2, keepdims=True)
    return found


def _alike(ratings: np.ndarray) -> float:
    """The share of the commonest rating."""
    return float(np.unique(ratings, return_counts=True)[1].max() / len(ratings)) if len(ratings) else np.nan


def _over_cases(off: np.ndarray, drawn: np.ndarray) -> Interval:
    """The mean over all ratings of one annotator, [questions, cases], with its interval over cases."""
    there = ~np.isnan(off)
    return agreement.ratio(np.where(there, off, 0).sum(0), there.sum(0), drawn)


def _middle_of_others(x: Sequence[float]) -> list[float]:
    """The median of all others' numbers."""
    rest = [np.delete(np.array(x), i) for i in range(len(x))]
    return [float(np.nanmedian(own)) if (~np.isnan(own)).any() else np.nan for own in rest]


def _mean_alpha(ratings: np.ndarray) -> float:
    """The mean of alpha over the questions that have one."""
    one = np.ones((1, ratings.shape[1]))
    every = np.array([agreement.alpha(agreement.counted(own, LOW, HIGH), one)[0] for own in ratings])
    return float(np.nanmean(every)) if (~np.isnan(every)).any() else np.nan
