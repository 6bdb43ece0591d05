"""From items and a model to a value state: ask, read the answers' probabilities, rate, and put each rating in its place.

    share[o] = p(option o) / sum p(options)          mass = sum p(options)
    expected rating = sum share[o] r[o]              argmax rating = r[the likeliest o]

The mass says how far the model answered the question at all; renormalised ratings alone would hide where it did not.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import vatjax
from vatjax import errors, models, prompts, store
from vatjax.elicit import protocols, scorer, written
from vatjax.elicit.pieces import Option, Pieces, digest, options, pieces
from vatjax.elicit.plan import Cost, Plan, Size
from vatjax.elicit.resume import Kept
from vatjax.items import Items
from vatjax.models import Edit, Model, tokens
from vatjax.prompts import How, Letters, Prompts, Protocol, Scale, Shot
from vatjax.states import ValueState

_LOW_MASS = 0.5


class Rated(NamedTuple):
    """A value state, and what it was made of.

    Attributes:
        state: the state.
        agreement: where actions come in pairs, how far both are agreed with, whichever they are: a state of its own.
        ratings: [prompts] float64.
        shares: [wordings x scales, prompts, options] float64, probabilities of the options, which sum to the mass; for
            written answers 1 for the one that was read.
        cost: tokens of all wordings and scales.
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
    keep: store.Path | None = None,
    told: Callable[[Plan, int], None] = lambda *_: None,
    done: Callable[[int], None] = lambda _: None,
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
        keep: a folder for finished shards; those that are there are not computed again. Written answers have no shards.
        told: is told each plan before it is carried out, and how many of its prompts' answers are kept already.
        done: is told how many prompts more are done.

    Raises:
        InputError: where items, protocol, options and model don't go together.
    """
    how = how or How()
    if shots and how.protocol == "stated":
        raise errors.InputError("examples show actions, and the protocol stated asks about none")
    asked = protocols.ask(items, how.protocol)
    labels = _labels(labels, items, how)
    rows = list(asked.rows)
    blank = [dict.fromkeys(rows[0], "N/A")] if how.prior else []
    chat = template(model, how)
    made = [
        prompts.assemble(rows + blank, wording, scale, shots, chat)
        for wording in how.wordings()
        for scale in how.scales()
    ]
    size = size or scorer.size_for(model)
    read_as = [tokenised(model, one, how) for one in made]
    kept = (
        None if keep is None else Kept(keep, _run(model, items, how, edit, [digest(*pair) for pair in read_as], size))
    )
    shares, means, costs = [], [], []
    for order, one in enumerate(made):
        name = functools.partial(_name, rows)
        if how.reading == "generate":
            read, share, cost = written.answers(model, one, how, chat is not None, edit)
        else:
            logs, cost = scored(model, one, read_as[order], edit, size, order, kept, told, done, name)
            read, share = _read(logs[: len(rows)], logs[len(rows) :], one.scale, how), np.exp(logs[: len(rows)])
        shares.append(share)
        means.append(read)
        costs.append(cost)
    rated, mass = _together(means, how), np.stack(shares).sum(-1)
    if mass.mean() < _LOW_MASS:
        said = "of the answers could be read" if how.reading == "generate" else "of the probability on average"
        warnings.warn(
            f"the options have {mass.mean():.0%} {said}: the model mostly answers something else", stacklevel=2
        )
    cost = Cost(*(sum(parts) for parts in zip(*costs, strict=True)))
    meta = {
        **provenance(model, items, edit, made, mass, cost),
        "how": {**dataclasses.asdict(how), "wording": [w.name for w in how.wordings()], "template": dict(how.template)},
        "versions_of_prompts": {w.name: w.version for w in how.wordings()},
        "shots": len(shots),
        "size": dataclasses.asdict(size),
        "spread": _spread(means, how),
    }
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


def _by_wording(means: Sequence[np.ndarray], how: How) -> np.ndarray:
    """Ratings of each wording, the mean over its scales, [wordings, prompts]; what no scale has an answer to is missing."""
    stacked = np.stack(means).reshape(-1, len(how.scales()), len(means[0]))
    return _mean(stacked, 1)


def _together(means: Sequence[np.ndarray], how: How) -> np.ndarray:
    return _mean(_by_wording(means, how), 0)


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """A mean without what is missing; missing where all is."""
    there = ~np.isnan(x)
    count = there.sum(axis)
    mean: np.ndarray = np.where(there, x, 0).sum(axis) / np.where(count > 0, count, 1)
    return np.where(count > 0, mean, np.nan)


def _spread(means: Sequence[np.ndarray], how: How) -> dict[str, Any] | None:
    """How far wordings differ: the standard deviation over them, averaged over prompts, and each one's mean rating."""
    found = _by_wording(means, how)
    if len(found) < 2:
        return None
    whole = found[:, ~np.isnan(found).any(0)]
    if not whole.size:
        return None
    wide = float(whole.std(0, ddof=1).mean())
    return {"sd": wide, "mean": dict(zip([w.name for w in how.wordings()], whole.mean(1).tolist(), strict=True))}


def template(model: Model, how: How) -> prompts.Chat | None:
    """The model's chat template, where it is wanted and there."""
    if model.tokenizer is None:
        raise errors.InputError(f"{model.name or 'the model'}: no tokenizer there, so it can't be asked in words")
    there = bool(getattr(model.tokenizer, "chat_template", None))
    if how.chat is False or (how.chat is None and not there):
        return None
    return lambda messages: tokens.chat(model.tokenizer, messages, **how.template)


def tokenised(model: Model, made: Prompts, how: How) -> tuple[Pieces, tuple[Option, ...]]:
    """Prompts as tokens, and the ways to write each answer behind them."""
    found = pieces(made, model.tokenizer, template(model, how) is not None)
    return found, options(model.tokenizer, made.text(0)[-200:], made.scale.options)


def scored(
    model: Model,
    made: Prompts,
    read_as: tuple[Pieces, tuple[Option, ...]],
    edit: Edit | None,
    size: Size,
    order: int = 0,
    kept: Kept | None = None,
    told: Callable[[Plan, int], None] = lambda *_: None,
    done: Callable[[int], None] = lambda _: None,
    name: Callable[[int], str] = lambda prompt: f"prompt {prompt + 1}",
) -> tuple[np.ndarray, Cost]:
    """Log-probabilities of the options of every prompt, [prompts, options], and what they cost."""
    found, ways = read_as
    logs = np.full((len(made), len(made.scale.options)), np.nan)
    costs: list[Cost] = []

    ready: set[int] = set()

    def note(plan: Plan, part: np.ndarray, first: int) -> None:
        """Takes the shards of a plan that are kept, where they are of the same prompts and whole."""
        costs.append(plan.cost)
        for number, shard in enumerate(plan.shards, first):
            there = None if kept is None else kept.get(order, number)
            if there is not None and np.array_equal(there[0], part[shard]) and not np.isnan(there[1]).any():
                logs[there[0]] = there[1]
                ready.add(number)
        told(plan, int((~np.isnan(logs[part]).any(-1)).sum()))

    for shard in scorer.score(model, found, ways, edit, size, skip=ready.__contains__, told=note, name=name):
        logs[shard.prompts] = shard.log_probs
        if kept is not None:
            kept.put(order, shard.number, shard.prompts, shard.log_probs)
        done(len(shard.prompts))
    return logs, Cost(*(sum(parts) for parts in zip(*costs, strict=True)))


def _read(logs: np.ndarray, prior: np.ndarray, scale: Scale | Letters, how: How) -> np.ndarray:
    """Ratings on the rising scale, [prompts]."""
    with np.errstate(invalid="ignore"):  # where no option has any probability there is no rating
        logs = logs - prior[0] if how.prior else logs
        share = np.exp(logs - logs.max(-1, keepdims=True))
        rating = np.array(scale.ratings)
        likeliest: np.ndarray = rating[share.argmax(-1)]
        expected: np.ndarray = (share * rating).sum(-1) / share.sum(-1)
    chosen = likeliest if how.reading == "argmax" else expected
    return np.where(np.isfinite(expected), chosen, np.nan)


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


def _run(model: Model, items: Items, how: How, edit: Edit | None, read_as: Sequence[str], size: Size) -> dict[str, Any]:
    """All that decides the answers, down to the last bit."""
    device = jax.devices()[0]
    return {
        "model": {"weights": models.fingerprint(model.arrays), "config": repr(model.config)},
        "edit": None if edit is None else models.fingerprint(edit),
        "how": {**dataclasses.asdict(how), "template": dict(how.template)},
        "tokens": list(read_as),
        "items": items_digest(items),
        "size": dataclasses.asdict(size),
        "device": {"kind": device.device_kind, "count": len(jax.devices())},
        "versions": {
            "vatjax": vatjax.__version__,
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
        },
    }


def provenance(
    model: Model, items: Items, edit: Edit | None, made: Sequence[Prompts], mass: np.ndarray, cost: Cost
) -> dict[str, Any]:
    """What produced a state."""
    return {
        "model": {"name": model.name, "family": model.config.family, "weights": models.fingerprint(model.arrays)},
        "edit": None if edit is None else models.fingerprint(edit),
        "prompts": {"sha256": [one.digest for one in made]},
        "items": {"source": items.source, "sha256": items_digest(items), "count": len(items)},
        "taxonomy": items.taxonomy.name,
        "mass": {
            "mean": float(mass.mean()),
            "least": float(mass.min()),
            "below_half": float((mass < _LOW_MASS).mean()),
        },
        "cost": cost._asdict(),
        "versions": {"vatjax": vatjax.__version__, "jax": jax.__version__},
    }


def items_digest(items: Items) -> str:
    """A hash of what is asked about, whatever the file is called."""
    digest = hashlib.sha256("\0".join(items.taxonomy.names).encode())
    for item in items:
        digest.update("\0".join(item).encode() + b"\n")
    return digest.hexdigest()
