"""Log-probabilities of answers after prompts that share prefixes, in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatjax import errors
from vatjax.models import Edit, Model
from vatjax.prefix import scorer
from vatjax.prefix.plan import Cost, Size
from vatjax.prefix.tokenize import SEAM, answer_spellings, tokenize_prompts

_CONTEXT = 200  # characters before an answer; enough for a tokenizer to find a boundary


@dataclasses.dataclass(frozen=True, eq=False)
class SharedPrompts:
    """Prompts as levels of texts; a prompt takes one text of each level.

    Attributes:
        levels: for each level its distinct texts.
        which: [prompts, levels] integers, each prompt's text at each level.
    """

    levels: tuple[tuple[str, ...], ...]
    which: np.ndarray

    def __len__(self) -> int:
        return len(self.which)

    def text(self, prompt: int) -> str:
        """Returns one prompt in full."""
        return "".join(level[i] for level, i in zip(self.levels, self.which[prompt], strict=True))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[str]]) -> SharedPrompts:
        """Builds prompts from their texts: a row for each prompt, with one text for each level.

        Raises:
            InputError: without rows, and if rows have different numbers of texts.
        """
        if not rows:
            raise errors.InputError("prompts: expected at least one row of texts, found none")
        depth = max(len(rows[0]), 1)
        for number, row in enumerate(rows):
            if isinstance(row, str) or len(row) != depth:
                found = "a single text" if isinstance(row, str) else f"{len(row)} texts"
                raise errors.InputError(f"prompts: row {number}: expected {depth} texts, found {found}")
        indices: list[dict[str, int]] = [{} for _ in range(depth)]
        which = [[seen.setdefault(text, len(seen)) for text, seen in zip(row, indices, strict=True)] for row in rows]
        return cls(tuple(map(tuple, indices)), np.array(which, np.int32))


class Scores(NamedTuple):
    """Scores of answers.

    Attributes:
        log_probs: [prompts, answers] float64; an answer's probability is summed over its spellings, with and without a
            space before it.
        cost: tokens computed, and tokens of all prompts in full.
    """

    log_probs: np.ndarray
    cost: Cost


def score_texts(
    model: Model,
    prompts: SharedPrompts,
    answers: Sequence[str],
    edit: Edit | None = None,
    size: Size | None = None,
    templated: bool = False,
) -> Scores:
    """Computes the log-probability of each answer after each prompt; each shared token is computed once.

    Args:
        model: the model; it needs a tokenizer.
        prompts: the prompts.
        answers: the same for all prompts.
        edit: a change of the computation.
        size: limits of a pass; by default chosen for the device.
        templated: True if the texts already contain the model's chat template, which writes its own BOS.

    Raises:
        InputError: for a model without a tokenizer, an answer without tokens of its own, and prompts beyond the context.
    """
    if model.tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: it has no tokenizer, so it cannot score texts")
    tokenized = tokenize_prompts(prompts, model.tokenizer, templated)
    texts = (prompts.text(i) for i in range(len(prompts)))
    endings = {text[-SEAM:]: text[-_CONTEXT:] for text in texts}  # spellings depend on the letters next to them alone
    spellings = {answer_spellings(model.tokenizer, ending, answers) for _, ending in sorted(endings.items())}
    if len(spellings) > 1:
        raise errors.InputError(
            "the answers have other tokens after some prompts than after others: end all prompts with the same text"
        )
    (ways,) = spellings
    part = scorer.plan_prompts(model, [(tokenized, ways)], size or scorer.size_for(model))[0]
    log_probs = np.full((len(prompts), len(answers)), np.nan)
    for shard in scorer.score(model, tokenized, ways, edit, size, part=part):
        log_probs[shard.prompts] = shard.log_probs
    return Scores(log_probs, part.plan.cost)
