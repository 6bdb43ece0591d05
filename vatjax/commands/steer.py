"""`vatjax steer`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
from tyro.conf import OmitArgPrefixes

from vatjax import errors, prompts, store
from vatjax.commands import show
from vatjax.items import Source, open_source

SHOTS = (2, 4, 8)

Place = tuple[int, ...]

# Options that only some methods know.
_DIRECTIONS = ("mean", "pca", "probe")
_EDITS = (*_DIRECTIONS, "conva", "split", "neurons", "conditional")
_WORKS = {
    "operator": _DIRECTIONS,
    "gate": ("conva",),
    "top": ("neurons",),
    "layers": _EDITS,
    "strengths": _EDITS,
    "positions": _EDITS,
    "way": (*_DIRECTIONS, "conva", "neurons", "conditional"),
}


class _Tried(NamedTuple):
    """An edit that is tried in several places.

    Attributes:
        make: the edit in some layers.
        places: the layers to try.
        about: what there is to say about it in some layers.
        blind: what the same finder makes of labels that mean nothing, from layers and a seed.
    """

    make: Callable[[Place], Any]
    places: list[Place]
    about: Callable[[Place], dict[str, Any]]
    blind: Callable[[Place, int], Any]


@dataclasses.dataclass(frozen=True)
class Steer:
    """Finds an edit that pushes a model towards a value or away from it: from the train side, in the layer and at the
    strength that work best there. Measures it on the test side beside placebos, and writes the edit, its sweep and a plot."""

    model: str
    """A folder in Hugging Face's layout, "pocket", or owner/name on the Hub."""
    target: str
    """What is pushed: a value, a type or a group."""
    out: str
    """A folder for the edit, steer.json and sweep.png."""
    method: Literal["mean", "pca", "probe", "conva", "split", "neurons", "conditional", "shots"] = "mean"
    """How it is found: a direction from contrast pairs (mean, pca, probe), controlled activation, a trained vector, neurons,
    a direction with a condition, or examples in the prompt."""
    items: str = ""
    """The items, in place of --file: "bundled", or a path or bucket address."""
    source: Annotated[Source, OmitArgPrefixes] = dataclasses.field(default_factory=Source)
    """Which items, and how to read them."""
    direction: Literal["express", "suppress"] = "express"
    """Which way."""
    layers: str = ""
    """Where: layers separated by commas, each tried by itself; 3+4 is both at once, -1 the last. By default up to six of
    them; conva and conditional choose theirs."""
    strengths: str = ""
    """Strengths to try, separated by commas; 0 is the model itself. By default nine from -4 to 4. A curve needs eight."""
    operator: Literal["add", "project", "set", "turn"] = "add"
    """What mean, pca and probe do with a direction."""
    positions: Literal["all", "prompt", "last", "written"] = "all"
    """Which tokens are changed."""
    way: Literal["acted", "asked", "instructed"] = "acted"
    """What differs within a contrast pair: the action written, the action asked about, or the instruction."""
    pairs: int = 100
    """Contrast pairs, where there are as many; at least 8."""
    top: int = 100
    """Of neurons: how many of each value are looked at."""
    gate: bool = False
    """Of conva: leave states alone that are not about the target."""
    scenes: int = 12
    """Scenes of the train side that the sweep asks about; 0 for all."""
    placebos: int = 4
    """Draws of each placebo."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    json: bool = False
    """Print one JSON document instead of tables."""

    def run(self) -> int:
        if self.items and self.source.file not in (Source.file, self.items):
            raise errors.InputError(f"two files are given: {self.items!r} and {self.source.file!r}")
        for name in ("pairs", "scenes", "placebos", "top"):
            if getattr(self, name) < 0:
                raise errors.InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        strengths = _numbers(self.strengths, "strengths")
        source = dataclasses.replace(self.source, file=self.items) if self.items else self.source
        data = open_source(source)
        target = self.target
        data.taxonomy.mask(target)  # refused here where it is unknown
        folder = store.path(self.out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise errors.InputError(f"{self.out}: something is there already; remove it, or write to another folder")
        for name, methods in _WORKS.items():
            if getattr(self, name) != _default(name) and self.method not in methods:
                raise errors.InputError(f"{name}: it works with {', '.join(methods)}, and not with {self.method}")
        from vatjax import models

        model = models.load(self.model, self.dtype)
        places = _places(self.layers, model.config.layers)
        train, test = data.split(source.test, source.seed)
        if not len(_of_target(test, target).pair().express):
            raise errors.InputError(
                f"{source.file}: no pair of {target} among the {len(data):,} chosen items falls to the test side"
            )
        try:  # what can't be written to is said before anything is computed
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.InputError(f"{self.out}: {store.reason(error)}") from None
        way = 1 if self.direction == "express" else -1
        if self.method == "shots":
            content, kept = self._shots(model, data, test, target, way, source), None
        else:
            content, kept = self._edit(model, data, train, test, target, way, source, places, strengths)
        content = show.finite({**self._said(target), **content})
        store.commit_json(folder / "steer.json", content)
        show.as_json(content) if self.json else _print(content, kept, self.out)
        return 0

    def _said(self, target: str) -> dict[str, Any]:
        return {"model": self.model, "target": target, "direction": self.direction, "method": self.method}

    # Examples -------------------------------------------------------------------------------------------------------

    def _shots(self, model: Any, data: Any, test: Any, target: str, way: int, source: Source) -> dict[str, Any]:
        from vatjax import elicit, study

        drawn: dict[str, Any] = {"test": source.test, "seed": source.seed}
        pushes = {
            f"{count} shots": study.Push(shots=prompts.demonstrations(data, target, way, count, **drawn))
            for count in SHOTS
        }
        for number in range(self.placebos):
            shown = elicit.neutral_shots(model, data, max(SHOTS), target, draw=number, **drawn)
            pushes[f"neutral shots {number + 1}"] = study.Push(shots=shown, placebo="neutral shots")
        found = study.trials(model, test, target, pushes, way, done=_told)
        examples = [{**shot.fields, "rating": shot.rating} for shot in pushes[f"{max(SHOTS)} shots"].shots]
        return {**_trials(found), "shots": examples}

    # Edits ----------------------------------------------------------------------------------------------------------

    def _edit(
        self,
        model: Any,
        data: Any,
        train: Any,
        test: Any,
        target: str,
        way: int,
        source: Source,
        places: Any,
        strengths: Any,
    ) -> tuple[dict[str, Any], Any]:
        from vatjax import edits, models, study

        tried = self._tried(model, data, target, way, source, places)
        make, places = tried.make, tried.places
        asked = _some(train, target, self.scenes, source.seed)
        tries = len(strengths or edits.STRENGTHS)
        _told(f"a sweep of {len(places)} place{'s' * (len(places) > 1)} and {tries} strength{'s' * (tries > 1)}")
        points = edits.sweep(model, asked, target, make, places, strengths or edits.STRENGTHS, way)
        chosen = edits.best(points)
        if chosen is None or chosen.outcome.gain <= 0:
            why = "every strength breaks the model" if chosen is None else "no strength gives a gain above 0"
            _print_sweep({"sweep": show.finite([_point(point) for point in points]), "curves": []}, chosen)
            raise errors.InputError(f"{why}: give other ones by --strengths, or other --layers")
        edit = chosen.strength * make(chosen.layers)
        curves = [edits.curve(own) for place in places if len(own := _fit(points, place)) >= edits.LEAST]
        pushes = {self.method: study.Push(edit)} | self._placebos(tried, edit, chosen)
        found = study.trials(model, test, target, pushes, way, done=_told)
        facts = {**tried.about(chosen.layers), "layers": list(chosen.layers), "strength": chosen.strength}
        folder = store.path(self.out)
        models.save_edit(edit, model, folder, facts)
        store.commit(
            folder / "sweep.png", study.sweep_figure(points, curves, f"{target}, {self.direction}: {self.method}")
        )
        content = {
            "found": facts,
            "sweep": [_point(point) for point in points],
            "curves": [_curve(curve) for curve in curves],
            **_trials(found),
        }
        return content, chosen

    def _tried(self, model: Any, data: Any, target: str, way: int, source: Source, places: Any) -> _Tried:
        """What is to be tried; what is costly is found here, once."""
        from vatjax import edits

        drawn: dict[str, Any] = {"test": source.test, "seed": source.seed}
        if self.method in ("mean", "pca", "probe"):
            pairs = edits.contrast(model, data, target, way, self.way, self.pairs, **drawn)
            found = edits.directions(pairs, self.method, source.seed)
            facts = {"pairs": pairs.positive.shape[1], "way": self.way, "accuracy": found.accuracy.tolist()}
            live = [place for place in places if all(np.abs(found.vector[layer]).any() for layer in place)]
            facts |= {"method": self.method, "operator": self.operator, "positions": self.positions}

            def steered(one: Any, place: Place) -> Any:
                return edits.steer(one, place, self.operator, self.positions)

            def blind(place: Place, number: int) -> Any:
                other = edits.directions(edits.shuffled(pairs, number), cast(Any, self.method), source.seed)
                return steered(edits.as_long_as(other, found), place)

            return _Tried(lambda place: steered(found, place), live or places, lambda _: facts, blind)

        def search(place: Place = (), exchanged: int | None = None) -> Any:
            options = {name: getattr(self, name) for name in ("way", "positions", "pairs", "top", "gate")}
            return edits.search(
                model, data, target, way, cast(Any, self.method), place, exchanged=exchanged, **options, **drawn
            )

        if self.method == "split":
            places = places if self.layers else [(model.config.layers // 2,)]
            made = {place: search(place) for place in places}
            return _Tried(
                lambda place: made[place].edit,
                places,
                lambda place: made[place].facts,
                lambda place, number: search(place, exchanged=number).edit,
            )
        own = search()
        whole = tuple(own.facts.get("layers", range(model.config.layers)))
        places = [place for place in places if set(place) <= set(whole)] if self.layers else [whole]
        if not places:
            raise errors.InputError(f"layers: {self.method} works in {', '.join(map(str, whole))}, found {self.layers}")
        return _Tried(
            lambda place: own.edit.only(place),
            places,
            lambda _: own.facts,
            lambda place, number: search(exchanged=number).edit.only(place),
        )

    def _placebos(self, tried: _Tried, edit: Any, chosen: Any) -> dict[str, Any]:
        """Random edits as long as the real one, and the same finder on shuffled labels: what it does not find is said."""
        from vatjax import edits, study

        numbers = range(self.placebos)
        made = {
            f"random {number + 1}": study.Push(edits.random_like(edit, number), placebo="random") for number in numbers
        }
        for number in numbers:
            try:
                blind = chosen.strength * tried.blind(chosen.layers, number)
            except errors.InputError as error:
                _told(f"shuffled labels {number + 1}: {error}")
                continue
            made[f"shuffled {number + 1}"] = study.Push(blind, placebo="shuffled labels")
        return made


def _default(name: str) -> Any:
    return next(field.default for field in dataclasses.fields(Steer) if field.name == name)


def _fit(points: Any, place: Place) -> list[Any]:
    """The points of a place that a curve can be fitted to."""
    return [
        one
        for one in points
        if one.layers == place and np.isfinite([one.outcome.preference, one.outcome.utility]).all()
    ]


def _told(line: str) -> None:
    print(f"vatjax: {line}", file=sys.stderr)


def _numbers(text: str, name: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (float("nan"),)
    if not np.isfinite(np.array(found, np.float32)).all():
        raise errors.InputError(f"{name}: expected numbers separated by commas, found {text!r}")
    return tuple(dict.fromkeys(found))


def _places(text: str, depth: int) -> list[tuple[int, ...]]:
    """Layers to try: those that are given, or up to six that are spread over the model."""
    if not text:
        return [(int(layer),) for layer in np.unique(np.linspace(0, depth - 1, min(depth, 6)).round())]
    try:
        found = [tuple(int(layer) for layer in part.split("+")) for part in text.split(",")]
    except ValueError:
        raise errors.InputError(f"layers: expected numbers such as 3,4 or 3+4, found {text!r}") from None
    wrong = [layer for place in found for layer in place if not -depth <= layer < depth]
    if wrong:
        raise errors.InputError(f"layer {wrong[0]}: the model has layers 0 to {depth - 1}")
    return list(dict.fromkeys(tuple(sorted({layer % depth for layer in place})) for place in found))


def _of_target(data: Any, target: str) -> Any:
    return data.take(np.flatnonzero(data.taxonomy.mask(target)[data.value]))


def _some(train: Any, target: str, scenes: int, seed: int) -> Any:
    """All items of some scenes that have pairs of the target."""
    own = _of_target(train, target)
    texts = np.unique(own.scene[own.pair().express].astype(str))
    if not scenes or scenes >= len(texts):
        return train
    chosen = np.random.default_rng(seed).choice(texts, scenes, replace=False)
    return train.take(np.flatnonzero(np.isin(train.scene.astype(str), chosen)))


# What is said -------------------------------------------------------------------------------------------------------


def _point(point: Any) -> dict[str, Any]:
    return {
        "layers": list(point.layers),
        "strength": point.strength,
        **point.outcome._asdict(),
        "broken": point.outcome.broken,
    }


def _curve(curve: Any) -> dict[str, Any]:
    return {key: np.asarray(value).tolist() for key, value in curve._asdict().items()}


def _trials(found: Any) -> dict[str, Any]:
    from vatjax import study

    return {"trials": [_trial(one) for one in found], "placebos": [_plain(one) for one in study.blind(found)]}


def _trial(trial: Any) -> dict[str, Any]:
    return {**_plain(trial), "broken": trial.broken}


def _plain(record: Any) -> dict[str, Any]:
    """A record as JSON data."""
    found: dict[str, Any] = {}
    for key, value in record._asdict().items():
        if hasattr(value, "_asdict"):
            found[key] = {part: np.asarray(x, float).tolist() for part, x in value._asdict().items()}
        else:
            found[key] = value
    return found


def _print(content: dict[str, Any], chosen: Any, out: str) -> None:
    if chosen is not None:
        _print_sweep(content, chosen)
    rows = [_cells(trial) for trial in content["trials"]]
    columns = ("test side", "gain", "off target", "nVAT", "success", "leak", "mass", "perplexity")
    show.table(columns, rows)
    print("~ not told from 0   leak: rise of others' success over the target's   perplexity: times unedited")
    for one in content["placebos"]:
        told = "told from 0: no placebo here" if one["resolved"] else "not told from 0"
        print(f"{one['name']}, {one['draws']} draws together: gain {_interval(one['gain'])}, {told}")
    print(f"\n{out}: written")


def _cells(trial: dict[str, Any]) -> tuple[str, ...]:
    return (
        trial["name"],
        _interval(trial["gain"]) + ("" if trial["resolved"] else " ~"),
        _number(trial["off_target"]["estimate"]),
        _number(trial["nvat"]["estimate"]),
        "-" if trial["success"]["estimate"] is None else f"{trial['success']['estimate']:.0%}",
        _number(trial["leakage"]["estimate"]),
        f"{trial['mass']:.2f}",
        _number(trial["perplexity"]) + (" BROKEN" if trial["broken"] else ""),
    )


def _print_sweep(content: dict[str, Any], chosen: Any) -> None:
    rows = []
    for point in content["sweep"]:
        mine = chosen is not None and (tuple(point["layers"]), point["strength"]) == (chosen.layers, chosen.strength)
        mark = " *" if mine else ""
        mark += " BROKEN" if point["broken"] else ""
        numbers = [
            _number(point[key]) for key in ("gain", "off_target", "nvat", "preference", "utility", "mass", "perplexity")
        ]
        rows.append(("+".join(map(str, point["layers"])), f"{point['strength']:g}", *numbers, mark.strip()))
    columns = ("layers", "strength", "gain", "off target", "nVAT", "preference", "utility", "mass", "perplexity", "")
    show.table(columns, rows)
    for curve in content["curves"]:
        low, high = curve["useful"]
        place = "+".join(map(str, curve["layers"]))
        print(
            f"layers {place}: useful from {low:.2g} to {high:.2g}; R2 of the fits {_number(curve['preference_r2'])} "
            f"(preference), {_number(curve['utility_r2'])} (utility)"
        )
    if chosen is not None:
        print("* the highest gain that leaves the model whole")
    if all(point["perplexity"] is None for point in content["sweep"]):
        print("perplexity -: on neutral text no better than by chance; the mass alone tells a broken model")
    print()


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.2f}"


def _interval(estimate: dict[str, float | None]) -> str:
    low, high = estimate["low"], estimate["high"]
    if estimate["estimate"] is None or low is None or high is None:
        return "-"
    return f"{estimate['estimate']:.2f} [{low:.2f}, {high:.2f}]"
