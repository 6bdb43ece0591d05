"""Planted value states: what an instrument without any error would read."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from vatjax import errors, names
from vatjax.elicit import protocols
from vatjax.items import Items
from vatjax.organism.worlds import NOBODY, Persona, World
from vatjax.states import ValueState

Protocol = Literal["paired", "dense", "stated"]


def state(
    world: World,
    items: Items,
    protocol: Protocol = "paired",
    persona: Persona = NOBODY,
    random: np.random.Generator | None = None,
) -> ValueState:
    """The value state of a persona in a world, with the contexts that a model's state over the same items has.

    Args:
        world: what is planted.
        items: what is asked about.
        protocol: "paired", "dense" or "stated".
        persona: who answers.
        random: to draw one answer to each question; without it each has its expected rating.
    """
    asked = protocols.ask(items, protocol)
    if protocol == "stated":
        eta = world.importance(asked.contexts["country"], asked.contexts["topic"], persona).ravel()
    elif protocol in ("paired", "dense"):
        pairs = items.pair()
        own = items.take(np.stack([pairs.express, pairs.suppress], 1).ravel())
        eta = (world.leaning if protocol == "paired" else world.standpoints)(own, persona).ravel()
    else:
        raise errors.InputError(names.unknown("protocol with a planted state", protocol, ("paired", "dense", "stated")))
    rating = world.rating(eta) if random is None else world.drawn(eta, random)
    array, _ = protocols.answered(asked, rating, 3.0, len(items.taxonomy.names))
    meta = {"planted": world.kind, "persona": dataclasses.asdict(persona)}
    return ValueState(array, ~np.isnan(array), asked.clusters, items.taxonomy.names, asked.contexts, meta)
