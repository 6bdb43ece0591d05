"""Tokenizes prompts, each shared text once, and lists the spellings of their answers.

A prompt's tokens are those of its texts, concatenated, if the tokenizer begins a token at every seam between them.
Every seam is checked; if one is not clean, each prompt is tokenized whole, which is slow and as exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vatjax import errors
from vatjax.models import tokens

_SAMPLE = 32
SEAM = 16  # letters on each side of a seam


class LevelledPrompts(Protocol):
    """Prompts as levels of texts, of which each prompt takes one a level: `SharedPrompts`, `prompts.Prompts`."""

    @property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Returns for each level its distinct texts."""

    @property
    def which(self) -> np.ndarray:
        """Returns each prompt's text at each level, [prompts, levels]."""

    def __len__(self) -> int: ...

    def text(self, prompt: int) -> str:
        """Returns one prompt in full."""


class TokenizedPrompts(NamedTuple):
    """Prompts as tokens.

    Attributes:
        levels: for each level the tokens of its texts.
        which: [prompts, levels] int32, each prompt's text at each level.
    """

    levels: tuple[tuple[tuple[int, ...], ...], ...]
    which: np.ndarray

    def tokens(self, prompt: int) -> list[int]:
        """Returns the tokens of one prompt."""
        return [t for level, i in zip(self.levels, self.which[prompt], strict=True) for t in level[i]]

    def lengths(self) -> np.ndarray:
        """Returns the number of tokens of each prompt."""
        sizes = [np.array([len(text) for text in level]) for level in self.levels]
        total: np.ndarray = np.sum([size[self.which[:, k]] for k, size in enumerate(sizes)], axis=0)
        return total


def tokenize_prompts(prompts: LevelledPrompts, tokenizer: Any, templated: bool = False) -> TokenizedPrompts:
    """Tokenizes every text of every level.

    Args:
        prompts: the prompts.
        tokenizer: of the model.
        templated: whether a chat template made their rubric: then no token is put in front.
    """

    def encoded(text: str) -> tuple[int, ...]:
        return tuple(tokens.encode(tokenizer, text, templated))

    levels = [tuple(encoded(text) for text in prompts.levels[0])]
    for level in range(1, len(prompts.levels)):
        before = _whole_before(prompts, level)
        continuations = [tokens.encode_continuation(tokenizer, before, text) for text in prompts.levels[level]]
        if any(ids is None for ids in continuations):
            return _whole(prompts, encoded)
        levels.append(tuple(tuple(ids) for ids in continuations if ids is not None))
    tokenized = TokenizedPrompts(tuple(levels), prompts.which)
    if not _clean(prompts, tokenizer):
        return _whole(prompts, encoded)
    sample = np.linspace(0, len(prompts) - 1, min(len(prompts), _SAMPLE)).astype(int)
    if all(tuple(tokenized.tokens(i)) == encoded(prompts.text(i)) for i in sample):
        return tokenized
    return _whole(prompts, encoded)


def _whole(prompts: LevelledPrompts, encoded: Callable[[str], tuple[int, ...]]) -> TokenizedPrompts:
    texts = tuple(encoded(prompts.text(i)) for i in range(len(prompts)))
    return TokenizedPrompts((texts,), np.arange(len(prompts), dtype=np.int32)[:, None])


def _clean(prompts: LevelledPrompts, tokenizer: Any) -> bool:
    """Returns whether a token begins at every seam, judged by the letters on both sides of it."""
    if not getattr(tokenizer, "is_fast", False):
        return False  # it does not report the offsets of its tokens
    seams = set()
    for level in range(1, len(prompts.levels)):
        above, current = prompts.levels[level - 1], prompts.levels[level]
        pairs = np.unique(prompts.which[:, level - 1 : level + 1], axis=0)
        seams |= {(above[i][-SEAM:], current[j][:SEAM]) for i, j in pairs.tolist()}
    ordered = sorted(seams)
    if not ordered:
        return True
    places = tokens.tokenize(tokenizer, [a + b for a, b in ordered], return_offsets_mapping=True)
    return all(
        any(start == len(before) for start, stop in offsets if stop > start)
        for (before, _), offsets in zip(ordered, places["offset_mapping"], strict=True)
    )


def _whole_before(prompts: LevelledPrompts, level: int) -> str:
    """Returns the last 200 characters before a level: enough for the tokenizer to see a boundary."""
    text = "".join(prompts.levels[k][prompts.which[0, k]] for k in range(level))
    return text[-200:]


def digest(tokenized: TokenizedPrompts, spellings: Sequence[Spelling]) -> str:
    """Returns a hash of the prompts' tokens and of the spellings that are read after them."""
    whole = hashlib.sha256(repr((tokenized.levels, [tuple(spelling) for spelling in spellings])).encode())
    whole.update(np.ascontiguousarray(tokenized.which).tobytes())
    return whole.hexdigest()


class Spelling(NamedTuple):
    """One way to write an answer: its tokens, and the index of the answer."""

    tokens: tuple[int, ...]
    answer: int


def answer_spellings(tokenizer: Any, before: str, answers: Sequence[str]) -> tuple[Spelling, ...]:
    """Returns every spelling of each answer after a prompt: with a space before it and without.

    Args:
        tokenizer: of the model.
        before: the end of a prompt.
        answers: the answers of a scale.

    Raises:
        InputError: if two answers have the same tokens, or if an answer has none: the tokenizer merges it with the last
            prompt token, or has no token for it.
    """
    start = tokens.tokenize(tokenizer, before)["input_ids"]
    unknown = tokenizer.unk_token_id
    spellings: dict[tuple[int, ...], int] = {}
    for number, answer in enumerate(answers):
        spelled = False
        for space in ("", " "):
            if space and before.endswith((" ", "\n")):
                continue  # the prompt ends in a space
            ids = tokens.tokenize(tokenizer, before + space + answer)["input_ids"]
            tail = tuple(ids[len(start) :])
            if ids[: len(start)] != start or not tail or (unknown is not None and unknown in tail):
                continue
            if spellings.setdefault(tail, number) != number:
                raise errors.InputError(
                    f"the tokenizer gives the answers {answers[spellings[tail]]!r} and {answer!r} the same tokens"
                )
            spelled = True
        if not spelled:
            raise errors.InputError(
                f"cannot score the answer {answer!r} after {before[-20:]!r}: the tokenizer merges it with the last "
                "prompt token, or has no token for it"
            )
    return tuple(Spelling(tail, number) for tail, number in spellings.items())


def answer_log_probs(spellings: tuple[Spelling, ...], log_probs: np.ndarray) -> np.ndarray:
    """Returns the log-probabilities of answers from those of their spellings, [..., answers].

    If one spelling is a prefix of another ("1" of "10"), the longer one's probability is subtracted from the shorter
    one's.

    Args:
        spellings: ways to write answers.
        log_probs: [..., spellings], of each spelling's tokens.
    """
    share = np.exp(np.asarray(log_probs, np.float64))
    left = share.copy()
    number = {spelling.tokens: i for i, spelling in enumerate(spellings)}
    for j, long in enumerate(spellings):
        shorter = [long.tokens[:k] for k in range(len(long.tokens) - 1, 0, -1) if long.tokens[:k] in number]
        if shorter:  # the longest alone: the others have lost this probability with it
            left[..., number[shorter[0]]] -= share[..., j]
    count = 1 + max(spelling.answer for spelling in spellings)
    total = np.zeros((*share.shape[:-1], count))
    for i, spelling in enumerate(spellings):
        total[..., spelling.answer] += np.maximum(left[..., i], 0)
    with np.errstate(divide="ignore"):
        logs: np.ndarray = np.log(total)
    return logs
