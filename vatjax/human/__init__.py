"""The human check: a sample of items, sheets for annotators, and how far these agree. This package knows no model.

drawn = human.sample(items.bundled(), 60)                   # each country, topic and polarity has its share
human.save(drawn, "check")
human.write(drawn, ["ann", "bob", "eve"], "check")          # a CSV and an offline page for each
answers = human.read(human.load("check"), ["check/sheet-ann.csv", "check/sheet-bob.csv", "check/sheet-eve.csv"])
human.score(answers).questions                              # alpha, AC2, shares, means, with intervals
human.alpha(human.counted(ratings, 1, 5), weights)          # for ratings of one's own
"""

from vatjax.human.agreement import Interval, ac2, alpha, counted, same_stance, two_agree
from vatjax.human.answers import Answers, read
from vatjax.human.questions import HIGH, LOW, Question, Questions, questions
from vatjax.human.sample import Case, Sample, load, sample, save
from vatjax.human.scoring import Annotator, Asked, Scored, score
from vatjax.human.shares import shares
from vatjax.human.sheets import write

__all__ = [
    "HIGH",
    "LOW",
    "Annotator",
    "Answers",
    "Asked",
    "Case",
    "Interval",
    "Question",
    "Questions",
    "Sample",
    "Scored",
    "ac2",
    "alpha",
    "counted",
    "load",
    "questions",
    "read",
    "same_stance",
    "sample",
    "save",
    "score",
    "shares",
    "two_agree",
    "write",
]
