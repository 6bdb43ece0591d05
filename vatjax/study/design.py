"""A study as plain data: its models, interventions, target values and placebos."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Set

from vatjax import config, errors, names
from vatjax.dtypes import Dtype
from vatjax.interventions import Intervention
from vatjax.interventions.arms import Side
from vatjax.items import Source
from vatjax.metrics import Reading
from vatjax.prompts import ElicitConfig
from vatjax.values import Taxonomy

_SIGNS: dict[str, Side] = {"+": "express", "-": "suppress"}
_NAME = re.compile(r"[\w][\w .+-]{0,63}")


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
        for name, intervention in self.interventions.items():
            with errors.named(f"interventions.{name}"):
                intervention.check(self.how.protocol)
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

    @property
    def source(self) -> Source:
        """Returns the source of the items, by the name that interventions use."""
        return self.items

    def to_yaml(self) -> str:
        """Returns the resolved design as YAML; interventions have only the settings of their kind."""
        return config.to_yaml(self)

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
            signed = [(entry[:1], entry.lstrip("+-").strip()) for entry in intervention.targets]
            requested = {(taxonomy.spelling(target), _SIGNS.get(sign, "")) for sign, target in signed}
            unknown = {
                target for target, side in requested if not any(_fits(push, {(target, side)}) for push in pushes)
            }
            if unknown:
                raise errors.InputError(
                    f"interventions.{name}.targets: {names.short_list(sorted(unknown))} is not among the targets of the study"
                )
            for push, seed in itertools.product(pushes, self.seeds):
                drawn = intervention.seeded or seed == self.seeds[0]
                if drawn and (not requested or _fits(push, requested)):
                    study_cells.append((name, intervention, *push, seed))
        return study_cells

    def wordings(self) -> tuple[str, ...]:
        """Returns the names of the wordings, which show how far the numbers depend on the wording."""
        return tuple(wording.name for wording in self.how.wordings())


def _fits(push: tuple[str, Side], requested: Set[tuple[str, str]]) -> bool:
    """Returns True if a push is among some targets, each with its direction or with none."""
    target, side = push
    return (target, side) in requested or (target, "") in requested
