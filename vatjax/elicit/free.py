"""What a model writes to a question of its own accord: without a prefill, and whatever it may be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatjax.elicit import asking, prefill
from vatjax.elicit.pieces import pieces
from vatjax.models import Model, Sampling, generate, hosts, tokens
from vatjax.prompts import How

WRITTEN = 60  # tokens of an answer
_STEP = 64  # lengths of prompts are rounded up to a multiple of it: fewer programs to compile


class FreeAnswer(NamedTuple):
    """What a model writes to one prompt.

    Attributes:
        prompt: as the model reads it.
        text: its answer.
    """

    prompt: str
    text: str


def free_answers(
    model: Model,
    rows: Sequence[asking.Fields],
    how: How,
    condition: asking.Condition = asking.PLAIN,
    length: int = WRITTEN,
) -> list[FreeAnswer]:
    """Continues each prompt at temperature 0, without a prefill.

    Args:
        model: the model; it needs a tokenizer.
        rows: the fields of each prompt.
        how: how it is asked; of several wordings and scales the first.
        condition: what it is asked under.
        length: tokens of an answer, at most; fewer where the model's context has room for no more.
    """
    how = prefill.resolved(model, how)
    own = how.wordings()[0].name
    how = dataclasses.replace(how, wording=own, prefill="none", prior=False, counterbalance=False, reading="expected")
    chat = asking.template(model, how)
    (made,) = asking.posed(list(rows), how, condition, chat)
    found = pieces(made, model.tokenizer, chat is not None)
    longest = int(found.lengths().max())
    length = min(length, model.config.context - longest)
    if length < 1:
        return [FreeAnswer(made.text(i), "") for i in range(len(made))]
    longest = max(longest, min(-(-longest // _STEP) * _STEP, model.config.context - length))
    batch = tokens.batch([found.tokens(i) for i in range(len(rows))], side="left", to=longest)
    wrote = hosts.fetch(generate(model, batch.tokens, batch.mask, Sampling(tokens=length), edit=condition.edit))
    texts = [
        model.tokenizer.decode(ids[:count].tolist(), skip_special_tokens=True).strip()
        for ids, count in zip(wrote.tokens, np.asarray(wrote.lengths), strict=True)
    ]
    return [FreeAnswer(made.text(i), text) for i, text in enumerate(texts)]
