"""What a data set is made from, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from vatjax import errors
from vatjax.dtypes import Dtype

Variant = Literal["zero-shot", "few-shot"]
Person = Literal["first", "third"]


@dataclasses.dataclass(frozen=True)
class Gates:
    """What a text must pass."""

    ended: bool = True
    """Whether it must have come to an end by itself."""
    scene_words: tuple[int, int] = (20, 120)
    """The least and the most words of a scene."""
    action_words: tuple[int, int] = (4, 50)
    """Those of an action."""
    language: str = "en"
    """The language by its code; empty is any."""
    sure: float = 0.8
    """How sure it must be that a text is of another language, for it to fail."""
    echo: float = 0.5
    """From which share of its words, four at a time, a text repeats its prompt."""
    leak: bool = True
    """Whether an action must not name its value, or a word for it."""
    duplicate: float = 0.7
    """From which share of words in common, three at a time, two texts are one."""
    plausible: float = 0.5
    """The least probability of yes: that an action expresses its value, or goes against it."""
    grounding: float = 3.0
    """The least expected rating of how a scene belongs to its country, from 1 to 5."""
    richness: float = 3.0
    """The least expected rating of how many ways to act a scene leaves, from 1 to 5."""
    mass: float = 0.5
    """The least probability of all answers together; below it a judge abstains, and the text is let through."""

    def __post_init__(self) -> None:
        for name in ("scene_words", "action_words"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise errors.InputError(
                    f"{name}: expected the least number of words, then the most, found {low}, {high}"
                )
        for name in ("sure", "echo", "duplicate", "plausible", "mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise errors.InputError(f"{name}: expected 0 to 1, found {getattr(self, name):g}")
        for name in ("grounding", "richness"):
            if not 1 <= getattr(self, name) <= 5:
                raise errors.InputError(f"{name}: expected 1 to 5, found {getattr(self, name):g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """A data set: scenes of countries and topics, and in each scene actions for and against values."""

    out: str
    """A folder for the items, what was kept apart, and the data card."""
    writer: str = "pocket"
    """Who writes: a folder in Hugging Face's layout, a name on the Hub, or pocket."""
    judge: str = ""
    """Who judges; by default the writer, which is easily pleased with itself."""
    prompts: str = ""
    """Prompts of your own, in the form of vatjax/build/writing.yaml; by default these."""
    scenes_file: str = ""
    """Scenes that are there already, in place of written ones: a table with country, topic and scene; all of them are taken,
    or those of the countries and topics that are named."""
    actions_file: str = ""
    """Actions likewise: a table with scene, value, polarity (express or suppress) and action; further rows with the same of
    these are tried where the ones before fail."""
    countries: tuple[str, ...] = ()
    """Of the scenes."""
    topics: tuple[str, ...] = ()
    """Of the scenes."""
    each: int = 1
    """How many scenes of each country and topic; a scenes_file has as many as it has."""
    values: tuple[str, ...] = ("values",)
    """Values and types; values is all of them."""
    taxonomy: str = "schwartz"
    """The values: schwartz, or the path of a taxonomy in YAML."""
    person: Person = "first"
    """Who acts in an action."""
    language: str = "English"
    """The language's name, as the writer is asked for it."""
    variants: tuple[Variant, ...] = ("zero-shot",)
    """How the writer is asked; with both, every other text is asked for with examples, and the card compares them."""
    budget: int = 2
    """How often a model writes a text again that fails; of an actions_file every row is tried."""
    temperature: float = 0.8
    """Of the writer; 0 takes the likeliest words."""
    top_p: float = 0.95
    """Words are drawn from the likeliest that reach this probability together."""
    scene_tokens: int = 160
    """The most tokens of a scene; one without an end by then fails."""
    action_tokens: int = 80
    """The most tokens of an action."""
    rows: int = 16
    """How many texts are written at one time."""
    seed: int = 0
    """Of what is drawn."""
    test: float = 0.25
    """The share of scenes that is kept for testing; near-duplicates across the division are named."""
    dtype: Dtype = "float32"
    """Of the models' weights."""
    gates: Gates = dataclasses.field(default_factory=Gates)
    """What a text must pass."""

    def __post_init__(self) -> None:
        for name in ("countries", "topics", "values", "variants"):
            own = getattr(self, name)
            if isinstance(own, tuple) and len(set(own)) < len(own):
                raise errors.InputError(f"{name}: one is named twice: {', '.join(own)}")
        if not self.variants or not set(self.variants) <= set(get_args(Variant)):
            raise errors.InputError(f"variants: expected {' or '.join(get_args(Variant))}, found {list(self.variants)}")
        for name, least in (("each", 1), ("budget", 0), ("scene_tokens", 1), ("action_tokens", 1), ("rows", 1)):
            if getattr(self, name) < least:
                raise errors.InputError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if not self.temperature >= 0:
            raise errors.InputError(f"temperature: expected 0 or more, found {self.temperature:g}")
        if not 0 < self.top_p <= 1:
            raise errors.InputError(f"top_p: expected a probability above 0, found {self.top_p:g}")
        if not 0 < self.test < 1:
            raise errors.InputError(f"test: expected a share between 0 and 1, found {self.test:g}")

    def check(self) -> None:
        """Refuses what does not go together; a file may leave to flags what it needs.

        Raises:
            InputError: for no places, and for a budget that would change nothing.
        """
        if not self.scenes_file and not (self.countries and self.topics):
            raise errors.InputError("countries and topics: at least one of each is needed, or a scenes_file")
        if not self.values:
            raise errors.InputError("values: at least one is needed; values is all of them")
        if self.scenes_file and self.each != 1:
            raise errors.InputError(f"each: {self.scenes_file} has as many scenes as it has; leave it out")
        if self.language != "English" and self.gates.language == "en":
            raise errors.InputError(
                f"gates.language: the writer is asked for {self.language}, and en is what passes; give its code, or '' for any"
            )
        written = not (self.scenes_file and self.actions_file)
        if self.temperature == 0 and self.budget and written:
            raise errors.InputError("budget: at temperature 0 a text that fails is written as it was; give budget: 0")
