"""The results of a study; first: vatjax run configs/quickstart.yaml"""

from vatjax import models, study

results = study.open_study("runs/quickstart")
print(results)
for row in results.where(level="types", placebo="none"):
    print(row["intervention"], row["direction"], row["amount"], row["gain"], row["off_target_shift"], row["nvat_p"])
before, after = results.states(row)  # value states of the last one
content = results.result(row)  # the data of `vatjax tax --json`
edit = results.edit(results.where(kind="sft", placebo="none")[0], models.load("pocket"))
