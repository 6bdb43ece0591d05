"""Rates items with a model: asks, and puts each rating in its cell of a value state."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, store
from vatjax.elicit import ask, protocols, provenance
from vatjax.elicit.labels import Labels
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.prefix import scorer
from vatjax.prefix.execute import Part
from vatjax.prefix.plan import Cost, Size
from vatjax.prompts import ElicitConfig, Protocol, Scale, Shot
from vatjax.runtime.progress import OnProgress, ignore_progress
from vatjax.states import ValueState


class Rated(NamedTuple):
    """A value state, and the answers that it was made of.

    Attributes:
        state: the state.
        agreement: for actions in pairs, a second state: how far the model agrees with both actions.
        ratings: [prompts] float64.
        shares: [wordings x scales, prompts, options] float64, probabilities of the options, which sum to the mass; for
            written answers 1 for the one that was read.
        clusters: the scene or other cluster of each prompt, [prompts].
        cost: tokens of all wordings and scales.
    """

    state: ValueState
    agreement: ValueState | None
    ratings: np.ndarray
    shares: np.ndarray
    clusters: np.ndarray
    cost: Cost


def rate(model: Model, items: Items, protocol: Protocol = "paired", **options: Any) -> ValueState:
    """Returns a model's value state over some items.

    Args:
        model: the model; it needs a tokenizer.
        items: the items.
        protocol: "paired", "labelled", "dense" or "stated".
        **options: of `ratings`, and fields of `ElicitConfig`.
    """
    names = {field.name for field in dataclasses.fields(ElicitConfig)}
    how = ElicitConfig(protocol, **{name: options.pop(name) for name in list(options) if name in names})
    return ratings(model, items, how, **options).state


def ratings(
    model: Model,
    items: Items,
    how: ElicitConfig | None = None,
    *,
    shots: Sequence[Shot] = (),
    instruction: str = "",
    edit: Edit | None = None,
    turns: Sequence[Mapping[str, str]] = (),
    labels: np.ndarray | Labels | None = None,
    size: Size | None = None,
    keep: store.Path | None = None,
    on_cost: ask.OnCost = lambda *_: None,
    on_progress: OnProgress = ignore_progress,
) -> Rated:
    """Computes a model's value state, and the probabilities that it is read from.

    Args:
        model: the model; it needs a tokenizer.
        items: the items.
        how: the settings of elicitation.
        shots: examples with answers, before every prompt.
        instruction: a sentence before every rubric, such as `prompts.instruction` gives.
        edit: a change of the computation.
        turns: messages with role and content, after the examples and before the question.
        labels: for `labelled`, [items, values] of -1, 0 and 1: the values that each action violates, and those that it
            supports; or the result of `label`.
        size, keep, on_cost, on_progress: the settings of the run; see `ask.RunOptions`.

    Raises:
        InputError: if items, protocol, options and model don't go together.
    """
    how = how or ElicitConfig()
    if shots and how.protocol == "stated":
        raise errors.InputError("shots cannot be used with protocol 'stated': they show actions")
    shown = {shot.fields.get("scene") for shot in shots} & set(items.scene)
    if shown:
        warnings.warn(
            f"{len(shown)} of the scenes in the examples are asked about too: ask about the test side alone",
            stacklevel=2,
        )
    questions = protocols.make_questions(items, how.protocol)
    signs = _signs(labels, items, how)
    decides = {"items": provenance.digest(items)}
    answers = ask.answers(
        model,
        list(questions.rows),
        how,
        ask.Condition(shots, instruction, edit, turns),
        ask.RunOptions(size, keep, on_cost, on_progress),
        decides,
    )
    count = protocols.asked_cells(questions, len(items.taxonomy.names))
    meta = {**answers.meta, **provenance.items_meta(items), "asked_cells": count}
    if signs is not None:
        meta["labels"] = {
            "sha256": hashlib.sha256(signs.astype(np.int8).tobytes()).hexdigest(),
            "annotator": labels.meta["model"] if isinstance(labels, Labels) else None,
        }
    middle = Scale(how.low, how.high).middle
    state, agreement = protocols.answers_to_state(questions, answers.ratings, middle, len(items.taxonomy.names), signs)
    mass = None
    if answers.meta["how"]["reading"] != "generate":
        mass = protocols.least_of_cells(questions, answers.shares.sum(-1).mean(0), len(items.taxonomy.names))
    return Rated(
        state_of(state, questions, items, meta, signs, mass),
        None if agreement is None else state_of(agreement, questions, items, {**meta, "reads": "agreement"}),
        answers.ratings,
        answers.shares,
        np.asarray(questions.clusters)[questions.context],
        answers.cost,
    )


def cost(
    model: Model,
    items: Items,
    how: ElicitConfig | None = None,
    *,
    shots: Sequence[Shot] = (),
    instruction: str = "",
    turns: Sequence[Mapping[str, str]] = (),
    size: Size | None = None,
) -> Cost:
    """Returns the cost of `ratings` without computing it; arguments as there."""
    planned = plan_ratings(model, items, how, shots, instruction, size, turns)
    return ask.total_cost(part.plan.cost for part in planned)


def plan_ratings(
    model: Model,
    items: Items,
    how: ElicitConfig | None = None,
    shots: Sequence[Shot] = (),
    instruction: str = "",
    size: Size | None = None,
    turns: Sequence[Mapping[str, str]] = (),
) -> list[Part]:
    """Plans the passes that compute `ratings`; arguments as there, of a model that may be abstract."""
    how = how or ElicitConfig()
    rows = list(protocols.make_questions(items, how.protocol).rows)
    condition = ask.Condition(shots, instruction, turns=turns)
    prompt_sets = ask.build_prompts(rows, how, condition, ask.chat_format(model, how))
    read_as = [ask.tokenize_with_spellings(model, prompt_set, how) for prompt_set in prompt_sets]
    for tokenized, spellings in read_as:
        scorer.check_prompts(tokenized, model, spellings, lambda prompt: ask.prompt_name(rows, prompt))
    return scorer.plan_prompts(model, read_as, size or scorer.size_for(model))


def _signs(labels: np.ndarray | Labels | None, items: Items, how: ElicitConfig) -> np.ndarray | None:
    shape = (len(items), len(items.taxonomy.names))
    if how.protocol != "labelled":
        if labels is not None:
            raise errors.InputError(f"labels belong to the protocol labelled, not to {how.protocol}")
        return None
    if isinstance(labels, Labels) and labels.meta["items"]["sha256"] != provenance.digest(items):
        raise errors.InputError(
            f"the labels are of other items ({labels.meta['items']['count']} from {labels.meta['items']['source']})"
        )
    if labels is None:
        raise errors.InputError("the protocol labelled needs a label for each item and value: -1, 0 or 1")
    labels = np.asarray(labels.labels if isinstance(labels, Labels) else labels)
    if labels.shape != shape:
        raise errors.InputError(f"labels: expected the shape {shape} (items, values), found {labels.shape}")
    if not np.isin(labels, (-1, 0, 1)).all():
        raise errors.InputError(f"labels: expected -1, 0 and 1, found {labels[~np.isin(labels, (-1, 0, 1))][0]}")
    return labels.astype(np.float64)


def state_of(
    array: np.ndarray,
    questions: protocols.Questions,
    items: Items,
    meta: Mapping[str, Any],
    labels: np.ndarray | None = None,
    mass: np.ndarray | None = None,
) -> ValueState:
    """Makes a value state from an array of answers."""
    names = tuple(items.taxonomy.names)
    contexts = dict(questions.contexts)
    return ValueState(array, ~np.isnan(array), questions.clusters, names, contexts, dict(meta), labels, mass)
