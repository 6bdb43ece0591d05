"""Examples to train on: from items, and from files in the forms that trl reads; words in, tokens out.

    {"prompt": ..., "completion": ...}                 SFT; with "label": true or false KTO
    {"prompt": ..., "chosen": ..., "rejected": ...}    DPO and its kin
    {"messages": [{"role": ..., "content": ...}]}      SFT on the last answer of a conversation

Texts may be plain, or lists of messages, which the model's chat template puts into words. A completion ends with the token
that ends a text or a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts, store, tables
from vatjax.elicit import asking
from vatjax.items import Items
from vatjax.models import Model, tokens
from vatjax.prompts import Chat, How
from vatjax.train.rows import Example

Lesson = Literal["actions", "judgements", "preferences"]
LESSONS: tuple[Lesson, ...] = get_args(Lesson)
_COLUMNS = ("prompt", "completion", "chosen", "rejected", "messages", "label")
_ROLES = ("system", "user", "assistant", "tool", "developer")
# Characters of a prompt that decide how the text after it is tokenised.
_TAIL = 200


class Record(NamedTuple):
    """A prompt and what stands behind it, in words.

    Attributes:
        prompt: up to where the completion begins.
        texts: one completion, or the chosen and the rejected one, each up to its end.
        good: whether a completion that stands alone is desirable; None where nothing is said.
        where: where it came from.
        templated: whether a chat template made the prompt.
    """

    prompt: str
    texts: tuple[str, ...]
    good: bool | None = None
    where: str = ""
    templated: bool = False


def read(where: store.Path, chat: Chat | None = None, full: Chat | None = None) -> list[Record]:
    """Reads a file of examples.

    Args:
        where: JSON lines, a JSON array or CSV.
        chat: a chat template, for messages: up to where an answer begins.
        full: the same, of a whole conversation.

    Raises:
        InputError: for every row that is none of the forms, with its line.
    """
    table = tables.read(where)
    problems = list(table.problems)
    found: list[Record] = []
    for row, line in zip(table.rows, table.lines, strict=True):
        try:
            found.append(_record(row, f"{table.source}:{line}", chat, full))
        except errors.InputError as error:
            problems.append(errors.Problem(table.source, line, str(error)))
    if problems:
        alike = len(problems) == len(table.rows) > 1 and len({one.message for one in problems}) == 1
        shown = problems[:1] if alike else sorted(problems, key=lambda one: one.line or 0)
        every = f"All {len(problems):,} rows are like this one. " if alike else ""
        raise errors.all_of(shown, f"{every}Nothing was trained.")
    if not found:
        raise errors.InputError(f"{where}: there is no example in it")
    counts = {len(one.texts) for one in found}
    if len(counts) > 1:
        other = next(one for one in found if len(one.texts) != len(found[0].texts))
        raise errors.InputError(f"{other.where}: pairs and single completions are mixed; a file has one kind")
    return found


def _record(row: Mapping[str, Any], where: str, chat: Chat | None, full: Chat | None) -> Record:
    keys = {"messages"} if "messages" in row else {"prompt", "chosen", "rejected"} if "chosen" in row else set()
    keys = keys or {"prompt", "completion"}
    missing = sorted(key for key in keys if _empty(row.get(key)))
    if missing:
        found = ", ".join(map(repr, row)) or "nothing"
        near = {key: names.nearest(key, [own for own in row if own not in _COLUMNS]) for key in missing}
        meant = [f"did you mean {key!r} by {own!r}?" for key, own in near.items() if own is not None]
        raise errors.InputError(
            f"expected prompt and completion, prompt, chosen and rejected, or messages; {', '.join(map(repr, missing))} "
            f"{'is' if len(missing) == 1 else 'are'} missing or empty, found {found}"
            + "".join(f"; {one}" for one in meant)
        )
    label = row.get("label")
    label = {"true": True, "false": False}.get(label.lower(), label) if isinstance(label, str) else label
    if not (label is None or isinstance(label, bool)):
        raise errors.InputError(f"label: expected true or false, found {label!r}")
    if "messages" in keys:
        *before, last = _messages(row["messages"], "messages")
        if last["role"] != "assistant" or not before:
            raise errors.InputError("messages: expected a conversation that ends with an answer of the assistant")
        return Record(*_conversation(before, [[last]], chat, full), where=where, good=label, templated=True)
    prompt, ends = row["prompt"], [row[key] for key in ("completion", "chosen", "rejected") if key in keys]
    if isinstance(prompt, str):
        if not all(isinstance(end, str) for end in ends):
            raise errors.InputError("a prompt of plain text needs completions of plain text")
        return Record(prompt, tuple(ends), label, where)
    before = _messages(prompt, "prompt")
    answers = [
        [{"role": "assistant", "content": e}] if isinstance(e, str) else _messages(e, "completion") for e in ends
    ]
    return Record(*_conversation(before, answers, chat, full), where=where, good=label, templated=True)


def _empty(found: Any) -> bool:
    return found is None or found == [] or (isinstance(found, str) and not found.strip())


def _messages(found: Any, key: str) -> list[dict[str, str]]:
    text = "" if key == "messages" else "text or "
    fits = isinstance(found, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in found
    )
    if not fits or not found:
        raise errors.InputError(
            f"{key}: expected {text}a list of messages, each with role and content, found {names.shown(found)}"
        )
    strange = [one["role"] for one in found if one["role"] not in _ROLES]
    if strange:
        raise errors.InputError(f"{key}: {names.unknown('role', strange[0], _ROLES)}")
    return [{"role": one["role"], "content": one["content"]} for one in found]


def _conversation(
    before: list[dict[str, str]], answers: list[list[dict[str, str]]], chat: Chat | None, full: Chat | None
) -> tuple[str, tuple[str, ...]]:
    """The prompt, and what the template writes behind it for each answer."""
    if chat is None or full is None:
        raise errors.InputError("messages need a chat template, and this model has none; give plain text")
    prompt = chat(before)
    ends = []
    for answer in answers:
        whole = full([*before, *answer])
        if not whole.startswith(prompt):
            raise errors.InputError(
                "the chat template writes a conversation with its answer otherwise than up to its answer, so that there is "
                "no place where the completion begins; give prompt and completion as plain text"
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
    how: How | None = None,
) -> list[Record]:
    """Examples of the train side of a target's items.

    Args:
        items: all items.
        target, direction: what is pushed, and which way.
        lesson: "actions" that the direction wants behind their scenes, "judgements" with the ratings that it wants, or
            "preferences" of an action over its counterpart.
        chat: a chat template; without one, plain text.
        end: what ends a turn of the chat.
        test, seed: of the division by scene.
        how: of judgements: their wording and scale.
    """
    if lesson not in LESSONS:
        raise errors.InputError(names.unknown("lesson", lesson, LESSONS))
    make: Callable[..., list[dict[str, str]]] = getattr(prompts, lesson)
    how = how or How()
    asked: dict[str, Any] = {"asked": how.wordings()[0], "scale": how.scales()[0]} if lesson == "judgements" else {}
    rows = make(items, target, direction, chat=chat, test=test, seed=seed, **asked)
    keys = ("chosen", "rejected") if lesson == "preferences" else ("completion",)
    return [
        Record(
            row["prompt"], tuple(row[key] + end for key in keys), True, f"{items.source}: {lesson} {i + 1}", bool(chat)
        )
        for i, row in enumerate(rows)
    ]


def lessons(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    lesson: Lesson = "actions",
    how: How | None = None,
    test: float = 0.25,
    seed: int = 0,
) -> list[Record]:
    """`from_items` in the words in which a model is asked for its ratings: in its chat template, where it has one.

    A chat model that learns from plain text learns about plain text: its ratings move by chance.

    Args:
        model: the model.
        items, target, direction, lesson: as in `from_items`.
        how: the question.
        test, seed: of the division by scene.
    """
    how = (how or How()).of_pairs()
    chat = asking.template(model, how)
    end = "" if chat is None else tokens.turn_end(model.tokenizer, **how.template)
    return from_items(items, target, direction, lesson, chat, end, test, seed, how)


def shuffled(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """The placebo of a preference: in a half of the pairs, drawn by chance, chosen and rejected change places.

    Of single completions with verdicts each gets the verdict of another one.
    """
    if records and len(records[0].texts) != 2:
        verdicts = [one.good for one in records]
        if None in verdicts or len(set(verdicts)) < 2:
            raise errors.InputError("labels are shuffled in pairs of texts, or among verdicts of both kinds")
        order = np.random.default_rng((seed, 11)).permutation(len(records))
        return [one._replace(good=verdicts[i]) for one, i in zip(records, order.tolist(), strict=True)]
    turned = set(np.random.default_rng((seed, 11)).permutation(len(records))[: len(records) // 2].tolist())
    return [one._replace(texts=one.texts[::-1]) if i in turned else one for i, one in enumerate(records)]


def tokenised(model: Model, records: Sequence[Record]) -> list[Example]:
    """Records as tokens, each text closed with the token that ends it.

    Raises:
        InputError: for every record that is longer than the model's context, or has tokens that it has no embeddings for.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: no tokenizer there, so it can't be trained on words")
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    found, problems = [], []
    for record in records:
        prompt = tokens.encode(tokenizer, record.prompt, record.templated)
        texts = []
        for text in record.texts:
            own = tokens.continuation(tokenizer, record.prompt[-_TAIL:], text)
            if own is None:
                problems.append(errors.Problem(record.where, None, _melted(record.prompt, text)))
                own = tokenizer(text, add_special_tokens=False)["input_ids"]
            closed = record.templated or own[-1:] == end
            texts.append(tuple(own if closed else [*own, *end]))
        example = Example(tuple(prompt), tuple(texts), record.good is not False, record.where)
        longest = len(prompt) + max(map(len, texts))
        if longest > model.config.context:
            problems.append(
                errors.Problem(
                    record.where, None, f"{longest:,} tokens, and the model's context is {model.config.context:,}"
                )
            )
        strange = max([*prompt, *(token for own in texts for token in own)], default=0)
        if strange >= model.config.vocabulary:
            name = tokenizer.convert_ids_to_tokens(strange)
            problems.append(errors.Problem(record.where, None, f"the model has no embedding for the token {name!r}"))
        found.append(example)
    if problems:
        raise errors.all_of(problems, "Nothing was trained.")
    return found


def _melted(prompt: str, text: str) -> str:
    return (
        f"a token spans the end of the prompt ({prompt[-12:]!r}) and the beginning of the completion ({text[:12]!r}): move "
        "the space between them into the completion"
    )


def with_others(examples: Sequence[Example]) -> list[Example]:
    """Examples with a text beside them that belongs to another prompt, by which KTO measures how far the model has drifted."""
    found = []
    for i, one in enumerate(examples):
        if len(one.texts) != 1:
            raise errors.InputError(f"{one.where}: KTO takes single completions with a label, found {len(one.texts)}")
        other = next((o for k in range(1, len(examples)) if _other(one, o := examples[(i + k) % len(examples)])), None)
        if other is None:
            raise errors.InputError(
                f"{one.where}: KTO measures its drift on completions of other prompts; no example has another prompt and "
                "another completion than this one"
            )
        found.append(one._replace(foreign=other.texts[0]))
    return found


def _other(one: Example, other: Example) -> bool:
    return one.prompt != other.prompt and one.texts[0] != other.texts[0]
