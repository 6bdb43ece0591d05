"""An intervention: its settings, its levels and placebos, the artifacts that it needs, and the condition of a rating.

Each kind is a frozen dataclass in a file of its own. YAML (`kind: conva`), `--interventions.NAME.KEY` and Python share
it. A study asks an intervention for

    levels()                numbers of examples, strengths or steps, each of which is measured
    placebo_names()         placebos that are measured next to each level
    dependencies(arm, plan) artifacts that have to be made first, each named by the content of everything it depends on
    inputs(arm, plan)       what else determines the value state of an arm
    cost(artifact, meter)   what making an artifact costs
    make(batch, work)       makes such artifacts
    condition(arm, state, work)     what the model is rated under: examples, a sentence, an edit; or finished ratings
    arm_before(arm)         the arm whose ratings come before it; by default the unedited model

and nothing of the study knows a kind by its name.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib.metadata
import inspect
import itertools
import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from vatjax import config, errors, names, prompts, store
from vatjax.edits import random_like
from vatjax.elicit import Condition
from vatjax.items import Items, Source
from vatjax.models import Edit, Model
from vatjax.prompts import ElicitConfig
from vatjax.runtime.memory import is_out_of_memory
from vatjax.runtime.progress import OnProgress
from vatjax.states import ValueState
from vatjax.store.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    from vatjax.interventions.arms import Arm


class RunContext(Protocol):
    """Settings of a study that an intervention may read.

    Attributes:
        source: where the items come from, with the split into train and test.
        how: elicitation settings of the model.
        dtype: of the weights.
    """

    @property
    def source(self) -> Source:
        """Returns the source."""

    @property
    def how(self) -> ElicitConfig:
        """Returns the settings."""

    @property
    def dtype(self) -> Any:
        """Returns the dtype."""


class PlanContext(RunContext, Protocol):
    """What an intervention may read while a study is planned.

    Attributes:
        items: all items.
        train_inputs: inputs of every artifact that is made from the train side; they name the model.
    """

    items: Items
    train_inputs: dict[str, Any]

    def file_address(self, path: Any) -> str:
        """Returns the content hash of a file, read once until it changes; raises InputError if there is none."""


class CostMeter(Protocol):
    """What an intervention may use to count the cost of an artifact: the `Meter` of `estimate`.

    Attributes:
        nothing: no cost.
    """

    nothing: Any

    def rating(self, items: Items, how: ElicitConfig, condition: Condition) -> Any:
        """Returns the cost of rating items once; costs are added, and multiplied by numbers."""

    def training_steps(self, intervention: Any, cell: Any, draw: int | None) -> Any:
        """Returns the cost of a training."""

    def edit_search(self, intervention: Any, cell: Any, exchanged: int | None) -> Any:
        """Returns the cost of finding an edit, or the edit of a placebo."""


class WorkContext(RunContext, Protocol):
    """What an intervention may read and write while artifacts are made. `how` has the prefill that the model answers after.

    Attributes:
        model: the model.
        items: all items.
        test_items: items of the test side that are rated.
        artifact_store: where artifacts are read and written.
        cache: for results that the next batch may use.
        load: opens another model with the settings of the study.
        on_message, on_progress: callbacks.
    """

    model: Model
    items: Items
    test_items: Items
    artifact_store: ArtifactStore
    cache: dict[str, Any]
    load: Callable[[str], Model]
    on_message: Callable[[str], None]
    on_progress: OnProgress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intervention:
    """One way to push a model; the base of every kind."""

    kind: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    # False for a kind that draws nothing at random: then one seed is measured.
    seeded: ClassVar[bool] = True
    # True for a kind whose `make` takes several artifacts at once.
    joint: ClassVar[bool] = False
    # False for a kind whose ratings are finished: no model is asked for them, nor for answers in words.
    elicited: ClassVar[bool] = True
    # False for a kind whose levels are names and no amounts: they have no last one and no path between them.
    ordered: ClassVar[bool] = True

    targets: tuple[str, ...] = ()
    """A subset of the study's targets, such as Power, or +Power for one direction; by default all."""

    @classmethod
    def of_kind(cls, kind: str) -> type[Intervention]:
        """Returns the class of a kind, for configurations."""
        return of_kind(kind)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain data, with the kind first."""
        settings = {field.name: config.to_dict(getattr(self, field.name)) for field in dataclasses.fields(self)}
        targets = settings.pop("targets")
        return {"kind": self.kind, **settings, "targets": targets}

    def levels(self) -> tuple[float, ...]:
        """Returns the levels that are measured."""
        raise self._lacks("levels")

    def placebo_names(self) -> tuple[str, ...]:
        """Returns the names of the placebos; each is drawn several times at each level."""
        raise self._lacks("placebo_names")

    def _lacks(self, hook: str) -> errors.InputError:
        return errors.InputError(f"the kind {self.kind} ({_place(type(self))}) does not define {hook}")

    def check(self, protocol: str, depth: int | None = None) -> None:
        """Raises InputError if a study with this protocol, or a model with so many layers, cannot have it."""

    def known_condition(self, arm: Arm, plan: PlanContext) -> Condition:
        """Returns the known part of an arm's condition while a study is planned, for its cost: examples and texts."""
        del arm, plan
        return Condition()

    def cost(self, artifact: Artifact, meter: CostMeter) -> Any:
        """Returns the cost of making an artifact; by default nothing."""
        del artifact
        return meter.nothing

    def disk_bytes(self, weights: int) -> int:
        """Returns the bytes of checkpoints that one of its artifacts keeps, for a model of so many bytes."""
        del weights
        return 0

    def dependencies(self, arm: Arm, plan: PlanContext) -> dict[str, Artifact]:
        """Returns the artifacts that the value state of an arm is elicited from."""
        del arm, plan
        return {}

    def inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns what else determines the value state of an arm, as plain data: files that it reads, for example.

        States of a kind of another package also depend on its settings, and on target, direction, seed, level and placebo.
        """
        del arm, plan
        return {}

    def state_inputs(self, arm: Arm, plan: PlanContext) -> dict[str, Any]:
        """Returns all inputs of the value state of an arm."""
        inputs = dict(self.inputs(arm, plan))
        if is_shipped(type(self)):
            return inputs
        try:
            store.address(inputs)
        except TypeError as error:
            raise errors.InputError(f"the kind {self.kind} ({_place(type(self))}): inputs: {error}") from None
        drawn = {"level": arm.level, "placebo": arm.placebo, "draw": arm.draw}
        return {**inputs, "intervention": {**self._identity(arm, plan), **drawn}}

    def artifact(
        self,
        kind: str,
        label: str,
        arm: Arm,
        plan: PlanContext,
        inputs: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        dependencies: Mapping[str, Artifact] | None = None,
    ) -> Artifact:
        """Returns an artifact for `dependencies` of a kind of another package, whose `task` is `(arm.cell,)`.

        Its address names the model, the items, the target, the direction, the seed, the settings and the code.

        Args:
            kind, label: of the artifact.
            arm: one of the arms that depend on it.
            plan: of the study.
            inputs: what it depends on besides.
            without: settings that it does not depend on, such as strengths.
            dependencies: artifacts that it is made from.
        """
        identity = self._identity(arm, plan, without)
        whole = {**plan.train_inputs, "intervention": identity, **(inputs or {})}
        return Artifact(kind, label, whole, dependencies or {}, (arm.cell,), self)

    def _identity(self, arm: Arm, plan: PlanContext, without: Sequence[str] = ()) -> dict[str, Any]:
        """Returns settings, code and push of a kind of another package."""
        settings = {key: value for key, value in self.to_dict().items() if key not in ("targets", *without)}
        cls = type(self)
        code = {"class": f"{cls.__module__}.{cls.__qualname__}", "code": code_address(cls, plan)}
        cell = arm.cell
        return {**settings, **code, "target": cell.target, "direction": cell.direction, "seed": cell.seed}

    def make(self, batch: Sequence[Artifact], work: WorkContext) -> None:
        """Makes artifacts of `dependencies`: one, or for a `joint` kind several with the same `batch_key`."""
        raise self._lacks("make")

    def batch_key(self, artifact: Artifact, weights: int) -> Any:
        """Returns a key that is equal for artifacts which are made together, or one after the other; by default each alone.

        Args:
            artifact: one of `dependencies`.
            weights: number of the model's weights.
        """
        del weights
        return artifact.address

    def state_key(self, arm: Arm, weights: int) -> Any:
        """Returns a key that is equal for arms whose edits have the same form and are rated together; None for no edit."""
        del arm, weights
        return None

    def rated_model(self, arm: Arm, state: Artifact, work: WorkContext) -> Model:
        """Returns the model that is rated; by default that of the study."""
        del arm, state
        return work.model

    def edit_folder(self, arm: Arm, state: Artifact) -> tuple[Artifact, str] | None:
        """Returns the artifact that holds the edit of an arm, and the folder in it; None without a written edit."""
        del arm, state
        return None

    def arm_before(self, arm: Arm) -> Arm | None:
        """Returns the arm whose ratings come before those of an arm; None for the unedited model."""
        del arm
        return None

    def condition(self, arm: Arm, state: Artifact, work: WorkContext) -> Condition | ValueState:
        """Returns what the model is rated under; finished ratings from a kind that is not `elicited`.

        Args:
            arm: the arm.
            state: the artifact of its value state, with its dependencies.
            work: the model and the artifacts.
        """
        raise self._lacks("condition")


T = TypeVar("T", bound=type[Intervention])

KINDS: dict[str, type[Intervention]] = {}


def register(kind: str) -> Callable[[T], T]:
    """Registers the class of a kind.

    Raises:
        ValueError: if another class has this kind already.
    """

    def decorate(cls: T) -> T:
        present = KINDS.get(kind)
        if present is not None and (present.__module__, present.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"two classes register the kind {kind!r}: {present.__module__} and {cls.__module__}")
        cls.kind = kind
        KINDS[kind] = cls
        if not is_shipped(cls):
            for hook in _HOOKS:
                setattr(cls, hook, _name_errors(getattr(cls, hook)))
        return cls

    return decorate


def of_kind(kind: str) -> type[Intervention]:
    """Returns the class of a kind: a shipped one, or that of an installed plug-in.

    Raises:
        InputError: if no kind has this name, which lists all of them, or if its plug-in cannot be loaded.
    """
    _load_plugin(kind)
    if kind in KINDS:
        return KINDS[kind]
    known = kind_names()
    if not kind:
        raise errors.InputError(f"an intervention needs one of {', '.join(known)}")
    near = names.nearest(kind, known)
    hint = f"; did you mean {near!r}?" if near else ""
    raise errors.InputError(f"unknown kind of intervention {kind!r}{hint} (there are {', '.join(known)})")


# Plug-ins -----------------------------------------------------------------------------------------------------------

# Entry points of this group name a kind, and the class that has it.
GROUP = "vatjax.interventions"


def kind_names() -> list[str]:
    """Returns the names of all kinds, those of installed plug-ins included; loads no plug-in."""
    return list(dict.fromkeys([*KINDS, *(point.name for point in importlib.metadata.entry_points(group=GROUP))]))


def _load_plugin(kind: str) -> None:
    """Loads the plug-in of a kind, if one is installed; its module registers the class."""
    points = list(importlib.metadata.entry_points(group=GROUP, name=kind))
    if not points:
        return
    packages = [point.dist.name if point.dist is not None else point.value for point in points]
    if len(points) > 1:
        raise errors.InputError(f"the packages {' and '.join(sorted(packages))} both register the kind {kind!r}")
    if kind in KINDS and is_shipped(KINDS[kind]):
        raise errors.InputError(f"the plug-in {packages[0]}: {kind!r} is a kind of vatjax itself; give it another name")
    if kind in KINDS and _place(KINDS[kind]) == points[0].value.replace(":", "."):
        return
    try:
        cls = points[0].load()
    except Exception as error:
        raise errors.InputError(f"the plug-in {packages[0]}: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Intervention) and cls.kind == kind):
        raise errors.InputError(f"the plug-in {packages[0]}: {points[0].value} does not register the kind {kind!r}")


# Methods of a kind whose errors are named with it.
_HOOKS = (
    *(
        "levels",
        "placebo_names",
        "check",
        "known_condition",
        "cost",
        "dependencies",
        "inputs",
        "make",
        "batch_key",
        "state_key",
    ),
    *("rated_model", "edit_folder", "arm_before", "condition"),
)


def is_shipped(cls: type) -> bool:
    """Returns True for a kind of vatjax itself."""
    return cls.__module__.startswith("vatjax.")


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _name_errors(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a method of a plug-in whose errors are one line that names the kind and the class."""

    @functools.wraps(hook)
    def named(self: Intervention, *arguments: Any, **options: Any) -> Any:
        try:
            return hook(self, *arguments, **options)
        except (errors.InputError, MemoryError):
            raise
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or is_out_of_memory(error):
                raise
            where = f"the kind {self.kind} ({_place(type(self))})"
            raise errors.InputError(f"{where}: {type(error).__name__}: {error}") from error

    return named


def code_address(code: Any, plan: PlanContext) -> str:
    """Returns the content hash of the file that defines a class or a function.

    Raises:
        InputError: if it has no file, so that a change would not be noticed.
    """
    try:
        path = inspect.getsourcefile(inspect.unwrap(code))
    except TypeError:
        path = None
    if path is None or not os.path.exists(path):
        raise errors.InputError(f"{code!r} has no source file, so that a change of it would not be noticed")
    return plan.file_address(path)


def check_intervention(name: str, intervention: Intervention) -> None:
    """Raises InputError unless an intervention has a registered kind, levels that are numbers, and names of placebos."""
    cls = type(intervention)
    with errors.named(f"interventions.{name}"):
        if KINDS.get(intervention.kind) is not cls:
            raise errors.InputError(f"{_place(cls)} is not registered: decorate it with @interventions.register('...')")
        levels = tuple(intervention.levels())
        if not levels:
            raise errors.InputError(f"the kind {intervention.kind} has no levels")
        if not isinstance(intervention.unit, str):
            raise errors.InputError(f"the kind {intervention.kind}: unit is a text, found {intervention.unit!r}")
        if not all(_is_finite(x) for x in levels):
            raise errors.InputError(
                f"the kind {intervention.kind} has levels that are not finite numbers: {list(levels)}"
            )
        if len(set(levels)) < len(levels):
            raise errors.InputError(f"the kind {intervention.kind} has a level twice: {list(levels)}")
        placebos = intervention.placebo_names()
        texts = isinstance(placebos, (tuple, list)) and all(isinstance(text, str) and text for text in placebos)
        if not texts or "none" in placebos or len(set(placebos)) < len(placebos):
            raise errors.InputError(
                f"the kind {intervention.kind}: placebo_names is a tuple of different names, and none is called 'none'; "
                f"found {placebos!r}"
            )


def _is_finite(x: Any) -> bool:
    return isinstance(x, numbers.Real) and math.isfinite(float(x))


def check_levels(name: str, levels: Sequence[Any]) -> None:
    """Raises InputError unless there is at least one level, and none twice; levels are numbers, or entries that are numbered."""
    if not levels or len(set(levels)) != len(levels):
        raise errors.InputError(f"{name}: expected at least one, and none twice, found {list(levels)}")


def check_strengths(strengths: tuple[float, ...]) -> None:
    """Raises InputError unless strengths are levels other than 0."""
    check_levels("strengths", strengths)
    if 0.0 in strengths:
        raise errors.InputError("strengths: 0 is the model itself, which is measured in any case")


def neutral_texts(arm: Arm) -> Iterator[str]:
    """Yields neutral sentences without end, for a draw of a placebo.

    The draws of a cell begin at different sentences, as long as there are as many.
    """
    plain = prompts.neutral_texts()
    start = arm.cell.draw_seed(0) + arm.draw
    return (plain[(start + number) % len(plain)] for number in itertools.count())


def strength_inputs(arm: Arm) -> dict[str, Any]:
    """Returns the inputs of an arm that is an edit at a strength: the strength, and the seed of a random edit."""
    drawn = {"random": arm.cell.draw_seed(arm.draw)} if arm.placebo == "random" else {}
    return {"strength": arm.level, **drawn}


def at_strength(edit: Edit, arm: Arm) -> Edit | None:
    """Returns an edit at the arm's strength, or the random one of its placebo; None if it does nothing."""
    scaled = arm.level * edit
    if not float(scaled.strength):
        return None
    return random_like(scaled, arm.cell.draw_seed(arm.draw)) if arm.placebo == "random" else scaled
