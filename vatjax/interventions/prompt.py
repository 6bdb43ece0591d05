"""A text of the user before every question: one, or several of which each is a level."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, ClassVar

from vatjax import errors, prompts, store
from vatjax.elicit import Condition
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, register
from vatjax.store.artifacts import Artifact

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("prompt")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt(Intervention):
    """A text at the beginning of every prompt, in the system message if the model has a chat template. The placebo is as
    many words about nothing of the kind."""

    seeded: ClassVar[bool] = False

    text: str = ""
    """The text; {target} stands for the target's name."""
    file: str = ""
    """A file of texts, one a line, in place of `text`; each is a level, numbered from 1."""

    def __post_init__(self) -> None:
        if bool(self.text.strip()) == bool(self.file):
            raise errors.InputError("text: a prompt needs a text, or a file of texts, and not both")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Returns the unit of its levels: none for a single text."""
        return "text" if self.file else ""

    def texts(self) -> list[str]:
        """Returns its texts."""
        if not self.file:
            return [self.text.strip()]
        lines = [line.strip() for line in store.read_text(self.file).splitlines() if line.strip()]
        if not lines:
            raise errors.InputError(f"{self.file}: no text, and a prompt needs at least one")
        return lines

    def levels(self) -> tuple[float, ...]:
        """Returns the numbers of the texts."""
        return tuple(range(1, len(self.texts()) + 1))

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the placebo: neutral text of the same length."""
        return ("neutral text",)

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the text."""
        del plan
        return {"said": {"instruction": self.text_of(arm)}}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition:
        """Returns the text."""
        del state, work
        return Condition((), self.text_of(arm))

    def text_of(self, arm: Arm) -> str:
        """Returns the text of an arm; for a placebo neutral sentences, cut to as many words."""
        text = self.texts()[int(arm.level) - 1].replace("{target}", arm.cell.target)
        if not arm.placebo:
            return text
        plain = prompts.neutral_texts()
        start = arm.cell.draw_seed(arm.draw) % len(plain)
        words = itertools.chain.from_iterable(
            line.split() for line in itertools.islice(itertools.cycle(plain), start, None)
        )
        return " ".join(itertools.islice(words, len(text.split())))
