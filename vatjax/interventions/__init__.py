"""Interventions: one file a kind, each with its settings, levels, placebos, artifacts and condition.

    interventions.KINDS["shots"](counts=(2, 8))     what `kind: shots` with `counts: [2, 8]` means in a study

A new kind is a class with `@register("name")`, as in the files here. A package of yours that names it in the entry points
`vatjax.interventions` makes it known to `vatjax run`.
"""

import importlib
import pkgutil

from vatjax.interventions.arms import Arm, Cell, arms, display_name
from vatjax.interventions.base import KINDS, Intervention, PlanContext, WorkContext, kind_names, of_kind, register
from vatjax.interventions.found import FoundEdit, parse_places
from vatjax.interventions.trained import TrainedIntervention, TrainingSettings

# Each file here registers its kinds.
for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = [
    "KINDS",
    "Arm",
    "Cell",
    "FoundEdit",
    "Intervention",
    "PlanContext",
    "TrainedIntervention",
    "TrainingSettings",
    "WorkContext",
    "arms",
    "display_name",
    "kind_names",
    "of_kind",
    "parse_places",
    "register",
]
