"""Scoring of prompts that share prefixes: each shared token is computed once.

Prompts are levels of texts (a rubric, a scene, an action), of which each prompt takes one a level. They become a prefix tree
of tokens, which is cut into passes of bounded memory; a pass computes the trunk's keys and values once and lets every branch
attend to them. Nothing here knows items or values.

prompts = prefix.SharedPrompts.from_rows([(rubric, question, cue), ...])
scores = prefix.score_texts(model, prompts, answers=["yes", "no"])    # .log_probs [prompts, answers], .cost
"""

from vatjax.prefix.lower import compile_programs
from vatjax.prefix.plan import Cost, Size, pass_memory
from vatjax.prefix.score_texts import SharedPrompts, score_texts
from vatjax.prefix.scorer import seconds_for, size_for

__all__ = [
    "Cost",
    "SharedPrompts",
    "Size",
    "compile_programs",
    "pass_memory",
    "score_texts",
    "seconds_for",
    "size_for",
]
