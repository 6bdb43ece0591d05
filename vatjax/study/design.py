"""A study as plain data: its models, interventions, target values and placebos."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from vatjax import config, errors, names, prompts
from vatjax.dtypes import Dtype
from vatjax.edits import METHODS, Method
from vatjax.edits.candidates import ALONG, METHODS_BY_OPTION, Finder, Place
from vatjax.edits.directions import Method as Along
from vatjax.edits.directions import Operator, layer_shares
from vatjax.edits.pairs import PAIRS, Way
from vatjax.items import Source
from vatjax.metrics import Reading
from vatjax.models.edit import Positions
from vatjax.prompts import ElicitConfig
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
class TrainingSettings:
    """Training settings of an intervention; `vatjax train` has the same ones."""

    loss: Literal["", LossName] = ""
    """For tax-aware: the loss that the price is added to, by default dpo. The other kinds name their loss."""
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Parameters of the loss, such as beta."""
    file: str = ""
    """Training examples, in place of those generated from items."""
    lesson: Literal["", "actions", "judgements", "preferences"] = ""
    """Examples generated from items: actions, judgements, or preferences; by default the kind that the loss takes."""
    steps: int = 120
    """Number of steps."""
    checkpoints: int = 1
    """Number of evenly spaced training states to measure; the last is the end of the training."""
    rows: int = 16
    """Rows of a batch."""
    length: int = 0
    """Tokens of a row; by default those of the longest example."""
    pack: bool = False
    """Pack as many examples into a row as fit."""
    parts: int = 1
    """Number of parts that a batch is split into."""
    trained: Trained = dataclasses.field(default_factory=Trained)
    """Low-rank changes: rank, alpha, targets, layers."""
    adam: Adam = dataclasses.field(default_factory=Adam)
    """Settings of the optimizer."""
    memory: Memory = dataclasses.field(default_factory=Memory)
    """Activations that the backward pass stores."""
    price: Price = dataclasses.field(default_factory=Price)
    """For tax-aware: the price of moving other values."""
    placebo: Literal["", "neutral text", "shuffled labels"] = ""
    """Training data of the placebo; by default neutral text for sft and shuffled labels for the rest."""

    def __post_init__(self) -> None:
        if self.trained.what != "lora":
            raise errors.InputError("trained: studies support LoRA only (what: lora)")
        if not 1 <= self.checkpoints <= self.steps or self.steps % self.checkpoints:
            raise errors.InputError(
                f"checkpoints: expected a number that divides the steps ({self.steps}), found {self.checkpoints}"
            )

    def measured_steps(self) -> tuple[int, ...]:
        """Returns the measured steps."""
        every = self.steps // self.checkpoints
        return tuple(range(every, self.steps + 1, every))


@dataclasses.dataclass(frozen=True)
class Intervention:
    """One way to push a model. Its settings depend on its kind."""

    kind: Kind
    """shots, instruction; an edit: residual, conva, split, neurons, conditional; training: sft, dpo and every other loss,
    tax-aware."""
    counts: tuple[int, ...] = (2, 4, 8)
    """For shots: numbers of examples."""
    wording: str = ""
    """For instruction: the name of a shipped one, by default the first."""
    method: Along = "mean"
    """For residual: mean, pca or probe."""
    layers: tuple[str, ...] = ()
    """For edits: the places to try, each a layer or several such as 3+4; the place with the largest gain on the train
    side is used. By default up to six, or those that conva and conditional choose."""
    strengths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """For edits: the strengths to measure."""
    scenes: int = 12
    """For edits: number of scenes of the train side used to choose the place; 0 for all."""
    way: Way = "acted"
    operator: Operator = "add"
    positions: Positions = "all"
    pairs: int = PAIRS
    top: int = 100
    gate: bool = False
    probability: float = 0.99
    gamma: float = 1.0
    theta: float = 5.0
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    """Settings of a training."""
    targets: tuple[str, ...] = ()
    """A subset of the study's targets, without their signs; by default all."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):  # missing
            raise errors.InputError(f"kind: an intervention needs one of {', '.join(get_args(Kind))}")
        for field in dataclasses.fields(self)[1:]:
            default = field.default if field.default is not dataclasses.MISSING else TrainingSettings()
            if getattr(self, field.name) != default and not self._knows(field.name):
                options = ", ".join(known.name for known in dataclasses.fields(self)[1:] if self._knows(known.name))
                raise errors.InputError(
                    f"{field.name}: the kind {self.kind} does not have this setting; it has {options}"
                )
        if self.training.loss and self.kind != "tax-aware":
            raise errors.InputError(f"training.loss: {self.kind} is a loss itself; the kind tax-aware has one")
        for name in ("counts", "strengths"):
            options = getattr(self, name)
            if not options or len(set(options)) != len(options):
                raise errors.InputError(f"{name}: expected at least one, and none twice, found {list(options)}")
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
                raise errors.InputError(names.unknown_name("wording", self.wording, names_))

    def _check_placebo(self) -> None:
        """Raises an error for placebos that a loss cannot be trained on."""
        loss = self.loss
        expected = "neutral text" if loss == "sft" else "shuffled labels"
        if self.trains and self.training.placebo not in ("", expected):
            raise errors.InputError(f"training.placebo: that of {loss} is {expected}, found {self.training.placebo}")

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
        return self.edits and self.finder_method in METHODS_BY_OPTION[name]

    @property
    def edits(self) -> bool:
        """Returns True if it is an edit."""
        return self.kind in EDITED

    @property
    def trains(self) -> bool:
        """Returns True if it trains."""
        return self.kind in LOSSES or self.kind == "tax-aware"

    @property
    def loss(self) -> str:
        """Returns the training loss, without a price."""
        return (self.training.loss or "dpo") if self.kind == "tax-aware" else self.kind

    @property
    def sweeps(self) -> bool:
        """Returns True if the place of an edit is chosen among several by its measured effect."""
        return len(self.layers) > 1 or (self.kind == "residual" and not self.layers)

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the names of its placebos."""
        if self.edits:
            return "random", "shuffled labels"
        if self.trains:
            return (self.placebo_of_training(),)
        return ("neutral shots",) if self.kind == "shots" else ("neutral sentence",)

    def to_dict(self) -> dict[str, Any]:
        """Returns its settings as plain data, without those that its kind does not have."""
        settings = {key: x for key, x in config.to_dict(self).items() if key == "kind" or self._knows(key)}
        if self.trains and self.kind != "tax-aware":
            settings["training"] = {key: x for key, x in settings["training"].items() if key not in ("loss", "price")}
        return settings

    @property
    def finder_method(self) -> Method:
        """Returns its method, as `edits.Finder` names it."""
        return self.method if self.kind == "residual" else cast(Method, self.kind)

    def finder(self, test: float, seed: int, draw: int) -> Finder:
        """Returns the finder of its edit, for a draw of pairs of the train side of a split."""
        options: dict[str, Any] = {name: getattr(self, name) for name in METHODS_BY_OPTION}
        return Finder(self.finder_method, **options, test=test, seed=seed, draw=draw)

    def places(self, depth: int) -> list[Place]:
        """Returns the layers to try, if any are given."""
        return parse_places(self.layers, depth)

    def levels(self) -> tuple[float, ...]:
        """Returns its levels: numbers of examples, strengths, or steps."""
        if self.kind == "shots":
            return self.counts
        if self.kind == "instruction":
            return (1,)
        return self.training.measured_steps() if self.trains else self.strengths

    def placebo_of_training(self) -> str:
        """Returns the training data of its placebo."""
        loss = self.loss
        return self.training.placebo or ("neutral text" if loss == "sft" else "shuffled labels")

    def make_training(
        self, design: Design, model: str, target: str, direction: int, seed: int, placebo: bool = False
    ) -> Training:
        """Returns the settings of the training run for one target."""
        settings = self.training
        loss: Any = self.loss
        placebo_data = self.placebo_of_training()
        return Training(
            model,
            target,
            "express" if direction == 1 else "suppress",
            loss,
            settings.settings,
            settings.file,
            settings.lesson,
            cast(Placebo, placebo_data) if placebo else "none",
            rows=settings.rows,
            length=settings.length,
            pack=settings.pack,
            trained=settings.trained,
            adam=settings.adam,
            course=Course(settings.steps, settings.parts, seed),
            memory=settings.memory,
            price=Price() if placebo else settings.price,
            items=design.items,
            how=design.how.of_pairs(),
            dtype=design.dtype,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A study: every model under every intervention, for every target, direction and seed."""

    models: tuple[str, ...]
    """Folders in Hugging Face's layout, names on the Hub, or pocket."""
    interventions: Mapping[str, Intervention] = dataclasses.field(default_factory=dict)
    """Interventions by name."""
    out: str
    """Folder of the results."""
    targets: tuple[str, ...] = ("types",)
    """Targets: values, types and groups; types are all types, values all values, all is both. A sign before a name,
    such as +Security or -Power, sets its direction."""
    directions: tuple[Side, ...] = ("express",)
    """Directions to push: express, suppress."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of examples, pairs and orders of training data."""
    items: Source = dataclasses.field(default_factory=Source)
    """The items: --items FILE is short for --items.file FILE."""
    how: ElicitConfig = dataclasses.field(default_factory=ElicitConfig)
    """Elicitation settings; wording: all measures how far the numbers depend on the wording."""
    allow_low_mass: bool = False
    """Continue with a model whose options have less than half of the probability on average."""
    scenes: int = 0
    """Number of scenes of the test side to rate; 0 for all of them."""
    placebos: int = 2
    """Draws of the placebo of each intervention."""
    texts: int = 3
    """Number of items per intervention to show in the report: those that moved most, with ratings and the text that the
    model writes without a prefill, before and after; 0 shows none."""
    resamples: int = 2000
    """Draws of the bootstrap and of the null."""
    reading: Reading = "rms"
    """Formula of nVAT."""
    robust: bool = False
    """Also repeat each coupling on 80 % of the scenes, by Kendall's tau-b in place of Spearman's rho, and compare the ranking
    of types by their own VAT with that by their values'."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are assumed to change nothing."""
    context: int = 0
    """Longest text to read, in tokens; 0 is the limit of the model's usual rotary positions. Phi 3 uses others for all
    texts if more than 4,096 are requested."""
    dtype: Dtype = "float32"
    """Type of the weights and of the activations between layers; mixed is bfloat16 weights with a float32 residual
    stream, auto selects by device."""
    pieces: str = ""
    """Folder of finished artifacts, which studies share; by default pieces, next to the results."""

    def __post_init__(self) -> None:
        for name in ("models", "targets", "directions", "seeds"):
            entries = getattr(self, name)
            if not isinstance(entries, tuple):  # still missing
                continue
            if not entries or len(set(entries)) != len(entries):
                raise errors.InputError(f"{name}: expected at least one, and none twice, found {list(entries)}")
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
                "how.protocol: a study supports paired, dense or stated; labelled needs labels of each item"
            )
        if self.how.protocol == "stated" and any(
            intervention.kind == "shots" for intervention in self.interventions.values()
        ):
            raise errors.InputError("how.protocol: shots cannot be used with protocol stated")
        if self.how.reading == "generate":
            raise errors.InputError("how.reading: a study supports expected or argmax")
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

    def to_yaml(self) -> str:
        """Returns the resolved design as YAML; interventions have only the settings of their kind."""
        content = config.to_dict(self)
        content["interventions"] = {name: intervention.to_dict() for name, intervention in self.interventions.items()}
        return config.to_yaml(content)

    def target_names(self, taxonomy: Taxonomy) -> tuple[str, ...]:
        """Returns the targets by their names in a taxonomy.

        Raises:
            InputError: if the taxonomy does not have a target.
        """
        return tuple(dict.fromkeys(target for target, _ in self.target_directions(taxonomy)))

    def target_directions(self, taxonomy: Taxonomy) -> tuple[tuple[str, Side], ...]:
        """Returns each target with each of its directions.

        Raises:
            InputError: if the taxonomy does not have a target.
        """
        sets = {"types": taxonomy.types, "values": taxonomy.names, "all": (*taxonomy.types, *taxonomy.names)}
        target_sides: dict[tuple[str, Side], None] = {}
        for entry in self.targets:
            sign, name = (entry[0], entry[1:].strip()) if entry[:1] in _SIGNS else ("", entry)
            sides = (_SIGNS[sign],) if sign else self.directions
            for target in sets[name] if name in sets else (taxonomy.spelling(name),):
                target_sides |= {(target, side): None for side in sides}
        return tuple(target_sides)

    def cells(self, taxonomy: Taxonomy) -> list[tuple[str, Intervention, str, Side, int]]:
        """Returns the cells of each model: name of the intervention, the intervention, target, direction and seed.

        Raises:
            InputError: if an intervention has targets that the study does not have.
        """
        study_cells, pushes = [], self.target_directions(taxonomy)
        for name, intervention in self.interventions.items():
            requested = {taxonomy.spelling(target) for target in intervention.targets}
            unknown = requested - {target for target, _ in pushes}
            if unknown:
                raise errors.InputError(
                    f"interventions.{name}.targets: {names.short_list(sorted(unknown))} is not among the targets of the study"
                )
            for (target, side), seed in itertools.product(pushes, self.seeds):
                drawn = intervention.kind != "instruction" or seed == self.seeds[0]  # instructions ignore seeds
                if drawn and (not requested or target in requested):
                    study_cells.append((name, intervention, target, side, seed))
        return study_cells

    def wordings(self) -> tuple[str, ...]:
        """Returns the names of the wordings, which show how far the numbers depend on the wording."""
        return tuple(wording.name for wording in self.how.wordings())


def parse_places(texts: tuple[str, ...], depth: int) -> list[Place]:
    """Parses places of a model from texts such as 3, -1 and 3+4.

    Raises:
        InputError: if the model does not have a layer.
    """
    try:
        parsed = [tuple(int(layer) for layer in text.split("+")) for text in texts]
    except ValueError:
        raise errors.InputError(f"layers: expected layers such as 3 or 3+4, found {', '.join(texts)}") from None
    for place in parsed:
        layer_shares(place, depth)  # raises an error for a layer that does not exist
    return list(dict.fromkeys(tuple(sorted({layer % depth for layer in place})) for place in parsed))
