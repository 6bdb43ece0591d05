"""Texts to tokens, each shared text once; and the tokens that an answer may begin with.

A prompt's tokens are those of its texts one after the other where the tokenizer begins a token at every seam between
them. Each seam is looked at; where one is not clean, every prompt is tokenized whole, which is slow and as exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors
from vatjax.models import tokens
from vatjax.prompts import Prompts

_SAMPLE = 32
_SEAM = 16  # letters on each side of a seam


class Pieces(NamedTuple):
    """Prompts as tokens.

    Attributes:
        levels: for each level the tokens of its texts.
        which: [prompts, levels] int32.
    """

    levels: tuple[tuple[tuple[int, ...], ...], ...]
    which: np.ndarray

    def tokens(self, prompt: int) -> list[int]:
        """One prompt in full."""
        return [t for level, i in zip(self.levels, self.which[prompt], strict=True) for t in level[i]]

    def lengths(self) -> np.ndarray:
        """How many tokens each prompt has."""
        sizes = [np.array([len(text) for text in level]) for level in self.levels]
        total: np.ndarray = np.sum([size[self.which[:, k]] for k, size in enumerate(sizes)], axis=0)
        return total


def pieces(prompts: Prompts, tokenizer: Any, templated: bool = False) -> Pieces:
    """Tokens of every text of every level.

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
        own = [tokens.continuation(tokenizer, before, text) for text in prompts.levels[level]]
        if any(one is None for one in own):
            return _whole(prompts, encoded)
        levels.append(tuple(tuple(one) for one in own if one is not None))
    found = Pieces(tuple(levels), prompts.which)
    if not _clean(prompts, tokenizer):
        return _whole(prompts, encoded)
    sample = np.linspace(0, len(prompts) - 1, min(len(prompts), _SAMPLE)).astype(int)
    if all(tuple(found.tokens(i)) == encoded(prompts.text(i)) for i in sample):
        return found
    return _whole(prompts, encoded)


def _whole(prompts: Prompts, encoded: Callable[[str], tuple[int, ...]]) -> Pieces:
    texts = tuple(encoded(prompts.text(i)) for i in range(len(prompts)))
    return Pieces((texts,), np.arange(len(prompts), dtype=np.int32)[:, None])


def _clean(prompts: Prompts, tokenizer: Any) -> bool:
    """Returns whether a token begins at every seam, judged by the letters on both sides of it."""
    if not getattr(tokenizer, "is_fast", False):
        return False  # it does not tell where its tokens lie
    seams = set()
    for level in range(1, len(prompts.levels)):
        above, own = prompts.levels[level - 1], prompts.levels[level]
        pairs = np.unique(prompts.which[:, level - 1 : level + 1], axis=0)
        seams |= {(above[i][-_SEAM:], own[j][:_SEAM]) for i, j in pairs.tolist()}
    ordered = sorted(seams)
    if not ordered:
        return True
    places = tokenizer([a + b for a, b in ordered], add_special_tokens=False, return_offsets_mapping=True)
    return all(
        any(start == len(before) for start, stop in offsets if stop > start)
        for (before, _), offsets in zip(ordered, places["offset_mapping"], strict=True)
    )


def _whole_before(prompts: Prompts, level: int) -> str:
    """The last line of some text that stands before a level: enough of it for the tokenizer to see a boundary."""
    text = "".join(prompts.levels[k][prompts.which[0, k]] for k in range(level))
    return text[-200:]


def digest(found: Pieces, ways: Sequence[Option]) -> str:
    """A hash of what a model is given to read, and of what is read from it."""
    whole = hashlib.sha256(repr((found.levels, [tuple(way) for way in ways])).encode())
    whole.update(np.ascontiguousarray(found.which).tobytes())
    return whole.hexdigest()


class Option(NamedTuple):
    """One way to write an answer: tokens, and which answer it is."""

    tokens: tuple[int, ...]
    answer: int


def options(tokenizer: Any, before: str, answers: Sequence[str]) -> tuple[Option, ...]:
    """Every way in which a model can write each answer behind a prompt: with a space before it and without.

    Args:
        tokenizer: of the model.
        before: the end of a prompt.
        answers: what may be answered.

    Raises:
        InputError: where two answers have the same tokens, where an answer has none of its own, since the tokenizer melts
            it into the prompt's last one, and where its tokens are unknown ones.
    """
    start = tokenizer(before, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    found: dict[tuple[int, ...], int] = {}
    for number, answer in enumerate(answers):
        own = False
        for space in ("", " "):
            if space and before.endswith((" ", "\n")):
                continue  # the space is there already
            ids = tokenizer(before + space + answer, add_special_tokens=False)["input_ids"]
            tail = tuple(ids[len(start) :])
            if ids[: len(start)] != start or not tail or (unknown is not None and unknown in tail):
                continue
            if found.setdefault(tail, number) != number:
                raise errors.InputError(
                    f"the tokenizer makes the same tokens of the answers {answers[found[tail]]!r} and {answer!r}"
                )
            own = True
        if not own:
            raise errors.InputError(
                f"the tokenizer has no tokens of its own for the answer {answer!r} behind {before[-20:]!r}: it melts them "
                "into the prompt's last one, or does not know them"
            )
    return tuple(Option(tail, number) for tail, number in found.items())


def log_shares(found: tuple[Option, ...], log_probs: np.ndarray) -> np.ndarray:
    """Log-probabilities of answers from those of the ways to write them, [..., answers].

    What begins like a longer way, as "1" does like "10", is that answer only where it does not go on: its probability is
    what is left of it.

    Args:
        found: ways to write answers.
        log_probs: [..., ways] of each way's tokens.
    """
    share = np.exp(np.asarray(log_probs, np.float64))
    left = share.copy()
    number = {option.tokens: i for i, option in enumerate(found)}
    for j, long in enumerate(found):
        shorter = [long.tokens[:k] for k in range(len(long.tokens) - 1, 0, -1) if long.tokens[:k] in number]
        if shorter:  # the nearest of them alone: it has already given what the others have
            left[..., number[shorter[0]]] -= share[..., j]
    count = 1 + max(option.answer for option in found)
    total = np.zeros((*share.shape[:-1], count))
    for i, option in enumerate(found):
        total[..., option.answer] += np.maximum(left[..., i], 0)
    with np.errstate(divide="ignore"):
        logs: np.ndarray = np.log(total)
    return logs
