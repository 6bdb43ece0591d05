"""Texts as rows of tokens: completions share their prompt, several examples share a row, and nothing is computed twice.

    prompt  chosen  rejected | prompt  chosen  rejected | padding
    segment 1   2       3          4       5       6        0

A completion sees its prompt and itself; its first token is predicted by the last of the prompt. Positions go on from the
prompt's. So a pair costs its prompt once, and a row that holds several examples costs what each of them would alone.
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

# Row lengths are rounded up to a multiple of it, so that sets of similar texts share compilations.
_STEP = 16


class Example(NamedTuple):
    """A prompt with the texts behind it, as tokens.

    Attributes:
        prompt: tokens, at least one.
        texts: one completion, or the chosen and the rejected one.
        good: whether a completion that stands alone is desirable.
        where: where it came from, for messages.
        foreign: a text of another prompt, for losses that measure by it how far a model has drifted.
    """

    prompt: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]
    good: bool = True
    where: str = ""
    foreign: tuple[int, ...] = ()

    @property
    def behind(self) -> tuple[tuple[int, ...], ...]:
        """All texts that are put behind the prompt."""
        return (*self.texts, self.foreign) if self.foreign else self.texts

    @property
    def kind(self) -> Kind:
        """What a loss may be made of it."""
        return "judged" if self.foreign else "pairs" if len(self.texts) == 2 else "texts"

    @property
    def length(self) -> int:
        """How many tokens of a row it takes."""
        return len(self.prompt) + sum(map(len, self.behind))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of tokens, as arrays of the same shape for all batches of a run.

    Attributes:
        tokens: [rows, time] int32.
        positions: [rows, time] int32, of each token in its own text.
        segment: [rows, time] int32, 0 for padding.
        sees: [rows, segments, segments] bool, which segments see which.
        places: [rows, learned] int32, the tokens that predict those that are learned.
        targets: [rows, learned] int32, the learned tokens.
        text: [rows, learned] int32, which of the row's texts each belongs to; `texts` for padding.
        length: [rows, texts] float32, how many tokens of each text are learned; 0 where there is no text.
        good: [rows, texts] bool.
        reference: [rows, texts] float32, log-probabilities under the reference; None to compute them with the step.
        kind: what a loss may be made of it: single texts, pairs, or texts with a verdict and one of another prompt;
            static.
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
    """Sizes that all batches share: of a row its tokens, learned tokens, texts and segments; and how many rows."""

    rows: int
    time: int
    learned: int
    texts: int
    segments: int


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples, and the rows that they lie in.

    Attributes:
        examples: all of them.
        rows: of each row, which examples.
        shape: of a batch.
        each: how many texts an example has.
        reference: [examples, each] float64, log-probabilities under the reference; None where there are none.
    """

    examples: tuple[Example, ...]
    rows: tuple[tuple[int, ...], ...]
    shape: Shape
    each: int
    reference: np.ndarray | None = None

    @property
    def kind(self) -> Kind:
        """What a loss may be made of it."""
        return self.examples[0].kind

    @property
    def tokens(self) -> int:
        """How many there are in all rows, without padding."""
        return sum(example.length for example in self.examples)

    @property
    def steps(self) -> int:
        """Batches that it takes to go through all rows once; the last one may have empty rows."""
        return -(-len(self.rows) // self.shape.rows)


def lay(examples: Sequence[Example], rows: int, length: int | None = None, pack: bool = False) -> Data:
    """Lays examples into rows, each whole.

    Args:
        examples: with one text each, or two each.
        rows: of a batch.
        length: how many tokens a row may have; by default as many as the longest example.
        pack: whether a row holds as many examples as fit, and not one.

    Raises:
        InputError: for no examples, some without a prompt or an empty text, and some that are longer than a row.
    """
    if not examples:
        raise errors.InputError("there is nothing to train on: no example")
    if rows < 1:
        raise errors.InputError(f"rows: expected at least 1, found {rows}")
    each, kind = len(examples[0].behind), examples[0].kind
    problems = [problem for i, one in enumerate(examples) if (problem := _wrong(one, i, kind, length))]
    if problems:
        raise errors.all_of(problems, f"{len(problems)} of {len(examples)} examples can't be trained on.")
    time = length or rounded(max(one.length for one in examples))
    laid = _packed(examples, time) if pack else [(i,) for i in range(len(examples))]
    learned = max(sum(len(text) for i in row for text in examples[i].behind) for row in laid)
    many = max(map(len, laid))
    shape = Shape(rows, time, rounded(learned), many * each, 1 + many * (1 + each))
    return Data(tuple(examples), tuple(laid), shape, each)


def rounded(count: int) -> int:
    """A length that similar sets of texts share, and their compilations with it."""
    return -(-count // _STEP) * _STEP


def _wrong(one: Example, number: int, kind: Kind, length: int | None) -> errors.Problem | None:
    found = ""
    if not one.prompt:
        found = "it has no prompt, and so nothing that its first token could be predicted from"
    elif len(one.texts) not in (1, 2):
        found = f"expected one completion, or a chosen and a rejected one, found {len(one.texts)}"
    elif one.kind != kind:
        found = f"expected {kind}, as the first example is, found {one.kind}"
    elif not all(one.texts):
        found = "a completion is empty, so that there is nothing to learn"
    elif len(one.texts) == 2 and one.texts[0] == one.texts[1]:
        found = "chosen and rejected are the same"
    elif length is not None and one.length > length:
        found = f"it has {one.length:,} tokens and a row {length:,}: its completion would be cut away"
    return errors.Problem(one.where or f"example {number + 1}", None, found) if found else None


def _packed(examples: Sequence[Example], time: int) -> list[tuple[int, ...]]:
    """First fit, longest first; then in the order of the examples."""
    open_rows: list[tuple[int, list[int]]] = []
    full: list[list[int]] = []
    shortest = min(one.length for one in examples)
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
    """Some rows as a batch; fewer than it takes are filled up with empty ones, which count for nothing."""
    shape = data.shape
    made = _empty(shape, data.reference is not None)
    for place, row in enumerate(rows):
        start = segment = text = learned = 0
        for i in data.rows[row]:
            one = data.examples[i]
            prompt = segment + 1
            parts = [(one.prompt, prompt, 0)]
            parts += [(tokens, prompt + 1 + k, len(one.prompt)) for k, tokens in enumerate(one.behind)]
            last = start + len(one.prompt) - 1
            for tokens, number, offset in parts:
                span = slice(start, start + len(tokens))
                made["tokens"][place, span] = tokens
                made["positions"][place, span] = np.arange(offset, offset + len(tokens))
                made["segment"][place, span] = number
                made["sees"][place, number, [prompt, number]] = True
                if number > prompt:
                    own = slice(learned, learned + len(tokens))
                    made["places"][place, own] = [last, *range(start, start + len(tokens) - 1)]
                    made["targets"][place, own] = tokens
                    made["text"][place, own] = text
                    made["length"][place, text] = len(tokens)
                    made["good"][place, text] = one.good
                    if data.reference is not None:
                        made["reference"][place, text] = data.reference[i, number - prompt - 1]
                    learned, text = learned + len(tokens), text + 1
                start += len(tokens)
            segment += 1 + len(one.behind)
    return Batch(**made, kind=data.kind)


def _empty(shape: Shape, reference: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
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
    return made | ({"reference": np.zeros((shape.rows, shape.texts), np.float32)} if reference else {})


def at(data: Data, step: int, seed: int = 0) -> tuple[int, ...]:
    """The rows of a step, counted from 0: every epoch goes through all rows once, in an order of its own.

    The order follows from the seed and the step alone, so that a run that was broken off goes on where it was.
    """
    epoch, within = divmod(step, data.steps)
    order = _order(len(data.rows), seed, epoch)
    return tuple(int(row) for row in order[within * data.shape.rows : (within + 1) * data.shape.rows])


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def tokens_until(data: Data, step: int, seed: int = 0) -> int:
    """How many tokens the steps before one have, without padding."""
    epochs, within = divmod(step, data.steps)
    rows = [row for own in range(step - within, step) for row in at(data, own, seed)]
    return epochs * data.tokens + sum(data.examples[i].length for row in rows for i in data.rows[row])


def batches(data: Data, seed: int = 0, first: int = 0) -> Iterator[Batch]:
    """The batches of all steps, without end.

    Args:
        data: the rows.
        seed: of the order.
        first: the step to begin with.
    """
    step = first
    while True:
        yield batch(data, at(data, step, seed))
        step += 1
