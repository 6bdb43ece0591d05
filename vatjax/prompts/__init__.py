"""Prompts as data: wordings, scales and shots; text in, text out. This package does not depend on models.

wording = prompts.wording("paired", "agree")          # one of three shipped for each protocol
prompt_set = prompts.assemble(rows, wording, prompts.Scale(1, 5), shots=(), chat=None)
prompt_set.text(0)                                    # a whole prompt; .levels and .which share the texts
"""

from vatjax.prompts.build import CUE, NO_PREFILL, Chat, ChatFormat, Prompts, Shot, assemble, item_fields
from vatjax.prompts.digest import digest
from vatjax.prompts.examples import actions, demonstrations, judgements, preferences, train_side
from vatjax.prompts.instruction import instruction, instructions
from vatjax.prompts.neutral import neutral_texts
from vatjax.prompts.parse import parse_forgiving, parse_strict
from vatjax.prompts.settings import ElicitConfig
from vatjax.prompts.wording import (
    PROTOCOLS,
    Letters,
    Protocol,
    Scale,
    Wording,
    acting_wording,
    choice_wording,
    read_wordings,
    wording,
    wordings,
)

__all__ = [
    "CUE",
    "NO_PREFILL",
    "PROTOCOLS",
    "Chat",
    "ChatFormat",
    "ElicitConfig",
    "Letters",
    "Prompts",
    "Protocol",
    "Scale",
    "Shot",
    "Wording",
    "acting_wording",
    "actions",
    "assemble",
    "choice_wording",
    "demonstrations",
    "digest",
    "instruction",
    "instructions",
    "item_fields",
    "judgements",
    "neutral_texts",
    "parse_forgiving",
    "parse_strict",
    "preferences",
    "read_wordings",
    "train_side",
    "wording",
    "wordings",
]
