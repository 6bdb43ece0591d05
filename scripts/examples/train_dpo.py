"""A DPO step by step, as pure functions."""

from itertools import islice

from vatjax import items, models, train

model = models.load("pocket")
records = train.records_for_model(model, items.bundled(), "Power", -1, "preferences")
data = train.with_reference(model, train.make_rows(train.tokenise(model, records), rows=16))
state = train.init(model, train.Lora(rank=8), train.Adam(rate=3e-3), steps=20)
for batch in islice(train.batches(data), 20):
    state, logs = train.step(state, batch, loss=train.dpo(beta=0.1))
edit = train.export(state)  # an Edit: 0.5 * edit, elicit.rate(model, ..., edit=edit)
print(float(logs["loss"]), edit)
