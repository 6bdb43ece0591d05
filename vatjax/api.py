"""The front door: load a model, push it, and measure what the push does to its other values.

    import vatjax

    model = vatjax.load("pocket")
    edit = vatjax.steer(model, "Power")
    tax = vatjax.measure(model, edit, target="Power")
    print(tax)

Everything here is a few lines over the packages: `models.load`, `edits.sweep`, `train`, `elicit.ratings` and `analysis.analyse`.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from vatjax import (
    analysis,
    drawing,
    edits,
    elicit,
    errors,
    models,
    names,
    prompts,
    states,
    store,
    summary,
    tables,
    train,
    values,
)
from vatjax.elicit import prefill
from vatjax.interventions.weights import check_same_prompts
from vatjax.items import Items, bundled
from vatjax.metrics import Estimate
from vatjax.models import Edit, Model
from vatjax.prompts import ElicitConfig, Shot
from vatjax.runtime.display import display_progress
from vatjax.runtime.progress import OnProgress, stage_progress
from vatjax.states import ValueState
from vatjax.train.losses import LOSSES
from vatjax.values import Taxonomy

Direction = Literal["express", "suppress"]
_SIGNS = {"express": 1, "suppress": -1}


@dataclasses.dataclass(frozen=True)
class Shots:
    """Examples in the prompt, drawn from the train side of the items when they are measured."""

    target: str
    count: int
    direction: Direction = "express"
    seed: int = 0

    def draw(self, items: Items, scale: prompts.Scale | None = None) -> list[Shot]:
        """Returns the examples, with ratings on a scale; by default 1 to 5."""
        return prompts.demonstrations(items, self.target, _sign(self.direction), self.count, scale, draw=self.seed)


Intervention = Edit | Shots | Model | str


def load(name: str, **options: Any) -> Model:
    """Returns a model: "pocket", a folder in Hugging Face's layout, owner/name on the Hub, or a .gguf file.

    Args:
        name: of the model.
        **options: of `models.load`: `dtype`, `mesh`, `ignore`, `context`.
    """
    return models.load(name, **options)


def shots(target: str, count: int = 8, direction: Direction = "express", seed: int = 0) -> Shots:
    """Returns an intervention by examples: half of them rate actions for the target, half actions against it."""
    _sign(direction)
    return Shots(target, count, direction, seed)


def steer(
    model: Model,
    target: str,
    direction: Direction = "express",
    method: edits.Method = "mean",
    items: Items | None = None,
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = (1.0, 2.0),
    scenes: int = 12,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Edit:
    """Returns an edit that pushes a model, found on the train side of the items.

    Up to six places and all strengths are tried on some scenes of the train side; the one with the highest gain that does
    not break the model is taken. `vatjax steer` does the same, with placebos and plots.

    Args:
        model: the model; it needs a tokenizer.
        target: a value, a type or a group.
        direction: "express" pushes towards it, "suppress" away from it.
        method: "mean", "pca", "probe", "conva", "split", "neurons" or "conditional".
        items: all items; by default the bundled ones.
        layers: edited layers; then only strengths are tried.
        strengths: multiples of the edit; with one strength and given layers nothing is tried.
        scenes: number of train scenes for the trials; 0 for all.
        on_progress: called with the share of trials that are done; by default it is shown on a terminal and in a notebook.
        **options: of `edits.Finder`: `operator`, `positions`, `pairs`, ...

    Raises:
        InputError: if no place and strength gives a gain above 0 on the train side.
    """
    items, sign = bundled() if items is None else items, _sign(direction)
    how = prefill.ensure_option_mass(model, ElicitConfig())
    places = [] if layers is None else [tuple(layers)]
    candidate = edits.find_candidate(model, items, target, sign, edits.Finder(method, **options), places, how)
    if len(candidate.places) * len(strengths) == 1:
        return strengths[0] * candidate.make(candidate.places[0])
    with display_progress(on_progress, f"trials of {method}") as show_progress:
        points = edits.sweep_train_side(
            model, items, target, candidate, strengths, sign, scenes=scenes, how=how, on_progress=show_progress
        )
    try:
        best = edits.best_of(points)
    except edits.NoGain as error:
        raise errors.InputError(
            f"{method}, {target}, {direction}: {error} on the train side; give other layers or strengths"
        ) from None
    return best.strength * candidate.make(best.layers)


def finetune(
    model: Model,
    target: str,
    direction: Direction = "express",
    loss: str = "dpo",
    items: Items | None = None,
    *,
    steps: int = 60,
    rows: int = 8,
    rank: int = 8,
    rate: float = 1e-3,
    lesson: Literal["actions", "judgements", "preferences"] | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Edit:
    """Trains LoRA on the train side of the items, in memory, and returns it as an edit. `vatjax train` writes checkpoints.

    Args:
        model: the model; it needs a tokenizer.
        target: a value, a type or a group.
        direction: "express" trains towards it, "suppress" away from it.
        loss: "sft", or a loss on pairs: "dpo", "ipo", "simpo", ...
        items: all items; by default the bundled ones.
        steps, rows, rank, rate: optimizer steps, examples a step, rank of LoRA, learning rate.
        lesson: contents of an example; by default "preferences" for pairs and "judgements" for sft.
        seed: of the initial weights and of the order of examples.
        on_progress: called with the share of steps that are done; by default it is shown on a terminal and in a notebook.
    """
    if loss not in LOSSES:
        raise errors.InputError(names.unknown_name("loss", loss, list(LOSSES)))
    objective = LOSSES[loss]()
    if objective.kind == "judged":
        raise errors.InputError(f"{loss}: it learns from verdicts; use train.kto with records of your own")
    lesson = lesson or ("preferences" if objective.kind == "pairs" else "judgements")
    items = bundled() if items is None else items
    records = train.records_for_model(model, items, target, _sign(direction), lesson)
    data = train.make_rows(train.tokenise(model, records), rows)
    if objective.reference:
        data = train.with_reference(model, data, rows=train.rows_drawn(data, steps, seed))
    state = train.init(model, train.Lora(rank=rank), train.Adam(rate=rate), steps=steps, key=seed)
    with display_progress(on_progress, f"training by {loss}") as show_progress:
        for number, batch in enumerate(itertools.islice(train.batches(data, seed), steps), 1):
            state, logs = train.step(state, batch, objective, donate=True)
            logs["loss"].block_until_ready()  # a step that is only dispatched is no progress
            show_progress(number / steps)
    trained = train.export(state)
    assert isinstance(trained, Edit)  # LoRA is an edit
    return trained


def measure(
    before: Model | ValueState | str,
    after: Intervention | ValueState,
    *,
    target: str,
    direction: Direction = "express",
    items: Items | None = None,
    split: Literal["test", "train", "all"] = "test",
    scenes: int = 0,
    how: ElicitConfig | None = None,
    taxonomy: Taxonomy | None = None,
    clusters: str = "",
    scale: tuple[float, float] = (1.0, 5.0),
    unedited: ValueState | None = None,
    on_progress: OnProgress | None = None,
) -> Tax:
    """Measures the tax of an intervention: rates a model before and after it, or compares two sets of ratings.

    Args:
        before: a model; or ratings: a `ValueState`, or the path of one (.npz) or of a table.
        after: for a model an `Edit`, `shots(...)`, a sentence for the prompt, or another model; for ratings, ratings.
        target: a value, a type or a group.
        direction: the intended direction.
        items: all items; by default the bundled ones.
        split: the side that is rated; edits, shots and training use the train side.
        scenes: number of scenes to rate, drawn with seed 0; 0 rates all.
        how: settings of elicitation; by default `ElicitConfig()`.
        taxonomy: of ratings; by default that of the items.
        clusters: context keys whose rows belong together, joined by commas; by default the scene.
        scale: ratings of tables at the weak and at the strong end of agreement.
        unedited: ratings of the model without the intervention, if they exist.
        on_progress: called with the share of ratings that are done; by default it is shown on a terminal and in a notebook.
    """
    if not isinstance(before, Model):
        taxonomy = taxonomy or (values.schwartz() if items is None else items.taxonomy)
        pre, post = _read(before, taxonomy, scale), _read(after, taxonomy, scale)
        return _tax(pre, post, taxonomy, target, direction, clusters)
    items = bundled() if items is None else items
    _sign(direction)
    items.taxonomy.mask(target)  # raises if it is unknown
    if not isinstance(after, Intervention):
        raise errors.InputError(
            f"after: expected an edit, shots, a sentence or a model, found {type(after).__name__}; ratings are compared "
            "with ratings"
        )
    sides = dict(zip(("train", "test"), items.split(), strict=True)) | {"all": items}
    if split not in sides:
        raise errors.InputError(names.unknown_name("split", split, list(sides)))
    rated = sides[split]
    rated = rated.sample(scenes)  # those of a study with seed 0
    how = prefill.ensure_option_mass(before, how or ElicitConfig())
    rate = functools.partial(elicit.ratings, items=rated, how=how)
    options: dict[str, Any] = {}
    if isinstance(after, Edit):
        options = {"edit": after}
    elif isinstance(after, Shots):
        options = {"shots": after.draw(items, prompts.Scale(how.low, how.high))}
    elif isinstance(after, str):
        options = {"instruction": after}
    elif isinstance(after, Model):
        check_same_prompts(before, after, after.name)
    rated_model = after if isinstance(after, Model) else before
    with display_progress(on_progress, "ratings before and after") as show_progress:
        halves = stage_progress(show_progress, 0, 0.5), stage_progress(show_progress, 0.5, 1)
        first = unedited if unedited is not None else rate(before, on_progress=halves[0]).state
        second = rate(rated_model, on_progress=show_progress if first is unedited else halves[1], **options)
    return _tax(first, second.state, items.taxonomy, target, direction, clusters)


@dataclasses.dataclass(frozen=True, repr=False)
class Tax:
    """The Value Alignment Tax of one intervention. `print(tax)` shows the tables and sentences of `vatjax tax`.

    Attributes:
        content: all statistics, the data of `vatjax tax --json`.
        before, after: the value states.
        taxonomy: of their values.
    """

    content: dict[str, Any]
    before: ValueState
    after: ValueState
    taxonomy: Taxonomy

    @property
    def gain(self) -> Estimate:
        """Returns the shift of the target in the intended direction, with its 95 % interval."""
        return Estimate(**self.content["levels"][self.content["target_level"]]["gain"])

    @property
    def nvat(self) -> Estimate:
        """Returns the debiased nVAT of types, with its 95 % interval."""
        return Estimate(**self.content["levels"]["types"]["nvat_debiased"])

    @property
    def p(self) -> float | None:
        """Returns the p of nVAT of types: that coupling is no more than noise."""
        return self.content["levels"]["types"]["p"]["nvat"]

    def rows(self, level: str = "") -> list[dict[str, Any]]:
        """Returns a row for each type and each value: shift with its interval and p (Holm), GND, VAT and its floor.

        Args:
            level: "types" or "values"; both by default.
        """
        levels = self.content["levels"]
        if level and level not in levels:
            raise errors.InputError(names.unknown_name("level", level, list(levels)))
        return [
            {
                "level": level,
                "name": name,
                "target": name in part["target_names"],
                "shift": part["shift"][name]["estimate"],
                "shift_low": part["shift"][name]["low"],
                "shift_high": part["shift"][name]["high"],
                "shift_p_holm": part["p"]["shift_holm"][name],
                "gnd": part["gnd"][name]["estimate"],
                "vat": part["vat"][name],
                "vat_floor": part["floor"]["vat"][name],
            }
            for level, part in ({level: levels[level]} if level else levels).items()
            for name in part["names"]
        ]

    def frame(self) -> Any:
        """Returns `rows` as a pandas DataFrame."""
        return tables.data_frame(self.rows())

    def plot(self, path: store.Path) -> None:
        """Writes a figure of the types' coupling, the circle, and each value's shift and VAT, as .svg or .png."""
        from vatjax.report import figures

        title = f"{self.content['target']}, {self.content['direction']}"
        drawing.save(figures.plot_arm(self.content, self.taxonomy, title, drawing.COLOURS[0]), path)

    def save(self, path: store.Path) -> None:
        """Writes `content` as JSON."""
        store.commit_json(store.path(path), self.content)

    def __str__(self) -> str:
        warnings = [textwrap.fill(f"warning: {line}", summary.WIDTH) for line in self.content["warnings"]]
        return "\n".join([*warnings, summary.tax_text(self.content)])

    def __repr__(self) -> str:
        gain, nvat = summary.format_interval(self.gain._asdict()), summary.format_interval(self.nvat._asdict())
        return f"Tax({self.content['target']}, {self.content['direction']}: gain {gain}, debiased nVAT {nvat})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _sign(direction: str) -> int:
    if direction not in _SIGNS:
        raise errors.InputError(names.unknown_name("direction", direction, list(_SIGNS)))
    return _SIGNS[direction]


def _read(ratings: Any, taxonomy: Taxonomy, scale: tuple[float, float]) -> ValueState:
    if isinstance(ratings, ValueState):
        return ratings
    if isinstance(ratings, str):
        return states.load(ratings) if ratings.endswith(".npz") else states.read_ratings(ratings, taxonomy, scale)
    raise errors.InputError(f"expected a value state or the path of ratings, found {type(ratings).__name__}")


def _tax(before: ValueState, after: ValueState, taxonomy: Taxonomy, target: str, direction: str, clusters: str) -> Tax:
    analysed = analysis.analyse(before, after, taxonomy, target, _sign(direction), clusters=clusters)
    content = analysis.as_json(analysed) | {
        "resamples": analysis.RESAMPLES,
        "placebo": None,
        "margin": None,
        "numerical_noise": analysis.numerical_noise(before, after),
    }
    return Tax(content, before, after, taxonomy)
