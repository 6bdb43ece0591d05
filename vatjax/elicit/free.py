"""Free text that a model writes in answer to a question, without a prefill."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatjax.elicit import ask, prefill
from vatjax.models import Model, Sampling, generate, tokens
from vatjax.prefix.tokenize import tokenize_prompts
from vatjax.prompts import ElicitConfig
from vatjax.runtime import processes

FREE_ANSWER_TOKENS = 60  # tokens of an answer
_STEP = 64  # lengths of prompts are rounded up to a multiple of it: fewer programs to compile


class FreeAnswer(NamedTuple):
    """A prompt, and the text that a model writes after it.

    Attributes:
        prompt: as the model reads it.
        text: its answer.
    """

    prompt: str
    text: str


def free_answers(
    model: Model,
    rows: Sequence[ask.Fields],
    how: ElicitConfig,
    condition: ask.Condition = ask.PLAIN,
    length: int = FREE_ANSWER_TOKENS,
) -> list[FreeAnswer]:
    """Continues each prompt at temperature 0, without a prefill.

    Args:
        model: the model; it needs a tokenizer.
        rows: the fields of each prompt.
        how: the settings of elicitation; of several wordings and scales the first.
        condition: shots, instruction and edit.
        length: tokens of an answer, at most; fewer where the model's context has room for no more.
    """
    how = prefill.resolve_prefill(model, how)
    first_wording = how.wordings()[0].name
    how = dataclasses.replace(
        how, wording=first_wording, prefill="none", prior=False, counterbalance=False, reading="expected"
    )
    chat = ask.chat_format(model, how)
    (prompt_set,) = ask.build_prompts(list(rows), how, condition, chat)
    tokenized = tokenize_prompts(prompt_set, model.tokenizer, chat is not None)
    longest = int(tokenized.lengths().max())
    length = min(length, model.config.context - longest)
    if length < 1:
        return [FreeAnswer(prompt_set.text(i), "") for i in range(len(prompt_set))]
    longest = max(longest, min(-(-longest // _STEP) * _STEP, model.config.context - length))
    batch = tokens.pad_batch([tokenized.tokens(i) for i in range(len(rows))], side="left", min_length=longest)
    wrote = processes.fetch(generate(model, batch.tokens, batch.mask, Sampling(tokens=length), edit=condition.edit))
    texts = [
        model.tokenizer.decode(ids[:count].tolist(), skip_special_tokens=True).strip()
        for ids, count in zip(wrote.tokens, np.asarray(wrote.lengths), strict=True)
    ]
    return [FreeAnswer(prompt_set.text(i), text) for i, text in enumerate(texts)]
