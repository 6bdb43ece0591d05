"""`vatjax tax`."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from vatjax import analysis, errors, names, states, summary, values
from vatjax.commands import show
from vatjax.states import ValueState
from vatjax.values import Taxonomy

# Seconds of one core of a 2.x GHz x86 server for each context and pair of values: of the comparison, and of one draw of
# the null. 1,000 values over 2,000 contexts took 8 minutes on two of them.
_SECONDS, _SECONDS_OF_DRAW = 2.6e-7, 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatingOptions:
    """Options of commands that read ratings."""

    target: str
    """Target of the intervention: a value, a type or a group of the taxonomy, or several separated by commas."""
    direction: Literal["express", "suppress"] = "express"
    """Direction of the intervention."""
    clusters: str = ""
    """Columns, separated by commas, whose rows belong together; two such choices joined by + are two-way clusters. By default
    country+topic if both are present and cross, else `scene`."""
    on: str = ""
    """Columns, separated by commas, to join on; by default all common ones."""
    scale: str = ""
    """Ratings at the weak and at the strong end of agreement; 4:1 means that 1 is the strongest. By default 1:5."""
    missing: str = ""
    """Further spellings of a missing rating, separated by commas, such as "don't know,-"."""
    duplicates: Literal["refuse", "mean"] = "refuse"
    """Treatment of several rows of one context."""
    values: Literal["all", "common"] = "all"
    """Values to compare: all, which both tables must have, or those in common."""
    taxonomy: str = "schwartz"
    """The values: "schwartz", or the path of a taxonomy in YAML."""
    reading: Literal["rms", "offdiag", "full"] = "rms"
    """Reading of nVAT: rms = |R_off| / sqrt(V(V-1)), offdiag = |R_off| / sqrt(V), full = |R| / sqrt(V)."""
    unit: Literal["points", "paper"] = "points"
    """Unit of shifts: points of the scale, or ratings mapped to -1 to 1 as published."""
    resamples: int = analysis.RESAMPLES
    """Draws of the null."""
    seed: int = 0
    """Seed of the resampling."""
    json: bool = False
    """Print one JSON document instead of tables."""

    @property
    def sign(self) -> int:
        """Returns +1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def analysis_options(self) -> dict[str, Any]:
        """Returns the arguments that `analysis.analyse` and `comparison.compare` share."""
        return {
            "target": split_names(self.target) or [self.target],
            "direction": self.sign,
            "on": split_names(self.on) or None,
            "resamples": self.resamples,
            "seed": self.seed,
            "reading": self.reading,
            "clusters": self.clusters,
            "unit": self.unit,
        }

    def load_taxonomy(self) -> Taxonomy:
        """Returns the taxonomy of the ratings."""
        return values.schwartz() if self.taxonomy == "schwartz" else values.load(self.taxonomy)

    def read(self, *paths: str) -> list[states.ValueState]:
        """Reads ratings; with `--values common` all get the values that each of them has.

        Raises:
            InputError: for files that cannot be read, and for options that do not apply to them.
        """
        if self.resamples < 100:
            raise errors.InputError(f"--resamples: at least 100 are needed, found {self.resamples}")
        taxonomy = self.load_taxonomy()
        read = [self._read(path, taxonomy) for path in paths]
        if self.values == "common":
            every = {name for state in read for name in state.values}
            read = list(states.common_values(*read))
            gone = sorted(every - set(read[0].values))
            if gone:
                show.print_message(f"left out, not in every table: {names.short_list(gone)}")
        return read

    def _read(self, path: str, taxonomy: Taxonomy) -> states.ValueState:
        if path.endswith(".npz"):
            for flag, given in (("--scale", self.scale), ("--missing", self.missing)):
                if given:
                    raise errors.InputError(f"{flag}: it applies to tables, and {path} is a value state")
            return states.load(path)
        state = states.read_ratings(
            path, taxonomy, _scale(self.scale or "1:5"), missing=split_names(self.missing), keys=split_names(self.on)
        )
        if self.duplicates == "refuse":
            return state
        averaged = states.average_duplicates(state, split_names(self.on))
        if len(averaged.clusters) < len(state.clusters):
            show.print_message(
                f"{path}: {len(state.clusters):,} rows are averaged to {len(averaged.clusters):,} contexts"
            )
        return averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tax(RatingOptions):
    """Compares ratings before and after an intervention: how far the target moved, what happened to the other values,
    and whether values move together. Ratings are tables (CSV, TSV, JSONL, JSON, each also gzipped; one row a context, one
    column a value, every other column a key on which the two are joined; or long tables with the columns `value` and
    `rating`) or value states (.npz). `vatjax example ratings` writes two to try."""

    pre: Annotated[str, Positional, arg(metavar="PRE")]
    """Ratings before."""
    post: Annotated[str, Positional, arg(metavar="POST")]
    """Ratings after."""
    placebo: tuple[str, ...] = ()
    """Ratings after a placebo, in the same contexts; several files are draws of one placebo."""
    margin: float | None = None
    """A negligible shift, in the unit of shifts; tests whether every other type moved by less."""

    def run(self) -> int:
        if self.margin is not None and not (0 < self.margin < float("inf")):
            raise errors.InputError(f"--margin: expected a number above 0, found {self.margin:g}")
        taxonomy = self.load_taxonomy()
        pre, post, *placebos = self.read(self.pre, self.post, *self.placebo)
        if not self.json:
            show.print_message(_expected_duration(pre, 1 + len(placebos), self.resamples))
        result = analysis.analyse(
            pre,
            post,
            taxonomy,
            **self.analysis_options(),
        )
        content = analysis.as_json(result)
        content["resamples"] = self.resamples
        content["numerical_noise"] = analysis.numerical_noise(pre, post)
        content["placebo"] = self._beyond(result, placebos, taxonomy) if placebos else None
        content["margin"] = None if self.margin is None else analysis.equivalence_test(result, self.margin)
        content["warnings"] += self._reading_warnings(pre, post)
        for warning in content["warnings"]:
            show.print_message(warning)
        if self.json:
            show.print_json(content)
        else:
            print(summary.tax_text(content, not self.scale and not self.pre.endswith(".npz"), show.format_for_output))
        return 0

    def _beyond(
        self, result: analysis.Analysis, placebos: list[states.ValueState], taxonomy: Taxonomy
    ) -> dict[str, Any]:
        for path, placebo in zip(self.placebo, placebos, strict=True):
            try:  # each by itself: an error names its file
                states.join(result.joined.pre, placebo, result.joined.keys or None)
            except errors.InputError as error:
                raise errors.InputError(f"--placebo {path}: against {self.pre}: {error}") from None
        try:
            return analysis.beyond_placebo(result, placebos, taxonomy)
        except errors.InputError as error:
            raise errors.InputError(f"--placebo {', '.join(self.placebo)}: {error}") from None

    def _reading_warnings(self, pre: states.ValueState, post: states.ValueState) -> list[str]:
        """Returns warnings about possible mistakes in reading the tables."""
        warnings = []
        ranges = [state.meta.get("found") for state in (pre, post)]
        if not self.scale and all(ranges):
            highest = max(float(ends[1]) for ends in ranges if ends)
            if highest < 5:
                warnings.append(
                    f"no rating is above {highest:g}, read on the default scale 1:5: if {highest:g} is the top, or 1 the "
                    f"strongest, say --scale 1:{highest:g} or {highest:g}:1"
                )
        if pre.values == post.values and np.array_equal(pre.state, post.state, equal_nan=True):
            warnings.append("the two files hold the same ratings")
        for setting, path in (("wording", ("how", "wording")), ("dtype", ("model", "dtype"))):
            first, second = (states.meta_entry(state.meta, path) for state in (pre, post))
            if first != second and first is not None and second is not None:
                first, second = (", ".join(x) if isinstance(x, list) else x for x in (first, second))
                more = ", and with it the cue that the answer begins with" if setting == "wording" else ""
                warnings.append(
                    f"the {setting} differs{more}: {first} before, {second} after; part of the shift may come from that"
                )
        return warnings


def split_names(text: str) -> list[str]:
    """Returns the names in a text, which commas separate."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _scale(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise errors.InputError(f"--scale: expected LOW:HIGH such as 1:5, found {text!r}") from None


def _expected_duration(state: ValueState, comparisons: int, resamples: int) -> str:
    """Returns the message before a measurement: how long it takes."""
    contexts, columns = state.state.shape
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seconds = comparisons * contexts * columns**2 * (_SECONDS + _SECONDS_OF_DRAW * resamples) / cores
    if seconds < 20:
        return "measuring; the first time on a machine this takes up to ten seconds, to compile"
    return (
        f"measuring {columns:,} values over {contexts:,} contexts: about {show.format_duration(seconds)} "
        f"on {cores} cores of a CPU"
    )
