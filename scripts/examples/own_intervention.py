"""An intervention of your own, measured next to two shipped ones."""

import dataclasses

from vatjax import elicit, interventions, study


@interventions.register("stern")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stern(interventions.Intervention):
    """Says the same sentence several times; the placebo says another one."""

    unit = "sentences"
    times: tuple[int, ...] = (1, 4)

    def levels(self):
        return self.times

    def placebo_names(self):
        return ("weather",)

    def condition(self, arm, state, work):  # what the model is rated under
        text = "It may rain today." if arm.placebo else f"{arm.cell.target} comes first."
        return elicit.Condition(instruction=" ".join([text] * int(arm.level)))


others = {"examples": interventions.of_kind("shots")(counts=(4,)), "told": interventions.of_kind("instruction")()}
design = study.Design(
    models=("pocket",), targets=("Power",), scenes=12, out="runs/own", interventions={"stern": Stern(), **others}
)
results = study.write(study.run(study.plan(design)))
for row in results.where(level="types", placebo="none"):
    print(
        f"{row['intervention']:<10}{row['amount']:<6g}{row['gain']:+.2f}, beyond placebo {row['over_placebo_gain']:+.2f}"
    )
