"""Texts as rows of tokens: completions share their prompt, several examples can share a row, nothing is computed twice.

    prompt  chosen  rejected | prompt  chosen  rejected | padding
    segment 1   2       3          4       5       6        0

A completion attends to its prompt and to itself; the prompt's last token predicts its first one. Positions continue
those of the prompt. A pair therefore computes its prompt once, and a packed row no more than its examples separately.
All batches of a run have one shape, and so one compilation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vatjax import errors
from vatjax.train.losses import Kind

Array = jax.Array

# Row lengths are rounded up to a multiple of this, so that sets of similar texts share compilations.
_LENGTH_MULTIPLE = 16


class Example(NamedTuple):
    """A prompt and its completions, as tokens.

    Attributes:
        prompt: tokens, at least one.
        texts: one completion, or the chosen and the rejected one.
        good: whether a single completion is desirable.
        source: file and line, or items, for messages.
        mismatched: a completion of another prompt, for losses that measure drift on it.
    """

    prompt: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]
    good: bool = True
    source: str = ""
    mismatched: tuple[int, ...] = ()

    @property
    def completions(self) -> tuple[tuple[int, ...], ...]:
        """Returns all texts after the prompt, including the mismatched one."""
        return (*self.texts, self.mismatched) if self.mismatched else self.texts

    @property
    def kind(self) -> Kind:
        """Returns the kind of loss that can use it."""
        return "judged" if self.mismatched else "pairs" if len(self.texts) == 2 else "texts"

    @property
    def length(self) -> int:
        """Counts the tokens that it takes in a row."""
        return len(self.prompt) + sum(map(len, self.completions))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of tokens, as arrays of the same shape for all batches of a run.

    Attributes:
        tokens: [rows, time] int32.
        positions: [rows, time] int32, of each token in its own text.
        segment: [rows, time] int32, 0 for padding.
        sees: [rows, segments, segments] bool, True where the first segment sees the second.
        places: [rows, learned] int32, indices of the tokens that predict the learned ones.
        targets: [rows, learned] int32, the learned tokens.
        text: [rows, learned] int32, index of the text in the row that each belongs to; `texts` for padding.
        length: [rows, texts] float32, number of learned tokens of each text; 0 for padding.
        good: [rows, texts] bool.
        reference: [rows, texts] float32, log-probabilities under the reference; None to compute them in the step.
        kind: kind of loss that can use it: single texts, pairs, or labelled texts with mismatched ones; static.
    """

    tokens: Array
    positions: Array
    segment: Array
    sees: Array
    places: Array
    targets: Array
    text: Array
    length: Array
    good: Array
    reference: Array | None = None
    kind: Kind = dataclasses.field(default="texts", metadata={"static": True})


class Shape(NamedTuple):
    """Sizes that all batches share: number of rows, and tokens, learned tokens, texts and segments of a row."""

    rows: int
    time: int
    learned: int
    texts: int
    segments: int


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples, arranged in rows.

    Attributes:
        examples: all examples, at least one.
        rows: the examples of each row, by index.
        shape: of a batch.
        texts_per_example: number of texts of an example.
        reference: [examples, texts_per_example] float64, log-probabilities under the reference; None if not computed.
    """

    examples: tuple[Example, ...]
    rows: tuple[tuple[int, ...], ...]
    shape: Shape
    texts_per_example: int
    reference: np.ndarray | None = None

    @property
    def kind(self) -> Kind:
        """Returns the kind of loss that can use it."""
        return self.examples[0].kind

    @property
    def tokens(self) -> int:
        """Counts the tokens in all rows, without padding."""
        return sum(example.length for example in self.examples)

    @property
    def steps(self) -> int:
        """Counts the batches of an epoch; the last one may have empty rows."""
        return -(-len(self.rows) // self.shape.rows)


def make_rows(examples: Sequence[Example], rows: int, length: int | None = None, pack: bool = False) -> Data:
    """Arranges examples in rows without cutting any.

    Args:
        examples: with one text each, or two each.
        rows: number of rows of a batch.
        length: maximum number of tokens of a row; by default that of the longest example.
        pack: whether to put as many examples as fit into a row, instead of one.

    Raises:
        InputError: if no examples are given, or one lacks a prompt, has an empty text or is longer than a row.
    """
    if not examples:
        raise errors.InputError("expected at least one training example, found none")
    if rows < 1:
        raise errors.InputError(f"rows: expected at least 1, found {rows}")
    texts_per_example, kind = len(examples[0].completions), examples[0].kind
    problems = [problem for i, example in enumerate(examples) if (problem := _find_problem(example, i, kind, length))]
    if problems:
        raise errors.all_of(problems, f"{len(problems)} of {len(examples)} examples can't be used for training.")
    time = length or round_length(max(example.length for example in examples))
    packed = _pack(examples, time) if pack else [(i,) for i in range(len(examples))]
    learned = max(sum(len(text) for i in row for text in examples[i].completions) for row in packed)
    most_examples = max(map(len, packed))
    shape = Shape(
        rows,
        time,
        round_length(learned),
        most_examples * texts_per_example,
        1 + most_examples * (1 + texts_per_example),
    )
    return Data(tuple(examples), tuple(packed), shape, texts_per_example)


def round_length(count: int) -> int:
    """Rounds a length up, so that similar sets of texts share compilations."""
    return -(-count // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE


def _find_problem(example: Example, number: int, kind: Kind, length: int | None) -> errors.Problem | None:
    problem = ""
    if not example.prompt:
        problem = "the prompt is empty, so its first token cannot be predicted"
    elif len(example.texts) not in (1, 2):
        problem = f"expected one completion, or a chosen and a rejected one, found {len(example.texts)}"
    elif example.kind != kind:
        problem = f"expected {kind}, as the first example is, found {example.kind}"
    elif not all(example.texts):
        problem = "a completion is empty"
    elif len(example.texts) == 2 and example.texts[0] == example.texts[1]:
        problem = "chosen and rejected are the same"
    elif length is not None and example.length > length:
        problem = f"it has {example.length:,} tokens and a row {length:,}: its completion would be cut off"
    return errors.Problem(example.source or f"example {number + 1}", None, problem) if problem else None


def _pack(examples: Sequence[Example], time: int) -> list[tuple[int, ...]]:
    """Packs by first fit, longest first; then sorts rows in the order of the examples."""
    open_rows: list[tuple[int, list[int]]] = []
    full: list[list[int]] = []
    shortest = min(example.length for example in examples)
    for i in sorted(range(len(examples)), key=lambda i: -examples[i].length):
        need = examples[i].length
        place = next((k for k, (left, _) in enumerate(open_rows) if left >= need), None)
        if place is None:
            open_rows.append((time, []))
            place = len(open_rows) - 1
        left, members = open_rows[place]
        members.append(i)
        open_rows[place] = left - need, members
        if left - need < shortest:
            full.append(members)
            del open_rows[place]
    return sorted(tuple(sorted(members)) for members in [*full, *(members for _, members in open_rows)])


def batch(data: Data, rows: Sequence[int]) -> Batch:
    """Builds a batch of some rows, padded with empty rows, which add nothing to a loss."""
    shape = data.shape
    arrays = _empty_arrays(shape, data.reference is not None)
    for place, row in enumerate(rows):
        start = segment = text = learned = 0
        for i in data.rows[row]:
            example = data.examples[i]
            prompt = segment + 1
            parts = [(example.prompt, prompt, 0)]
            parts += [(tokens, prompt + 1 + k, len(example.prompt)) for k, tokens in enumerate(example.completions)]
            last = start + len(example.prompt) - 1
            for tokens, number, offset in parts:
                span = slice(start, start + len(tokens))
                arrays["tokens"][place, span] = tokens
                arrays["positions"][place, span] = np.arange(offset, offset + len(tokens))
                arrays["segment"][place, span] = number
                arrays["sees"][place, number, [prompt, number]] = True
                if number > prompt:
                    slots = slice(learned, learned + len(tokens))
                    arrays["places"][place, slots] = [last, *range(start, start + len(tokens) - 1)]
                    arrays["targets"][place, slots] = tokens
                    arrays["text"][place, slots] = text
                    arrays["length"][place, text] = len(tokens)
                    arrays["good"][place, text] = example.good
                    if data.reference is not None:
                        arrays["reference"][place, text] = data.reference[i, number - prompt - 1]
                    learned, text = learned + len(tokens), text + 1
                start += len(tokens)
            segment += 1 + len(example.completions)
    return Batch(**arrays, kind=data.kind)


def _empty_arrays(shape: Shape, reference: bool) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "tokens": np.zeros((shape.rows, shape.time), np.int32),
        "positions": np.zeros((shape.rows, shape.time), np.int32),
        "segment": np.zeros((shape.rows, shape.time), np.int32),
        "sees": np.zeros((shape.rows, shape.segments, shape.segments), np.bool_),
        "places": np.zeros((shape.rows, shape.learned), np.int32),
        "targets": np.zeros((shape.rows, shape.learned), np.int32),
        "text": np.full((shape.rows, shape.learned), shape.texts, np.int32),
        "length": np.zeros((shape.rows, shape.texts), np.float32),
        "good": np.zeros((shape.rows, shape.texts), np.bool_),
    }
    return arrays | ({"reference": np.zeros((shape.rows, shape.texts), np.float32)} if reference else {})


def rows_at_step(data: Data, step: int, seed: int = 0) -> tuple[int, ...]:
    """Returns the rows of a step, counted from 0: every epoch visits all rows once, in a new random order.

    The order depends only on the seed and the step, so that an interrupted run resumes where it stopped.
    """
    epoch, within = divmod(step, data.steps)
    order = _epoch_order(len(data.rows), seed, epoch)
    return tuple(int(row) for row in order[within * data.shape.rows : (within + 1) * data.shape.rows])


@functools.lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def tokens_until(data: Data, step: int, seed: int = 0) -> int:
    """Counts the tokens of all steps before one, without padding."""
    epochs, within = divmod(step, data.steps)
    rows = [row for earlier in range(step - within, step) for row in rows_at_step(data, earlier, seed)]
    return epochs * data.tokens + sum(data.examples[i].length for row in rows for i in data.rows[row])


def batches(data: Data, seed: int = 0, first: int = 0) -> Iterator[Batch]:
    """Yields the batches of all steps, endlessly.

    Args:
        data: the rows.
        seed: seed of the order.
        first: the first step.
    """
    step = first
    while True:
        yield batch(data, rows_at_step(data, step, seed))
        step += 1
