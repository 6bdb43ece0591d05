"""Training with a price on moving other values."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vatjax import errors
from vatjax.interventions.base import register
from vatjax.interventions.trained import TrainedIntervention, TrainingSettings
from vatjax.train.settings import LossName, Price


@dataclasses.dataclass(frozen=True, kw_only=True)
class PricedTraining(TrainingSettings):
    """Training settings with a loss of their own, and a price."""

    loss: Literal["", LossName] = ""
    """The loss that the price is added to, by default dpo."""
    price: Price = dataclasses.field(default_factory=Price)
    """The price of moving other values."""


@register("tax-aware")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TaxAware(TrainedIntervention):
    """Training with any loss, plus a price on moving values other than the target."""

    training: PricedTraining = dataclasses.field(default_factory=PricedTraining)
    """Settings of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.training.price.weight > 0:
            raise errors.InputError("training.price.weight: a tax-aware training needs a price above 0")

    @property
    def loss(self) -> str:
        """Returns the training loss, without the price."""
        return self.training.loss or "dpo"

    @property
    def price(self) -> Price:
        """Returns the price of moving other values."""
        return self.training.price
