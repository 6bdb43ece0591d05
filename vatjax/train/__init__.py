"""Training: SFT and preference losses as pure steps on any model, and low-rank changes that come back as edits.

from vatjax import items, models, train

model = models.load("pocket")
records = train.lessons(model, items.bundled(), "Power", -1, "preferences")
data = train.with_reference(model, train.lay(train.tokenised(model, records), rows=16))
state = train.begin(model, train.Lora(rank=8), train.Adam(rate=1e-3), steps=100)
for batch in itertools.islice(train.batches(data), 100):
    state, logs = train.step(state, batch, loss=train.dpo(beta=0.1))
edit = train.result(state)
"""

from vatjax.train.anchors import Anchors, anchors
from vatjax.train.checkpoints import Checkpoints
from vatjax.train.evaluation import evaluate, measure
from vatjax.train.examples import Record, from_items, lessons, shuffled, tokenised, with_others
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.loop import Course, Diverged, Finished, run
from vatjax.train.losses import (
    Judged,
    Loss,
    Pairs,
    Texts,
    apo_zero,
    cdpo,
    dpo,
    hinge,
    ipo,
    kto,
    orpo,
    robust_dpo,
    sft,
    simpo,
)
from vatjax.train.many import alike, beside, stack, step_many, unstack
from vatjax.train.optimizer import Adam
from vatjax.train.penalty import TaxPenalty, tax_penalty
from vatjax.train.reference import rows_drawn, with_reference, without_reference
from vatjax.train.rows import Batch, Data, Example, at, batch, batches, lay, tokens_until
from vatjax.train.settings import Training, laid, prepared
from vatjax.train.steps import Penalty, Progress, State, begin, lowered, memory_of, outlined, result, step
from vatjax.train.sums import Sums
from vatjax.train.trained import Lora, Whole
from vatjax.train.trajectory import Probes, Trajectory, drift_time, trajectory

__all__ = [
    "Adam",
    "Anchors",
    "Batch",
    "Checkpoints",
    "Course",
    "Data",
    "Diverged",
    "Example",
    "Finished",
    "Judged",
    "Lora",
    "Loss",
    "Memory",
    "Pairs",
    "Penalty",
    "Probes",
    "Progress",
    "Record",
    "State",
    "Sums",
    "TaxPenalty",
    "Texts",
    "Training",
    "Trajectory",
    "Whole",
    "alike",
    "anchors",
    "apo_zero",
    "at",
    "batch",
    "batches",
    "begin",
    "beside",
    "cdpo",
    "dpo",
    "drift_time",
    "evaluate",
    "from_items",
    "hinge",
    "ipo",
    "kto",
    "laid",
    "lay",
    "lessons",
    "lowered",
    "measure",
    "memory_of",
    "orpo",
    "outlined",
    "prepared",
    "result",
    "robust_dpo",
    "rows_drawn",
    "run",
    "sft",
    "shuffled",
    "simpo",
    "stack",
    "step",
    "step_many",
    "tax_penalty",
    "text_log_probs",
    "tokenised",
    "tokens_until",
    "trajectory",
    "unstack",
    "with_others",
    "with_reference",
    "without_reference",
]
