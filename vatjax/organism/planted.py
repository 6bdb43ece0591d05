"""Planted value states: the readings of an instrument without error."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from vatjax import errors, names
from vatjax.elicit import protocols
from vatjax.items import Items
from vatjax.organism.worlds import NO_PERSONA, Persona, World
from vatjax.states import ValueState

Protocol = Literal["paired", "dense", "stated"]


def planted_state(
    world: World,
    items: Items,
    protocol: Protocol = "paired",
    persona: Persona = NO_PERSONA,
    random: np.random.Generator | None = None,
) -> ValueState:
    """Computes the value state of a persona in a world, with the contexts of a model's state over the same items.

    Args:
        world: the planted world.
        items: the items asked about.
        protocol: "paired", "dense" or "stated".
        persona: the persona that answers.
        random: draws one answer to each question; by default each answer is its expected rating.
    """
    questions = protocols.make_questions(items, protocol)
    if protocol == "stated":
        importance = world.importance(questions.contexts["country"], questions.contexts["topic"], persona)
        eta = importance[questions.context, questions.value]
    elif protocol in ("paired", "dense"):
        pairs = items.pair()
        paired_items = items.take(np.stack([pairs.express, pairs.suppress], 1).ravel())
        eta = (world.leaning if protocol == "paired" else world.standpoints)(paired_items, persona).ravel()
    else:
        raise errors.InputError(
            names.unknown_name("protocol with a planted state", protocol, ("paired", "dense", "stated"))
        )
    rating = world.expected_rating(eta) if random is None else world.draw_ratings(eta, random)
    array, _ = protocols.answers_to_state(questions, rating, 3.0, len(items.taxonomy.names))
    meta = {"planted": world.kind, "persona": dataclasses.asdict(persona)}
    return ValueState(array, ~np.isnan(array), questions.clusters, items.taxonomy.names, questions.contexts, meta)
