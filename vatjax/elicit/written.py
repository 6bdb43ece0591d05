"""Ratings that a model writes out, for whoever wants to read them as a person would: slower, and with refusals.

A refusal, and whatever else is no option, is missing.
"""

from __future__ import annotations

import numpy as np

from vatjax import prompts
from vatjax.elicit.pieces import pieces
from vatjax.elicit.plan import Cost
from vatjax.models import Edit, Model, Sampling, generate, stop_tokens, tokens
from vatjax.prompts import How, Prompts

_BATCH = 32


def answers(
    model: Model, made: Prompts, how: How, templated: bool, edit: Edit | None
) -> tuple[np.ndarray, np.ndarray, Cost]:
    """Ratings [prompts] with NaN for what is no answer, 1 for each option that was read [prompts, options], and the cost.

    Args:
        model: the model.
        made: the prompts.
        how: which parser, and how many tokens.
        templated: whether a chat template made the prompts.
        edit: a change of the computation.
    """
    found = pieces(made, model.tokenizer, templated)
    parse = prompts.strict if how.parser == "strict" else prompts.forgiving
    longest = int(found.lengths().max())
    sampling = Sampling(tokens=how.written, stop=stop_tokens(model))
    ratings = np.full(len(made), np.nan)
    for start in range(0, len(made), _BATCH):
        # The last batch is filled up with its last prompt, so that there is one shape.
        rows = [min(row, len(made) - 1) for row in range(start, start + _BATCH)]
        batch = tokens.batch([found.tokens(row) for row in rows], side="left", to=longest)
        wrote = generate(model, batch.tokens, batch.mask, sampling, edit=edit)
        ids_of, length_of = np.asarray(wrote.tokens), np.asarray(wrote.lengths)
        for row, ids, length in zip(range(start, min(start + _BATCH, len(made))), ids_of, length_of, strict=False):
            text = model.tokenizer.decode(ids[:length].tolist(), skip_special_tokens=True)
            rating = parse(_first(text, templated), made.scale)
            ratings[row] = np.nan if rating is None else rating
    shares = (ratings[:, None] == np.array(made.scale.ratings)[None, :]).astype(float)
    full = int(found.lengths().sum())
    computed = -(-len(made) // _BATCH) * _BATCH * longest
    return ratings, shares, Cost(len(made), full, computed, full)


def _first(text: str, templated: bool) -> str:
    """The answer: a base model goes on with the next question when it has given it."""
    return text if templated else text.strip().partition("\n")[0]
