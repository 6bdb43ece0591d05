"""A study laid out: its items, its models, and every piece that it comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vatjax import analysis, errors, metrics, models, store
from vatjax.elicit import prefill, protocols
from vatjax.items import Items, open_source
from vatjax.study import arms
from vatjax.study.design import Design
from vatjax.study.finding import of_scenes
from vatjax.study.pieces import Piece, Shelf, ordered

Load = Callable[[str], models.Model]


class Planned(NamedTuple):
    """A study, laid out.

    Attributes:
        design: the study.
        items: all items.
        asked: those of the test side that are asked about.
        expanded: the pieces of each model.
    """

    design: Design
    items: Items
    asked: Items
    expanded: list[arms.Expanded]

    def pieces(self) -> list[Piece]:
        """All of them, each behind what it needs."""
        return ordered([piece for one in self.expanded for piece in one.pieces()])

    def name(self) -> str:
        """A name for all of its pieces together."""
        return store.address([piece.address for piece in self.pieces()])


def plan(
    design: Design,
    load: Load | None = None,
    named: Callable[[models.Model], str] | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Planned:
    """Lays a study out; every model is opened, for the name of its weights.

    Args:
        design: the study.
        load: opens a model.
        named: gives a model's name in the addresses of pieces; by default `identity`.
        on_message: hears what is measured of each model before anything is laid out.

    Raises:
        InputError: for a target, an item or a layer that is not there.
    """
    load, named = load or loader(design), named or identity
    items, asked = opened(design)
    found = []
    for name in design.models:
        on_message(f"{name}: loading")
        model = load(name)
        for what in design.interventions.values():
            what.places(model.config.layers)  # refused before anything is computed
        weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays))
        own = dataclasses.replace(design, how=prefill.answering(model, design.how, design.allow_low_mass, on_message))
        found.append(dataclasses.replace(arms.expand(own, name, named(model), items, asked), weights=weights))
        del model
    return Planned(design, items, asked, found)


def opened(design: Design) -> tuple[Items, Items]:
    """All items of a study, and those that are asked about; refused where no target has a pair among these."""
    items = open_source(design.items)
    aims = design.aims(items.taxonomy)
    _, test = items.split(design.items.test, design.items.seed)
    test = of_scenes(test, np.unique(test.scene.astype(str)), design.scenes, design.items.seed)
    if design.how.protocol != "stated":
        for aim in aims:
            own = test.take(np.flatnonzero(items.taxonomy.mask(aim)[test.value]))
            if not len(own.pair().express):
                raise errors.InputError(
                    f"targets: no pair of {aim} among the {len(test):,} items of {items.source} that are asked about"
                    f"{design.items.filters()}"
                )
    clusters = len(np.unique(protocols.ask(test, design.how.protocol).clusters))
    if clusters < 2:
        raise errors.InputError(
            f"{items.source}: {clusters} cluster of scenes is asked about; intervals need at least two"
        )
    return items, test


def detectable(design: Design, test: Items) -> dict[str, Any]:
    """Returns what a study can tell from noise with the contexts that it asks about, if no two of them are alike."""
    contexts = len(protocols.ask(test, design.how.protocol).clusters)
    levels = {level: metrics.detectable(contexts, len(test.taxonomy.level_names(level))) for level in analysis.LEVELS}
    return {
        "contexts": contexts,
        "gain_in_deviations": analysis.number(levels["types"].gain),
        "nvat": {level: analysis.number(one.nvat) for level, one in levels.items()},
    }


def loader(design: Design, mesh: jax.sharding.Mesh | None = None) -> Load:
    """Opens models as a design wants them, spread over a mesh where there is one.

    The one that was opened last is kept, and let go before another is opened.
    """
    kept: dict[str, models.Model] = {}

    def load(name: str) -> models.Model:
        if name not in kept:
            kept.clear()
            kept[name] = models.load(name, design.dtype, mesh, design.ignore, design.context)
        return kept[name]

    return load


def identity(model: models.Model) -> str:
    """A name for what a model answers: its weights, what is computed with them, its tokens and its chat template."""
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return store.address(
        models.fingerprint(model.arrays), repr(model.config), words, getattr(tokenizer, "chat_template", None)
    )


def shelf_of(design: Design) -> Shelf:
    """Where a study's pieces are."""
    return Shelf(design.pieces or store.path(design.out) / "pieces")
