"""`vatjax steer`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from vatjax import errors, prompts, store
from vatjax.commands import show, steer_tables
from vatjax.commands.devices import Devices
from vatjax.commands.display import Display
from vatjax.dtypes import Dtype
from vatjax.items import Source, open_source
from vatjax.prompts import ElicitConfig

Place = tuple[int, ...]

_EDITS = ("mean", "pca", "probe", "conva", "split", "neurons", "conditional")


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
        from vatjax import edits, interventions, models
        from vatjax.elicit import prefill

        for name, methods in edits.METHODS_BY_OPTION.items():
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
            if self.method == "shots":
                content, chosen = self._shots(model, data, source, counts, how, display), None
            else:
                content, chosen = self._edit(model, data, source, places, strengths, how, display)
        settings = {"model": self.model, "target": self.target, "direction": self.direction, "method": self.method}
        content = store.nonfinite_to_none({**settings, **content})
        store.commit_json(folder / "steer.json", content)
        if self.json:
            show.print_json(content)
        else:
            steer_tables.print_report(content, chosen)
            print(f"\n{self.out}: written")
        return 0

    @property
    def sign(self) -> int:
        """Returns +1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def _check(self) -> None:
        for name in ("pairs", "scenes", "placebos", "top"):
            if getattr(self, name) < 0:
                raise errors.InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        for name, methods in (("layers", _EDITS), ("strengths", _EDITS), ("shots", ("shots",))):
            if getattr(self, name) != _default(name) and self.method not in methods:
                raise errors.InputError(f"{name}: it works with {', '.join(methods)}, and not with {self.method}")

    def _counts(self) -> tuple[int, ...]:
        counts = _numbers(self.shots, "shots")
        if not counts or any(count != int(count) or count < 1 for count in counts):
            raise errors.InputError(f"shots: expected numbers of examples such as 2,4,8, found {self.shots!r}")
        return tuple(int(count) for count in counts)

    # Examples -------------------------------------------------------------------------------------------------------

    def _shots(
        self, model: Any, data: Any, source: Source, counts: tuple[int, ...], how: ElicitConfig, display: Display
    ) -> dict[str, Any]:
        from vatjax import edits, elicit

        drawn: dict[str, Any] = {"test": source.test, "seed": source.seed}
        pushes = {
            f"{count} shot{'s' * (count > 1)}": edits.Push(
                shots=prompts.demonstrations(data, self.target, self.sign, count, how.scales()[0], **drawn)
            )
            for count in counts
        }
        display.stage(f"rating {_counted(self.placebos, 'draw')} of neutral examples")
        for number in range(self.placebos):
            display.progress(number / self.placebos)
            shown = elicit.neutral_shots(model, data, max(counts), self.target, how, draw=number, **drawn)
            pushes[f"neutral shots {number + 1}"] = edits.Push(shots=shown, placebo="neutral shots")
        _, test = data.split(**drawn)
        trials = self._trials(model, test, pushes, how, display)
        most = max((push.shots for push in pushes.values() if not push.placebo), key=len)
        return {**_trials(trials), "shots": [{**shot.fields, "rating": shot.rating} for shot in most]}

    def _trials(self, model: Any, test: Any, pushes: Any, how: ElicitConfig, display: Display) -> Any:
        """Rates the test side under every push."""
        from vatjax import edits

        display.stage(
            f"rating the test side {len(pushes) + 1} times: unedited, edited, and under placebos",
            _estimate(model, test, how, len(pushes) + 1),
        )
        return edits.run_trials(model, test, self.target, pushes, self.sign, how, on_progress=display.progress)

    # Edits ----------------------------------------------------------------------------------------------------------

    def _edit(
        self,
        model: Any,
        data: Any,
        source: Source,
        places: list[Place],
        strengths: tuple[float, ...],
        how: ElicitConfig,
        display: Display,
    ) -> tuple[dict[str, Any], Any]:
        from vatjax import edits, models

        known = {field.name for field in dataclasses.fields(edits.Finder)} - {"test", "seed", "draw"}
        options: dict[str, Any] = {name: getattr(self, name) for name in known}
        finder = edits.Finder(**options, test=source.test, seed=source.seed)
        pairs = how.of_pairs()
        display.stage(f"finding an edit by {self.method} from up to {self.pairs} contrast pairs of the train side")
        tried = edits.find_candidate(model, data, self.target, self.sign, finder, places, pairs)
        train, test = data.split(source.test, source.seed)
        sweep_items = edits.sample_target_scenes(train, self.target, self.scenes, source.seed)
        strengths = strengths or edits.STRENGTHS
        swept = len(tried.places) * len(strengths)
        display.stage(
            f"a sweep of {_counted(len(tried.places), 'place')} and {_counted(len(strengths), 'strength')}",
            _estimate(model, sweep_items, pairs, swept + 1),
        )
        points = edits.sweep(
            model,
            sweep_items,
            self.target,
            tried.make,
            tried.places,
            strengths,
            self.sign,
            how=pairs,
            on_progress=display.progress,
        )
        chosen = edits.best_point(points)
        why = edits.no_gain_reason(chosen)
        if chosen is None or why:
            steer_tables.print_sweep(
                {"sweep": store.nonfinite_to_none([_point(point) for point in points]), "curves": []}, chosen
            )
            raise errors.InputError(f"{why}: give other --strengths or other --layers")
        edit = chosen.strength * tried.make(chosen.layers)
        curves = [
            edits.fit_curve(fittable)
            for place in tried.places
            if len(fittable := _fittable(points, place)) >= edits.MIN_STRENGTHS
        ]
        blind = []
        if self.placebos:
            other = edits.random_like(tried.make(chosen.layers), self.placebos)  # not among the draws of the trials
            places = [chosen.layers]
            display.stage("a sweep of a random edit", _estimate(model, sweep_items, pairs, len(strengths) + 1))
            blind = edits.sweep(
                model,
                sweep_items,
                self.target,
                lambda _: other,
                places,
                strengths,
                self.sign,
                how=pairs,
                on_progress=display.progress,
            )
        pushes: dict[str, edits.Push] = {self.method: edits.Push(edit)}
        pushes |= edits.placebo_pushes(tried, chosen.layers, chosen.strength, self.placebos, display.message)
        trials = self._trials(model, test, pushes, how, display)
        facts = {**tried.facts(chosen.layers), "layers": list(chosen.layers), "strength": chosen.strength}
        folder = store.path(self.out)
        models.save_edit(edit, model, folder, facts)
        title = f"{self.target}, {self.direction}: {self.method}"
        store.commit(folder / "sweep.png", edits.sweep_figure(points, curves, title, blind))
        content = {
            "found": facts,
            "sweep": [_point(point) for point in points],
            "random": [_point(point) for point in blind],
            "curves": [_curve(curve) for curve in curves],
            **_trials(trials),
        }
        return content, chosen


def _estimate(model: Any, items: Any, how: ElicitConfig, times: int) -> str:
    """Returns the expected tokens and time of rating the items so many times."""
    from vatjax import elicit, prefix

    if how.reading == "generate":
        return ""
    tokens = times * elicit.cost(model, items, how).computed
    return f"about {tokens:,} tokens, {show.format_duration(prefix.seconds_for(model, tokens))} and compiling"


def _default(name: str) -> Any:
    return next(field.default for field in dataclasses.fields(Steer) if field.name == name)


def _fittable(points: Any, place: Place) -> list[Any]:
    """Returns the points of a place that a curve can be fitted to."""
    return [
        point
        for point in points
        if point.layers == place and np.isfinite([point.outcome.preference, point.outcome.utility]).all()
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


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
