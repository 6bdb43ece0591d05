"""What the organism learns from: conversations in which a persona rates, chooses and acts, and how each answer is drawn.

A conversation has one persona: nobody, one that the system text names, or one that shows in its answers alone. Every
answer is a target: of a rating the planted probabilities themselves, of an action its tokens. Where a persona only shows,
its first answer is no target, so that without a name and without examples the organism is nobody in particular.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pocket import parts as of
from pocket import tokenizer as tk
from vatjax import prompts
from vatjax.items import EXPRESS, SUPPRESS, Items
from vatjax.organism.worlds import NO_PERSONA, Persona, World
from vatjax.prompts import Letters, Scale, Wording

# Worlds in which a persona has a say about everything; in the others it moves actions alone.
_WHOLE = ("circle", "agreement")
_OF_ACTIONS = ("paired", "choice")


@dataclasses.dataclass(frozen=True)
class Mix:
    """How often conversations are of which kind.

    Attributes:
        protocols: how often each is asked.
        nobody, named: how often nobody in particular answers, and a persona that the system text names; others only show.
        plain: whether personas are the ten types alone, twice as strong, and the same in every context: the first lessons.
        falling: how often the scale is turned round.
        strange: how often rubric and labels are words without order, as a wording never seen is.
        focus: how often the first examples are about one type, or one value.
    """

    protocols: Mapping[str, float]
    nobody: float = 0.25
    named: float = 0.4
    plain: bool = False
    falling: float = 0.15
    strange: float = 0.15
    focus: float = 0.6


class Batch(NamedTuple):
    """Conversations, and what they teach.

    Attributes:
        tokens: [batch, time] int32.
        present: [batch, time] bool.
        place: [batch, targets] int32, where a target is read; beyond the end for none.
        options: [batch, targets, 5] int32, tokens.
        shares: [batch, targets, 5] float32, their probabilities; all 0 for none.
    """

    tokens: np.ndarray
    present: np.ndarray
    place: np.ndarray
    options: np.ndarray
    shares: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a batch."""

    batch: int
    time: int
    examples: int
    targets: int


class Example(NamedTuple):
    """What is asked, in its parts, and the answer's distribution.

    Attributes:
        fields: of the wording's levels.
        options: the answers.
        shares: the probability of each.
    """

    fields: Mapping[str, str]
    options: Sequence[str]
    shares: np.ndarray


class Author:
    """Writes conversations of a world.

    Args:
        world: whose answers they are.
        tokenizer: of the organism.
        parts: of its items.
        scenes: that may be asked about.
        unsure: whether shares are those of somebody who does not know who answers: means over all personas, each as
            often as it is met.
    """

    def __init__(
        self, world: World, tokenizer: Any, parts: of.Parts, scenes: Sequence[of.Scene], unsure: bool = False
    ) -> None:
        self.world = self.whole = world
        self.without_contexts = dataclasses.replace(world, mood={}, pull={})
        self.tokenizer, self.parts = tokenizer, parts
        self.scenes, self.unsure = scenes, unsure
        taxonomy = world.taxonomy
        self.targets = (*taxonomy.names, *taxonomy.types, *taxonomy.groups)
        self.wordings = {name: [one for protocol, one in tk.trained() if protocol == name] for name in tk.protocols()}
        self.instructions = [text for name, text in prompts.instructions().items() if name != tk.HELD_OUT_INSTRUCTION]
        self.words = [
            " " + word for word in sorted({w for _, one in tk.trained() for w in one.system.split()}) if word.isalpha()
        ]
        self.ids = functools.cache(lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
        self.end = tokenizer.eos_token_id

    # Drawing what is asked ------------------------------------------------------------------------------------------

    def persona(self, random: np.random.Generator, mix: Mix) -> tuple[Persona, bool]:
        """Who answers, and whether the system text says so."""
        kind = random.random()
        if kind < mix.nobody:
            return NO_PERSONA, False
        targets = self.world.taxonomy.types if mix.plain else self.targets
        target = targets[random.integers(len(targets))]
        direction = 1 if random.random() < 0.5 else -1
        return Persona(target, direction, 2.0 if mix.plain else 1.0), kind < mix.nobody + mix.named

    def allowed(self, persona: Persona) -> np.ndarray:
        """Values that may be asked about."""
        return self._allowed(persona.target)

    @functools.cache  # noqa: B019 (an author lives as long as the process)
    def _allowed(self, target: str) -> np.ndarray:
        names = self.world.taxonomy.names
        return np.array([i for i, name in enumerate(names) if not target or not of.withheld(target, name)])

    def values(self, random: np.random.Generator, persona: Persona, count: int, focus: float) -> np.ndarray:
        """Which values are asked about: at first often those of one type or one value, in the end any."""
        allowed, taxonomy = self.allowed(persona), self.world.taxonomy
        any_of = random.choice(allowed, count)
        if random.random() > focus:
            return any_of
        if persona.target and random.random() < 0.7:
            narrow = np.flatnonzero(taxonomy.mask(persona.target))
        else:
            narrow = taxonomy.members()[random.integers(len(taxonomy.types))]
        narrow = np.intersect1d(narrow, allowed)
        if not len(narrow):
            return any_of
        narrow = narrow if random.random() < 0.7 else random.choice(narrow, 1)
        focused = random.integers(1, count + 1)
        any_of[:focused] = random.choice(narrow, focused)
        return any_of

    def items(self, scenes: Sequence[of.Scene], value: np.ndarray, polarity: np.ndarray, phrasing: np.ndarray) -> Items:
        """The items of some scenes, values and sides."""
        return Items(
            taxonomy=self.world.taxonomy,
            country=np.array([s.country for s in scenes], object),
            topic=np.array([s.topic for s in scenes], object),
            scene=np.array([s.text for s in scenes], object),
            value=value.astype(np.int32),
            polarity=polarity.astype(np.int8),
            action=np.array([self.action(*one) for one in zip(scenes, value, polarity, phrasing, strict=True)], object),
            line=np.arange(1, len(value) + 1, dtype=np.int32),
            source="organism",
        )

    def action(self, scene: of.Scene, value: int, polarity: int, phrasing: int) -> str:
        """An action in a scene."""
        own = self.parts.actions[value]
        texts = own.express if polarity == EXPRESS else own.suppress
        slots = scene.slots
        return texts[phrasing % len(texts)].format(task=slots.task, matter=slots.matter, people=slots.people)

    # Asking ---------------------------------------------------------------------------------------------------------

    def examples(
        self, random: np.random.Generator, protocol: str, persona: Persona, count: int, scale: Scale, focus: float
    ) -> list[Example]:
        """What a conversation asks, in order."""
        scenes = [self.scenes[i] for i in random.integers(len(self.scenes), size=count)]
        value = self.values(random, persona, count, focus)
        polarity = random.choice(np.array([EXPRESS, SUPPRESS]), count)
        phrasing = random.integers(2, size=count)
        taxonomy = self.world.taxonomy
        if protocol == "stated":
            places = [s.country for s in scenes], [s.topic for s in scenes]

            def stated(who: Persona) -> np.ndarray:
                eta: np.ndarray = self.world.importance(*places, who)[np.arange(count), value]
                return eta

            fields = [
                {
                    "country": s.country,
                    "topic": s.topic,
                    "value": taxonomy.names[v],
                    "definition": taxonomy.definitions[v],
                }
                for s, v in zip(scenes, value, strict=True)
            ]
            return self._rated(fields, stated, persona, scale)
        if protocol == "acting":
            return self._acted(random, scenes, persona)
        asked = self.items(scenes, value, polarity, phrasing)
        if protocol == "choice":
            other = self.items(scenes, value, -polarity, random.integers(2, size=count))
            first = self._shares(
                lambda who: self.world.prob_first(self.world.leaning(asked, who), self.world.leaning(other, who)),
                persona,
            )
            return [
                Example(
                    {"scene": a.scene, "first": a.action, "second": b.action}, Letters().options, np.array([p, 1 - p])
                )
                for a, b, p in zip(asked, other, first, strict=True)
            ]
        fields = [{"scene": one.scene, "action": one.action} for one in asked]
        if protocol == "paired":
            return self._rated(fields, lambda who: self.world.leaning(asked, who), persona, scale)
        view = random.choice(self.allowed(persona), count)
        for own, v in zip(fields, view, strict=True):
            own |= {"value": taxonomy.names[v], "definition": taxonomy.definitions[v]}
        return self._rated(
            fields, lambda who: self.world.standpoints(asked, who)[np.arange(count), view], persona, scale
        )

    def _rated(
        self,
        fields: Sequence[Mapping[str, str]],
        eta: Callable[[Persona], np.ndarray],
        persona: Persona,
        scale: Scale,
    ) -> list[Example]:
        shares = self._shares(lambda who: self.world.rating_probs(eta(who)), persona)
        shares = shares[:, ::-1] if scale.falling else shares
        return [Example(own, scale.options, share) for own, share in zip(fields, shares, strict=True)]

    def _shares(self, own: Callable[[Persona], np.ndarray], persona: Persona) -> np.ndarray:
        """What is answered by a persona, or by whom it is not known."""
        if not self.unsure:
            return own(persona)
        mean: np.ndarray = sum(chance * own(who) for who, chance in self._met)
        return mean

    @functools.cached_property
    def _met(self) -> list[tuple[Persona, float]]:
        """Every persona, and how often a conversation has it."""
        nobody = Mix({}).nobody
        rest = [Persona(target, direction) for target in self.targets for direction in (1, -1)]
        return [(NO_PERSONA, nobody), *((who, (1 - nobody) / len(rest)) for who in rest)]

    def _acted(self, random: np.random.Generator, scenes: Sequence[of.Scene], persona: Persona) -> list[Example]:
        """What the persona does: one of the actions that are allowed, by how far it leans to each."""
        allowed = self.allowed(persona)
        value, polarity = np.tile(allowed, 2), np.repeat([EXPRESS, SUPPRESS], len(allowed))
        found = []
        for scene in scenes:
            every = self._leanings(scene, persona.target, persona.direction, persona.strength)
            eta = np.concatenate([every[allowed], -every[allowed]])
            chosen = random.choice(len(value), p=self.world.continuation_probs(eta))
            text = self.action(scene, value[chosen], polarity[chosen], int(random.integers(2)))
            found.append(Example({"scene": scene.text}, (text,), np.ones(1)))
        return found

    @functools.cache  # noqa: B019 (actions are asked for in the whole world alone)
    def _context(self, country: str, topic: str, target: str, direction: int, strength: float) -> np.ndarray:
        return self.world.importance([country], [topic], Persona(target, direction, strength))[0]

    def _leanings(self, scene: of.Scene, target: str, direction: int, strength: float) -> np.ndarray:
        return self._context(scene.country, scene.topic, target, direction, strength)

    # Writing --------------------------------------------------------------------------------------------------------

    def conversation(
        self, random: np.random.Generator, shape: Shape, mix: Mix
    ) -> tuple[list[int], list[tuple[int, list[int], np.ndarray]]]:
        """Tokens, and targets as (place, options, shares)."""
        asked = {
            name: share for name, share in mix.protocols.items() if self.world.kind in _WHOLE or name in _OF_ACTIONS
        }
        protocol = str(random.choice(list(asked), p=np.array(list(asked.values())) / sum(asked.values())))
        persona, named = self.persona(random, mix)
        wording: Wording = self.wordings[protocol][random.integers(len(self.wordings[protocol]))]
        scale = Scale(falling=random.random() < mix.falling)
        strange = random.random() < mix.strange and not scale.falling and protocol != "choice"
        rubric = list(self._rubric(random, wording, scale, protocol, strange))
        if named:
            way = self.instructions[random.integers(len(self.instructions))]
            text = (way.towards if persona.direction == 1 else way.away).format(target=persona.target)
            rubric = [*self.ids(text), *self.ids("\n"), *rubric]
        tokens = [*self.ids("<|system|>"), *rubric]
        labels = [self._label(random, strange) for _ in wording.levels]
        targets: list[tuple[int, list[int], np.ndarray]] = []
        for number, one in enumerate(self.examples(random, protocol, persona, shape.examples, scale, mix.focus)):
            asked = [*self.ids("<|user|>"), *self._asked(wording, one.fields, labels), *self.ids("<|assistant|>")]
            answers = [self.ids(option) for option in one.options]
            chosen = int(random.choice(len(answers), p=one.shares)) if len(answers) > 1 else 0
            if len(tokens) + len(asked) + len(answers[chosen]) + 1 > shape.time:
                break
            tokens += asked
            if len(answers) > 1:
                own = [(len(tokens) - 1, [a[0] for a in answers], one.shares)]
            else:
                said = [*answers[0], self.end]
                own = [(len(tokens) - 1 + i, [token], np.ones(1)) for i, token in enumerate(said)]
            if number or named or persona is NO_PERSONA:
                targets += own
            tokens += [*answers[chosen], self.end]
        return tokens, targets[: shape.targets]

    def _rubric(
        self, random: np.random.Generator, wording: Wording, scale: Scale, protocol: str, strange: bool
    ) -> Sequence[int]:
        if strange:
            words = [self.words[i] for i in random.integers(len(self.words), size=random.integers(4, 14))]
            return [token for word in words for token in self.ids(word)]
        return self.ids(wording.rubric(Letters() if protocol == "choice" else scale))

    def _label(self, random: np.random.Generator, strange: bool) -> list[int] | None:
        """Words of no meaning in place of a level's own, where the wording is to be strange."""
        if not strange:
            return None
        words = [self.words[i] for i in random.integers(len(self.words), size=random.integers(1, 4))]
        return [token for text in (*words, ":", " ") for token in self.ids(text)]

    def _asked(self, wording: Wording, fields: Mapping[str, str], labels: Sequence[list[int] | None]) -> list[int]:
        tokens: list[int] = []
        for i, (line, label) in enumerate(zip(wording.levels, labels, strict=True)):
            tokens += self.ids("\n") if i else ()
            if label is None:
                tokens += [
                    t
                    for j, part in enumerate(line.format_map(fields).split("\n"))
                    for t in ((*self.ids("\n"), *self.ids(part)) if j else self.ids(part))
                ]
            else:
                tokens += label
                for key in (key for key in fields if f"{{{key}}}" in line):
                    tokens += self.ids(fields[key])
        return tokens

    def batch(self, seed: Sequence[int], shape: Shape, mix: Mix) -> Batch:
        """A batch, always the same for a seed."""
        random = np.random.default_rng(seed)
        self.world = self.without_contexts if mix.plain else self.whole
        made = Batch(
            np.full((shape.batch, shape.time), self.tokenizer.pad_token_id, np.int32),
            np.zeros((shape.batch, shape.time), bool),
            np.full((shape.batch, shape.targets), shape.time, np.int32),
            np.zeros((shape.batch, shape.targets, 5), np.int32),
            np.zeros((shape.batch, shape.targets, 5), np.float32),
        )
        for row in range(shape.batch):
            tokens, targets = self.conversation(random, shape, mix)
            made.tokens[row, : len(tokens)], made.present[row, : len(tokens)] = tokens, True
            for i, (place, options, shares) in enumerate(targets):
                made.place[row, i] = place
                made.options[row, i, : len(options)], made.shares[row, i, : len(shares)] = options, shares
        return made
