"""Training examples: from items, and from files in the formats that trl reads; text in, tokens out.

    {"prompt": ..., "completion": ...}                 SFT; with "label": true or false KTO
    {"prompt": ..., "chosen": ..., "rejected": ...}    DPO and the other pair losses
    {"messages": [{"role": ..., "content": ...}]}      SFT on the last answer of a conversation

Texts may be plain, or lists of messages, which the model's chat template renders. A completion ends with the
end-of-sequence or end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts, store, tables
from vatjax.elicit import ask
from vatjax.items import Items
from vatjax.models import Model, tokens
from vatjax.prompts import Chat, ElicitConfig
from vatjax.train.rows import Example

Lesson = Literal["actions", "judgements", "preferences"]
LESSONS: tuple[Lesson, ...] = get_args(Lesson)
_COLUMNS = ("prompt", "completion", "chosen", "rejected", "messages", "label")
_ROLES = ("system", "user", "assistant", "tool", "developer")
# Number of last characters of a prompt that can affect how the text after it is tokenised.
_TAIL = 200


class Record(NamedTuple):
    """A prompt and its completions, as text.

    Attributes:
        prompt: all text before the completion.
        texts: one completion, or the chosen and the rejected one, each up to its end.
        good: whether a single completion is desirable; None if it has no label.
        source: file and line, or items, for messages.
        templated: whether a chat template rendered the prompt.
    """

    prompt: str
    texts: tuple[str, ...]
    good: bool | None = None
    source: str = ""
    templated: bool = False


def read(path: store.Path, chat: Chat | None = None, full: Chat | None = None) -> list[Record]:
    """Reads a file of examples.

    Args:
        path: JSON lines, a JSON array or CSV.
        chat: a chat template for messages, up to the start of an answer.
        full: the same template for a whole conversation.

    Raises:
        InputError: for every row that has none of the formats, with its line.
    """
    table = tables.read(path)
    problems = list(table.problems)
    records: list[Record] = []
    for row, line in zip(table.rows, table.lines, strict=True):
        try:
            records.append(_record(row, f"{table.source}:{line}", chat, full))
        except errors.InputError as error:
            problems.append(errors.Problem(table.source, line, str(error)))
    if problems:
        alike = len(problems) == len(table.rows) > 1 and len({problem.message for problem in problems}) == 1
        shown = problems[:1] if alike else sorted(problems, key=lambda problem: problem.line or 0)
        every = f"All {len(problems):,} rows are like this one. " if alike else ""
        raise errors.all_of(shown, f"{every}Nothing was trained.")
    if not records:
        raise errors.InputError(f"{path}: the file has no examples")
    counts = {len(record.texts) for record in records}
    if len(counts) > 1:
        other = next(record for record in records if len(record.texts) != len(records[0].texts))
        raise errors.InputError(f"{other.source}: pairs and single completions are mixed; a file has one kind")
    return records


def _record(row: Mapping[str, Any], source: str, chat: Chat | None, full: Chat | None) -> Record:
    keys = {"messages"} if "messages" in row else {"prompt", "chosen", "rejected"} if "chosen" in row else set()
    keys = keys or {"prompt", "completion"}
    missing = sorted(key for key in keys if _is_empty(row.get(key)))
    if missing:
        columns = ", ".join(map(repr, row)) or "nothing"
        near = {key: names.nearest(key, [column for column in row if column not in _COLUMNS]) for key in missing}
        meant = [f"did you mean {key!r} by {column!r}?" for key, column in near.items() if column is not None]
        raise errors.InputError(
            f"expected prompt and completion, prompt, chosen and rejected, or messages; {', '.join(map(repr, missing))} "
            f"{'is' if len(missing) == 1 else 'are'} missing or empty, found {columns}"
            + "".join(f"; {hint}" for hint in meant)
        )
    label = row.get("label")
    label = {"true": True, "false": False}.get(label.lower(), label) if isinstance(label, str) else label
    if not (label is None or isinstance(label, bool)):
        raise errors.InputError(f"label: expected true or false, found {label!r}")
    if "messages" in keys:
        *before, last = _messages(row["messages"], "messages")
        if last["role"] != "assistant" or not before:
            raise errors.InputError("messages: expected a conversation that ends with an answer of the assistant")
        return Record(*_render_conversation(before, [[last]], chat, full), source=source, good=label, templated=True)
    prompt, ends = row["prompt"], [row[key] for key in ("completion", "chosen", "rejected") if key in keys]
    if isinstance(prompt, str):
        if not all(isinstance(end, str) for end in ends):
            raise errors.InputError("a prompt of plain text needs completions of plain text")
        return Record(prompt, tuple(ends), label, source)
    before = _messages(prompt, "prompt")
    answers = [
        [{"role": "assistant", "content": e}] if isinstance(e, str) else _messages(e, "completion") for e in ends
    ]
    return Record(*_render_conversation(before, answers, chat, full), source=source, good=label, templated=True)


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _messages(value: Any, key: str) -> list[dict[str, str]]:
    text = "" if key == "messages" else "text or "
    fits = isinstance(value, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in value
    )
    if not fits or not value:
        raise errors.InputError(
            f"{key}: expected {text}a list of messages, each with role and content, found {names.short_repr(value)}"
        )
    strange = [message["role"] for message in value if message["role"] not in _ROLES]
    if strange:
        raise errors.InputError(f"{key}: {names.unknown_name('role', strange[0], _ROLES)}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _render_conversation(
    before: list[dict[str, str]], answers: list[list[dict[str, str]]], chat: Chat | None, full: Chat | None
) -> tuple[str, tuple[str, ...]]:
    """Renders the prompt, and the template's text after it for each answer."""
    if chat is None or full is None:
        raise errors.InputError("messages need a chat template, and this model does not have one; give plain text")
    prompt = chat(before)
    ends = []
    for answer in answers:
        whole = full([*before, *answer])
        if not whole.startswith(prompt):
            raise errors.InputError(
                "the chat template renders a conversation differently once it has its answer, so the completion has "
                "no definite start; give prompt and completion as plain text"
            )
        ends.append(whole[len(prompt) :])
    return prompt, tuple(ends)


def from_items(
    items: Items,
    target: str,
    direction: int = 1,
    lesson: Lesson = "actions",
    chat: Chat | None = None,
    end: str = "",
    test: float = 0.25,
    seed: int = 0,
    how: ElicitConfig | None = None,
) -> list[Record]:
    """Builds examples from the train side of a target's items.

    Args:
        items: all items.
        target, direction: the value, type or group to push, and the sign of the push.
        lesson: "actions" that fit the direction, after their scenes; "judgements" with the ratings that fit it; or
            "preferences" of an action over its counterpart.
        chat: a chat template; plain text without one.
        end: the end of a chat turn.
        test, seed: share and seed of the split by scene.
        how: wording and scale of judgements.
    """
    if lesson not in LESSONS:
        raise errors.InputError(names.unknown_name("lesson", lesson, LESSONS))
    make: Callable[..., list[dict[str, str]]] = getattr(prompts, lesson)
    how = how or ElicitConfig()
    judged: dict[str, Any] = {"question": how.wordings()[0], "scale": how.scales()[0]} if lesson == "judgements" else {}
    rows = make(items, target, direction, chat=chat, test=test, seed=seed, **judged)
    keys = ("chosen", "rejected") if lesson == "preferences" else ("completion",)
    return [
        Record(
            row["prompt"], tuple(row[key] + end for key in keys), True, f"{items.source}: {lesson} {i + 1}", bool(chat)
        )
        for i, row in enumerate(rows)
    ]


def records_for_model(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    lesson: Lesson = "actions",
    how: ElicitConfig | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[Record]:
    """Builds `from_items` examples in the format in which the model is rated: in its chat template, if it has one.

    A chat model trained on plain text learns about plain text: its ratings move by chance.

    Args:
        model: the model.
        items, target, direction, lesson: as in `from_items`.
        how: the question.
        test, seed: share and seed of the split by scene.
    """
    how = (how or ElicitConfig()).of_pairs()
    chat = ask.chat_format(model, how)
    end = "" if chat is None else tokens.turn_end(model.tokenizer, **how.template)
    return from_items(items, target, direction, lesson, chat, end, test, seed, how)


def shuffle_labels(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """Shuffles labels, as a placebo: swaps chosen and rejected in a random half of the pairs.

    For single completions it permutes the labels among them.
    """
    if records and len(records[0].texts) != 2:
        verdicts = [record.good for record in records]
        if None in verdicts or len(set(verdicts)) < 2:
            raise errors.InputError("labels can be shuffled only in pairs of texts, or among good and bad completions")
        order = np.random.default_rng((seed, 11)).permutation(len(records))
        return [record._replace(good=verdicts[i]) for record, i in zip(records, order.tolist(), strict=True)]
    swapped = set(np.random.default_rng((seed, 11)).permutation(len(records))[: len(records) // 2].tolist())
    return [record._replace(texts=record.texts[::-1]) if i in swapped else record for i, record in enumerate(records)]


def tokenise(model: Model, records: Sequence[Record]) -> list[Example]:
    """Tokenises records; each text ends with its end token.

    Raises:
        InputError: for every record that is longer than the model's context, or has tokens without an embedding.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: cannot train on text without a tokenizer")
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    examples, problems = [], []
    for record in records:
        prompt = tokens.encode(tokenizer, record.prompt, record.templated)
        texts = []
        for text in record.texts:
            text_tokens = tokens.encode_continuation(tokenizer, record.prompt[-_TAIL:], text)
            if text_tokens is None:
                problems.append(errors.Problem(record.source, None, _boundary_message(record.prompt, text)))
                text_tokens = tokens.tokenize(tokenizer, text)["input_ids"]
            closed = record.templated or text_tokens[-1:] == end
            texts.append(tuple(text_tokens if closed else [*text_tokens, *end]))
        example = Example(tuple(prompt), tuple(texts), record.good is not False, record.source)
        longest = len(prompt) + max(map(len, texts))
        if longest > model.config.context:
            problems.append(
                errors.Problem(
                    record.source, None, f"{longest:,} tokens, and the model's context is {model.config.context:,}"
                )
            )
        strange = max([*prompt, *(token for text_tokens in texts for token in text_tokens)], default=0)
        if strange >= model.config.vocabulary:
            name = tokenizer.convert_ids_to_tokens(strange)
            problems.append(errors.Problem(record.source, None, f"the model has no embedding for the token {name!r}"))
        examples.append(example)
    if problems:
        raise errors.all_of(problems, "Nothing was trained.")
    return examples


def _boundary_message(prompt: str, text: str) -> str:
    return (
        f"a token spans the end of the prompt ({prompt[-12:]!r}) and the beginning of the completion ({text[:12]!r}): move "
        "the space between them into the completion"
    )


def with_mismatched_completions(examples: Sequence[Example]) -> list[Example]:
    """Adds to each example a completion of another prompt, on which KTO measures how far the model has drifted."""
    paired = []
    for i, example in enumerate(examples):
        if len(example.texts) != 1:
            raise errors.InputError(
                f"{example.source}: KTO takes single completions with a label, found {len(example.texts)}"
            )
        other = next(
            (o for k in range(1, len(examples)) if _mismatched(example, o := examples[(i + k) % len(examples)])), None
        )
        if other is None:
            raise errors.InputError(
                f"{example.source}: KTO measures its drift on completions of other prompts; no other example differs "
                "in both prompt and completion"
            )
        paired.append(example._replace(mismatched=other.texts[0]))
    return paired


def _mismatched(example: Example, other: Example) -> bool:
    return example.prompt != other.prompt and example.texts[0] != other.texts[0]
