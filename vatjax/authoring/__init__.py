"""Builds data sets: scenes for countries and topics, actions for and against values, and the quality gates for both.

    settings = authoring.Build(out="data", countries=("Kenya",), topics=("Work",), writer="pocket", judge="pocket")
    result = authoring.run_pipeline(settings, values.schwartz(), {"scene": writer, "action": writer}, judge)
    authoring.publish(settings, result, values.schwartz())  # items.jsonl, apart.jsonl, card.md, hub/

A writer is a model (`ModelWriter`), a table (`TableWriter`) or another `Writer`; a judge is a `ModelJudge` or `Judge`.
"""

from vatjax.authoring.from_model import ModelWriter
from vatjax.authoring.from_table import TableWriter
from vatjax.authoring.judge_gates import ModelJudge
from vatjax.authoring.leak import find_leak, words_for
from vatjax.authoring.near_duplicates import ShingleIndex, shingles
from vatjax.authoring.pipeline import run_pipeline
from vatjax.authoring.publishing import publish
from vatjax.authoring.records import Record, Request, Stage, Text
from vatjax.authoring.settings import Build, Gates
from vatjax.authoring.to_items import to_items
from vatjax.authoring.writers import Writer

__all__ = [
    "Build",
    "Gates",
    "ModelJudge",
    "ModelWriter",
    "Record",
    "Request",
    "ShingleIndex",
    "Stage",
    "TableWriter",
    "Text",
    "Writer",
    "find_leak",
    "publish",
    "run_pipeline",
    "shingles",
    "to_items",
    "words_for",
]
