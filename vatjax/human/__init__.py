"""The human check: a sample of items, sheets for annotators, and inter-annotator agreement. Independent of models.

drawn = human.sample(items.bundled(), 60)                   # each country, topic and polarity has its share
human.save(drawn, "check")
human.write(drawn, ["ann", "bob", "eve"], "check")          # a CSV and an offline page for each
answers = human.read(human.load("check"), ["check/sheet-ann.csv", "check/sheet-bob.csv", "check/sheet-eve.csv"])
human.score(answers).questions                              # alpha, AC2, shares, means, with intervals
human.alpha(human.count_ratings(ratings, 1, 5), weights)    # for any other ratings
"""

from vatjax.human.agreement import Interval, ac2, alpha, count_ratings, two_agree
from vatjax.human.answers import read
from vatjax.human.questions import questions
from vatjax.human.sample import load, sample, save
from vatjax.human.scoring import Annotator, QuestionScore, Scores, score
from vatjax.human.shares import proportional_allocation
from vatjax.human.sheets import write

__all__ = [
    "Annotator",
    "Interval",
    "QuestionScore",
    "Scores",
    "ac2",
    "alpha",
    "count_ratings",
    "load",
    "proportional_allocation",
    "questions",
    "read",
    "sample",
    "save",
    "score",
    "two_agree",
    "write",
]
