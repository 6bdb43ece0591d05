"""Ratings read from text that a model writes: slower than probabilities, and with refusals.

A refusal, and any other text that is not an option, is missing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vatjax import errors, prompts
from vatjax.models import Edit, Model, Sampling, generate, stop_tokens, tokens
from vatjax.prefix.plan import Cost
from vatjax.prefix.tokenize import TokenizedPrompts, tokenize_prompts
from vatjax.prompts import ElicitConfig, Prompts
from vatjax.runtime import processes

_BATCH = 32


def generate_ratings(
    model: Model,
    prompt_set: Prompts,
    how: ElicitConfig,
    templated: bool,
    edit: Edit | None,
    name: Callable[[int], str],
    on_answered: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray, Cost]:
    """Generates answers, and reads ratings from them.

    Args:
        model: the model.
        prompt_set: the prompts.
        how: the settings of elicitation: parser, and number of tokens.
        templated: whether a chat template made the prompts.
        edit: a change of the computation.
        name: names a prompt in errors.
        on_answered: is called with the number of prompts that were answered since its last call.

    Returns:
        Ratings [prompts] with NaN for text without an answer, 1 for each option that was read [prompts, options], and
        the cost.
    """
    tokenized = tokenize_prompts(prompt_set, model.tokenizer, templated)
    lengths = tokenized.lengths()
    longest = int(lengths.argmax())
    if lengths[longest] + how.written > model.config.context:
        raise errors.InputError(
            f"{name(longest)}: a prompt of {lengths[longest]:,} tokens and {how.written} written ones are longer than the "
            f"model's context of {model.config.context:,}"
        )
    parse = prompts.parse_strict if how.parser == "strict" else prompts.parse_forgiving
    ratings = np.full(len(prompt_set), np.nan)
    computed = 0
    for start in range(0, len(prompt_set), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(prompt_set)))
        texts, size = _written(model, tokenized, rows, int(lengths.max()), how, edit, name)
        computed += size
        for row, text in zip(rows, texts, strict=True):
            rating = parse(_first(text, templated), prompt_set.scale)
            ratings[row] = np.nan if rating is None else rating
        on_answered(len(rows))
    shares = (ratings[:, None] == np.array(prompt_set.scale.ratings)[None, :]).astype(float)
    full = int(lengths.sum())
    return ratings, shares, Cost(len(prompt_set), full, computed, full)


def _written(
    model: Model,
    tokenized: TokenizedPrompts,
    rows: np.ndarray,
    longest: int,
    how: ElicitConfig,
    edit: Edit | None,
    name: Callable[[int], str],
) -> tuple[list[str], int]:
    """Generates text after some prompts; returns it, and how many tokens of prompts that took."""
    # The last batch is filled up with its last prompt, so that there is one shape.
    filled = [*rows.tolist(), *[int(rows[-1])] * (_BATCH - len(rows))]
    batch = tokens.pad_batch([tokenized.tokens(row) for row in filled], side="left", min_length=longest)
    sampling = Sampling(tokens=how.written, stop=stop_tokens(model))
    wrote = processes.fetch(generate(model, batch.tokens, batch.mask, sampling, edit=edit))
    bad = np.flatnonzero(~np.isfinite(wrote.log_probs).all(-1))
    if len(bad):
        raise errors.InputError(f"{name(filled[bad[0]])}: the model's logits are not finite")
    texts = [
        model.tokenizer.decode(ids[:length].tolist(), skip_special_tokens=True)
        for ids, length in zip(wrote.tokens, wrote.lengths, strict=True)
    ]
    return texts[: len(rows)], batch.tokens.size


def _first(text: str, templated: bool) -> str:
    """Returns the answer alone: a base model goes on with the next question after it."""
    return text if templated else text.strip().partition("\n")[0]
