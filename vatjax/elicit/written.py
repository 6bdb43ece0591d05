"""Ratings that a model writes out, for whoever wants to read them as a person would: slower, and with refusals.

A refusal, and whatever else is no option, is missing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vatjax import errors, prompts
from vatjax.elicit.pieces import Pieces, pieces
from vatjax.elicit.plan import Cost
from vatjax.models import Edit, Model, Sampling, generate, hosts, stop_tokens, tokens
from vatjax.prompts import How, Prompts

_BATCH = 32


def answers(
    model: Model,
    made: Prompts,
    how: How,
    templated: bool,
    edit: Edit | None,
    name: Callable[[int], str],
    done: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray, Cost]:
    """Ratings [prompts] with NaN for what is no answer, 1 for each option that was read [prompts, options], and the cost.

    Args:
        model: the model.
        made: the prompts.
        how: which parser, and how many tokens.
        templated: whether a chat template made the prompts.
        edit: a change of the computation.
        name: what a prompt is called in errors.
        done: is told how many prompts more are done.
    """
    found = pieces(made, model.tokenizer, templated)
    lengths = found.lengths()
    longest = int(lengths.argmax())
    if lengths[longest] + how.written > model.config.context:
        raise errors.InputError(
            f"{name(longest)}: a prompt of {lengths[longest]:,} tokens and {how.written} written ones are longer than the "
            f"model's context of {model.config.context:,}"
        )
    parse = prompts.strict if how.parser == "strict" else prompts.forgiving
    ratings = np.full(len(made), np.nan)
    computed = 0
    for start in range(0, len(made), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(made)))
        texts, size = _written(model, found, rows, int(lengths.max()), how, edit, name)
        computed += size
        for row, text in zip(rows, texts, strict=True):
            rating = parse(_first(text, templated), made.scale)
            ratings[row] = np.nan if rating is None else rating
        done(len(rows))
    shares = (ratings[:, None] == np.array(made.scale.ratings)[None, :]).astype(float)
    full = int(lengths.sum())
    return ratings, shares, Cost(len(made), full, computed, full)


def _written(
    model: Model,
    found: Pieces,
    rows: np.ndarray,
    longest: int,
    how: How,
    edit: Edit | None,
    name: Callable[[int], str],
) -> tuple[list[str], int]:
    """What a model writes behind some prompts, and how many tokens of prompts that took."""
    # The last batch is filled up with its last prompt, so that there is one shape.
    filled = [*rows.tolist(), *[int(rows[-1])] * (_BATCH - len(rows))]
    batch = tokens.batch([found.tokens(row) for row in filled], side="left", to=longest)
    sampling = Sampling(tokens=how.written, stop=stop_tokens(model))
    wrote = hosts.fetch(generate(model, batch.tokens, batch.mask, sampling, edit=edit))
    bad = np.flatnonzero(~np.isfinite(wrote.log_probs).all(-1))
    if len(bad):
        raise errors.InputError(f"{name(filled[bad[0]])}: the model's logits are not finite")
    texts = [
        model.tokenizer.decode(ids[:length].tolist(), skip_special_tokens=True)
        for ids, length in zip(wrote.tokens, wrote.lengths, strict=True)
    ]
    return texts[: len(rows)], batch.tokens.size


def _first(text: str, templated: bool) -> str:
    """The answer: a base model goes on with the next question when it has given it."""
    return text if templated else text.strip().partition("\n")[0]
