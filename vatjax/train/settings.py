"""A training run as plain data, and what it comes to: a state, rows, a loss, and what is watched on the way."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from vatjax import errors, names, prompts, store
from vatjax.dtypes import Dtype
from vatjax.elicit import asking, prefill
from vatjax.items import Items, Source, open_source
from vatjax.models import Model, tokens
from vatjax.models.edit import PROJECTIONS
from vatjax.prompts import How
from vatjax.train import examples as lessons
from vatjax.train import losses
from vatjax.train.anchors import anchors
from vatjax.train.examples import Lesson, Record
from vatjax.train.forward import Memory
from vatjax.train.loop import Course
from vatjax.train.losses import Loss
from vatjax.train.optimizer import Adam
from vatjax.train.penalty import TaxPenalty, Variant, tax_penalty
from vatjax.train.reference import rows_drawn, with_reference, without_reference
from vatjax.train.rows import Data, Example, lay
from vatjax.train.steps import State, begin
from vatjax.train.trained import Lora, What, Whole

LossName = Literal["sft", "dpo", "cdpo", "robust_dpo", "ipo", "hinge", "simpo", "orpo", "apo_zero", "kto"]
Placebo = Literal["none", "neutral text", "shuffled labels"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What is trained."""

    what: Literal["lora", "whole"] = "lora"
    """Low-rank changes, or the weights themselves."""
    layers: tuple[int, ...] = ()
    """Only these layers; none named is all."""
    rank: int = 16
    """Of low-rank changes."""
    alpha: float = 32.0
    """Of low-rank changes: they are multiplied by alpha / rank."""
    targets: tuple[str, ...] = PROJECTIONS
    """Which projections low-rank changes are of."""
    stabilised: bool = False
    """alpha / sqrt(rank) in place of alpha / rank."""

    def choice(self) -> What:
        """The same as what a state takes."""
        if self.what == "whole":
            return Whole(self.layers)
        return Lora(self.rank, self.alpha, self.targets, self.layers, self.stabilised)


@dataclasses.dataclass(frozen=True)
class Price:
    """A price on moving other values than the target."""

    variant: Variant = "l2"
    """What is priced: l2, drift, coupling or kl."""
    weight: float = 0.0
    """How high it is; 0 is no price."""
    scenes: int = 32
    """How many scenes of the train side are anchors."""
    rows: int = 8
    """How many of them are rated in one step."""


@dataclasses.dataclass(frozen=True)
class Training:
    """A training run."""

    model: str
    """A folder in Hugging Face's layout, "pocket", or owner/name on the Hub."""
    target: str
    """What is pushed, and what gain and tax are about: a value, a type or a group."""
    direction: Literal["express", "suppress"] = "express"
    """Which way."""
    loss: LossName = "sft"
    """What is lessened."""
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of the loss: beta of dpo, cdpo, robust_dpo, ipo, hinge, simpo, orpo, apo_zero and kto; flipped of cdpo and robust_dpo;
    margin of simpo; good and bad, their weights, of kto."""
    file: str = ""
    """Examples to train on, in place of those that are made of items: rows of prompt and completion, of prompt, chosen and
    rejected, or of messages; kto wants a label too."""
    lesson: Literal["", "actions", "judgements", "preferences"] = ""
    """What is made of items: actions, judgements, or preferences; by default what the loss takes."""
    placebo: Placebo = "none"
    """Training that should move nothing: on neutral text, or on pairs whose labels are shuffled."""
    validation: float = 0.0
    """The share of examples that is kept for validation."""
    rows: int = 8
    """Rows of a batch."""
    length: int = 0
    """Tokens of a row; by default as many as the longest example has."""
    pack: bool = False
    """Whether a row holds as many examples as fit."""
    trained: Trained = dataclasses.field(default_factory=Trained)
    """What is trained."""
    adam: Adam = dataclasses.field(default_factory=Adam)
    """How gradients become steps."""
    course: Course = dataclasses.field(default_factory=Course)
    """How the run goes on."""
    memory: Memory = dataclasses.field(default_factory=Memory)
    """What the backward pass keeps."""
    price: Price = dataclasses.field(default_factory=Price)
    """What moving other values costs."""
    source: Source = dataclasses.field(default_factory=Source)
    """Which items, and how to read them."""
    how: How = dataclasses.field(default_factory=How)
    """How questions are put, in judgements, anchors and ratings on the way."""
    probe_scenes: int = 0
    """How many scenes of the test side are rated on the way, where course.probe says so; 0 is all of them."""
    ignore: tuple[str, ...] = ()
    """Attributes of config.json that the port does not know, and that are taken to change nothing."""
    context: int = 0
    """The longest text that is read, in tokens; 0 is what the model's usual rotary positions allow. Phi 3 takes others for all
    texts where more than 4,096 are asked for."""
    dtype: Dtype = "float32"
    """Of the model's weights; what is trained is float32 in any case."""

    @property
    def way(self) -> int:
        """+1 towards the target, -1 away from it."""
        return 1 if self.direction == "express" else -1

    def made_loss(self) -> Loss:
        """The loss with its settings."""
        if self.loss not in losses.LOSSES:
            raise errors.InputError(names.unknown("loss", self.loss, list(losses.LOSSES)))
        make = losses.LOSSES[self.loss]
        known = [name for name, _ in make().options]
        for key in self.settings:
            if key not in known:
                own = ", ".join(known) or "none"
                near = names.nearest(key, known)
                hint = f"; did you mean {near!r}?" if near else ""
                raise errors.InputError(f"settings: {self.loss} has no {key!r}; it has {own}{hint}")
        return make(**self.settings)


# Seconds between two words on how far the references are.
_OFTEN = 10.0


class Prepared(NamedTuple):
    """What a run takes.

    Attributes:
        items: all of them.
        state: before the first step.
        data: what is trained on.
        validation: what is not.
        loss: what is lessened.
        penalty: what is added.
    """

    items: Items
    state: State
    data: Data
    validation: Data | None
    loss: Loss
    penalty: TaxPenalty | None


class Laid(NamedTuple):
    """The examples of a run as rows; arguments of `Prepared`."""

    items: Items
    data: Data
    validation: Data | None
    loss: Loss


def prepared(
    model: Model,
    training: Training,
    keep: store.Path | None = None,
    planning: bool = False,
    on_message: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """What a run takes.

    Args:
        model: that the training names.
        training: the run.
        keep: a folder for the reference's log-probabilities.
        planning: whether nothing will be trained: then zeros stand for them.
        on_message: hears how many references are computed, and how far that is.

    Raises:
        InputError: for settings, files and items that don't go together.
    """
    items, data, validation, loss = laid(model, training)
    state = begin(model, training.trained.choice(), training.adam, training.course.steps, training.course.seed)
    if loss.reference and planning:
        data = without_reference(data)
    elif loss.reference:
        rows = rows_drawn(data, training.course.steps, training.course.seed)
        data = with_reference(model, data, keep, training.memory, _progress(rows, data, on_message), rows)
        if validation is not None:
            every = range(len(validation.rows))
            validation = with_reference(
                model, validation, keep, training.memory, _progress(every, validation, on_message)
            )
    return Prepared(items, state, data, validation, loss, _penalty(model, training, items))


def _progress(rows: Sequence[int], data: Data, on_message: Callable[[str], None]) -> Callable[[int], None]:
    """Says what references take before the first of them, and now and then how many are done."""
    tokens = sum(data.examples[i].length for row in rows for i in data.rows[row])
    count, said = 0, time.monotonic()
    on_message(f"reference log-probabilities of {len(rows):,} of {len(data.rows):,} rows: {tokens:,} tokens")

    def done(more: int) -> None:
        nonlocal count, said
        count += more
        if time.monotonic() - said > _OFTEN and count < len(rows):
            said = time.monotonic()
            on_message(f"{count:,} of {len(rows):,} rows")

    return done


def laid(model: Model, training: Training) -> Laid:
    """The examples of a run as rows; of the model only its tokenizer and its configuration are needed.

    Raises:
        InputError: as `prepared` does.
    """
    loss, course = training.made_loss(), training.course
    course.check()
    if training.rows % course.parts:
        raise errors.InputError(f"course.parts: {training.rows} rows can't be taken in {course.parts} equal parts")
    if training.trained.what == "whole" and training.trained != Trained("whole", training.trained.layers):
        raise errors.InputError(
            "trained: rank, alpha, targets and stabilised are of low-rank changes, not of whole weights"
        )
    if not 0 <= training.validation < 1:
        raise errors.InputError(f"validation: expected a share from 0 to below 1, found {training.validation}")
    if bool(training.validation) != bool(course.validate):
        raise errors.InputError("validation and course.validate go together: how many examples, and how often")
    items = open_source(training.source)
    items.taxonomy.mask(training.target)  # refused here where it is unknown
    found = lessons.tokenised(model, records(model, training, items, loss))
    taught, held = _divided(found, training.validation, course.seed)
    if loss.kind == "judged":
        taught, held = lessons.with_others(taught), lessons.with_others(held)
    options: dict[str, Any] = {"rows": training.rows, "length": training.length or None, "pack": training.pack}
    data = lay(taught, **options)
    return Laid(items, data, lay(held, **options) if held else None, loss)


def _divided(found: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and a share of them for validation; those of one prompt stay together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, one in enumerate(found):
        groups.setdefault(one.prompt, []).append(i)
    members = list(groups.values())
    wanted, held = math.ceil(share * len(found)), set[int]()
    for place in np.random.default_rng((seed, 5)).permutation(len(members)):
        if len(held) >= wanted:
            break
        held |= set(members[place])
    if len(held) == len(found):
        raise errors.InputError(
            f"validation: {share:g} of {len(found)} examples with {len(groups)} prompts leaves none to train on"
        )
    return [one for i, one in enumerate(found) if i not in held], [found[i] for i in sorted(held)]


def _penalty(model: Model, training: Training, items: Items) -> TaxPenalty | None:
    price, source = training.price, training.source
    if not price.weight:
        return None
    own = anchors(model, items, price.scenes, price.rows, training.how, source.test, source.seed, training.memory)
    return tax_penalty(own, items.taxonomy, training.target, price.weight, price.variant)


def records(model: Model, training: Training, items: Items, loss: Loss) -> list[Record]:
    """The examples of a run, in words."""
    how = prefill.resolved(model, training.how)
    chat = asking.template(model, how)
    if training.placebo == "neutral text":
        if loss.kind != "texts":
            raise errors.InputError(f"placebo: {loss.name} takes pairs or verdicts, and neutral text has none")
        found = _neutral(model)
    elif training.file:
        full = (
            None if chat is None else (lambda messages: tokens.conversation(model.tokenizer, messages, **how.template))
        )
        found = lessons.read(training.file, chat, full)
    else:
        found = _of_items(model, training, items, loss, how)
    wanted = 2 if loss.kind == "pairs" else 1
    if len(found[0].texts) != wanted:
        what = "a chosen and a rejected text" if wanted == 2 else "one completion"
        raise errors.InputError(f"{training.file or 'the items'}: {loss.name} takes {what} behind each prompt")
    unsaid = next((one for one in found if one.good is None), None)
    bad = next((one for one in found if one.good is False), None)
    if training.file and training.lesson:
        raise errors.InputError(f"lesson: it is made of items, and {training.file} is given in their place")
    verdicts = {one.good for one in found}
    if loss.kind == "judged" and training.file and unsaid is None and len(verdicts) == 1:
        raise errors.InputError(
            f"{training.file}: kto takes good completions and bad ones; every label is {found[0].good}"
        )
    if loss.kind == "judged" and unsaid is not None:
        raise errors.InputError(f"{unsaid.where}: kto needs a label of every completion: true or false")
    if loss.kind == "texts" and bad is not None:
        raise errors.InputError(f"{bad.where}: sft would learn a completion whose label is false; leave it out")
    if training.placebo == "shuffled labels":
        found = lessons.shuffled(found, training.course.seed)
    return found


def _of_items(model: Model, training: Training, items: Items, loss: Loss, how: How) -> list[Record]:
    source, way = training.source, training.way
    lesson: Lesson = training.lesson or ("preferences" if loss.kind == "pairs" else "actions")
    found = lessons.lessons(model, items, training.target, way, lesson, how, source.test, source.seed)
    if loss.kind != "judged":
        return found
    if lesson != "actions":
        raise errors.InputError(f"lesson: kto takes single actions with a verdict, found {lesson}")
    against = lessons.lessons(model, items, training.target, -way, lesson, how, source.test, source.seed)
    return found + [one._replace(good=False) for one in against]


def _neutral(model: Model) -> list[Record]:
    """Plain sentences; the prompt of each is its first words, up to where a token begins: most often one word."""
    found = []
    for number, text in enumerate(prompts.neutral_texts()):
        spaces = [i for i, letter in enumerate(text) if letter == " "]
        cut = next(
            (i for i in spaces if tokens.continuation(model.tokenizer, text[:i], text[i:]) is not None), spaces[0]
        )
        found.append(Record(text[:cut], (text[cut:],), True, f"neutral text {number + 1}"))
    return found
