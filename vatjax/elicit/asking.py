"""What a model answers: prompts in every wording and scale, the answers' probabilities, and the ratings they make.

    share[o] = p(option o) / sum p(options)          mass = sum p(options)
    expected rating = sum share[o] r[o]              argmax rating = r[the likeliest o]

The mass says how far the model answered the question at all; renormalised ratings alone would hide where it did not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, prompts, stopping, store
from vatjax.elicit import prefill, provenance, scorer, written
from vatjax.elicit.pieces import Option, Pieces, digest, options, pieces
from vatjax.elicit.plan import Cost, Size
from vatjax.elicit.resume import Kept
from vatjax.elicit.running import Part
from vatjax.models import Edit, Model, tokens
from vatjax.progress import OnProgress, counted, silent
from vatjax.prompts import ChatFormat, How, Letters, Prompts, Scale, Shot

Fields = Mapping[str, str]
OnCost = Callable[[Cost, int, int], None]


class Condition(NamedTuple):
    """What a model is asked under, beside its weights.

    Attributes:
        shots: examples with answers, before every prompt.
        instruction: a sentence before every rubric.
        edit: a change of the computation.
    """

    shots: Sequence[Shot] = ()
    instruction: str = ""
    edit: Edit | None = None


class Run(NamedTuple):
    """How a run is carried out: nothing of it changes what is asked.

    Attributes:
        size: how much is computed at one time; by default what suits the device.
        keep: a folder for finished shards; those that are there are not computed again. Written answers have no shards.
        on_cost: is called before anything is computed with what all of it takes, how many tokens of that are left to be
            computed, and how many prompts' answers are kept already.
        on_progress: is called with the completed fraction.
    """

    size: Size | None = None
    keep: store.Path | None = None
    on_cost: OnCost = lambda *_: None
    on_progress: OnProgress = silent


PLAIN, AT_ONCE = Condition(), Run()


class Answers(NamedTuple):
    """What was answered.

    Attributes:
        ratings: [prompts] float64, the mean over wordings and scales; NaN where there is none.
        shares: [wordings x scales, prompts, options] float64, probabilities of the options, which sum to the mass; for
            written answers 1 for the one that was read.
        cost: tokens of all wordings and scales.
        meta: how it was asked, and how far it was answered.
    """

    ratings: np.ndarray
    shares: np.ndarray
    cost: Cost
    meta: dict[str, Any]


def answers(
    model: Model,
    rows: Sequence[Fields],
    how: How,
    condition: Condition = PLAIN,
    run: Run = AT_ONCE,
    about: Mapping[str, Any] | None = None,
) -> Answers:
    """Asks a model one thing after the other.

    Args:
        model: the model; it needs a tokenizer.
        rows: the fields of each prompt.
        how: how it is asked.
        condition: what it is asked under.
        run: how that is carried out.
        about: what else decides the answers, as plain data: kept shards belong to it.
    """
    rows = list(rows)
    about_model = provenance.asked_of(model, condition.edit)
    weights = about_model["model"]["weights"]
    attempt = prefill.tried(model, how, weights)
    how = dataclasses.replace(how, prefill=attempt.prefill)
    chat = template(model, how)
    made = posed(rows, how, condition, chat)
    size = run.size or scorer.size_for(model)
    if how.reading == "generate":
        name = functools.partial(named, rows)
        advance = counted(run.on_progress, sum(map(len, made)))
        read = [written.answers(model, one, how, chat is not None, condition.edit, name, advance) for one in made]
    else:
        read, size = _scored(model, rows, made, how, condition, run._replace(size=size), about or {})
    means = [ratings for ratings, _, _ in read]
    shares = np.stack([share for _, share, _ in read])
    cost = total(cost for _, _, cost in read)
    meta = {
        **about_model,
        "prompts": {"sha256": [one.digest for one in made], "versions": {w.name: w.version for w in how.wordings()}},
        "how": {
            **dataclasses.asdict(how),
            "wording": [w.name for w in how.wordings()],
            "template": dict(how.template),
            "chat": chat is not None,
        },
        "prefill": {
            "taken": attempt.prefill,
            "mass": {key: round(x, 4) for key, x in prefill.recorded(weights, model, how).items()},
        },
        "instruction": condition.instruction,
        "shots": [{**shot.fields, "rating": shot.rating} for shot in condition.shots],
        "size": {"tokens": size.tokens, "shard": size.shard},
        "spread": _spread(means, how),
        "mass": provenance.said_mass(shares.sum(-1), how.reading == "generate", [w.name for w in how.wordings()]),
        "cost": cost._asdict(),
    }
    return Answers(averaged(means, how), shares, cost, meta)


def posed(rows: Sequence[Fields], how: How, condition: Condition, chat: prompts.Chat | None) -> list[Prompts]:
    """The prompts of each wording in each scale, with one that says nothing where its answers are divided by."""
    blank = [dict.fromkeys(rows[0], "N/A")] if how.prior else []
    return [
        prompts.assemble([*rows, *blank], wording, scale, condition.shots, chat, condition.instruction)
        for wording in how.wordings()
        for scale in how.scales()
    ]


def _scored(
    model: Model,
    rows: Sequence[Fields],
    made: Sequence[Prompts],
    how: How,
    condition: Condition,
    run: Run,
    about: Mapping[str, Any],
) -> tuple[list[tuple[np.ndarray, np.ndarray, Cost]], Size]:
    """Of each set of prompts the ratings, the options' probabilities, and the cost; and the size that fitted."""
    read_as = [tokenised(model, one, how) for one in made]
    planned = scorer.plans(model, read_as, run.size or scorer.size_for(model))
    kept = None
    if run.keep is not None:
        shapes = planned[0].plan.shapes
        decides = provenance.decides(model, how, condition.edit, [digest(*pair) for pair in read_as], shapes)
        kept = Kept(run.keep, {**decides, **about})
    found = scored(model, made, read_as, condition.edit, run, planned, kept, functools.partial(named, rows))
    count = len(rows)
    read = [
        (read_off(logs[:count], logs[count:], one.scale, how), np.exp(logs[:count]), cost)
        for one, logs, cost in zip(made, found.logs, found.costs, strict=True)
    ]
    return read, found.size


def template(model: Model, how: How) -> ChatFormat | None:
    """The model's chat template, where it is wanted and there."""
    if model.tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: no tokenizer there, so it can't be asked in words")
    there = bool(getattr(model.tokenizer, "chat_template", None))
    if how.chat is False or (how.chat is None and not there):
        return None
    return ChatFormat(
        lambda messages: tokens.chat(model.tokenizer, messages, **how.template),
        prefill.resolved(model, how).prefill,
        lambda before, text: tokens.continuation(model.tokenizer, before, text) is not None,
    )


def pieced(model: Model, made: Prompts, how: How) -> Pieces:
    """Prompts as tokens."""
    return pieces(made, model.tokenizer, template(model, how) is not None)


def tokenised(model: Model, made: Prompts, how: How) -> tuple[Pieces, tuple[Option, ...]]:
    """Prompts as tokens, and the ways to write each answer behind them."""
    return pieced(model, made, how), options(model.tokenizer, made.text(0)[-200:], made.scale.options)


class Scored(NamedTuple):
    """What options of several sets of prompts have.

    Attributes:
        logs: of each set, [prompts, options] log-probabilities.
        costs: of each set.
        size: how much was computed at one time in the end.
    """

    logs: list[np.ndarray]
    costs: list[Cost]
    size: Size


def scored(
    model: Model,
    made: Sequence[Prompts],
    read_as: Sequence[tuple[Pieces, tuple[Option, ...]]],
    edit: Edit | None = None,
    run: Run = AT_ONCE,
    planned: Sequence[Part] | None = None,
    kept: Kept | None = None,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt + 1}",
) -> Scored:
    """Log-probabilities of the options of several sets of prompts.

    Args:
        model: the model.
        made: the prompts.
        read_as: what `tokenised` made of them.
        edit: a change of the computation.
        run: how it is carried out.
        planned: of `scorer.plans`, where they are made already.
        kept: where finished shards are.
        name: what a prompt is called in errors.
    """
    size = run.size or scorer.size_for(model)
    planned = scorer.plans(model, read_as, size) if planned is None else planned
    logs = [np.full((len(one), len(one.scale.options)), np.nan) for one in made]
    ready = [_taken(kept, order, part, logs[order]) for order, part in enumerate(planned)]
    costs = [part.plan.cost for part in planned]
    left = _left(planned, ready)
    run.on_cost(total(costs), left, sum(int((~np.isnan(one).any(-1)).sum()) for one in logs))
    now = (kept.size() if kept is not None else None) or size

    def shrink(smaller: Size) -> None:
        nonlocal now
        now = smaller
        if kept is not None:
            kept.shrink(smaller)

    computed, current = 0, 0

    def inside(fraction: float) -> None:
        run.on_progress(min(1.0, (computed + fraction * current) / max(1, left)))

    on_progress = silent if run.on_progress is silent else inside
    for order, ((texts, ways), part) in enumerate(zip(read_as, planned, strict=True)):
        there = ready[order].__contains__
        tokens_of = part.plan.shard_tokens
        current = next((tokens for number, tokens in enumerate(tokens_of) if not there(number)), 0)
        for shard in scorer.score(
            model,
            texts,
            ways,
            edit,
            size,
            part=part,
            now=now,
            halved=shrink,
            skip=there,
            on_progress=on_progress,
            name=name,
        ):
            logs[order][shard.prompts] = shard.log_probs
            if kept is not None:
                kept.put(order, shard.number, shard.prompts, shard.log_probs)
                stopping.point()
            computed += tokens_of[shard.number]
            current = next((n for k, n in enumerate(tokens_of) if k > shard.number and not there(k)), 0)
            run.on_progress(min(1.0, computed / max(1, left)))
    return Scored(logs, costs, now)


def _left(planned: Sequence[Part], ready: Sequence[set[int]]) -> int:
    """Tokens of the shards that are not there yet."""
    return sum(
        tokens
        for part, there in zip(planned, ready, strict=True)
        for number, tokens in enumerate(part.plan.shard_tokens)
        if number not in there
    )


def _taken(kept: Kept | None, order: int, part: Part, logs: np.ndarray) -> set[int]:
    """Takes the shards that are kept, where they are of the same prompts and whole; which they are."""
    taken: set[int] = set()
    shards = part.plan.shards
    for number, own in enumerate(shards):
        there = None if kept is None else kept.get(order, number)
        if there is not None and np.array_equal(there[0], own) and not np.isnan(there[1]).any():
            logs[own] = there[1]
            taken.add(number)
    return taken


def total(costs: Any) -> Cost:
    """What several runs take together."""
    return Cost(*(sum(parts) for parts in zip(*costs, strict=True)))


def read_off(logs: np.ndarray, prior: np.ndarray, scale: Scale | Letters, how: How) -> np.ndarray:
    """Ratings on the rising scale, [prompts]; NaN where the options have less probability than the floor."""
    answered = np.exp(logs).sum(-1) >= how.floor
    with np.errstate(invalid="ignore"):  # where no option has any probability there is no rating
        logs = logs - prior[0] if how.prior else logs
        share = np.exp(logs - logs.max(-1, keepdims=True))
        rating = np.array(scale.ratings)
        likeliest: np.ndarray = rating[share.argmax(-1)]
        expected: np.ndarray = (share * rating).sum(-1) / share.sum(-1)
    chosen = likeliest if how.reading == "argmax" else expected
    return np.where(np.isfinite(expected) & answered, chosen, np.nan)


def named(rows: Sequence[Fields], prompt: int) -> str:
    """What a prompt is about, in a few words."""
    if prompt >= len(rows):
        return "the prompt without content"
    fields = rows[prompt]
    words = [fields.get(key, "")[:60] for key in ("country", "topic", "value", "action") if fields.get(key)]
    return f"item {prompt + 1} ({', '.join(words)})"


# Several wordings and scales ---------------------------------------------------------------------------------------


def _by_wording(means: Sequence[np.ndarray], how: How) -> np.ndarray:
    """Ratings of each wording, the mean over its scales, [wordings, prompts]; what no scale has an answer to is missing."""
    stacked = np.stack(means).reshape(-1, len(how.scales()), len(means[0]))
    return _mean(stacked, 1)


def averaged(means: Sequence[np.ndarray], how: How) -> np.ndarray:
    """The mean over wordings, and in each over its scales, [prompts]."""
    return _mean(_by_wording(means, how), 0)


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """A mean without what is missing; missing where all is."""
    there = ~np.isnan(x)
    count = there.sum(axis)
    mean: np.ndarray = np.where(there, x, 0).sum(axis) / np.where(count > 0, count, 1)
    return np.where(count > 0, mean, np.nan)


def _spread(means: Sequence[np.ndarray], how: How) -> dict[str, Any] | None:
    """How far wordings differ: the standard deviation over them, averaged over prompts, and each one's mean rating."""
    found = _by_wording(means, how)
    if len(found) < 2:
        return None
    whole = found[:, ~np.isnan(found).any(0)]
    if not whole.size:
        return None
    wide = float(whole.std(0, ddof=1).mean())
    return {"sd": wide, "mean": dict(zip([w.name for w in how.wordings()], whole.mean(1).tolist(), strict=True))}
