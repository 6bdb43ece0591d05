"""A study as plain data: which models, which interventions, towards which values, and what each stands beside."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from vatjax import config, errors, names, prompts
from vatjax.dtypes import Dtype
from vatjax.edits import METHODS, Method
from vatjax.edits.pairs import PAIRS, Way
from vatjax.edits.stream import Method as Along
from vatjax.edits.stream import Operator, profile
from vatjax.items import Source
from vatjax.metrics import Reading
from vatjax.models.edit import Positions
from vatjax.prompts import How
from vatjax.study.finding import ALONG, WORKS, Finder, Place
from vatjax.train import Adam, Course, Memory
from vatjax.train.settings import LossName, Placebo, Price, Trained, Training
from vatjax.values import Taxonomy

Kind = Literal[
    "shots",
    "instruction",
    "residual",
    "conva",
    "split",
    "neurons",
    "conditional",
    "sft",
    "dpo",
    "cdpo",
    "robust_dpo",
    "ipo",
    "hinge",
    "simpo",
    "orpo",
    "apo_zero",
    "kto",
    "tax-aware",
]
EDITED: tuple[str, ...] = ("residual", *(method for method in METHODS if method not in ALONG))
LOSSES: tuple[str, ...] = get_args(LossName)
Side = Literal["express", "suppress"]

_SIGNS: dict[str, Side] = {"+": "express", "-": "suppress"}
_NAME = re.compile(r"[\w][\w .+-]{0,63}")


@dataclasses.dataclass(frozen=True)
class Lessons:
    """How an intervention trains; `vatjax train` has the same settings."""

    loss: Literal["", LossName] = ""
    """Of tax-aware: what the price is added to, by default dpo. The other kinds name their loss."""
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of the loss, such as beta."""
    file: str = ""
    """Examples to train on, in place of those that are made of items."""
    lesson: Literal["", "actions", "judgements", "preferences"] = ""
    """What is made of items: actions, judgements, or preferences; by default what the loss takes."""
    steps: int = 120
    """How many."""
    checkpoints: int = 1
    """How many states of the training are measured, at even distances; the last is its end."""
    rows: int = 16
    """Rows of a batch."""
    length: int = 0
    """Tokens of a row; by default as many as the longest example has."""
    pack: bool = False
    """Whether a row holds as many examples as fit."""
    parts: int = 1
    """In how many parts a batch is taken."""
    trained: Trained = dataclasses.field(default_factory=Trained)
    """Low-rank changes: rank, alpha, targets, layers."""
    adam: Adam = dataclasses.field(default_factory=Adam)
    """How gradients become steps."""
    memory: Memory = dataclasses.field(default_factory=Memory)
    """What the backward pass keeps."""
    price: Price = dataclasses.field(default_factory=Price)
    """Of tax-aware: what moving other values costs."""
    placebo: Literal["", "neutral text", "shuffled labels"] = ""
    """What its placebo trains on; by default neutral text for sft and shuffled labels for the rest."""

    def __post_init__(self) -> None:
        if self.trained.what != "lora":
            raise errors.InputError("trained: a study keeps what it trains as edits, and whole weights are none: lora")
        if not 1 <= self.checkpoints <= self.steps or self.steps % self.checkpoints:
            raise errors.InputError(
                f"checkpoints: expected a number that divides the steps ({self.steps}), found {self.checkpoints}"
            )

    def marks(self) -> tuple[int, ...]:
        """The steps that are measured."""
        every = self.steps // self.checkpoints
        return tuple(range(every, self.steps + 1, every))


@dataclasses.dataclass(frozen=True)
class Intervention:
    """One way to push a model. Which settings it has hangs on its kind."""

    kind: Kind
    """shots, instruction; an edit: residual, conva, split, neurons, conditional; training: sft, dpo and every other loss,
    tax-aware."""
    counts: tuple[int, ...] = (2, 4, 8)
    """Of shots: how many examples."""
    wording: str = ""
    """Of instruction: a shipped one by name, by default the first."""
    method: Along = "mean"
    """Of residual: mean, pca or probe."""
    layers: tuple[str, ...] = ()
    """Of edits: the places to try, each a layer or several such as 3+4; the one with the most gain on the train side is
    taken. By default up to six, and those that conva and conditional choose."""
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Of edits: each is measured."""
    scenes: int = 12
    """Of edits: how many scenes of the train side choose the place; 0 for all."""
    way: Way = "acted"
    operator: Operator = "add"
    positions: Positions = "all"
    pairs: int = PAIRS
    top: int = 100
    gate: bool = False
    probability: float = 0.99
    gamma: float = 1.0
    theta: float = 5.0
    training: Lessons = dataclasses.field(default_factory=Lessons)
    """Of training: how."""
    targets: tuple[str, ...] = ()
    """Only these of the study's targets, without their signs; by default all."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):  # not given
            raise errors.InputError(f"kind: an intervention needs one of {', '.join(get_args(Kind))}")
        for field in dataclasses.fields(self)[1:]:
            default = field.default if field.default is not dataclasses.MISSING else Lessons()
            if getattr(self, field.name) != default and not self._knows(field.name):
                own = ", ".join(one.name for one in dataclasses.fields(self)[1:] if self._knows(one.name))
                raise errors.InputError(
                    f"{field.name}: an intervention of the kind {self.kind} has no such setting; it has {own}"
                )
        if self.training.loss and self.kind != "tax-aware":
            raise errors.InputError(f"training.loss: {self.kind} is a loss itself; the kind tax-aware has one")
        for name in ("counts", "strengths"):
            own = getattr(self, name)
            if not own or len(set(own)) != len(own):
                raise errors.InputError(f"{name}: expected at least one, and none twice, found {list(own)}")
        if any(count < 1 for count in self.counts):
            raise errors.InputError(f"counts: expected at least 1 example, found {list(self.counts)}")
        if 0.0 in self.strengths:
            raise errors.InputError("strengths: 0 is the model itself, which is measured in any case")
        if self.kind == "tax-aware" and not self.training.price.weight > 0:
            raise errors.InputError("training.price.weight: a tax-aware training needs a price above 0")
        if self.kind != "tax-aware" and self.training.price.weight:
            raise errors.InputError(f"training.price: {self.kind} has none; the kind tax-aware has")
        self._check_placebo()
        if self.kind == "instruction":
            names_ = list(prompts.instructions())
            if self.wording and self.wording not in names_:
                raise errors.InputError(names.unknown("wording", self.wording, names_))

    def _check_placebo(self) -> None:
        """Refuses placebos that a loss can't be trained on."""
        loss = self.loss
        wanted = "neutral text" if loss == "sft" else "shuffled labels"
        if self.trains and self.training.placebo not in ("", wanted):
            raise errors.InputError(f"training.placebo: that of {loss} is {wanted}, found {self.training.placebo}")

    def _knows(self, name: str) -> bool:
        if name == "targets":
            return True
        if name == "counts":
            return self.kind == "shots"
        if name == "wording":
            return self.kind == "instruction"
        if name == "training":
            return self.trains
        if name in ("layers", "strengths", "scenes"):
            return self.edits
        if name == "method":
            return self.kind == "residual"
        return self.edits and self.finder_method in WORKS[name]

    @property
    def edits(self) -> bool:
        """Returns whether it is an edit that is found."""
        return self.kind in EDITED

    @property
    def trains(self) -> bool:
        """Returns whether it trains."""
        return self.kind in LOSSES or self.kind == "tax-aware"

    @property
    def loss(self) -> str:
        """Of a training: what is lessened, without a price."""
        return (self.training.loss or "dpo") if self.kind == "tax-aware" else self.kind

    @property
    def sweeps(self) -> bool:
        """Of an edit: whether its place is chosen among several, by what it does there."""
        return len(self.layers) > 1 or (self.kind == "residual" and not self.layers)

    def placebo_names(self) -> tuple[str, ...]:
        """What stands beside it."""
        if self.edits:
            return "random", "shuffled labels"
        if self.trains:
            return (self.placebo_of_training(),)
        return ("neutral shots",) if self.kind == "shots" else ("neutral sentence",)

    def plain(self) -> dict[str, Any]:
        """Its settings, without those that its kind does not have."""
        found = {key: x for key, x in config.to_dict(self).items() if key == "kind" or self._knows(key)}
        if self.trains and self.kind != "tax-aware":
            found["training"] = {key: x for key, x in found["training"].items() if key not in ("loss", "price")}
        return found

    @property
    def finder_method(self) -> Method:
        """Of `edits.search`."""
        return self.method if self.kind == "residual" else cast(Method, self.kind)

    def finder(self, test: float, seed: int, draw: int) -> Finder:
        """How its edit is found, from a draw of pairs of the train side of a division."""
        options: dict[str, Any] = {name: getattr(self, name) for name in WORKS}
        return Finder(self.finder_method, **options, test=test, seed=seed, draw=draw)

    def places(self, depth: int) -> list[Place]:
        """The layers to try, where some are given."""
        return places(self.layers, depth)

    def levels(self) -> tuple[float, ...]:
        """How far it is taken: examples, strengths, or steps."""
        if self.kind == "shots":
            return self.counts
        if self.kind == "instruction":
            return (1,)
        return self.training.marks() if self.trains else self.strengths

    def placebo_of_training(self) -> str:
        """What its placebo trains on."""
        loss = self.loss
        return self.training.placebo or ("neutral text" if loss == "sft" else "shuffled labels")

    def run(
        self, design: Design, model: str, target: str, direction: int, seed: int, placebo: bool = False
    ) -> Training:
        """The training run of one target."""
        own = self.training
        loss: Any = self.loss
        blind = self.placebo_of_training()
        return Training(
            model,
            target,
            "express" if direction == 1 else "suppress",
            loss,
            own.settings,
            own.file,
            own.lesson,
            cast(Placebo, blind) if placebo else "none",
            rows=own.rows,
            length=own.length,
            pack=own.pack,
            trained=own.trained,
            adam=own.adam,
            course=Course(own.steps, own.parts, seed),
            memory=own.memory,
            price=Price() if placebo else own.price,
            source=design.items,
            how=design.how.of_pairs(),
            dtype=design.dtype,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A study: every model under every intervention, towards every target, in every direction, from every seed."""

    models: tuple[str, ...]
    """Folders in Hugging Face's layout, names on the Hub, or pocket."""
    interventions: Mapping[str, Intervention] = dataclasses.field(default_factory=dict)
    """By a name of their own."""
    out: str
    """A folder for the results."""
    targets: tuple[str, ...] = ("types",)
    """What is pushed: values, types and groups; types are all types, values all values, all is both. A sign before a name,
    such as +Security or -Power, gives it a direction of its own."""
    directions: tuple[Side, ...] = ("express",)
    """Which way."""
    seeds: tuple[int, ...] = (0,)
    """Of what is drawn: examples, pairs, orders of training data."""
    items: Source = dataclasses.field(default_factory=Source)
    """Which items, and how to read them."""
    how: How = dataclasses.field(default_factory=How)
    """How models are asked; wording: all tells how far the numbers hang on the wording."""
    allow_low_mass: bool = False
    """Go on with a model whose options have less than half of the probability on average."""
    scenes: int = 0
    """How many scenes of the test side are asked about; 0 is all of them."""
    placebos: int = 2
    """Draws of the placebo of each intervention."""
    texts: int = 3
    """Of each intervention so many of the items that moved most are shown in the report, with ratings and
    what the model writes without a prefill, before and after; 0 shows none."""
    resamples: int = 2000
    """Draws of the bootstrap and of the null."""
    reading: Reading = "rms"
    """Of nVAT."""
    robust: bool = False
    """Also repeat each coupling on 80 % of the scenes, by Kendall's tau-b in place of Spearman's rho, and compare the ranking
    of types by their own VAT with that by their values'."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are taken to change nothing."""
    context: int = 0
    """The longest text that is read, in tokens; 0 is what the model's usual rotary positions allow. Phi 3 takes others for all
    texts where more than 4,096 are asked for."""
    dtype: Dtype = "float32"
    """Of the weights and of what flows between layers; mixed is bfloat16 weights with a float32 residual stream, auto what
    suits the device."""
    pieces: str = ""
    """A folder for finished pieces, which studies share; by default pieces, beside the results."""

    def __post_init__(self) -> None:
        for name in ("models", "targets", "directions", "seeds"):
            own = getattr(self, name)
            if not isinstance(own, tuple):  # not given yet
                continue
            if not own or len(set(own)) != len(own):
                raise errors.InputError(f"{name}: expected at least one, and none twice, found {list(own)}")
        if not self.interventions:
            raise errors.InputError(
                "interventions: a study needs at least one, in a file such as configs/quickstart.yaml"
            )
        folded = {name.lower(): name for name in self.interventions}
        for name in self.interventions:
            if folded[name.lower()] != name:
                raise errors.InputError(
                    f"interventions: {name} and {folded[name.lower()]} would share their files where case makes no difference"
                )
            if not _NAME.fullmatch(name):
                raise errors.InputError(
                    f"interventions: expected a name of letters, digits and ' .+-_', at most 64, found {name!r}"
                )
        if self.how.protocol == "labelled":
            raise errors.InputError(
                "how.protocol: a study asks paired, dense or stated; labelled needs labels of each item"
            )
        if self.how.protocol == "stated" and any(one.kind == "shots" for one in self.interventions.values()):
            raise errors.InputError("how.protocol: examples show actions, and stated asks about none")
        if self.how.reading == "generate":
            raise errors.InputError("how.reading: a study reads probabilities: expected or argmax")
        for name, least, most in (
            ("placebos", 0, 1000),
            ("texts", 0, 100),
            ("scenes", 0, 10**9),
            ("resamples", 100, 1_000_000),
        ):
            if not least <= getattr(self, name) <= most:
                raise errors.InputError(f"{name}: expected {least:,} to {most:,}, found {getattr(self, name):,}")
        for seed in self.seeds if isinstance(self.seeds, tuple) else ():
            if not 0 <= seed < 2**31:
                raise errors.InputError(f"seeds: expected numbers from 0 to {2**31 - 1:,}, found {seed:,}")

    def text(self) -> str:
        """The design as YAML, as it was resolved; interventions with the settings of their kind."""
        own = config.to_dict(self)
        own["interventions"] = {name: one.plain() for name, one in self.interventions.items()}
        return config.to_yaml(own)

    def aims(self, taxonomy: Taxonomy) -> tuple[str, ...]:
        """The targets by their names in a taxonomy.

        Raises:
            InputError: for one that it does not have.
        """
        return tuple(dict.fromkeys(target for target, _ in self.pushes(taxonomy)))

    def pushes(self, taxonomy: Taxonomy) -> tuple[tuple[str, Side], ...]:
        """Returns each target with each direction that it is pushed in.

        Raises:
            InputError: for a target that the taxonomy does not have.
        """
        sets = {"types": taxonomy.types, "values": taxonomy.names, "all": (*taxonomy.types, *taxonomy.names)}
        found: dict[tuple[str, Side], None] = {}
        for entry in self.targets:
            sign, name = (entry[0], entry[1:].strip()) if entry[:1] in _SIGNS else ("", entry)
            sides = (_SIGNS[sign],) if sign else self.directions
            for target in sets[name] if name in sets else (taxonomy.spelt(name),):
                found |= {(target, side): None for side in sides}
        return tuple(found)

    def cells(self, taxonomy: Taxonomy) -> list[tuple[str, Intervention, str, Side, int]]:
        """Returns what is done to each model: the intervention's name, itself, the target, the direction and the seed.

        Raises:
            InputError: for an intervention whose own targets are none of the study's.
        """
        found, pushes = [], self.pushes(taxonomy)
        for name, what in self.interventions.items():
            own = {taxonomy.spelt(target) for target in what.targets}
            strangers = own - {target for target, _ in pushes}
            if strangers:
                raise errors.InputError(
                    f"interventions.{name}.targets: {names.listed(sorted(strangers))} is not among the targets of the study"
                )
            for (target, side), seed in itertools.product(pushes, self.seeds):
                drawn = what.kind != "instruction" or seed == self.seeds[0]  # nothing is drawn for an instruction
                if drawn and (not own or target in own):
                    found.append((name, what, target, side, seed))
        return found

    def wordings(self) -> tuple[str, ...]:
        """Each wording by itself: how far numbers hang on it is told from them."""
        return tuple(one.name for one in self.how.wordings())


def places(texts: tuple[str, ...], depth: int) -> list[Place]:
    """Places of a model from texts such as 3, -1 and 3+4.

    Raises:
        InputError: for what is no layer of the model.
    """
    try:
        found = [tuple(int(layer) for layer in text.split("+")) for text in texts]
    except ValueError:
        raise errors.InputError(f"layers: expected layers such as 3 or 3+4, found {', '.join(texts)}") from None
    for place in found:
        profile(place, depth)  # refuses a layer that is not there
    return list(dict.fromkeys(tuple(sorted({layer % depth for layer in place})) for place in found))
