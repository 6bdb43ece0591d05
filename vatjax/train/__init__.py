"""Training: SFT and preference losses as pure steps on any model; low-rank adapters are exported as edits.

from vatjax import items, models, train

model = models.load("pocket")
records = train.records_for_model(model, items.bundled(), "Power", -1, "preferences")
data = train.with_reference(model, train.make_rows(train.tokenise(model, records), rows=16))
state = train.init(model, train.Lora(rank=8), train.Adam(rate=1e-3), steps=100)
for batch in itertools.islice(train.batches(data), 100):
    state, logs = train.step(state, batch, loss=train.dpo(beta=0.1))
edit = train.export(state)
"""

from vatjax.train.anchors import draw_anchors
from vatjax.train.checkpoints import Checkpoints
from vatjax.train.evaluation import evaluate, evaluate_batch
from vatjax.train.examples import (
    Record,
    from_items,
    records_for_model,
    shuffle_labels,
    tokenise,
    with_mismatched_completions,
)
from vatjax.train.experiment import make_probes, run_cost, write_results
from vatjax.train.forward import Memory, text_log_probs
from vatjax.train.loop import Course, Diverged, run
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
from vatjax.train.many_adapters import pad_to_common_shape, stack, stack_batches, step_many, unstack
from vatjax.train.optimizer import Adam
from vatjax.train.parameters import FullFinetune, Lora
from vatjax.train.penalty import tax_penalty
from vatjax.train.reference import rows_drawn, with_reference, without_reference
from vatjax.train.rows import Batch, Data, Example, batch, batches, make_rows, rows_at_step, tokens_until
from vatjax.train.settings import Training, prepare, prepare_data
from vatjax.train.steps import State, abstract_state, export, init, lower, memory_of, step
from vatjax.train.trajectory import Probes, drift_time, trajectory

__all__ = [
    "Adam",
    "Batch",
    "Checkpoints",
    "Course",
    "Data",
    "Diverged",
    "Example",
    "FullFinetune",
    "Judged",
    "Lora",
    "Loss",
    "Memory",
    "Pairs",
    "Probes",
    "Record",
    "State",
    "Texts",
    "Training",
    "abstract_state",
    "apo_zero",
    "batch",
    "batches",
    "cdpo",
    "dpo",
    "draw_anchors",
    "drift_time",
    "evaluate",
    "evaluate_batch",
    "export",
    "from_items",
    "hinge",
    "init",
    "ipo",
    "kto",
    "lower",
    "make_probes",
    "make_rows",
    "memory_of",
    "orpo",
    "pad_to_common_shape",
    "prepare",
    "prepare_data",
    "records_for_model",
    "robust_dpo",
    "rows_at_step",
    "rows_drawn",
    "run",
    "run_cost",
    "sft",
    "shuffle_labels",
    "simpo",
    "stack",
    "stack_batches",
    "step",
    "step_many",
    "tax_penalty",
    "text_log_probs",
    "tokenise",
    "tokens_until",
    "trajectory",
    "unstack",
    "with_mismatched_completions",
    "with_reference",
    "without_reference",
    "write_results",
]
