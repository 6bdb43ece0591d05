"""Ratings that exist already, of any origin: the shift from one table to another, next to the arms of a study.

The place of a table in `after` is its level. Without `before` the shift starts from the study's unedited model, so that the
contexts have to be those of the study. Given ratings have no placebo, and nothing is known of option mass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vatjax import errors, states
from vatjax.elicit import protocols
from vatjax.interventions.base import Intervention, PlanContext, WorkContext, register
from vatjax.states import ValueState
from vatjax.store.artifacts import Artifact
from vatjax.values import Taxonomy

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


@register("ratings")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratings(Intervention):
    """Value states that vatjax wrote (.npz), or tables of ratings as `vatjax tax` reads them."""

    seeded: ClassVar[bool] = False
    elicited: ClassVar[bool] = False
    ordered: ClassVar[bool] = False

    after: tuple[str, ...] = ()
    """Ratings after the intervention, each file a level."""
    before: str = ""
    """Ratings before it; by default those of the study's unedited model, in the same contexts."""
    scale: tuple[float, float] = (1.0, 5.0)
    """Ratings of tables at the weak and at the strong end of agreement."""
    clusters: tuple[str, ...] = ()
    """Columns of a table whose rows belong together, such as person; by default scene. They count where `before` is given:
    else the clusters are those of the study."""
    keys: tuple[str, ...] = ()
    """Columns to match contexts on; by default all that both have."""
    missing: tuple[str, ...] = ()
    """Further spellings of a missing rating in tables."""

    def __post_init__(self) -> None:
        if not self.after or len(set(self.after)) != len(self.after):
            raise errors.InputError(f"after: expected at least one file, and none twice, found {list(self.after)}")
        if self.scale[0] == self.scale[1]:
            raise errors.InputError(f"scale: expected two different ends, found {list(self.scale)}")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Returns the unit of its levels: none for a single file."""
        return "table" if len(self.after) > 1 else ""

    def levels(self) -> tuple[float, ...]:
        """Returns the numbers of the files, from 1."""
        return tuple(range(1, len(self.after) + 1))

    def placebo_names(self) -> tuple[str, ...]:
        """Returns nothing: given ratings have no placebo."""
        return ()

    def arm_before(self, arm: Arm) -> Arm | None:
        """Returns the arm of the table before; None for the study's unedited model."""
        return arm._replace(level=0.0) if self.before else None

    def file_of(self, arm: Arm) -> str:
        """Returns the file of an arm; level 0 is the one before."""
        return self.after[int(arm.level) - 1] if arm.level else self.before

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns the content of the file, and of the one before it, in whose contexts it is read."""
        files = [file for file in (self.before, self.file_of(arm)) if file]
        settings = {name: list(getattr(self, name)) for name in ("clusters", "keys", "missing")}
        return {"ratings": [plan.file_address(file) for file in files], "scale": list(self.scale), **settings}

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> ValueState:
        """Returns the ratings in the contexts of those before them, missing where the file has none.

        Raises:
            InputError: if no context is in both, or a table's scale is another than the study's.
        """
        del state
        taxonomy, path = work.items.taxonomy, self.file_of(arm)
        given = self.read(path, taxonomy)
        if self.before:
            return (
                given
                if path == self.before
                else _in_contexts_of(self.read(self.before, taxonomy), given, path, self.keys)
            )
        points = _points(given)
        if points is not None and points != work.how.high - work.how.low:
            raise errors.InputError(
                f"{path}: its scale has {points:g} points, and that of the study {work.how.high - work.how.low}; give the "
                "ratings before it too"
            )
        questions = protocols.make_questions(work.test_items, work.how.protocol)
        contexts = {key: np.asarray(column, object) for key, column in questions.contexts.items()}
        empty = np.full((len(questions.clusters), len(taxonomy.names)), np.nan)
        study = ValueState(empty, np.isfinite(empty), questions.clusters, tuple(taxonomy.names), contexts)
        return _in_contexts_of(study, given, path, self.keys)

    def read(self, path: str, taxonomy: Taxonomy) -> ValueState:
        """Reads ratings, with a column for each value of the taxonomy."""
        if path.endswith(".npz"):
            return states.align(states.load(path), taxonomy)
        clusters = self.clusters or None
        state = states.read_ratings(path, taxonomy, self.scale, clusters, self.keys, self.missing)
        return states.align(state, taxonomy)


def _in_contexts_of(first: ValueState, given: ValueState, path: str, on: Sequence[str]) -> ValueState:
    """Returns ratings in the contexts of the first state, missing where they have none."""
    numbered = dataclasses.replace(first, clusters=np.arange(len(first.clusters), dtype=np.int32))
    with errors.named(path):
        joined = states.join(numbered, given, on or None)
    state = np.full(first.state.shape, np.nan)
    state[joined.pre.clusters] = joined.post.state
    return ValueState(state, np.isfinite(state), first.clusters, first.values, first.contexts, given.meta)


def _points(state: ValueState) -> float | None:
    """Returns the points between the ends of a state's scale; None if it does not say."""
    ends = state.meta.get("scale") or [states.meta_entry(state.meta, ("how", end)) for end in ("low", "high")]
    return None if None in ends else abs(float(ends[1]) - float(ends[0]))
