"""Settings of elicitation, as a configuration or a command's flags give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from vatjax import errors, names
from vatjax.prompts.build import CUE
from vatjax.prompts.wording import (
    PROTOCOLS,
    Protocol,
    Scale,
    Wording,
    check_fields,
    from_file,
    is_file,
    wording,
    wordings,
)

Reading = Literal["expected", "argmax", "generate"]
Parser = Literal["strict", "forgiving"]
READINGS: tuple[Reading, ...] = get_args(Reading)
PARSERS: tuple[Parser, ...] = get_args(Parser)


@dataclasses.dataclass(frozen=True)
class ElicitConfig:
    """Settings of elicitation."""

    protocol: Protocol = "paired"
    """The protocol: paired, labelled, dense or stated."""
    wording: str = ""
    """The wording: a shipped one by name, by default the first of the protocol; "all" averages them, and reports how
    far they differ. A file of your own, "my.yaml", gives its first wording, "my.yaml:polite" the one of that name."""
    low: int = 1
    """The low end of the scale."""
    high: int = 5
    """The high end of the scale."""
    counterbalance: bool = False
    """Ask also with the scale reversed, and average."""
    prior: bool = False
    """Divide by the probabilities of the answers where every text is "N/A"."""
    reading: Reading = "expected"
    """The expected rating, that of the likeliest option, or one that is read from generated text, which is slower and
    starts again after a kill."""
    parser: Parser = "forgiving"
    """The parser of a written answer: a number alone, or the one number that is given as the answer."""
    written: int = 24
    """The most tokens of a written answer."""
    prefill: str = "auto"
    """The beginning of the assistant's turn after a chat template: "none"; "cue", the wording's answer cue ("Rating: "); a text of
    your own; or "auto", which measures both on a few prompts and takes the cue where only that makes the model answer."""
    floor: float = 0.1
    """The least probability of all options together; a rating with less is missing, since it would be noise."""
    chat: bool | None = None
    """Whether to use the chat template; by default if the model has one. --no-chat is short for --chat False."""
    template: Mapping[str, bool | str] = dataclasses.field(
        default_factory=lambda: {"enable_thinking": False, "date_string": "26 Jul 2024"}
    )
    """Options of the chat template; by default reasoning models are asked without thinking, and templates that would put
    today's date into the prompt (Llama 3's) get a fixed one."""

    def __post_init__(self) -> None:
        for key, known in (("protocol", PROTOCOLS), ("reading", READINGS), ("parser", PARSERS)):
            if getattr(self, key) not in known:
                raise errors.InputError(names.unknown_name(key, getattr(self, key), known))
        if self.reading == "generate" and self.prior:
            raise errors.InputError("prior: written answers have no probabilities to divide by")
        if not 0 <= self.floor < 1:
            raise errors.InputError(f"floor: expected a probability from 0 to below 1, found {self.floor:g}")
        if not self.prefill:
            raise errors.InputError('prefill: expected "auto", "none", "cue" or a text, found nothing')
        if self.prefill == CUE and not all(each.answer for each in self.wordings()):
            raise errors.InputError(
                f"prefill: the wording {self.wordings()[0].name!r} has no answer cue; give the text of one"
            )
        if is_file(self.wording):
            for each in self.wordings():  # refused here where the file is damaged, and not when a model is loaded
                check_fields(each, self.protocol)
        if self.chat is False and self.prefill not in ("auto", "none"):
            raise errors.InputError(
                "prefill: it begins a turn of the chat template, and chat is false; leave one of them out"
            )
        if self.written < 1:
            raise errors.InputError(f"written: at least 1 token is needed, found {self.written}")

    def of_pairs(self) -> ElicitConfig:
        """Returns the settings by which edits are found and answers trained: pairs, in one wording, read by probabilities."""
        is_paired = self.protocol == "paired"
        name = self.wordings()[0].name if is_paired else ""
        return dataclasses.replace(
            self, protocol="paired", wording=name, reading="expected", prior=False, counterbalance=False
        )

    def wordings(self) -> list[Wording]:
        """Returns the wordings of the questions."""
        if self.wording == "all":
            return list(wordings(self.protocol).values())
        return [from_file(self.wording) if is_file(self.wording) else wording(self.protocol, self.wording)]

    def scales(self) -> list[Scale]:
        """Returns the scales of the answers: the rising one, and with counterbalancing the falling one."""
        rising = Scale(self.low, self.high)
        return [rising, dataclasses.replace(rising, falling=True)] if self.counterbalance else [rising]
