"""An edit that is to be tried in several places: how it is found, and the placebos that stand beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast, get_args

import numpy as np

from vatjax import edits, errors
from vatjax.edits.pairs import PAIRS, Way
from vatjax.edits.stream import Method as Along
from vatjax.edits.stream import Operator
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.models.edit import Positions
from vatjax.prompts import How
from vatjax.study.steering import Push

Place = tuple[int, ...]

# Options that only some methods know.
ALONG: tuple[str, ...] = get_args(Along)
_PAIRED = (*ALONG, "conva", "neurons", "conditional")
WORKS: dict[str, tuple[str, ...]] = {
    "operator": ALONG,
    "gate": ("conva",),
    "probability": ("conva",),
    "top": ("neurons",),
    "gamma": ("split",),
    "theta": ("split",),
    "way": _PAIRED,
    "positions": edits.METHODS,
    "pairs": edits.METHODS,
}


@dataclasses.dataclass(frozen=True)
class Finder:
    """How an edit is found; `edits.search` says what each field does.

    Attributes:
        method: of `edits.METHODS`.
        gamma, theta: of `split`: what its margin weighs, and how many nats it is.
        test, seed: of the division by scene, and of what is drawn.
        draw: which of many draws.
    """

    method: edits.Method = "mean"
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
        """Of `edits.search`."""
        names = ("way", "operator", "positions", "pairs", "top", "gate", "probability", "test", "seed", "draw")
        training = edits.Training(gamma=self.gamma, theta=self.theta, seed=self.seed + self.draw)
        return {**{name: getattr(self, name) for name in names}, "training": training}


class Candidate(NamedTuple):
    """An edit that can be made in several places.

    Attributes:
        make: the edit in some layers, at strength 1.
        places: the layers to try.
        facts: what there is to say about it in some layers.
        blind: what the same finder makes of labels that mean nothing, from layers and a seed.
    """

    make: Callable[[Place], Edit]
    places: list[Place]
    facts: Callable[[Place], dict[str, Any]]
    blind: Callable[[Place, int], Edit]


def candidate(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    finder: Finder | None = None,
    places: Sequence[Place] = (),
    how: How | None = None,
) -> Candidate:
    """Finds an edit from the train side of some items; what is costly is computed once for all places.

    Args:
        model: the model.
        items: all items; nothing of their test side is looked at.
        target, direction: what is to be pushed, and which way.
        finder: how.
        places: layers to try, each place one or several of them; by default up to six single ones, for `split` the middle
            one, and for methods that choose their layers those.
        how: how questions are put.
    """
    finder = finder or Finder()
    if finder.method in ALONG:
        return _along(model, items, target, direction, finder, places, how)

    def search(place: Place = (), exchanged: int | None = None) -> edits.Found:
        return edits.search(
            model, items, target, direction, finder.method, place, exchanged=exchanged, how=how, **finder.options()
        )

    if finder.method == "split":
        wanted = list(places) or [(model.config.layers // 2,)]
        made = {place: search(place) for place in wanted}
        return Candidate(
            lambda place: made[place].edit,
            wanted,
            lambda place: made[place].facts,
            lambda place, number: search(place, exchanged=number).edit,
        )
    own = search()
    whole = tuple(own.facts.get("layers", range(model.config.layers)))
    wanted = [place for place in places if set(place) <= set(whole)] if places else [whole]
    if not wanted:
        found = ", ".join("+".join(map(str, place)) for place in places)
        raise errors.InputError(f"layers: {finder.method} works in {', '.join(map(str, whole))}, found {found}")
    return Candidate(
        lambda place: own.edit.only(place),
        wanted,
        lambda _: own.facts,
        lambda place, number: search(exchanged=number).edit.only(place),
    )


def _along(
    model: Model, items: Items, target: str, direction: int, finder: Finder, places: Sequence[Place], how: How | None
) -> Candidate:
    """Directions of the residual stream: one reading of the pairs serves all layers and all placebos."""
    drawn: dict[str, Any] = {"test": finder.test, "seed": finder.seed, "draw": finder.draw}
    pairs = edits.contrast(model, items, target, direction, finder.way, finder.pairs, how, **drawn)
    method = cast(Along, finder.method)
    found = edits.directions(pairs, method, finder.seed)
    facts = {"pairs": pairs.positive.shape[1], "accuracy": found.accuracy.tolist()}
    facts |= {name: getattr(finder, name) for name in ("method", "way", "operator", "positions")}
    wanted = list(places) or spread(model.config.layers)
    live = [place for place in wanted if all(np.abs(found.vector[layer]).any() for layer in place)]

    def steered(one: edits.Directions, place: Place) -> Edit:
        return edits.steer(one, place, finder.operator, finder.positions)

    def blind(place: Place, number: int) -> Edit:
        other = edits.directions(edits.shuffled(pairs, number), method, finder.seed)
        return steered(edits.as_long_as(other, found), place)

    return Candidate(lambda place: steered(found, place), live or wanted, lambda _: facts, blind)


def spread(depth: int) -> list[Place]:
    """Up to six single layers that are spread over a model."""
    return [(int(layer),) for layer in np.unique(np.linspace(0, depth - 1, min(depth, 6)).round())]


def some_scenes(items: Items, target: str, scenes: int, seed: int = 0) -> Items:
    """All items of some scenes that have pairs of a target; 0 for all items."""
    own = items.take(np.flatnonzero(items.taxonomy.mask(target)[items.value]))
    texts = np.unique(own.scene[own.pair().express].astype(str))
    return of_scenes(items, texts, scenes, seed)


def of_scenes(items: Items, texts: np.ndarray, scenes: int, seed: int = 0) -> Items:
    """All items of some of the scenes that are named; all items where 0, or as many as there are, are wanted."""
    if not scenes or scenes >= len(texts):
        return items
    chosen = np.random.default_rng(seed).choice(texts, scenes, replace=False)
    return items.take(np.flatnonzero(np.isin(items.scene.astype(str), chosen)))


def placebos(
    found: Candidate, layers: Place, strength: float, draws: int, told: Callable[[str], None] = lambda _: None
) -> dict[str, Push]:
    """Random edits as long as the real one, and the same finder on shuffled labels.

    Args:
        found: the real one.
        layers, strength: at which it is used.
        draws: of each.
        told: hears of a finder that finds nothing in shuffled labels.
    """
    real = strength * found.make(layers)
    made = {f"random {number + 1}": Push(edits.random_like(real, number), placebo="random") for number in range(draws)}
    for number in range(draws):
        try:
            blind = strength * found.blind(layers, number)
        except errors.InputError as error:
            told(f"shuffled labels {number + 1}: {error}")
            continue
        made[f"shuffled {number + 1}"] = Push(blind, placebo="shuffled labels")
    return made
