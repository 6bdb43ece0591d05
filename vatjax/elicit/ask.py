"""Asks a model: prompts in every wording and scale, the answers' probabilities, and the ratings made of them.

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

from vatjax import errors, names, prompts, store
from vatjax.elicit import generated, prefill, provenance
from vatjax.elicit.shard_cache import ShardCache
from vatjax.models import Edit, Model, tokens
from vatjax.prefix import scorer
from vatjax.prefix.execute import Part
from vatjax.prefix.plan import Cost, Size
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts, answer_spellings, digest, tokenize_prompts
from vatjax.prompts import ChatFormat, ElicitConfig, Letters, Prompts, Scale, Shot
from vatjax.runtime import preemption
from vatjax.runtime.progress import OnProgress, count_progress, ignore_progress

Fields = Mapping[str, str]
OnCost = Callable[[Cost, int, int], None]


class Condition(NamedTuple):
    """Conditions under which a model is asked, in addition to its weights.

    Attributes:
        shots: examples with answers, before every prompt.
        instruction: a sentence before every rubric.
        edit: a change of the computation.
        turns: messages with role and content, after the examples and before the question.
    """

    shots: Sequence[Shot] = ()
    instruction: str = ""
    edit: Edit | None = None
    turns: Sequence[Mapping[str, str]] = ()


def check_condition(condition: Condition, who: str) -> None:
    """Raises InputError for a condition whose parts have other types than they should."""
    is_turn = [isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in condition.turns]
    for part, expected, fits in (
        ("instruction", "a text", isinstance(condition.instruction, str)),
        ("shots", "prompts.Shot", all(isinstance(shot, Shot) for shot in condition.shots)),
        ("turns", "messages with role and content", all(is_turn)),
        ("edit", "a models.Edit", condition.edit is None or isinstance(condition.edit, Edit)),
    ):
        if not fits:
            value = names.short_repr(getattr(condition, part))
            raise errors.InputError(f"{who}: {part} of its condition: expected {expected}, found {value}")


class RunOptions(NamedTuple):
    """Settings of a run that do not change its prompts.

    Attributes:
        size: how much is computed at one time; by default `scorer.size_for` the model.
        keep: a folder for finished shards; cached shards are not computed again. Written answers have no shards.
        on_cost: is called before anything is computed with the cost of the whole run, how many of its tokens are left
            to be computed, and how many prompts' answers are cached.
        on_progress: is called with the completed fraction.
    """

    size: Size | None = None
    keep: store.Path | None = None
    on_cost: OnCost = lambda *_: None
    on_progress: OnProgress = ignore_progress


PLAIN, DEFAULT_RUN = Condition(), RunOptions()


class Answers(NamedTuple):
    """Answers of a model to several prompts.

    Attributes:
        ratings: [prompts] float64, the mean over wordings and scales; NaN where it is missing.
        shares: [wordings x scales, prompts, options] float64, probabilities of the options, which sum to the mass; for
            written answers 1 for the one that was read.
        cost: tokens of all wordings and scales.
        meta: the model, the settings and the option mass, as plain data.
    """

    ratings: np.ndarray
    shares: np.ndarray
    cost: Cost
    meta: dict[str, Any]


def answers(
    model: Model,
    rows: Sequence[Fields],
    how: ElicitConfig,
    condition: Condition = PLAIN,
    run: RunOptions = DEFAULT_RUN,
    about: Mapping[str, Any] | None = None,
) -> Answers:
    """Asks a model all rows, in every wording and scale.

    Args:
        model: the model; it needs a tokenizer.
        rows: the fields of each prompt.
        how: the settings of elicitation.
        condition: shots, instruction and edit.
        run: the settings of the run.
        about: further inputs of the answers, as plain data: cached shards belong to them.
    """
    rows = list(rows)
    about_model = provenance.model_meta(model, condition.edit)
    weights = about_model["model"]["weights"]
    attempt = prefill.choose_prefill(model, how, weights)
    how = dataclasses.replace(how, prefill=attempt.prefill)
    chat = chat_format(model, how)
    prompt_sets = build_prompts(rows, how, condition, chat)
    size = run.size or scorer.size_for(model)
    if how.reading == "generate":
        name = functools.partial(prompt_name, rows)
        advance = count_progress(run.on_progress, sum(map(len, prompt_sets)))
        read = [
            generated.generate_ratings(model, prompt_set, how, chat is not None, condition.edit, name, advance)
            for prompt_set in prompt_sets
        ]
    else:
        read, size = _scored(model, rows, prompt_sets, how, condition, run._replace(size=size), about or {})
    means = [ratings for ratings, _, _ in read]
    shares = np.stack([share for _, share, _ in read])
    cost = total_cost(cost for _, _, cost in read)
    meta = {
        **about_model,
        "prompts": {
            "sha256": [prompt_set.digest for prompt_set in prompt_sets],
            "versions": {w.name: w.version for w in how.wordings()},
        },
        "how": {
            **dataclasses.asdict(how),
            "wording": [w.name for w in how.wordings()],
            "template": dict(how.template),
            "chat": chat is not None,
        },
        "prefill": {
            "taken": attempt.prefill,
            "mass": {key: round(x, 4) for key, x in prefill.recorded_mass(weights, model, how).items()},
        },
        "instruction": condition.instruction,
        **({"turns": [dict(turn) for turn in condition.turns]} if condition.turns else {}),
        "shots": [{**shot.fields, "rating": shot.rating} for shot in condition.shots],
        "size": {"tokens": size.tokens, "shard": size.shard},
        "spread": _spread(means, how),
        "mass": provenance.mass_summary(shares.sum(-1), how.reading == "generate", [w.name for w in how.wordings()]),
        "cost": cost._asdict(),
    }
    return Answers(average_ratings(means, how), shares, cost, meta)


def build_prompts(
    rows: Sequence[Fields], how: ElicitConfig, condition: Condition, chat: prompts.Chat | None
) -> list[Prompts]:
    """Builds the prompts of each wording in each scale.

    If answers are divided by their prior, a last prompt has the text "N/A" in every field.
    """
    blank = [dict.fromkeys(rows[0], "N/A")] if how.prior else []
    return [
        prompts.assemble([*rows, *blank], wording, scale, condition.shots, chat, condition.instruction, condition.turns)
        for wording in how.wordings()
        for scale in how.scales()
    ]


def _scored(
    model: Model,
    rows: Sequence[Fields],
    prompt_sets: Sequence[Prompts],
    how: ElicitConfig,
    condition: Condition,
    run: RunOptions,
    about: Mapping[str, Any],
) -> tuple[list[tuple[np.ndarray, np.ndarray, Cost]], Size]:
    """Scores prompts; returns each set's ratings, its options' probabilities and its cost, and the size that fitted."""
    read_as = [tokenize_with_spellings(model, prompt_set, how) for prompt_set in prompt_sets]
    planned = scorer.plan_prompts(model, read_as, run.size or scorer.size_for(model))
    cache = None
    if run.keep is not None:
        shapes = planned[0].plan.shapes
        decides = provenance.answer_inputs(model, how, condition.edit, [digest(*pair) for pair in read_as], shapes)
        cache = ShardCache(run.keep, {**decides, **about})
    result = score_prompts(
        model, prompt_sets, read_as, condition.edit, run, planned, cache, functools.partial(prompt_name, rows)
    )
    count = len(rows)
    read = [
        (read_ratings(logs[:count], logs[count:], prompt_set.scale, how), np.exp(logs[:count]), cost)
        for prompt_set, logs, cost in zip(prompt_sets, result.logs, result.costs, strict=True)
    ]
    return read, result.size


def chat_format(model: Model, how: ElicitConfig) -> ChatFormat | None:
    """Returns the model's chat template; None if it is switched off, or by default if the model has none."""
    if model.tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: it has no tokenizer, so it can't be asked in words")
    available = bool(getattr(model.tokenizer, "chat_template", None))
    if how.chat is False or (how.chat is None and not available):
        return None
    return ChatFormat(
        lambda messages: tokens.render_chat(model.tokenizer, messages, **how.template),
        prefill.resolve_prefill(model, how).prefill,
        lambda before, text: tokens.encode_continuation(model.tokenizer, before, text) is not None,
    )


def tokenize(model: Model, prompt_set: Prompts, how: ElicitConfig) -> TokenizedPrompts:
    """Tokenizes prompts for a model."""
    return tokenize_prompts(prompt_set, model.tokenizer, chat_format(model, how) is not None)


def tokenize_with_spellings(
    model: Model, prompt_set: Prompts, how: ElicitConfig
) -> tuple[TokenizedPrompts, tuple[Spelling, ...]]:
    """Tokenizes prompts, and lists the spellings of each answer after them."""
    return tokenize(model, prompt_set, how), answer_spellings(
        model.tokenizer, prompt_set.text(0)[-200:], prompt_set.scale.options
    )


class Scored(NamedTuple):
    """Log-probabilities of the options of several sets of prompts.

    Attributes:
        logs: of each set, [prompts, options] log-probabilities.
        costs: of each set.
        size: how much was computed at one time after all halvings.
    """

    logs: list[np.ndarray]
    costs: list[Cost]
    size: Size


def score_prompts(
    model: Model,
    prompt_sets: Sequence[Prompts],
    read_as: Sequence[tuple[TokenizedPrompts, tuple[Spelling, ...]]],
    edit: Edit | None = None,
    run: RunOptions = DEFAULT_RUN,
    planned: Sequence[Part] | None = None,
    cache: ShardCache | None = None,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt + 1}",
) -> Scored:
    """Computes the log-probabilities of the options of several sets of prompts.

    Args:
        model: the model.
        prompt_sets: the prompts.
        read_as: their tokens and spellings, of `tokenize_with_spellings`.
        edit: a change of the computation.
        run: the settings of the run.
        planned: of `scorer.plan_prompts`, if they are planned already.
        cache: finished shards.
        name: names a prompt in errors.
    """
    size = run.size or scorer.size_for(model)
    planned = scorer.plan_prompts(model, read_as, size) if planned is None else planned
    logs = [np.full((len(prompt_set), len(prompt_set.scale.options)), np.nan) for prompt_set in prompt_sets]
    ready = [_load_cached(cache, order, part, logs[order]) for order, part in enumerate(planned)]
    costs = [part.plan.cost for part in planned]
    left = _left(planned, ready)
    run.on_cost(total_cost(costs), left, sum(int((~np.isnan(log).any(-1)).sum()) for log in logs))
    now = (cache.saved_size() if cache is not None else None) or size

    def shrink(smaller: Size) -> None:
        nonlocal now
        now = smaller
        if cache is not None:
            cache.save_size(smaller)

    computed, current = 0, 0

    def inside(fraction: float) -> None:
        run.on_progress(min(1.0, (computed + fraction * current) / max(1, left)))

    on_progress = ignore_progress if run.on_progress is ignore_progress else inside
    for order, ((texts, ways), part) in enumerate(zip(read_as, planned, strict=True)):
        is_cached = ready[order].__contains__
        tokens_of = part.plan.shard_tokens
        current = next((tokens for number, tokens in enumerate(tokens_of) if not is_cached(number)), 0)
        for shard in scorer.score(
            model,
            texts,
            ways,
            edit,
            size,
            part=part,
            now=now,
            on_halved=shrink,
            skip=is_cached,
            on_progress=on_progress,
            name=name,
        ):
            logs[order][shard.prompts] = shard.log_probs
            if cache is not None:
                cache.put(order, shard.number, shard.prompts, shard.log_probs)
                preemption.stop_if_requested()
            computed += tokens_of[shard.number]
            current = next((n for k, n in enumerate(tokens_of) if k > shard.number and not is_cached(k)), 0)
            run.on_progress(min(1.0, computed / max(1, left)))
    return Scored(logs, costs, now)


def _left(planned: Sequence[Part], ready: Sequence[set[int]]) -> int:
    """Counts the tokens of the shards that are not cached."""
    return sum(
        tokens
        for part, cached in zip(planned, ready, strict=True)
        for number, tokens in enumerate(part.plan.shard_tokens)
        if number not in cached
    )


def _load_cached(cache: ShardCache | None, order: int, part: Part, logs: np.ndarray) -> set[int]:
    """Loads the cached shards that are of the same prompts and complete; returns their numbers."""
    taken: set[int] = set()
    shards = part.plan.shards
    for number, shard_prompts in enumerate(shards):
        loaded = None if cache is None else cache.get(order, number)
        if loaded is not None and np.array_equal(loaded[0], shard_prompts) and not np.isnan(loaded[1]).any():
            logs[shard_prompts] = loaded[1]
            taken.add(number)
    return taken


def total_cost(costs: Any) -> Cost:
    """Returns the total cost of several runs."""
    return Cost(*(sum(parts) for parts in zip(*costs, strict=True)))


def read_ratings(logs: np.ndarray, prior: np.ndarray, scale: Scale | Letters, how: ElicitConfig) -> np.ndarray:
    """Returns ratings on the rising scale, [prompts]; NaN where the options have less probability than the floor."""
    answered = np.exp(logs).sum(-1) >= how.floor
    with np.errstate(invalid="ignore"):  # without probability on any option the rating is NaN
        logs = logs - prior[0] if how.prior else logs
        share = np.exp(logs - logs.max(-1, keepdims=True))
        rating = np.array(scale.ratings)
        likeliest: np.ndarray = rating[share.argmax(-1)]
        expected: np.ndarray = (share * rating).sum(-1) / share.sum(-1)
    chosen = likeliest if how.reading == "argmax" else expected
    return np.where(np.isfinite(expected) & answered, chosen, np.nan)


def prompt_name(rows: Sequence[Fields], prompt: int) -> str:
    """Describes a prompt in a few words, for errors."""
    if prompt >= len(rows):
        return "the prompt without content"
    fields = rows[prompt]
    words = [fields.get(key, "")[:60] for key in ("country", "topic", "value", "action") if fields.get(key)]
    return f"item {prompt + 1} ({', '.join(words)})"


# Several wordings and scales ---------------------------------------------------------------------------------------


def _by_wording(means: Sequence[np.ndarray], how: ElicitConfig) -> np.ndarray:
    """Returns ratings of each wording, the mean over its scales, [wordings, prompts]; NaN if no scale has an answer."""
    stacked = np.stack(means).reshape(-1, len(how.scales()), len(means[0]))
    return _mean(stacked, 1)


def average_ratings(means: Sequence[np.ndarray], how: ElicitConfig) -> np.ndarray:
    """Averages ratings over wordings, and in each over its scales, [prompts]."""
    return _mean(_by_wording(means, how), 0)


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Returns the mean of the values that are not NaN; NaN if all are."""
    present = ~np.isnan(x)
    count = present.sum(axis)
    mean: np.ndarray = np.where(present, x, 0).sum(axis) / np.where(count > 0, count, 1)
    return np.where(count > 0, mean, np.nan)


def _spread(means: Sequence[np.ndarray], how: ElicitConfig) -> dict[str, Any] | None:
    """Returns how far wordings differ; None if there are not several.

    This is the standard deviation over wordings, averaged over prompts, and each wording's mean rating.
    """
    ratings = _by_wording(means, how)
    if len(ratings) < 2:
        return None
    whole = ratings[:, ~np.isnan(ratings).any(0)]
    if not whole.size:
        return None
    wide = float(whole.std(0, ddof=1).mean())
    return {"sd": wide, "mean": dict(zip([w.name for w in how.wordings()], whole.mean(1).tolist(), strict=True))}
