"""Making data sets: scenes of countries and topics, actions for and against values, and the gates that both must pass.

    settings = build.Build(out="data", countries=("Kenya",), topics=("Work",), writer="pocket", judge="pocket")
    made = build.make(settings, values.schwartz(), {"scene": writer, "action": writer}, judge)
    build.publish(settings, made, values.schwartz())        # items.jsonl, apart.jsonl, card.md, hub/

A writer is a model (`ModelWriter`), a table (`TableWriter`), or anything like them (`Writer`); so is a judge (`Judge`).
"""

from vatjax.build.as_items import items_of
from vatjax.build.card import card
from vatjax.build.from_model import ModelWriter
from vatjax.build.from_table import TableWriter
from vatjax.build.judges import Judge, ModelJudge
from vatjax.build.leak import leaked, words_for
from vatjax.build.making import Made, make
from vatjax.build.markdown import markdown
from vatjax.build.near import Index, Twin, shingles
from vatjax.build.publishing import publish
from vatjax.build.records import Record, Request, Stage, Text, Verdict
from vatjax.build.settings import Build, Gates
from vatjax.build.writers import Writer, Written

__all__ = [
    "Build",
    "Gates",
    "Index",
    "Judge",
    "Made",
    "ModelJudge",
    "ModelWriter",
    "Record",
    "Request",
    "Stage",
    "TableWriter",
    "Text",
    "Twin",
    "Verdict",
    "Writer",
    "Written",
    "card",
    "items_of",
    "leaked",
    "make",
    "markdown",
    "publish",
    "shingles",
    "words_for",
]
