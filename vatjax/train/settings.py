"""Training settings as plain data, and their preparation: a state, rows, a loss and a penalty."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from vatjax import errors, names, prompts, store
from vatjax.dtypes import Dtype
from vatjax.elicit import ask, prefill
from vatjax.items import Items, Source, open_source
from vatjax.models import Model, tokens
from vatjax.models.edit import PROJECTIONS
from vatjax.prompts import ElicitConfig
from vatjax.train import examples, losses
from vatjax.train.anchors import draw_anchors
from vatjax.train.examples import Lesson, Record
from vatjax.train.forward import Memory
from vatjax.train.loop import Course
from vatjax.train.losses import Loss
from vatjax.train.optimizer import Adam
from vatjax.train.parameters import FullFinetune, Lora, Trainable
from vatjax.train.penalty import TaxPenalty, Variant, tax_penalty
from vatjax.train.reference import rows_drawn, with_reference, without_reference
from vatjax.train.rows import Data, Example, make_rows
from vatjax.train.steps import State, init

LossName = Literal["sft", "dpo", "cdpo", "robust_dpo", "ipo", "hinge", "simpo", "orpo", "apo_zero", "kto"]
Placebo = Literal["none", "neutral text", "shuffled labels"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """Settings of the trainable parameters."""

    what: Literal["lora", "whole"] = "lora"
    """LoRA adapters, or all weights."""
    layers: tuple[int, ...] = ()
    """Layers to train; empty for all."""
    rank: int = 16
    """Rank of LoRA adapters."""
    alpha: float = 32.0
    """LoRA adapters are multiplied by alpha / rank."""
    targets: tuple[str, ...] = PROJECTIONS
    """Projections that get a LoRA adapter."""
    stabilised: bool = False
    """Multiply by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""

    def to_trainable(self) -> Trainable:
        """Converts to the form that a state takes."""
        if self.what == "whole":
            return FullFinetune(self.layers)
        return Lora(self.rank, self.alpha, self.targets, self.layers, self.stabilised)


@dataclasses.dataclass(frozen=True)
class Price:
    """Settings of the penalty on moving values other than the target."""

    variant: Variant = "l2"
    """Penalty: l2, drift, coupling or kl."""
    weight: float = 0.0
    """Weight of the penalty; 0 turns it off."""
    scenes: int = 32
    """Number of scenes of the train side that serve as anchors."""
    rows: int = 8
    """Number of anchor scenes rated in one step."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of a training run."""

    model: str
    """A folder in Hugging Face's layout, "pocket", or owner/name on the Hub."""
    target: str
    """Value, type or group to push; gain and tax are measured for it."""
    direction: Literal["express", "suppress"] = "express"
    """Direction of the push."""
    loss: LossName = "sft"
    """Training loss."""
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Settings of the loss: beta of dpo, cdpo, robust_dpo, ipo, hinge, simpo, orpo, apo_zero and kto; flipped of cdpo
    and robust_dpo; margin of simpo; good and bad, their weights, of kto."""
    file: str = ""
    """File of training examples, instead of those built from items: rows of prompt and completion, of prompt, chosen
    and rejected, or of messages; kto needs a label too."""
    lesson: Literal["", "actions", "judgements", "preferences"] = ""
    """Examples to build from items: actions, judgements or preferences; by default those that the loss takes."""
    placebo: Placebo = "none"
    """Training that should not move values: on neutral text, or on shuffled labels."""
    validation: float = 0.0
    """Share of examples held out for validation."""
    rows: int = 8
    """Number of rows of a batch."""
    length: int = 0
    """Tokens of a row; 0 for those of the longest example."""
    pack: bool = False
    """Whether to put as many examples as fit into a row."""
    trained: Trained = dataclasses.field(default_factory=Trained)
    """Trainable parameters."""
    adam: Adam = dataclasses.field(default_factory=Adam)
    """Optimizer settings."""
    course: Course = dataclasses.field(default_factory=Course)
    """Settings of the training loop."""
    memory: Memory = dataclasses.field(default_factory=Memory)
    """Rematerialisation settings of the backward pass."""
    price: Price = dataclasses.field(default_factory=Price)
    """Penalty on moving other values."""
    items: Source = dataclasses.field(default_factory=Source)
    """The items: --items FILE is short for --items.file FILE."""
    how: ElicitConfig = dataclasses.field(default_factory=ElicitConfig)
    """Question settings of judgements, anchors and ratings during training."""
    probe_scenes: int = 0
    """Number of scenes of the test side that are rated every course.probe steps; 0 for all."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that vatjax does not know, and that are assumed to have no effect."""
    context: int = 0
    """Longest text, in tokens; 0 for the limit of the model's usual rotary positions. If above 4,096, Phi 3 uses
    other positions for all texts."""
    dtype: Dtype = "float32"
    """Dtype of the model's weights; trained parameters are always float32."""

    @property
    def sign(self) -> int:
        """Returns +1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def build_loss(self) -> Loss:
        """Builds the loss with its settings."""
        if self.loss not in losses.LOSSES:
            raise errors.InputError(names.unknown_name("loss", self.loss, list(losses.LOSSES)))
        make = losses.LOSSES[self.loss]
        known = [name for name, _ in make().options]
        for key in self.settings:
            if key not in known:
                expected = ", ".join(known) or "none"
                near = names.nearest(key, known)
                hint = f"; did you mean {near!r}?" if near else ""
                raise errors.InputError(f"settings: {self.loss}: expected {expected}, found {key!r}{hint}")
        return make(**self.settings)


# Seconds between progress messages on the references.
_REPORT_SECONDS = 10.0


class Prepared(NamedTuple):
    """Arguments of `run`.

    Attributes:
        items: all items.
        state: before the first step.
        data: training examples.
        validation: held-out examples.
        loss: training loss.
        penalty: added to the loss.
    """

    items: Items
    state: State
    data: Data
    validation: Data | None
    loss: Loss
    penalty: TaxPenalty | None


class PreparedData(NamedTuple):
    """Examples of a run as rows; fields as in `Prepared`."""

    items: Items
    data: Data
    validation: Data | None
    loss: Loss


def prepare(
    model: Model,
    training: Training,
    cache: store.Path | None = None,
    planning: bool = False,
    on_message: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Prepares the arguments of `run`.

    Args:
        model: the model that the training names.
        training: settings of the run.
        cache: a folder for the reference's log-probabilities.
        planning: whether to use zeros as reference, for a run that is only planned.
        on_message: is called with the number of reference rows to compute, and with progress.

    Raises:
        InputError: for settings, files and items that don't fit together.
    """
    items, data, validation, loss = prepare_data(model, training)
    state = init(model, training.trained.to_trainable(), training.adam, training.course.steps, training.course.seed)
    if loss.reference and planning:
        data = without_reference(data)
    elif loss.reference:
        rows = rows_drawn(data, training.course.steps, training.course.seed)
        data = with_reference(model, data, cache, training.memory, _progress_reporter(rows, data, on_message), rows)
        if validation is not None:
            every = range(len(validation.rows))
            validation = with_reference(
                model, validation, cache, training.memory, _progress_reporter(every, validation, on_message)
            )
    return Prepared(items, state, data, validation, loss, _penalty(model, training, items))


def _progress_reporter(rows: Sequence[int], data: Data, on_message: Callable[[str], None]) -> Callable[[int], None]:
    """Reports the size of the reference computation, and returns a callback that reports progress."""
    tokens = sum(data.examples[i].length for row in rows for i in data.rows[row])
    count, last_report = 0, time.monotonic()
    on_message(f"reference log-probabilities of {len(rows):,} of {len(data.rows):,} rows: {tokens:,} tokens")

    def report(more: int) -> None:
        nonlocal count, last_report
        count += more
        if time.monotonic() - last_report > _REPORT_SECONDS and count < len(rows):
            last_report = time.monotonic()
            on_message(f"{count:,} of {len(rows):,} rows")

    return report


def prepare_data(model: Model, training: Training) -> PreparedData:
    """Builds the examples of a run as rows; uses only the model's tokenizer and configuration.

    Raises:
        InputError: as in `prepare`.
    """
    loss, course = training.build_loss(), training.course
    course.check()
    if training.rows % course.parts:
        raise errors.InputError(f"course.parts: {training.rows} rows can't be split into {course.parts} equal parts")
    if training.trained.what == "whole" and training.trained != Trained("whole", training.trained.layers):
        raise errors.InputError("trained: rank, alpha, targets and stabilised apply to what: lora, not to what: whole")
    if not 0 <= training.validation < 1:
        raise errors.InputError(f"validation: expected a share from 0 to below 1, found {training.validation}")
    if bool(training.validation) != bool(course.validate):
        raise errors.InputError("validation and course.validate: set both, or neither")
    items = open_source(training.items)
    items.taxonomy.mask(training.target)  # raises if it is unknown
    tokenised = examples.tokenise(model, training_records(model, training, items, loss))
    training_examples, held_out = _split_validation(tokenised, training.validation, course.seed)
    if loss.kind == "judged":
        training_examples, held_out = (
            examples.with_mismatched_completions(training_examples),
            examples.with_mismatched_completions(held_out),
        )
    options: dict[str, Any] = {"rows": training.rows, "length": training.length or None, "pack": training.pack}
    data = make_rows(training_examples, **options)
    return PreparedData(items, data, make_rows(held_out, **options) if held_out else None, loss)


def _split_validation(tokenised: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Splits off a share of the examples for validation; examples of one prompt stay together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, example in enumerate(tokenised):
        groups.setdefault(example.prompt, []).append(i)
    members = list(groups.values())
    count, held_out = math.ceil(share * len(tokenised)), set[int]()
    for place in np.random.default_rng((seed, 5)).permutation(len(members)):
        if len(held_out) >= count:
            break
        held_out |= set(members[place])
    if len(held_out) == len(tokenised):
        raise errors.InputError(
            f"validation: {share:g} of {len(tokenised)} examples with {len(groups)} prompts leaves none to train on"
        )
    return [example for i, example in enumerate(tokenised) if i not in held_out], [
        tokenised[i] for i in sorted(held_out)
    ]


def _penalty(model: Model, training: Training, items: Items) -> TaxPenalty | None:
    price, source = training.price, training.items
    if not price.weight:
        return None
    anchor_set = draw_anchors(
        model, items, price.scenes, price.rows, training.how, source.test, source.seed, training.memory
    )
    return tax_penalty(anchor_set, items.taxonomy, training.target, price.weight, price.variant)


def training_records(model: Model, training: Training, items: Items, loss: Loss) -> list[Record]:
    """Builds the examples of a run, as text."""
    how = prefill.resolve_prefill(model, training.how)
    chat = ask.chat_format(model, how)
    if training.placebo == "neutral text":
        if loss.kind != "texts":
            raise errors.InputError(f"placebo: {loss.name} needs pairs or labels, which neutral text lacks")
        built = _neutral_records(model)
    elif training.file:
        full = (
            None
            if chat is None
            else (lambda messages: tokens.render_conversation(model.tokenizer, messages, **how.template))
        )
        built = examples.read(training.file, chat, full)
    else:
        built = _item_records(model, training, items, loss, how)
    texts_needed = 2 if loss.kind == "pairs" else 1
    if len(built[0].texts) != texts_needed:
        what = "a chosen and a rejected text" if texts_needed == 2 else "one completion"
        raise errors.InputError(f"{training.file or 'the items'}: {loss.name} needs {what} after each prompt")
    unlabelled = next((record for record in built if record.good is None), None)
    bad = next((record for record in built if record.good is False), None)
    if training.file and training.lesson:
        raise errors.InputError(f"lesson: applies to items, and cannot be used with file: {training.file}")
    verdicts = {record.good for record in built}
    if loss.kind == "judged" and training.file and unlabelled is None and len(verdicts) == 1:
        raise errors.InputError(f"{training.file}: kto needs good and bad completions; every label is {built[0].good}")
    if loss.kind == "judged" and unlabelled is not None:
        raise errors.InputError(f"{unlabelled.source}: label: expected true or false for kto, found none")
    if loss.kind == "texts" and bad is not None:
        raise errors.InputError(f"{bad.source}: sft would learn a completion whose label is false; leave it out")
    if training.placebo == "shuffled labels":
        built = examples.shuffle_labels(built, training.course.seed)
    return built


def _item_records(model: Model, training: Training, items: Items, loss: Loss, how: ElicitConfig) -> list[Record]:
    source, sign = training.items, training.sign
    lesson: Lesson = training.lesson or ("preferences" if loss.kind == "pairs" else "actions")
    towards = examples.records_for_model(model, items, training.target, sign, lesson, how, source.test, source.seed)
    if loss.kind != "judged":
        return towards
    if lesson != "actions":
        raise errors.InputError(f"lesson: expected actions for kto, found {lesson}")
    against = examples.records_for_model(model, items, training.target, -sign, lesson, how, source.test, source.seed)
    return towards + [record._replace(good=False) for record in against]


def _neutral_records(model: Model) -> list[Record]:
    """Builds records of plain sentences; the prompt is the first words, up to a token boundary."""
    built = []
    for number, text in enumerate(prompts.neutral_texts()):
        spaces = [i for i, letter in enumerate(text) if letter == " "]
        cut = next(
            (i for i in spaces if tokens.encode_continuation(model.tokenizer, text[:i], text[i:]) is not None),
            spaces[0],
        )
        built.append(Record(text[:cut], (text[cut:],), True, f"neutral text {number + 1}"))
    return built
