"""The plan of a study: its items, its models, and all its artifacts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vatjax import analysis, errors, metrics, models, store
from vatjax.elicit import prefill, protocols
from vatjax.interventions.base import check_intervention
from vatjax.items import Items, open_source
from vatjax.store.artifacts import Artifact, ArtifactStore, topological_order
from vatjax.study import graph
from vatjax.study.design import Design

LoadModel = Callable[[str], models.Model]


class Plan(NamedTuple):
    """Plan of a study.

    Attributes:
        design: the study.
        items: all items.
        test_items: items of the test side that are rated.
        graphs: the artifacts of each model.
    """

    design: Design
    items: Items
    test_items: Items
    graphs: list[graph.ArtifactGraph]

    def artifacts(self) -> list[Artifact]:
        """Returns all artifacts in topological order."""
        return topological_order([artifact for graph in self.graphs for artifact in graph.final_artifacts()])

    def content_hash(self) -> str:
        """Returns a content hash of all its artifacts."""
        return store.address([piece.address for piece in self.artifacts()])


def plan(
    design: Design,
    load: LoadModel | None = None,
    identify: Callable[[models.Model], str] | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Plans a study; every model is opened, for the hash of its weights.

    Args:
        design: the study.
        load: opens a model.
        identify: returns a model's hash, an input of its artifacts; by default `identity`.
        on_message: called with the answer check of each model before planning.

    Raises:
        InputError: if a target, an item or a layer does not exist.
    """
    load, identify = load or loader(design), identify or model_hash
    for name, intervention in design.interventions.items():
        check_intervention(name, intervention)
    items, test_items = load_items(design)
    graphs = []
    for name in design.models:
        on_message(f"{name}: loading")
        model = load(name)
        for arm_name, intervention in design.interventions.items():  # before anything is computed
            with errors.named(f"interventions.{arm_name}"):
                intervention.check(design.how.protocol, model.config.layers)
        weights = sum(leaf.size for leaf in jax.tree.leaves(model.arrays))
        model_design = dataclasses.replace(
            design, how=prefill.ensure_option_mass(model, design.how, design.allow_low_mass, on_message)
        )
        graphs.append(
            dataclasses.replace(
                graph.build_graph(model_design, name, identify(model), items, test_items), weights=weights
            )
        )
        del model
    return Plan(design, items, test_items, graphs)


def load_items(design: Design) -> tuple[Items, Items]:
    """Loads all items of a study, and those that it rates; raises an error if a target has no pair among these."""
    items = open_source(design.items)
    aims = design.target_names(items.taxonomy)
    _, test = items.split(design.items.test, design.items.seed)
    test = test.sample(design.scenes, design.items.seed)
    if design.how.protocol != "stated":
        for aim in aims:
            target_items = test.take(np.flatnonzero(items.taxonomy.mask(aim)[test.value]))
            if not len(target_items.pair().express):
                raise errors.InputError(
                    f"targets: no pair of {aim} among the {len(test):,} items of {items.source} that are asked about"
                    f"{design.items.filters()}"
                )
    clusters = len(np.unique(protocols.make_questions(test, design.how.protocol).clusters))
    if clusters < 2:
        raise errors.InputError(f"{items.source}: {clusters} cluster of scenes is rated; intervals need at least two")
    return items, test


def detectable(design: Design, test: Items) -> dict[str, Any]:
    """Returns the smallest effects that a study can distinguish from noise, if its contexts are independent."""
    contexts = len(protocols.make_questions(test, design.how.protocol).clusters)
    levels = {
        level: metrics.detectable_effects(contexts, len(test.taxonomy.level_names(level))) for level in analysis.LEVELS
    }
    return {
        "contexts": contexts,
        "gain_in_deviations": analysis.json_number(levels["types"].gain),
        "nvat": {level: analysis.json_number(effects.nvat) for level, effects in levels.items()},
    }


def loader(design: Design, mesh: jax.sharding.Mesh | None = None) -> LoadModel:
    """Returns a function that opens models with the settings of a design, sharded over a mesh if one is given.

    It caches the last model, and drops it before it opens another.
    """
    cached: dict[str, models.Model] = {}

    def load(name: str) -> models.Model:
        if name not in cached:
            cached.clear()
            cached[name] = models.load(name, design.dtype, mesh, design.ignore, design.context)
        return cached[name]

    return load


def model_hash(model: models.Model) -> str:
    """Returns a hash of everything that determines a model's answers: weights, computation, tokens and chat
    template."""
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return store.address(
        models.fingerprint(model.arrays), repr(model.config), words, getattr(tokenizer, "chat_template", None)
    )


def open_artifact_store(design: Design) -> ArtifactStore:
    """Returns the store of a study's artifacts."""
    return ArtifactStore(design.pieces or store.path(design.out) / "pieces")
