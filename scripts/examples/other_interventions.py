"""Examples, a sentence and DPO, each measured against the same ratings of the unedited model."""

import vatjax
from vatjax import elicit, items, prompts

model, data = vatjax.load("pocket"), items.bundled()
unedited = elicit.rate(model, data.split()[1])
interventions = {
    "8 examples": vatjax.shots("Power", 8),
    "a sentence": prompts.instruction(data.taxonomy, "Power"),
    "DPO": vatjax.finetune(model, "Power", loss="dpo", steps=20),
}
for name, intervention in interventions.items():
    print(name, vatjax.measure(model, intervention, target="Power", unedited=unedited))
