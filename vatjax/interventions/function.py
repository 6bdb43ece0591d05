"""A function of the user, which takes the model and returns what it is rated under."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import errors
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, check_levels, code_address, register
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("function")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Function(Intervention):
    """`call(model, target, sign, level, **settings) -> elicit.Condition`: examples, a text, an edit, or several of them."""

    seeded: ClassVar[bool] = False
    unit: ClassVar[str] = "level"

    call: str = ""
    """The function, as package.module:name."""
    amounts: tuple[float, ...] = (1.0,)
    """The levels to measure; each is given to the function."""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further arguments."""

    def __post_init__(self) -> None:
        check_levels("amounts", self.amounts)
        if not self.call:
            raise errors.InputError("call: the kind function needs a function, as package.module:name")

    def function(self) -> Any:
        """Returns the function.

        Raises:
            InputError: if its module or its name does not exist.
        """
        module, _, name = self.call.partition(":")
        if not name:
            raise errors.InputError(f"call: expected package.module:name, found {self.call!r}")
        if os.getcwd() not in sys.path:  # a module next to the study
            sys.path.append(os.getcwd())
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever the user's module raises
            raise errors.InputError(f"call: cannot import {self.call!r}: {type(error).__name__}: {error}") from None

    def levels(self) -> tuple[float, ...]:
        """Returns the levels."""
        return self.amounts

    def placebo_names(self) -> tuple[str, ...]:
        """Returns nothing: a function has no placebo."""
        return ()

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the name of the function, the content of its file, and its arguments."""
        source = code_address(self.function(), plan)
        arguments = {"target": arm.cell.target, "direction": arm.cell.direction, "level": arm.level}
        return {"function": {"call": self.call, "source": source, "settings": dict(self.settings), **arguments}}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns what the function returns; an error in it is named with the function."""
        del state
        try:
            condition = self.function()(work.model, arm.cell.target, arm.cell.sign, arm.level, **self.settings)
        except errors.InputError:
            raise
        except Exception as error:
            raise errors.InputError(f"{self.call}: {type(error).__name__}: {error}") from error
        if not isinstance(condition, Condition):
            raise errors.InputError(f"{self.call}: expected an elicit.Condition, found {type(condition).__name__}")
        return condition
