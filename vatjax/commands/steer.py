"""`vatjax steer`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from vatjax import errors, store
from vatjax.commands import show, steer_tables
from vatjax.commands.devices import Devices
from vatjax.dtypes import Dtype
from vatjax.items import Source, open_source
from vatjax.prompts import ElicitConfig
from vatjax.runtime.display import Display

Place = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Steer(Devices):
    """Finds an edit that pushes a model towards a value or away from it: from the train side, in the layer and at the
    strength that work best there. Compares it with placebos on the test side; writes the edit, its sweep and a plot."""

    model: str
    """A folder in Hugging Face's layout, "pocket", or owner/name on the Hub."""
    target: str
    """Target of the push: a value, a type or a group."""
    out: str
    """A folder for the edit, steer.json and sweep.png."""
    method: Literal["mean", "pca", "probe", "conva", "split", "neurons", "conditional", "shots"] = "mean"
    """Method: a direction from contrast pairs (mean, pca, probe), controlled activation, a trained vector, neurons,
    a direction with a condition, or examples in the prompt."""
    items: Source = dataclasses.field(default_factory=Source)
    """The items: --items FILE is short for --items.file FILE."""
    how: Annotated[ElicitConfig, OmitArgPrefixes] = dataclasses.field(default_factory=ElicitConfig)
    """Options for asking the model."""
    allow_low_mass: bool = False
    """Accept a model whose answer options have less than half of the probability on average."""
    direction: Literal["express", "suppress"] = "express"
    """Direction of the push."""
    layers: str = ""
    """Layers separated by commas, each tried by itself; 3+4 is both at once, -1 the last. By default up to six of them;
    conva and conditional choose their own."""
    strengths: str = ""
    """Strengths to try, separated by commas; 0 is the model itself. By default nine from -4 to 4. A curve needs eight."""
    operator: Literal["add", "project", "set", "turn"] = "add"
    """Operation that mean, pca and probe perform with a direction."""
    positions: Literal["all", "prompt", "last", "written"] = "all"
    """Tokens that are changed."""
    way: Literal["acted", "asked", "instructed"] = "acted"
    """Difference within a contrast pair: the action written, the action asked about, or the instruction."""
    pairs: int = 100
    """Maximum number of contrast pairs; at least 8."""
    shots: str = "2,4,8"
    """For shots: numbers of examples, separated by commas."""
    top: int = 100
    """For neurons: number of neurons examined for each value."""
    gate: bool = False
    """For conva: leave states unchanged that are not about the target."""
    probability: float = 0.99
    """For conva: the probability P0 that each layer's probe is moved to."""
    gamma: float = 1.0
    """For split: weight of the margin in its loss."""
    theta: float = 5.0
    """For split: the margin, in nats."""
    scenes: int = 12
    """Scenes of the train side that the sweep asks about; 0 for all."""
    placebos: int = 4
    """Draws of each placebo."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are assumed to have no effect."""
    context: int = 0
    """Longest text in tokens; 0 is the limit of the model's default rotary positions. If more than 4,096 are requested,
    Phi 3 uses its long-context positions for all texts."""
    dtype: Dtype = "float32"
    """Dtype of the weights and of the residual stream; mixed is bfloat16 weights with a float32 residual stream, auto
    is chosen for the device."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        strengths, counts = _numbers(self.strengths, "strengths"), self._counts()
        self._check()
        source = self.items
        data = open_source(source)
        data.taxonomy.mask(self.target)  # refused here where it is unknown
        folder = store.path(self.out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise errors.InputError(f"{self.out}: already exists; remove it, or write to another folder")
        store.check_writable(folder, "--out")
        from vatjax import edits, interventions, models
        from vatjax.elicit import prefill

        of_edits = dict.fromkeys(("layers", "strengths", "scenes"), edits.METHODS)
        for name, methods in (edits.METHODS_BY_OPTION | of_edits | {"shots": ("shots",)}).items():
            if getattr(self, name) != _default(name) and self.method not in methods:
                raise errors.InputError(f"{name}: it works with {', '.join(methods)}, and not with {self.method}")
        show.print_message(f"{self.model}: loading")
        model = models.load(self.model, self.dtype, self.device_mesh(), self.ignore, self.context)
        named = tuple(part.strip() for part in self.layers.split(",") if part.strip())
        places = interventions.parse_places(named, model.config.layers)
        _, test = data.split(source.test, source.seed)
        if not len(_of_target(test, self.target).pair().express):
            raise errors.InputError(
                f"{source.file}: no pair of {self.target} among the {len(data):,} chosen items falls to the test side{source.filters()}"
            )
        try:  # a folder that can't be written is reported before anything is computed
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.InputError(f"{self.out}: {store.reason(error)}") from None
        how = prefill.ensure_option_mass(model, self.how, self.allow_low_mass, show.print_message)
        with Display() as display:
            experiment = self._experiment(model, data, places, strengths, counts, how, display)
        content = self._write(model, experiment)
        if self.json:
            show.print_json(content)
        else:
            steer_tables.print_report(content, experiment.best)
            show.print_text(f"\n{self.out}: written")
        return 0

    @property
    def sign(self) -> int:
        """Returns +1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def _check(self) -> None:
        for name in ("pairs", "scenes", "placebos", "top"):
            if getattr(self, name) < 0:
                raise errors.InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")

    def _counts(self) -> tuple[int, ...]:
        counts = _numbers(self.shots, "shots")
        if not counts or any(count != int(count) or count < 1 for count in counts):
            raise errors.InputError(f"shots: expected numbers of examples such as 2,4,8, found {self.shots!r}")
        return tuple(int(count) for count in counts)

    def _experiment(
        self,
        model: Any,
        data: Any,
        places: list[Place],
        strengths: Any,
        counts: Any,
        how: ElicitConfig,
        display: Display,
    ) -> Any:
        """Runs the experiment; shows the sweep of one that finds no gain."""
        from vatjax import edits, prefix

        def start_stage(label: str, tokens: int) -> None:
            seconds = show.format_duration(prefix.seconds_for(model, tokens))
            display.stage(label, f"about {tokens:,} tokens, {seconds} and compiling" if tokens else "")

        options: dict[str, Any] = {
            "placebos": self.placebos,
            "how": how,
            "callbacks": edits.Callbacks(start_stage, display.progress, display.message),
        }
        split: dict[str, Any] = {"test": self.items.test, "seed": self.items.seed}
        if self.method == "shots":
            return edits.shots_experiment(model, data, self.target, self.sign, counts=counts, **split, **options)
        known = {field.name for field in dataclasses.fields(edits.Finder)} - {"test", "seed", "draw"}
        settings: dict[str, Any] = {name: getattr(self, name) for name in known}
        finder = edits.Finder(**settings, **split)
        if strengths:
            options["strengths"] = strengths
        options |= {"finder": finder, "places": places, "scenes": self.scenes}
        try:
            return edits.edit_experiment(model, data, self.target, self.sign, **options)
        except edits.NoGain as error:
            sweep = store.nonfinite_to_none([_point(point) for point in error.points])
            steer_tables.print_sweep({"sweep": sweep, "curves": []}, error.best)
            raise errors.InputError(f"{error}: give other --strengths or other --layers") from None

    def _write(self, model: Any, experiment: Any) -> dict[str, Any]:
        """Writes the files of an experiment, and returns the content of steer.json."""
        from vatjax import edits, models

        folder = store.path(self.out)
        content: dict[str, Any] = {name: getattr(self, name) for name in ("model", "target", "direction", "method")}
        if experiment.edit is None:
            examples = [{**shot.fields, "rating": shot.rating} for shot in experiment.shots]
            content |= {**_trials(experiment.trials), "shots": examples}
        else:
            models.save_edit(experiment.edit, model, folder, experiment.facts)
            title = f"{self.target}, {self.direction}: {self.method}"
            figure = edits.sweep_figure(experiment.points, experiment.curves, title, experiment.placebo_points)
            store.commit(folder / "sweep.png", figure)
            content |= {
                "found": experiment.facts,
                "sweep": [_point(point) for point in experiment.points],
                "random": [_point(point) for point in experiment.placebo_points],
                "curves": [_curve(curve) for curve in experiment.curves],
                **_trials(experiment.trials),
            }
        content = store.nonfinite_to_none(content)
        store.commit_json(folder / "steer.json", content)
        return content


def _default(name: str) -> Any:
    return next(field.default for field in dataclasses.fields(Steer) if field.name == name)


def _numbers(text: str, name: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = (float("nan"),)
    if not np.isfinite(np.array(numbers, np.float32)).all():
        raise errors.InputError(f"{name}: expected numbers separated by commas, found {text!r}")
    return tuple(dict.fromkeys(numbers))


def _of_target(data: Any, target: str) -> Any:
    return data.take(np.flatnonzero(data.taxonomy.mask(target)[data.value]))


# As data ------------------------------------------------------------------------------------------------------------


def _point(point: Any) -> dict[str, Any]:
    return {
        "layers": list(point.layers),
        "strength": point.strength,
        **point.outcome._asdict(),
        "broken": point.outcome.broken,
    }


def _curve(curve: Any) -> dict[str, Any]:
    return {key: np.asarray(value).tolist() for key, value in curve._asdict().items()}


def _trials(trials: Any) -> dict[str, Any]:
    from vatjax import edits

    return {
        "trials": [_trial(record) for record in trials],
        "placebos": [_plain(record) for record in edits.summarise_placebos(trials)],
    }


def _trial(trial: Any) -> dict[str, Any]:
    return {**_plain(trial), "broken": trial.broken}


def _plain(record: Any) -> dict[str, Any]:
    """Returns a record as JSON data."""
    plain: dict[str, Any] = {}
    for key, value in record._asdict().items():
        if hasattr(value, "_asdict"):
            plain[key] = {part: np.asarray(x, float).tolist() for part, x in value._asdict().items()}
        else:
            plain[key] = value
    return plain
