"""From items and a model to a value state: ask, read the answers' probabilities, rate, and put each rating in its place.

    share[o] = p(option o) / sum p(options)          mass = sum p(options)
    expected rating = sum share[o] r[o]              argmax rating = r[the likeliest o]

The mass says how far the model answered the question at all; renormalised ratings alone would hide where it did not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

import vatjax
from vatjax import errors, models, prompts
from vatjax.elicit import protocols, scorer
from vatjax.elicit.pieces import options, pieces
from vatjax.elicit.plan import Cost, Plan, Size
from vatjax.items import Items
from vatjax.models import Edit, Model, tokens
from vatjax.prompts import Prompts, Protocol, Scale, Shot, Wording
from vatjax.states import ValueState

_LOW_MASS = 0.5


@dataclasses.dataclass(frozen=True)
class How:
    """How a model is asked."""

    protocol: Protocol = "paired"
    """What is asked: paired, labelled, dense or stated."""
    wording: str = ""
    """How it is put: a shipped wording by name; by default the first of the protocol."""
    low: int = 1
    """The low end of the scale."""
    high: int = 5
    """The high end of the scale."""
    counterbalance: bool = False
    """Ask also with the scale turned round, and average."""
    prior: bool = False
    """Divide by the probabilities of the answers where every text is "N/A"."""
    reading: Literal["expected", "argmax"] = "expected"
    """The expected rating, or that of the likeliest option."""
    chat: bool | None = None
    """Whether to use the chat template; by default where there is one."""
    template: Mapping[str, bool] = dataclasses.field(default_factory=lambda: {"enable_thinking": False})
    """Options of the chat template; by default reasoning models are asked without thinking."""


class Rated(NamedTuple):
    """A value state, and what it was made of.

    Attributes:
        state: the state.
        agreement: where actions come in pairs, how far both are agreed with, whichever they are: a state of its own.
        ratings: [prompts] float64.
        shares: [orders, prompts, options] float64, probabilities of the options; they sum to the mass.
        cost: tokens of all orders.
    """

    state: ValueState
    agreement: ValueState | None
    ratings: np.ndarray
    shares: np.ndarray
    cost: Cost


def rate(model: Model, items: Items, protocol: Protocol = "paired", **options: Any) -> ValueState:
    """A model's value state over some items.

    Args:
        model: the model; it needs a tokenizer.
        items: what is asked about.
        protocol: "paired", "labelled", "dense" or "stated".
        **options: of `ratings`, and fields of `How`.
    """
    names = {field.name for field in dataclasses.fields(How)}
    how = How(protocol, **{name: options.pop(name) for name in list(options) if name in names})
    return ratings(model, items, how, **options).state


def ratings(
    model: Model,
    items: Items,
    how: How | None = None,
    *,
    shots: Sequence[Shot] = (),
    edit: Edit | None = None,
    labels: np.ndarray | None = None,
    size: Size | None = None,
    told: Callable[[Plan], None] = lambda _: None,
) -> Rated:
    """A model's value state, with the probabilities behind it.

    Args:
        model: the model; it needs a tokenizer.
        items: what is asked about.
        how: how it is asked.
        shots: examples with answers, before every prompt.
        edit: a change of the computation.
        labels: for `labelled`, [items, values] of -1, 0 and 1: what each action violates, and what it supports.
        size: how much is computed at one time.
        told: is told each plan before it is carried out.

    Raises:
        InputError: where items, protocol, options and model don't go together.
    """
    how = how or How()
    asked = protocols.ask(items, how.protocol)
    labels = _labels(labels, items, how)
    rows = list(asked.rows)
    blank = [dict.fromkeys(rows[0], "N/A")] if how.prior else []
    shares, means, costs, digests = [], [], [], []
    for scale in _scales(how):
        wording = prompts.wording(how.protocol, how.wording)
        made = prompts.assemble(rows + blank, wording, scale, shots, _chat(model, how))
        logs, cost = _scored(model, made, how, wording, edit, size, told, lambda i: _name(rows, i))
        shares.append(np.exp(logs[: len(rows)]))
        means.append(_read(logs[: len(rows)], logs[len(rows) :], scale, how))
        costs.append(cost)
        digests.append(made.digest)
    rated, mass = np.mean(means, axis=0), np.stack(shares).sum(-1)
    if mass.mean() < _LOW_MASS:
        warnings.warn(
            f"the options have {mass.mean():.0%} of the probability on average: the model mostly answers something else",
            stacklevel=2,
        )
    cost = Cost(*(sum(parts) for parts in zip(*costs, strict=True)))
    meta = _meta(model, items, how, shots, edit, digests, mass, cost)
    middle = Scale(how.low, how.high).middle
    state, agreement = protocols.answered(asked, rated, middle, len(items.taxonomy.names), labels)
    return Rated(
        _state(state, asked, items, meta),
        None if agreement is None else _state(agreement, asked, items, {**meta, "reads": "agreement"}),
        rated,
        np.stack(shares),
        cost,
    )


def _labels(labels: np.ndarray | None, items: Items, how: How) -> np.ndarray | None:
    shape = (len(items), len(items.taxonomy.names))
    if how.protocol != "labelled":
        if labels is not None:
            raise errors.InputError(f"labels belong to the protocol labelled, not to {how.protocol}")
        return None
    if labels is None:
        raise errors.InputError("the protocol labelled needs a label for each item and value: -1, 0 or 1")
    labels = np.asarray(labels)
    if labels.shape != shape or not np.isin(labels, (-1, 0, 1)).all():
        raise errors.InputError(f"labels: expected -1, 0 and 1 of the shape {shape}, found {labels.shape}")
    return labels.astype(np.float64)


def _scales(how: How) -> list[Scale]:
    rising = Scale(how.low, how.high)
    return [rising, dataclasses.replace(rising, falling=True)] if how.counterbalance else [rising]


def _chat(model: Model, how: How) -> prompts.Chat | None:
    """The model's chat template, where it is wanted and there."""
    if model.tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: no tokenizer there, so it can't be asked in words")
    there = bool(getattr(model.tokenizer, "chat_template", None))
    if how.chat is False or (how.chat is None and not there):
        return None
    return lambda messages: tokens.chat(model.tokenizer, messages, **how.template)


def _scored(
    model: Model,
    made: Prompts,
    how: How,
    wording: Wording,
    edit: Edit | None,
    size: Size | None,
    told: Callable[[Plan], None],
    name: Callable[[int], str],
) -> tuple[np.ndarray, Cost]:
    """Log-probabilities of the options of every prompt, [prompts, options], and what they cost."""
    found = pieces(made, model.tokenizer, templated=_chat(model, how) is not None)
    ways = options(model.tokenizer, made.text(0)[-200:], made.scale.options)
    logs = np.full((len(made), len(made.scale.options)), np.nan)
    costs: list[Cost] = []

    def note(plan: Plan) -> None:
        costs.append(plan.cost)
        told(plan)

    for shard in scorer.score(model, found, ways, edit, size, told=note, name=name):
        logs[shard.prompts] = shard.log_probs
    return logs, Cost(*(sum(parts) for parts in zip(*costs, strict=True)))


def _read(logs: np.ndarray, prior: np.ndarray, scale: Scale, how: How) -> np.ndarray:
    """Ratings on the rising scale, [prompts]."""
    if how.prior:
        logs = logs - prior[0]
    share = np.exp(logs - logs.max(-1, keepdims=True))
    rating = np.array(scale.ratings)
    likeliest: np.ndarray = rating[share.argmax(-1)]
    expected: np.ndarray = (share * rating).sum(-1) / share.sum(-1)
    return likeliest if how.reading == "argmax" else expected


def _name(rows: Sequence[Mapping[str, str]], prompt: int) -> str:
    """What a prompt is about, in a few words."""
    if prompt >= len(rows):
        return "the prompt without content"
    fields = rows[prompt]
    words = [fields.get(key, "")[:60] for key in ("country", "topic", "value", "action") if fields.get(key)]
    return f"item {prompt + 1} ({', '.join(words)})"


def _state(array: np.ndarray, asked: protocols.Asked, items: Items, meta: Mapping[str, Any]) -> ValueState:
    return ValueState(
        array, ~np.isnan(array), asked.clusters, tuple(items.taxonomy.names), dict(asked.contexts), dict(meta)
    )


def _meta(
    model: Model,
    items: Items,
    how: How,
    shots: Sequence[Shot],
    edit: Edit | None,
    digests: Sequence[str],
    mass: np.ndarray,
    cost: Cost,
) -> dict[str, Any]:
    """What produced a state."""
    wording = prompts.wording(how.protocol, how.wording)
    return {
        "model": {"name": model.name, "weights": models.fingerprint(model.arrays), "family": model.config.family},
        "edit": None if edit is None else models.fingerprint(edit),
        "how": {**dataclasses.asdict(how), "wording": wording.name, "template": dict(how.template)},
        "prompts": {"version": wording.version, "sha256": list(digests), "shots": len(shots)},
        "items": {"source": items.source, "sha256": items_digest(items), "count": len(items)},
        "taxonomy": items.taxonomy.name,
        "mass": {
            "mean": float(mass.mean()),
            "least": float(mass.min()),
            "below_half": float((mass < _LOW_MASS).mean()),
        },
        "cost": cost._asdict(),
        "vatjax": vatjax.__version__,
    }


def items_digest(items: Items) -> str:
    """A hash of what is asked about, whatever the file is called."""
    digest = hashlib.sha256("\0".join(items.taxonomy.names).encode())
    for item in items:
        digest.update("\0".join(item).encode() + b"\n")
    return digest.hexdigest()
