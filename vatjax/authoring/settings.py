"""Settings of a data-set build, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from vatjax import errors
from vatjax.dtypes import Dtype
from vatjax.prompts import ElicitConfig

Variant = Literal["zero-shot", "few-shot"]
Person = Literal["first", "third"]


@dataclasses.dataclass(frozen=True)
class Gates:
    """Thresholds of the gates."""

    ended: bool = True
    """Require that the text ended with a stop token."""
    scene_words: tuple[int, int] = (20, 120)
    """Minimum and maximum number of words of a scene."""
    action_words: tuple[int, int] = (4, 50)
    """Minimum and maximum number of words of an action."""
    language: str = "en"
    """Code of the expected language; empty accepts any."""
    sure: float = 0.8
    """Minimum probability of another language for a text to fail."""
    echo: float = 0.5
    """Share of a text's word 4-grams that are in its prompt, from which the text fails as an echo."""
    leak: bool = True
    """Refuse an action that names its value or a word for it."""
    duplicate: float = 0.7
    """Jaccard similarity of word 3-grams from which two texts are near-duplicates."""
    plausible: float = 0.5
    """Minimum probability of yes: that an action expresses its value, or goes against it."""
    grounding: float = 3.0
    """Minimum expected rating of how well a scene fits its country, from 1 to 5."""
    richness: float = 3.0
    """Minimum expected rating of how many ways to act a scene leaves, from 1 to 5."""
    mass: float = 0.5
    """Minimum total probability of the answers; below it the judge abstains and the text passes."""

    def __post_init__(self) -> None:
        for name in ("scene_words", "action_words"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise errors.InputError(
                    f"{name}: expected the minimum number of words, then the maximum, found {low}, {high}"
                )
        for name in ("sure", "echo", "duplicate", "plausible", "mass"):
            if not 0 <= getattr(self, name) <= 1:
                raise errors.InputError(f"{name}: expected 0 to 1, found {getattr(self, name):g}")
        for name in ("grounding", "richness"):
            if not 1 <= getattr(self, name) <= 5:
                raise errors.InputError(f"{name}: expected 1 to 5, found {getattr(self, name):g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """Settings of a data set: scenes for countries and topics, and in each scene actions for and against values."""

    out: str
    """A folder for the items, the rejected texts and the data card."""
    writer: str = "pocket"
    """Writer model: a folder in Hugging Face's layout, a name on the Hub, or pocket."""
    judge: str = ""
    """Judge model; by default the writer, which tends to accept its own texts."""
    prompts: str = ""
    """File with prompts, in the form of vatjax/authoring/writing.yaml, which is the default."""
    scenes_file: str = ""
    """Existing scenes in place of generated ones: a table with country, topic and scene. All are used, or those of the
    countries and topics given."""
    actions_file: str = ""
    """Existing actions: a table with scene, value, polarity (express or suppress) and action. Further rows of the same
    scene, value and polarity are tried if earlier ones fail."""
    countries: tuple[str, ...] = ()
    """Countries of the scenes."""
    topics: tuple[str, ...] = ()
    """Topics of the scenes."""
    each: int = 1
    """Number of scenes for each country and topic; not used with a scenes_file."""
    values: tuple[str, ...] = ("values",)
    """Values and types; "values" is all of them."""
    taxonomy: str = "schwartz"
    """The values: schwartz, or the path of a taxonomy in YAML."""
    person: Person = "first"
    """Grammatical person of the actions."""
    language: str = "English"
    """Name of the language, as the prompts say it."""
    variants: tuple[Variant, ...] = ("zero-shot",)
    """Prompt variants; with both, every other request is few-shot, and the card compares them."""
    budget: int = 2
    """Number of times a model rewrites a text that fails; every row of an actions_file is tried."""
    temperature: float = 0.8
    """Sampling temperature of the writer; 0 is greedy."""
    top_p: float = 0.95
    """Nucleus sampling: draw from the likeliest tokens that reach this total probability."""
    scene_tokens: int = 160
    """Maximum number of tokens of a scene; a scene that has not ended by then fails."""
    action_tokens: int = 80
    """Maximum number of tokens of an action."""
    rows: int = 16
    """Batch size: number of texts generated together."""
    seed: int = 0
    """Seed of the sampling."""
    test: float = 0.25
    """Share of scenes in the test split; the card counts near-duplicates across the split."""
    dtype: Dtype = "float32"
    """Data type of the models' weights."""
    chat: bool | None = None
    """Whether to use the models' chat templates; by default where a model has one. --no-chat is short for --chat False."""
    template: Mapping[str, bool | str] = dataclasses.field(default_factory=lambda: dict(ElicitConfig().template))
    """Options of the chat templates, as in `vatjax rate`."""
    gates: Gates = dataclasses.field(default_factory=Gates)
    """Thresholds of the gates."""

    def elicit_config(self, prefill: str) -> ElicitConfig:
        """Returns how both models are asked.

        Args:
            prefill: "none" for texts that are written, "auto" for judgements.
        """
        return ElicitConfig(prefill=prefill, chat=self.chat, template=self.template)

    def __post_init__(self) -> None:
        for name in ("countries", "topics", "values", "variants"):
            entries = getattr(self, name)
            if isinstance(entries, tuple) and len(set(entries)) < len(entries):
                raise errors.InputError(f"{name}: duplicate entry: {', '.join(entries)}")
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
        """Raises an error for settings that contradict each other. Not done on creation, since flags may complete a file.

        Raises:
            InputError: for missing countries or topics, and for a budget that would change nothing.
        """
        if not self.scenes_file and not (self.countries and self.topics):
            raise errors.InputError("countries and topics: expected at least one of each, or a scenes_file")
        if not self.values:
            raise errors.InputError("values: expected at least one; 'values' is all of them")
        if self.scenes_file and self.each != 1:
            raise errors.InputError(f"each: cannot be used with a scenes_file ({self.scenes_file}); leave it out")
        if self.language != "English" and self.gates.language == "en":
            raise errors.InputError(
                f"gates.language: en, but language is {self.language}; give the language's code, or '' for any"
            )
        written = not (self.scenes_file and self.actions_file)
        if self.temperature == 0 and self.budget and written:
            raise errors.InputError("budget: at temperature 0 a rewritten text does not change; give budget: 0")
