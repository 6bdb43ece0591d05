"""A kind for each training loss: sft, dpo, ipo, ... A loss that is added to `train.losses` is a kind too."""

from __future__ import annotations

import dataclasses
from typing import get_args

from vatjax.interventions.base import register
from vatjax.interventions.trained import TrainedIntervention
from vatjax.train.settings import LossName

for _loss in get_args(LossName):
    _name = "".join(part.capitalize() for part in _loss.split("_"))
    _namespace = {"__doc__": f"Training with the loss {_loss}.", "__module__": __name__, "__annotations__": {}}
    _class = type(_name, (TrainedIntervention,), _namespace)
    register(_loss)(dataclasses.dataclass(frozen=True, kw_only=True)(_class))
