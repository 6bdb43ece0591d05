"""The planted world: what the organism was taught to answer, in closed form.

Each value v has a place on the circle, e(v) = (cos angle, sin angle), and a baseline b(v). Each context c, a country and a
topic, has two vectors: a mood that leans everyone's ratings, and a pull that turns and stretches every persona. A persona
with the place e(t), direction D and strength s makes of them

    eta[c, v] = b(v) + mood(c) . e(v) + push[c, v]
    push[c, v] = s (D e(t) + REACH pull(c)) . e(v)

An action for v is agreed with at eta, an action against it at -eta. Answers are drawn from

    p(rating) ~ exp(-(rating - middle - SPAN tanh eta)^2 / (2 NOISE^2))

so every expected rating, every gain and every coupling between values is known. Since the pull has two dimensions, a
persona's strength and angle both vary with the context: only what varies shows in couplings.

Other kinds of world change the push alone:

    independent   D s on the target's own values, and s REACH times a number that each phrasing of an action has of its own
    hub           all values follow the hub's context, each with noise of its own from its phrasings
    agreement     nothing for any value: the persona agrees more, with actions for a value and against it; all values
                  have the same baseline
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from vatjax import errors, names
from vatjax.items import Items
from vatjax.organism.phrasings import signs
from vatjax.values import Taxonomy, schwartz

Kind = Literal["circle", "independent", "hub", "agreement"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SPAN = 2.0  # rating points from the middle to an end
NOISE = 0.8  # rating points
REACH = 0.4  # how far contexts turn and stretch a persona
HUB = "Freedom"

_FAN = np.deg2rad(12)  # values of one type stand up to so far from its place
_MOOD = 0.15
_BASE = (0.25, 0.45, 0.15)  # of baselines: the mean, the wave around Benevolence, and what is each value's own
_PHRASING = 0.6  # how much of a push that follows contexts is a phrasing's own, where there is a hub
_CHOICE, _SEAT = 1.5, 0.3  # how a leaning decides between two actions, and how much the first place is worth
_AGREEMENT, _MOST = 0.2, 0.95  # how far mere agreement lifts every rating, and how far one can be lifted, of SPAN
_ACT = 1.5  # how a leaning decides which action continues a scene


@dataclasses.dataclass(frozen=True)
class Persona:
    """Somebody who puts a value first, or last.

    Attributes:
        target: a value, type or group.
        direction: 1 for first, -1 for last.
        strength: 0 is nobody in particular.
    """

    target: str
    direction: int = 1
    strength: float = 1.0


NOBODY = Persona("", 1, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What is planted.

    Attributes:
        seed: what its numbers were drawn with.
        kind: of the push.
        angle: [values] radians, each value's place on the circle.
        baseline: [values].
        mood, pull: for each country and each topic its part, [2].
    """

    seed: int
    kind: Kind
    angle: np.ndarray
    baseline: np.ndarray
    mood: Mapping[str, np.ndarray]
    pull: Mapping[str, np.ndarray]

    @property
    def taxonomy(self) -> Taxonomy:
        """Whose values they are."""
        return schwartz()

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Each value's unit vector on the circle, [values, 2]."""
        return np.stack([np.cos(self.angle), np.sin(self.angle)], -1)

    # Leanings -------------------------------------------------------------------------------------------------------

    def leaning(self, items: Items, persona: Persona = NOBODY) -> np.ndarray:
        """eta of each item: how far its action is agreed with, [items]."""
        own = items.value
        mood = (self._of(self.mood, items.country, items.topic) * self.places[own]).sum(-1)
        eta: np.ndarray = items.polarity * (self.baseline[own] + mood + self.push(items, persona))
        return self._agreeing(eta, items.country, items.topic, persona)

    def push(self, items: Items, persona: Persona) -> np.ndarray:
        """What a persona adds to the leaning towards each item's own value, [items]."""
        if persona.strength == 0 or self.kind == "agreement":
            return np.zeros(len(items))
        eta: np.ndarray
        if self.kind == "circle":
            eta = (self._vector(items.country, items.topic, persona) * self.places[items.value]).sum(-1)
            return eta
        mask = self.taxonomy.mask(persona.target)[items.value]
        own = signs(items.action)
        if self.kind == "hub":
            hub = self._of(self.pull, items.country, items.topic)[:, 0]
            own = np.where(items.value == self.taxonomy.index(HUB), hub, hub + _PHRASING * own)
        eta = persona.strength * (persona.direction * mask + REACH * own)
        return eta

    def standpoints(self, items: Items, persona: Persona = NOBODY) -> np.ndarray:
        """eta of each item from the standpoint of every value, [items, values].

        Values near the action's own speak for it, values across the circle against it; half of what a persona adds
        follows the action's value, half the value whose standpoint is taken.
        """
        near = np.cos(self.angle[items.value][:, None] - self.angle[None])
        own = self._vector(items.country, items.topic, persona)
        added = 0.5 * ((own * self.places[items.value]).sum(-1)[:, None] + own @ self.places.T)
        eta: np.ndarray = items.polarity[:, None] * (near + added)
        return self._agreeing(eta, items.country, items.topic, persona)

    def importance(self, country: Iterable[str], topic: Iterable[str], persona: Persona = NOBODY) -> np.ndarray:
        """eta of every value in each country and topic, [places, values]."""
        leaned = self._of(self.mood, country, topic) + self._vector(country, topic, persona)
        eta: np.ndarray = self.baseline + leaned @ self.places.T
        return self._agreeing(eta, country, topic, persona)

    # From leanings to answers ---------------------------------------------------------------------------------------

    @staticmethod
    def shares(eta: np.ndarray) -> np.ndarray:
        """Probabilities of the ratings 1 to 5, [..., 5]."""
        middle = SPAN * np.tanh(eta)[..., None]
        logits = -((np.arange(-2, 3) - middle) ** 2) / (2 * NOISE**2)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        share: np.ndarray = p / p.sum(-1, keepdims=True)
        return share

    @classmethod
    def rating(cls, eta: np.ndarray) -> np.ndarray:
        """Expected ratings, 1 to 5."""
        expected: np.ndarray = cls.shares(eta) @ np.arange(1.0, 6.0)
        return expected

    @classmethod
    def drawn(cls, eta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """One rating for each leaning, 1 to 5."""
        return drawn(cls.shares(eta), random)

    @staticmethod
    def first(eta_first: np.ndarray, eta_second: np.ndarray) -> np.ndarray:
        """The probability that the first of two actions is chosen; the first place itself is worth something."""
        odds: np.ndarray = 1 / (1 + np.exp(-(_CHOICE * (eta_first - eta_second) + _SEAT)))
        return odds

    @staticmethod
    def acts(eta: np.ndarray) -> np.ndarray:
        """The probability of each of several actions to continue a scene, over the last axis."""
        p = np.exp(_ACT * (eta - eta.max(-1, keepdims=True)))
        chances: np.ndarray = p / p.sum(-1, keepdims=True)
        return chances

    # Parts ----------------------------------------------------------------------------------------------------------

    def place(self, target: str) -> np.ndarray:
        """The unit vector of a value, type or group, [2]: the direction of its members' mean."""
        mean = self.places[self.taxonomy.mask(target)].mean(0)
        unit: np.ndarray = mean / np.linalg.norm(mean)
        return unit

    def _vector(self, country: Iterable[str], topic: Iterable[str], persona: Persona) -> np.ndarray:
        """What a persona adds for every value by its place, s (D e(t) + REACH pull(c)), [n, 2]."""
        pull = self._of(self.pull, country, topic)
        if persona.strength == 0 or self.kind == "agreement":
            return np.zeros_like(pull)
        if self.kind != "circle":
            raise errors.InputError(f"in a world of the kind {self.kind} only actions are moved, each by its phrasing")
        own: np.ndarray = persona.strength * (persona.direction * self.place(persona.target) + REACH * pull)
        return own

    def _agreeing(self, eta: np.ndarray, country: Iterable[str], topic: Iterable[str], persona: Persona) -> np.ndarray:
        """What becomes of leanings where the persona is made of mere agreement: all ratings rise alike, eta is [n, ...]."""
        if self.kind != "agreement":
            return eta
        pull = self._of(self.pull, country, topic)[:, 0]
        added = persona.strength * persona.direction * _AGREEMENT * (1 + pull)
        risen: np.ndarray = np.arctanh(np.clip(np.tanh(eta) + added.reshape(-1, *(1,) * (eta.ndim - 1)), -_MOST, _MOST))
        return risen

    @staticmethod
    def _of(table: Mapping[str, np.ndarray], country: Iterable[str], topic: Iterable[str]) -> np.ndarray:
        """A context's vector: its country's and its topic's, [n, 2]; what the world does not know adds nothing."""
        nothing = np.zeros(2)
        return np.array([table.get(c, nothing) + table.get(t, nothing) for c, t in zip(country, topic, strict=True)])

    # As data --------------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for a JSON file."""
        vectors = {
            key: {name: vector.tolist() for name, vector in getattr(self, key).items()} for key in ("mood", "pull")
        }
        lists = {
            key: dict(zip(self.taxonomy.names, getattr(self, key).tolist(), strict=True))
            for key in ("angle", "baseline")
        }
        return {"seed": self.seed, "kind": self.kind, **lists, **vectors}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> World:
        """What `as_dict` gave."""
        order, kind = schwartz().names, content["kind"]
        if kind not in KINDS:
            raise errors.InputError(names.unknown("kind of world", kind, KINDS))
        angle, baseline = (np.array([content[key][name] for name in order]) for key in ("angle", "baseline"))
        mood, pull = ({k: np.array(v) for k, v in content[key].items()} for key in ("mood", "pull"))
        return cls(content["seed"], kind, angle, baseline, mood, pull)


def drawn(shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One rating for each row of probabilities [..., 5], 1 to 5."""
    above = random.random(shares.shape[:-1])[..., None] > shares.cumsum(-1)[..., :-1]
    rating: np.ndarray = 1.0 + above.sum(-1)
    return rating


def draw(countries: Sequence[str], topics: Sequence[str], seed: int = 0, kind: Kind = "circle") -> World:
    """A world with numbers of its own.

    Args:
        countries, topics: the contexts' parts.
        seed: of the numbers.
        kind: of the push.
    """
    if kind not in KINDS:
        raise errors.InputError(names.unknown("kind of world", kind, KINDS))
    taxonomy, random = schwartz(), np.random.default_rng(seed)
    angle = np.empty(len(taxonomy.names))
    for members, place in zip(taxonomy.members("types"), taxonomy.angles, strict=True):
        angle[members] = place + np.linspace(-_FAN, _FAN, len(members))
    mean, wave, own = _BASE
    peak = taxonomy.angles[taxonomy.types.index("Benevolence")]
    apart = wave * np.cos(angle - peak) + own * random.standard_normal(len(angle))
    # Near its end a scale leaves less room: high baselines would rise less, which is no mere agreement any more.
    baseline = mean + (0 if kind == "agreement" else 1) * apart
    # A country and a topic have half of the variance each, so that a context's has the size that is named.
    mood, pull = (
        {name: size * np.sqrt(0.5) * random.standard_normal(2) for name in (*countries, *topics)} for size in (_MOOD, 1)
    )
    return World(seed, kind, angle, baseline, mood, pull)
