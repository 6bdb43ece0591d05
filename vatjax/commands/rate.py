"""`vatjax rate`."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

from vatjax import errors, prompts, store
from vatjax.commands import show
from vatjax.commands.devices import Devices
from vatjax.dtypes import Dtype
from vatjax.items import Source, open_source
from vatjax.prompts import ElicitConfig
from vatjax.runtime.display import Display


@dataclasses.dataclass(frozen=True)
class Rate(Devices):
    """Asks a model about items and writes its value state. Finished shards are kept in a folder next to the state until
    all are done, so that the same command resumes there."""

    model: str
    """A folder in Hugging Face's layout, "pocket", or owner/name on the Hub."""
    out: str
    """Path or bucket address of the state, ending in .npz."""
    part: Literal["all", "train", "test"] = "all"
    """Side of the split by situation, or by scene if the items name no situations."""
    scenes: int = 0
    """Number of scenes of that side to rate, the same as a study's `scenes` draws; 0 for all of them."""
    items: Source = dataclasses.field(default_factory=Source)
    """The items: --items FILE is short for --items.file FILE."""
    how: Annotated[ElicitConfig, OmitArgPrefixes] = dataclasses.field(default_factory=ElicitConfig)
    """Options for asking the model."""
    shots: int = 0
    """Examples with answers before every prompt, drawn from the train side by --items.seed; they require --part test."""
    instruction: str = ""
    """A sentence before every rubric: a shipped one by name (first, matters, guided), or one in your own words."""
    towards: str = ""
    """Target of examples and shipped instructions: a value, a type or a group."""
    direction: Literal["express", "suppress"] = "express"
    """Direction in which they push it."""
    labels: str = ""
    """For the protocol labelled: an .npz with `labels`, -1, 0 or 1 for each item and value."""
    annotator: str = ""
    """For the protocol labelled, in place of --labels: a model that gives them; saved next to the state for reuse."""
    adapter: str = ""
    """A PEFT adapter to ask the model with."""
    edit: str = ""
    """An edit to apply to the model: a folder that `vatjax steer` wrote."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are assumed to have no effect."""
    context: int = 0
    """Longest text in tokens; 0 is the limit of the model's default rotary positions. If more than 4,096 are requested,
    Phi 3 uses its long-context positions for all texts."""
    dtype: Dtype = "float32"
    """Dtype of the weights and of the residual stream; mixed is bfloat16 weights with a float32 residual stream, auto
    is chosen for the device."""
    tokens: int = 0
    """Tokens of one pass; by default chosen for the device. It affects the last bits of the numbers."""
    allow_low_mass: bool = False
    """Accept a model whose answer options have less than half of the probability on average."""
    json: bool = False
    """Print one JSON document about the state instead of a table."""

    def run(self) -> int:
        if not self.out.endswith(".npz"):
            raise errors.InputError(f"out: a value state is an .npz, found {self.out!r}")
        source = self.items
        whole = data = open_source(source)
        if self.part != "all":
            data = data.split(source.test, source.seed)[self.part == "test"]
            if not len(data):
                raise errors.InputError(
                    f"{source.file}: no situation of these items falls to the {self.part} side; choose more of them, "
                    "another share or another seed"
                )
        data = data.sample(self.scenes, source.seed)
        shots, instruction = self._shots(whole, source), self._instruction(data)
        if self.labels and self.annotator:
            raise errors.InputError("--labels and --annotator: give only one of them")
        if (self.labels or self.annotator) and self.how.protocol != "labelled":
            raise errors.InputError(f"labels belong to the protocol labelled, not to {self.how.protocol}")
        from vatjax import elicit, models, prefix, states
        from vatjax.elicit import prefill

        if store.path(self.out).exists():
            raise errors.InputError(f"{self.out}: a state already exists; remove it, or write to another file")
        store.check_writable(store.path(self.out).parent, "--out")
        show.print_message(f"{self.model}: loading")
        model = models.load(self.model, self.dtype, self.device_mesh(), self.ignore, self.context)
        how = prefill.ensure_option_mass(model, self.how, self.allow_low_mass, show.print_message)
        edit = self._edit_or_adapter(model)
        size = prefix.size_for(model, self.tokens)
        folder = f"{self.out}.shards"
        with warnings.catch_warnings(), Display() as display:
            warnings.filterwarnings("always", category=UserWarning, module=r"vatjax\.")
            warnings.showwarning = _print_warning
            if how.reading == "generate":
                display.stage("writing answers")
            try:
                rated = elicit.ratings(
                    model,
                    data,
                    how,
                    shots=shots,
                    instruction=instruction,
                    edit=edit,
                    labels=self._annotator_labels(data, model) if self.annotator else _labels(self.labels),
                    size=size,
                    keep=folder,
                    on_cost=_on_cost(display, "ratings", model),
                    on_progress=display.progress,
                )
                state = rated.state
                if how.reading != "generate" and elicit.is_noisy(model):
                    display.stage("numerical noise: some prompts again, in smaller passes")
                    condition = elicit.Condition(shots, instruction, edit)
                    noise = elicit.numerical_noise(model, data, how, condition, size)
                    state = dataclasses.replace(
                        state, meta={**state.meta, "numerical_noise": store.nonfinite_to_none(noise._asdict())}
                    )
                states.save(state, self.out)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                shard_folders = [name for name in (folder, self._label_shards) if store.path(name).exists()]
                hint = "; finished shards are kept in {}, and the same command continues from there"
                raise errors.InputError(
                    f"{error.filename or self.out}: {reason}{hint.format(shard_folders[0]) if shard_folders else ''}"
                ) from None
        elicit.drop_shards(folder)
        summary = _summary(self.out, state)
        show.print_json(summary) if self.json else _print(summary)
        return 0

    def _edit_or_adapter(self, model: Any) -> Any:
        """Returns the edit or the adapter that the model is asked with, or None."""
        from vatjax import models

        if self.adapter and self.edit:
            raise errors.InputError("--adapter and --edit: give only one of them")
        if self.edit:
            return models.load_edit(self.edit, model)
        return models.load_adapter(self.adapter, model.config) if self.adapter else None

    @property
    def _label_shards(self) -> str:
        return f"{self.out}.labels.shards"

    def _annotator_labels(self, data: Any, model: Any) -> Any:
        """Returns the annotator's labels, written next to the state; reuses those that it gave for the same items."""
        from vatjax import elicit, models

        path = f"{self.out.removesuffix('.npz')}.labels.npz"
        annotator = (
            model
            if self.annotator == self.model
            else models.load(self.annotator, self.dtype, self.device_mesh(), self.ignore, self.context)
        )
        how = dataclasses.replace(self.how, protocol="dense", wording="", reading="expected")
        if store.path(path).exists():
            given = elicit.labels.load(path)
            if not elicit.labels.given_by(given, annotator, data, how):
                raise errors.InputError(
                    f"{path}: it has labels of another annotator, other items or other settings; give them by "
                    "--labels, or remove the file"
                )
            return given
        with Display() as display:
            given = elicit.label(
                annotator,
                data,
                how,
                keep=self._label_shards,
                on_cost=_on_cost(display, "labels", annotator),
                on_progress=display.progress,
            )
        elicit.labels.save(given, path)
        elicit.drop_shards(self._label_shards)
        show.print_text(
            f"{path}: {(given.labels != 0).mean():.0%} of the labels are not 0; {given.polarity_agreement:.0%} of the items have the label "
            "of their own value and polarity",
            file=sys.stderr,
        )
        return given

    def _instruction(self, data: Any) -> str:
        if not self.instruction or " " in self.instruction:
            return self.instruction
        if not self.towards:
            raise errors.InputError("--instruction and --towards go together: which sentence, and what it pushes")
        return prompts.instruction(
            data.taxonomy, self.towards, 1 if self.direction == "express" else -1, self.instruction
        )

    def _shots(self, whole: Any, source: Source) -> list[prompts.Shot]:
        if not self.shots and (not self.towards or self.instruction):
            return []
        if not self.shots or not self.towards:
            raise errors.InputError("--shots and --towards go together: how many examples, and what they push")
        if self.part != "test":
            raise errors.InputError(
                "examples come from the train side, which must not be rated with them: give --part test"
            )
        if self.how.protocol == "stated":
            raise errors.InputError("shots cannot be used with protocol 'stated': they show actions")
        direction = 1 if self.direction == "express" else -1
        scale = prompts.Scale(self.how.low, self.how.high)
        return prompts.demonstrations(whole, self.towards, direction, self.shots, scale, source.test, source.seed)


def _labels(path: str) -> Any:
    """Loads labels from a file: those of an annotator, or an array of the user's own."""
    if not path:
        return None
    from vatjax import elicit

    return elicit.labels.load(path)


def _print_warning(message: Any, *_: Any, **__: Any) -> None:
    show.print_message(str(message))


def _on_cost(display: Display, label: str, model: Any) -> Any:
    """Returns a callback that prints the cost of ratings before they start."""

    def show_cost(cost: Any, left: int, ready: int) -> None:
        from vatjax.prefix import seconds_for

        cached = f"; {ready:,} answers are cached" if ready else ""
        display.message(
            f"{cost.prompts:,} prompts: {cost.distinct:,} distinct tokens of {cost.full:,} in full "
            f"({cost.full / cost.distinct:.1f} x), {cost.computed:,} computed{cached}"
        )
        display.stage(label, f"about {show.format_duration(seconds_for(model, left))} and compiling")

    return show_cost


def _summary(out: str, state: Any) -> dict[str, Any]:
    return {
        "state": out,
        "contexts": len(state.clusters),
        "values": len(state.values),
        "missing": state.meta["asked_cells"] - int(state.mask.sum()),
        "mean": float(state.state[state.mask].mean()) if state.mask.any() else None,
        "meta": dict(state.meta),
    }


def _noise(noise: Any) -> list[tuple[str, str]]:
    """Returns the table row on how far ratings depend on the size of a pass."""
    if noise is None or noise["sd"] is None:
        return []
    description = f"sd {noise['sd']:.4f} rating points, {noise['most']:.4f} at most, by the size of a pass"
    return [("numerical noise", description)]


def _print(summary: dict[str, Any]) -> None:
    meta = summary["meta"]
    mass, cost = meta["mass"], meta["cost"]
    rows = [
        ("state", f"{summary['contexts']:,} contexts x {summary['values']} values"),
        ("ratings", f"{meta['asked_cells'] - summary['missing']:,} of {meta['asked_cells']:,} asked for"),
        ("mean", "-" if summary["mean"] is None else f"{summary['mean']:+.3f}"),
        *([] if meta["spread"] is None else [("spread over wordings", f"{meta['spread']['sd']:.3f} rating points")]),
        ("option mass", f"{mass['mean']:.2f} on average, {mass['least']:.2f} at least"),
        *_noise(meta.get("numerical_noise")),
        ("tokens", f"{cost['distinct'] / cost['computed']:.1%} of {cost['computed']:,} computed ones are distinct"),
        ("weights", meta["model"]["weights"]),
    ]
    show.print_table((summary["state"], ""), rows)
