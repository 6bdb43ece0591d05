"""Prompts as data: wordings, scales and shots; text in, text out. This package knows no model.

wording = prompts.wording("paired", "agree")          # one of three shipped for each protocol
made = prompts.assemble(rows, wording, prompts.Scale(1, 5), shots=(), chat=None)
made.text(0)                                          # a whole prompt; made.levels and made.which share the texts
"""

from vatjax.prompts.build import CUE, NO_PREFILL, Chat, ChatFormat, Prompts, Shot, assemble, fields
from vatjax.prompts.digest import digest
from vatjax.prompts.examples import actions, demonstrations, judgements, preferences, train_side
from vatjax.prompts.how import How
from vatjax.prompts.instruction import instruction, instructions
from vatjax.prompts.neutral import neutral_texts
from vatjax.prompts.parse import forgiving, strict
from vatjax.prompts.wording import PROTOCOLS, Letters, Protocol, Scale, Wording, acting, choice, read, wording, wordings

__all__ = [
    "CUE",
    "NO_PREFILL",
    "PROTOCOLS",
    "Chat",
    "ChatFormat",
    "How",
    "Letters",
    "Prompts",
    "Protocol",
    "Scale",
    "Shot",
    "Wording",
    "acting",
    "actions",
    "assemble",
    "choice",
    "demonstrations",
    "digest",
    "fields",
    "forgiving",
    "instruction",
    "instructions",
    "judgements",
    "neutral_texts",
    "preferences",
    "read",
    "strict",
    "train_side",
    "wording",
    "wordings",
]
