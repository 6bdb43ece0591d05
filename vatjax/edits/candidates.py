"""Candidate edits for several places of a model: how they are found, and their placebos."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from vatjax import errors
from vatjax.edits.directions import Directions, Operator, directions, steer
from vatjax.edits.directions import Method as Along
from vatjax.edits.finders import METHODS, EditResult, Method, find_with_facts
from vatjax.edits.pairs import PAIRS, Way, contrast
from vatjax.edits.placebo import match_lengths, random_like, shuffle_labels
from vatjax.edits.split import Training
from vatjax.edits.trials import Push
from vatjax.elicit import Condition
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.models.edit import Positions
from vatjax.prompts import ElicitConfig

Place = tuple[int, ...]

# Option -> methods that support it.
ALONG: tuple[str, ...] = get_args(Along)
_PAIRED = (*ALONG, "conva", "neurons", "conditional")
METHODS_BY_OPTION: dict[str, tuple[str, ...]] = {
    "operator": ALONG,
    "gate": ("conva",),
    "probability": ("conva",),
    "top": ("neurons",),
    "gamma": ("split",),
    "theta": ("split",),
    "way": _PAIRED,
    "positions": METHODS,
    "pairs": METHODS,
}


@dataclasses.dataclass(frozen=True)
class Finder:
    """Settings of a search for an edit; `edits.find_with_facts` documents each field.

    Attributes:
        method: of `edits.METHODS`.
        gamma, theta: of `split`: the weight of its margin, and its size in nats.
        test, seed: test fraction of the split by scene, and the seed of everything drawn.
        draw: index of the draw of pairs.
    """

    method: Method = "mean"
    way: Way = "acted"
    operator: Operator = "add"
    positions: Positions = "all"
    pairs: int = PAIRS
    top: int = 100
    gate: bool = False
    probability: float = 0.99
    gamma: float = 1.0
    theta: float = 5.0
    test: float = 0.25
    seed: int = 0
    draw: int = 0

    def options(self) -> dict[str, Any]:
        """Returns the options of `edits.find_with_facts`."""
        names = ("way", "operator", "positions", "pairs", "top", "gate", "probability", "test", "seed", "draw")
        training = Training(gamma=self.gamma, theta=self.theta, seed=self.seed + self.draw)
        return {**{name: getattr(self, name) for name in names}, "training": training}


class Candidate(NamedTuple):
    """An edit that can be made in several places.

    Attributes:
        make: returns the edit in some layers, at strength 1.
        places: the layers to try.
        facts: returns a description of the edit in some layers.
        make_placebo: returns the edit that the same finder finds from shuffled labels, given layers and a seed.
    """

    make: Callable[[Place], Edit]
    places: list[Place]
    facts: Callable[[Place], dict[str, Any]]
    make_placebo: Callable[[Place, int], Edit]


def find_candidate(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    finder: Finder | None = None,
    places: Sequence[Place] = (),
    how: ElicitConfig | None = None,
) -> Candidate:
    """Finds an edit from the train side of some items; costly parts are computed once for all places.

    Args:
        model: the model.
        items: all items; their test side is not used.
        target, direction: the target, and the direction to push it.
        finder: settings of the search.
        places: places to try, each one layer or several; by default up to six single layers, for `split` the middle
            one, and for methods that choose their layers those.
        how: elicitation settings.
    """
    finder = finder or Finder()
    if finder.method in ALONG:
        return _find_directions(model, items, target, direction, finder, places, how)

    def search(place: Place = (), exchanged: int | None = None) -> EditResult:
        return find_with_facts(
            model, items, target, direction, finder.method, place, exchanged=exchanged, how=how, **finder.options()
        )

    if finder.method == "split":
        candidate_places = list(places) or [(model.config.layers // 2,)]
        edits_by_place = {place: search(place) for place in candidate_places}
        return Candidate(
            lambda place: edits_by_place[place].edit,
            candidate_places,
            lambda place: edits_by_place[place].facts,
            lambda place, number: search(place, exchanged=number).edit,
        )
    edit_result = search()
    layers = tuple(edit_result.facts.get("layers", range(model.config.layers)))
    candidate_places = [place for place in places if set(place) <= set(layers)] if places else [layers]
    if not candidate_places:
        given = ", ".join("+".join(map(str, place)) for place in places)
        raise errors.InputError(f"layers: {finder.method} works in {', '.join(map(str, layers))}, found {given}")
    return Candidate(
        lambda place: edit_result.edit.only_layers(place),
        candidate_places,
        lambda _: edit_result.facts,
        lambda place, number: search(exchanged=number).edit.only_layers(place),
    )


def _find_directions(
    model: Model,
    items: Items,
    target: str,
    direction: int,
    finder: Finder,
    places: Sequence[Place],
    how: ElicitConfig | None,
) -> Candidate:
    """Finds directions of the residual stream: the same activations of pairs serve all layers and all placebos."""
    drawn: dict[str, Any] = {"test": finder.test, "seed": finder.seed, "draw": finder.draw}
    pairs = contrast(model, items, target, direction, finder.way, finder.pairs, how, **drawn)
    method = cast(Along, finder.method)
    real = directions(pairs, method, finder.seed)
    facts = {"pairs": pairs.positive.shape[1], "accuracy": real.accuracy.tolist()}
    facts |= {name: getattr(finder, name) for name in ("method", "way", "operator", "positions")}
    candidate_places = list(places) or spread_places(model.config.layers)
    live = [place for place in candidate_places if all(np.abs(real.vector[layer]).any() for layer in place)]

    def steered(directions: Directions, place: Place) -> Edit:
        return steer(directions, place, finder.operator, finder.positions)

    def blind(place: Place, number: int) -> Edit:
        other = directions(shuffle_labels(pairs, number), method, finder.seed)
        return steered(match_lengths(other, real), place)

    return Candidate(lambda place: steered(real, place), live or candidate_places, lambda _: facts, blind)


def spread_places(depth: int) -> list[Place]:
    """Returns up to six single layers, spread evenly over a model."""
    return [(int(layer),) for layer in np.unique(np.linspace(0, depth - 1, min(depth, 6)).round())]


def sample_target_scenes(items: Items, target: str, scenes: int, seed: int = 0) -> Items:
    """Returns all items of a sample of the scenes that have pairs of a target; 0 for all items."""
    target_items = items.take(np.flatnonzero(items.taxonomy.mask(target)[items.value]))
    texts = np.unique(target_items.scene[target_items.pair().express].astype(str))
    return items.sample(scenes, seed, texts)


def placebo_pushes(
    candidate_edit: Candidate,
    layers: Place,
    strength: float,
    draws: int,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, Push]:
    """Returns random edits with the norm of the real one, and edits found from shuffled labels.

    Args:
        candidate_edit: the real edit.
        layers, strength: of the real edit.
        draws: number of draws of each placebo.
        on_message: called if the finder finds nothing in shuffled labels.
    """
    real = strength * candidate_edit.make(layers)
    pushes = {
        f"random {number + 1}": Push(Condition(edit=random_like(real, number)), "random") for number in range(draws)
    }
    for number in range(draws):
        try:
            placebo_edit = strength * candidate_edit.make_placebo(layers, number)
        except errors.InputError as error:
            on_message(f"shuffled labels {number + 1}: {error}")
            continue
        pushes[f"shuffled {number + 1}"] = Push(Condition(edit=placebo_edit), "shuffled labels")
    return pushes
