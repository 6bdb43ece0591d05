"""From items and a model to a value state: ask, and put each rating in its place."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors, store
from vatjax.elicit import asking, protocols, provenance, scorer
from vatjax.elicit.labels import Labels
from vatjax.elicit.plan import Cost, Size
from vatjax.elicit.running import Part
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.progress import OnProgress, silent
from vatjax.prompts import How, Protocol, Scale, Shot
from vatjax.states import ValueState


class Rated(NamedTuple):
    """A value state, and what it was made of.

    Attributes:
        state: the state.
        agreement: where actions come in pairs, how far both are agreed with, whichever they are: a state of its own.
        ratings: [prompts] float64.
        shares: [wordings x scales, prompts, options] float64, probabilities of the options, which sum to the mass; for
            written answers 1 for the one that was read.
        cost: tokens of all wordings and scales.
    """

    state: ValueState
    agreement: ValueState | None
    ratings: np.ndarray
    shares: np.ndarray
    cost: Cost


def rate(model: Model, items: Items, protocol: Protocol = "paired", **options: Any) -> ValueState:
    """A model's value state over some items.

    Args:
        model: the model; it needs a tokenizer.
        items: what is asked about.
        protocol: "paired", "labelled", "dense" or "stated".
        **options: of `ratings`, and fields of `How`.
    """
    names = {field.name for field in dataclasses.fields(How)}
    how = How(protocol, **{name: options.pop(name) for name in list(options) if name in names})
    return ratings(model, items, how, **options).state


def ratings(
    model: Model,
    items: Items,
    how: How | None = None,
    *,
    shots: Sequence[Shot] = (),
    instruction: str = "",
    edit: Edit | None = None,
    labels: np.ndarray | Labels | None = None,
    size: Size | None = None,
    keep: store.Path | None = None,
    on_cost: asking.OnCost = lambda *_: None,
    on_progress: OnProgress = silent,
) -> Rated:
    """A model's value state, with the probabilities behind it.

    Args:
        model: the model; it needs a tokenizer.
        items: what is asked about.
        how: how it is asked.
        shots: examples with answers, before every prompt.
        instruction: a sentence before every rubric, such as `prompts.instruction` gives.
        edit: a change of the computation.
        labels: for `labelled`, [items, values] of -1, 0 and 1: what each action violates, and what it supports; or what
            `label` gave.
        size, keep, on_cost, on_progress: how the run is carried out; see `asking.Run`.

    Raises:
        InputError: where items, protocol, options and model don't go together.
    """
    how = how or How()
    if shots and how.protocol == "stated":
        raise errors.InputError("examples show actions, and the protocol stated asks about none")
    shown = {shot.fields.get("scene") for shot in shots} & set(items.scene)
    if shown:
        warnings.warn(
            f"{len(shown)} of the scenes in the examples are asked about too: ask about the test side alone",
            stacklevel=2,
        )
    asked = protocols.ask(items, how.protocol)
    signs = _signs(labels, items, how)
    decides = {"items": provenance.digest(items)}
    found = asking.answers(
        model,
        list(asked.rows),
        how,
        asking.Condition(shots, instruction, edit),
        asking.Run(size, keep, on_cost, on_progress),
        decides,
    )
    count = protocols.asked_cells(asked, len(items.taxonomy.names))
    meta = {**found.meta, **provenance.described(items), "asked_cells": count}
    if signs is not None:
        meta["labels"] = {
            "sha256": hashlib.sha256(signs.astype(np.int8).tobytes()).hexdigest(),
            "annotator": labels.meta["model"] if isinstance(labels, Labels) else None,
        }
    middle = Scale(how.low, how.high).middle
    state, agreement = protocols.answered(asked, found.ratings, middle, len(items.taxonomy.names), signs)
    mass = None
    if found.meta["how"]["reading"] != "generate":
        mass = protocols.least_of_cells(asked, found.shares.sum(-1).mean(0), len(items.taxonomy.names))
    return Rated(
        state_of(state, asked, items, meta, signs, mass),
        None if agreement is None else state_of(agreement, asked, items, {**meta, "reads": "agreement"}),
        found.ratings,
        found.shares,
        found.cost,
    )


def cost(
    model: Model,
    items: Items,
    how: How | None = None,
    *,
    shots: Sequence[Shot] = (),
    instruction: str = "",
    size: Size | None = None,
) -> Cost:
    """What `ratings` would take, without computing it; arguments as there."""
    return asking.total(part.plan.cost for part in layout(model, items, how, shots, instruction, size))


def layout(
    model: Model,
    items: Items,
    how: How | None = None,
    shots: Sequence[Shot] = (),
    instruction: str = "",
    size: Size | None = None,
) -> list[Part]:
    """The passes by which `ratings` would be computed; arguments as there, of a model that may be an outline."""
    how = how or How()
    rows = list(protocols.ask(items, how.protocol).rows)
    made = asking.posed(rows, how, asking.Condition(shots, instruction), asking.template(model, how))
    read_as = [asking.tokenised(model, one, how) for one in made]
    for found, options in read_as:
        scorer.check(found, model, options, lambda prompt: asking.named(rows, prompt))
    return scorer.plans(model, read_as, size or scorer.size_for(model))


def _signs(labels: np.ndarray | Labels | None, items: Items, how: How) -> np.ndarray | None:
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
    asked: protocols.Asked,
    items: Items,
    meta: Mapping[str, Any],
    labels: np.ndarray | None = None,
    mass: np.ndarray | None = None,
) -> ValueState:
    """Makes a value state of an array of answers."""
    names = tuple(items.taxonomy.names)
    contexts = dict(asked.contexts)
    return ValueState(array, ~np.isnan(array), asked.clusters, names, contexts, dict(meta), labels, mass)
