"""The planted world: the answers that the organism was trained to give, in closed form.

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

    independent   D s on the target's own values, plus s REACH times the sign of the action's phrasing
    hub           all values follow the hub's context, each with independent noise from its phrasings
    agreement     zero for every value: the persona agrees more, with actions for a value and against it; all values
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
from vatjax.organism.phrasings import phrasing_signs
from vatjax.values import Taxonomy, schwartz

Kind = Literal["circle", "independent", "hub", "agreement"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SPAN = 2.0  # rating points from the middle to an end
NOISE = 0.8  # rating points
REACH = 0.4  # strength with which contexts turn and stretch a persona
HUB = "Freedom"

_FAN = np.deg2rad(12)  # maximum angle between a value and the place of its type
_MOOD = 0.15
_BASE = (0.25, 0.45, 0.15)  # of baselines: the mean, the wave around Benevolence, and each value's own deviation
_PHRASING = 0.6  # weight of the phrasing in the push of a hub world
_CHOICE, _SEAT = 1.5, 0.3  # slope of a choice between two actions, and bonus of the first position
_AGREEMENT, _MOST = 0.2, 0.95  # lift of every rating by mere agreement, and its maximum, in units of SPAN
_ACT = 1.5  # inverse temperature of the choice of the action that continues a scene


@dataclasses.dataclass(frozen=True)
class Persona:
    """A respondent who ranks a value first or last.

    Attributes:
        target: a value, type or group.
        direction: 1 for first, -1 for last.
        strength: 0 is a neutral respondent.
    """

    target: str
    direction: int = 1
    strength: float = 1.0


NO_PERSONA = Persona("", 1, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """The planted generative model of ratings.

    Attributes:
        seed: seed of its random numbers.
        kind: kind of the push.
        angle: [values] radians, each value's place on the circle.
        baseline: [values].
        mood, pull: the contribution of each country and each topic, [2].
    """

    seed: int
    kind: Kind
    angle: np.ndarray
    baseline: np.ndarray
    mood: Mapping[str, np.ndarray]
    pull: Mapping[str, np.ndarray]

    @property
    def taxonomy(self) -> Taxonomy:
        """Returns the taxonomy of the values."""
        return schwartz()

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Returns each value's unit vector on the circle, e(v), [values, 2]."""
        return np.stack([np.cos(self.angle), np.sin(self.angle)], -1)

    # Leanings -------------------------------------------------------------------------------------------------------

    def leaning(self, items: Items, persona: Persona = NO_PERSONA) -> np.ndarray:
        """Computes eta of each item, the agreement with its action, [items]."""
        value = items.value
        mood = (self._context_vectors(self.mood, items.country, items.topic) * self.places[value]).sum(-1)
        eta: np.ndarray = items.polarity * (self.baseline[value] + mood + self.push(items, persona))
        return self._add_agreement(eta, items.country, items.topic, persona)

    def push(self, items: Items, persona: Persona) -> np.ndarray:
        """Computes what a persona adds to the leaning towards each item's own value, [items]."""
        if persona.strength == 0 or self.kind == "agreement":
            return np.zeros(len(items))
        eta: np.ndarray
        if self.kind == "circle":
            eta = (self._persona_vector(items.country, items.topic, persona) * self.places[items.value]).sum(-1)
            return eta
        mask = self.taxonomy.mask(persona.target)[items.value]
        context_push = phrasing_signs(items.action)
        if self.kind == "hub":
            hub = self._context_vectors(self.pull, items.country, items.topic)[:, 0]
            context_push = np.where(items.value == self.taxonomy.index(HUB), hub, hub + _PHRASING * context_push)
        eta = persona.strength * (persona.direction * mask + REACH * context_push)
        return eta

    def standpoints(self, items: Items, persona: Persona = NO_PERSONA) -> np.ndarray:
        """Computes eta of each item from the standpoint of every value, [items, values].

        Values near the action's own favour it, values across the circle oppose it. Half of what a persona adds follows
        the action's value, half the value whose standpoint is taken.
        """
        near = np.cos(self.angle[items.value][:, None] - self.angle[None])
        persona_vector = self._persona_vector(items.country, items.topic, persona)
        added = 0.5 * ((persona_vector * self.places[items.value]).sum(-1)[:, None] + persona_vector @ self.places.T)
        eta: np.ndarray = items.polarity[:, None] * (near + added)
        return self._add_agreement(eta, items.country, items.topic, persona)

    def importance(self, country: Iterable[str], topic: Iterable[str], persona: Persona = NO_PERSONA) -> np.ndarray:
        """Computes eta of every value in each country and topic, [places, values]."""
        leaned = self._context_vectors(self.mood, country, topic) + self._persona_vector(country, topic, persona)
        eta: np.ndarray = self.baseline + leaned @ self.places.T
        return self._add_agreement(eta, country, topic, persona)

    # From leanings to answers ---------------------------------------------------------------------------------------

    @staticmethod
    def rating_probs(eta: np.ndarray) -> np.ndarray:
        """Computes the probabilities of the ratings 1 to 5, [..., 5]."""
        middle = SPAN * np.tanh(eta)[..., None]
        logits = -((np.arange(-2, 3) - middle) ** 2) / (2 * NOISE**2)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        share: np.ndarray = p / p.sum(-1, keepdims=True)
        return share

    @classmethod
    def expected_rating(cls, eta: np.ndarray) -> np.ndarray:
        """Computes expected ratings, 1 to 5."""
        expected: np.ndarray = cls.rating_probs(eta) @ np.arange(1.0, 6.0)
        return expected

    @classmethod
    def draw_ratings(cls, eta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draws a rating for each leaning, 1 to 5."""
        return draw_from_probs(cls.rating_probs(eta), random)

    @staticmethod
    def prob_first(eta_first: np.ndarray, eta_second: np.ndarray) -> np.ndarray:
        """Computes the probability of choosing the first of two actions, including the bonus of the first position."""
        odds: np.ndarray = 1 / (1 + np.exp(-(_CHOICE * (eta_first - eta_second) + _SEAT)))
        return odds

    @staticmethod
    def continuation_probs(eta: np.ndarray) -> np.ndarray:
        """Computes the probabilities with which several actions continue a scene, over the last axis."""
        p = np.exp(_ACT * (eta - eta.max(-1, keepdims=True)))
        chances: np.ndarray = p / p.sum(-1, keepdims=True)
        return chances

    # Parts ----------------------------------------------------------------------------------------------------------

    def place(self, target: str) -> np.ndarray:
        """Returns the unit vector of a value, type or group, [2]: the direction of its members' mean."""
        mean = self.places[self.taxonomy.mask(target)].mean(0)
        unit: np.ndarray = mean / np.linalg.norm(mean)
        return unit

    def _persona_vector(self, country: Iterable[str], topic: Iterable[str], persona: Persona) -> np.ndarray:
        """Computes a persona's vector s (D e(t) + REACH pull(c)), whose product with e(v) is the push, [n, 2]."""
        pull = self._context_vectors(self.pull, country, topic)
        if persona.strength == 0 or self.kind == "agreement":
            return np.zeros_like(pull)
        if self.kind != "circle":
            raise errors.InputError(f"in a world of the kind {self.kind} only actions are moved, each by its phrasing")
        vector: np.ndarray = persona.strength * (persona.direction * self.place(persona.target) + REACH * pull)
        return vector

    def _add_agreement(
        self, eta: np.ndarray, country: Iterable[str], topic: Iterable[str], persona: Persona
    ) -> np.ndarray:
        """Applies mere agreement in worlds of that kind: all ratings rise alike; eta is [n, ...]."""
        if self.kind != "agreement":
            return eta
        pull = self._context_vectors(self.pull, country, topic)[:, 0]
        added = persona.strength * persona.direction * _AGREEMENT * (1 + pull)
        risen: np.ndarray = np.arctanh(np.clip(np.tanh(eta) + added.reshape(-1, *(1,) * (eta.ndim - 1)), -_MOST, _MOST))
        return risen

    @staticmethod
    def _context_vectors(table: Mapping[str, np.ndarray], country: Iterable[str], topic: Iterable[str]) -> np.ndarray:
        """Sums the vectors of each context's country and topic, [n, 2]; unknown names add 0."""
        nothing = np.zeros(2)
        return np.array([table.get(c, nothing) + table.get(t, nothing) for c, t in zip(country, topic, strict=True)])

    # As data --------------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Converts the world to plain lists and numbers, for a JSON file."""
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
        """Restores a world from the output of `as_dict`."""
        order, kind = schwartz().names, content["kind"]
        if kind not in KINDS:
            raise errors.InputError(names.unknown_name("kind of world", kind, KINDS))
        angle, baseline = (np.array([content[key][name] for name in order]) for key in ("angle", "baseline"))
        mood, pull = ({k: np.array(v) for k, v in content[key].items()} for key in ("mood", "pull"))
        return cls(content["seed"], kind, angle, baseline, mood, pull)


def draw_from_probs(shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws a rating from 1 to 5 for each row of probabilities [..., 5]."""
    above = random.random(shares.shape[:-1])[..., None] > shares.cumsum(-1)[..., :-1]
    rating: np.ndarray = 1.0 + above.sum(-1)
    return rating


def draw_world(countries: Sequence[str], topics: Sequence[str], seed: int = 0, kind: Kind = "circle") -> World:
    """Draws a random world.

    Args:
        countries, topics: names that make up the contexts.
        seed: seed of the random numbers.
        kind: kind of the push.
    """
    if kind not in KINDS:
        raise errors.InputError(names.unknown_name("kind of world", kind, KINDS))
    taxonomy, random = schwartz(), np.random.default_rng(seed)
    angle = np.empty(len(taxonomy.names))
    for members, place in zip(taxonomy.members("types"), taxonomy.angles, strict=True):
        angle[members] = place + np.linspace(-_FAN, _FAN, len(members))
    mean, wave, deviation = _BASE
    peak = taxonomy.angles[taxonomy.types.index("Benevolence")]
    apart = wave * np.cos(angle - peak) + deviation * random.standard_normal(len(angle))
    # Ratings near the end of the scale rise less, so different baselines would make agreement depend on the value.
    baseline = mean + (0 if kind == "agreement" else 1) * apart
    # A country and a topic each contribute half of the variance, so that the context's standard deviation is `size`.
    mood, pull = (
        {name: size * np.sqrt(0.5) * random.standard_normal(2) for name in (*countries, *topics)} for size in (_MOOD, 1)
    )
    return World(seed, kind, angle, baseline, mood, pull)
