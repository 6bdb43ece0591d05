"""One way in to all finders: from a model, items and a target to an edit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts
from vatjax.edits import activations, controlled, gated, stream, trained
from vatjax.edits.pairs import PAIRS, Contrast, Way, contrast, contrasts, read
from vatjax.edits.placebo import shuffled
from vatjax.elicit import Size, asking, prefill
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.models.edit import Positions
from vatjax.models.packed import Every
from vatjax.prompts import How

Method = Literal["mean", "pca", "probe", "conva", "split", "neurons", "conditional"]
METHODS: tuple[Method, ...] = get_args(Method)


class Found(NamedTuple):
    """An edit, and what is to be said about how it was found.

    Attributes:
        edit: at strength 1.
        facts: plain data: method, pairs, layers, accuracies.
    """

    edit: Edit
    facts: dict[str, Any]


def find(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    method: Method = "mean",
    layers: Sequence[int] | int = (),
    **options: Any,
) -> Edit:
    """An edit that pushes a model towards a target or away from it, found from the train side of some items.

    Args:
        model: the model; it needs a tokenizer.
        items: all items; nothing of their test side is looked at.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        method: "mean", "pca", "probe", "conva", "split", "neurons" or "conditional".
        layers: which are edited, one or several; by default the middle one, for `conva` and `conditional` those that they choose, for
            `neurons` all.
        **options: of `search`.
    """
    return search(model, items, target, direction, method, layers, **options).edit


def search(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    method: Method = "mean",
    layers: Sequence[int] | int = (),
    *,
    way: Way = "acted",
    operator: stream.Operator = "add",
    positions: Positions = "all",
    pairs: int = PAIRS,
    top: int = activations.TOP,
    form: activations.Form = "add",
    probability: float = 0.99,
    gate: bool = False,
    training: trained.Training | None = None,
    exchanged: int | None = None,
    test: float = 0.25,
    seed: int = 0,
    draw: int = 0,
    size: Size | None = None,
    how: How | None = None,
) -> Found:
    """`find`, with what is to be said about it.

    Args:
        model, items, target, direction, method, layers: as in `find`.
        way: what differs within a contrast pair; see `contrast`.
        operator: of mean, pca and probe: "add", "project", "set" or "turn".
        positions: at which tokens.
        pairs: how many, where there are as many.
        top, form: of `neurons`.
        probability: P0 of `conva`.
        gate: whether `conva` leaves states alone that are not about the target.
        training: of `split`.
        exchanged: a seed by which half of the target's pairs change their labels: what a finder makes of labels that mean
            nothing. None leaves them as they are.
        test, seed: of the division by scene, and of which pairs are drawn.
        draw: which of many draws of pairs.
        size: how much is computed at one time.
        how: how questions are put: chat template, prefill, wording.
    """
    if method not in METHODS:
        raise errors.InputError(names.unknown("method", method, METHODS))
    depth = model.config.layers
    layers = (layers,) if isinstance(layers, int) else layers
    chosen = sorted({layer % depth for layer in layers if stream.profile([layer], depth).any()})
    asked = _Asked(
        model,
        items,
        target,
        direction,
        chosen,
        way,
        operator,
        positions,
        pairs,
        top,
        form,
        probability,
        gate,
        training,
        exchanged,
        {"test": test, "seed": seed, "draw": draw},
        size,
        prefill.resolved(model, how or How()),
    )
    edit, facts = _FINDERS[method](asked)
    said = {"method": method, "target": target, "direction": direction, "positions": positions}
    return Found(edit, {**said, **asked.drawn, **facts})


class _Asked(NamedTuple):
    """What is asked of a finder; the fields are those of `search`."""

    model: Model
    items: Items
    target: str
    direction: int
    layers: list[int]
    way: Way
    operator: stream.Operator
    positions: Positions
    pairs: int
    top: int
    form: activations.Form
    probability: float
    gate: bool
    training: trained.Training | None
    exchanged: int | None
    drawn: dict[str, Any]
    size: Size | None
    how: How

    @property
    def contrast(self) -> Contrast:
        """The target's contrast pairs."""
        return self.of("residual")

    def of(self, every: Every) -> Contrast:
        """The target's contrast pairs, of the residual stream or of neurons."""
        options: dict[str, Any] = {"every": every, "size": self.size, "how": self.how, **self.drawn}
        found = contrast(self.model, self.items, self.target, self.direction, self.way, self.pairs, **options)
        return found if self.exchanged is None else shuffled(found, self.exchanged)

    @property
    def middle(self) -> list[int]:
        """The layers that are asked for, or the middle one."""
        return self.layers or [self.model.config.layers // 2]


def _along(method: stream.Method, asked: _Asked) -> tuple[Edit, dict[str, Any]]:
    own = asked.contrast
    found = stream.directions(own, method, asked.drawn["seed"])
    facts: dict[str, Any] = {
        "way": asked.way,
        "pairs": len(own.scene),
        "operator": asked.operator,
        "accuracy": found.accuracy.tolist(),
    }
    edit = stream.steer(found, asked.middle, asked.operator, asked.positions)
    return edit, {**facts, "layers": asked.middle}


def _trained(asked: _Asked) -> tuple[Edit, dict[str, Any]]:
    found = trained.split(
        asked.model,
        asked.items,
        asked.target,
        asked.direction,
        asked.layers,
        asked.training,
        asked.pairs,
        asked.positions,
        asked.exchanged,
        how=asked.how,
        **asked.drawn,
    )
    return found.edit, {"loss": float(found.losses[-1]), "margin": float(found.margins[-1]), "layers": asked.middle}


def _neurons(asked: _Asked) -> tuple[Edit, dict[str, Any]]:
    # The others towards themselves, however the target is pushed: which neurons are theirs does not hang on that.
    others = [name for name in asked.items.taxonomy.types if not _overlap(asked.items, name, asked.target)]
    if not others:
        raise errors.InputError(f"{asked.target} has a part in every type: there is none to tell its neurons from")
    options: dict[str, Any] = {
        "way": asked.way,
        "pairs": asked.pairs,
        "size": asked.size,
        "every": "neurons",
        "how": asked.how,
        **asked.drawn,
    }
    wanted = contrasts(asked.model, asked.items, others, 1, **options)
    wanted[asked.target] = asked.of("neurons")
    found = activations.neurons(wanted, asked.target, asked.top, asked.form, asked.positions)
    own = found.neurons[np.isin(found.neurons[:, 0], asked.layers)] if asked.layers else found.neurons
    if not len(own):
        there = sorted(set(found.neurons[:, 0].tolist()))
        raise errors.InputError(f"layers: the neurons of {asked.target} are in {there}, found {asked.layers}")
    edit = found.edit.only(asked.layers) if asked.layers else found.edit
    return edit, {"way": asked.way, "form": asked.form, "neurons": own.tolist(), "shared": found.dropped}


def _controlled(asked: _Asked) -> tuple[Edit, dict[str, Any]]:
    own, about = asked.contrast, _about(asked) if asked.gate else None
    found = controlled.conva(own, asked.probability, about, positions=asked.positions, seed=asked.drawn["seed"])
    layers = [layer for layer in found.layers if layer in asked.layers or not asked.layers]
    if not layers:
        raise errors.InputError(f"layers: only the probes of {found.layers} are sound, found {asked.layers}")
    edit = found.edit.only(layers)
    facts: dict[str, Any] = {"way": asked.way, "pairs": len(own.scene), "probability": asked.probability}
    facts |= {"accuracy": found.accuracy.tolist(), "layers": layers}
    return edit, facts | ({} if found.gated is None else {"gate_accuracy": found.gated.tolist()})


def _conditional(asked: _Asked) -> tuple[Edit, dict[str, Any]]:
    if len(asked.layers) > 1:
        raise errors.InputError(f"conditional: one layer has the condition and the direction, found {asked.layers}")
    own = asked.contrast
    found, when = stream.directions(own, seed=asked.drawn["seed"]), gated.condition(*_about(asked))
    live = np.abs(found.vector).max(-1) > 0
    layer = asked.layers[0] if asked.layers else int(np.argmax(np.where(live, when.f1, -1)))
    facts: dict[str, Any] = {"way": asked.way, "pairs": len(own.scene), "layers": [layer]}
    facts |= {"f1": float(when.f1[layer]), "threshold": float(when.threshold[layer])}
    return gated.conditional(found, when, layer, asked.positions), facts


_FINDERS: Mapping[str, Callable[[_Asked], tuple[Edit, dict[str, Any]]]] = {
    "mean": functools.partial(_along, "mean"),
    "pca": functools.partial(_along, "pca"),
    "probe": functools.partial(_along, "probe"),
    "conva": _controlled,
    "split": _trained,
    "neurons": _neurons,
    "conditional": _conditional,
}


def _overlap(items: Items, name: str, target: str) -> bool:
    return bool((items.taxonomy.mask(name) & items.taxonomy.mask(target)).any())


def _about(asked: _Asked) -> tuple[np.ndarray, np.ndarray]:
    """States of questions about a target's items, and about as many others, each [layers, n, width]."""
    items, model = asked.items, asked.model
    train, _ = items.split(asked.drawn["test"], asked.drawn["seed"])
    own = items.taxonomy.mask(asked.target)[train.value]
    draw = np.random.default_rng(asked.drawn["seed"])
    sides = [draw.permutation(np.flatnonzero(side))[: asked.pairs] for side in (own, ~own)]
    least = min(map(len, sides))
    if not least:
        raise errors.InputError(
            f"{items.source}: the train side has no items but those of {asked.target} to tell it from"
        )
    rows = [prompts.fields(train, int(i)) for side in sides for i in side[:least]]
    how = asked.how
    made = prompts.assemble(rows, how.wordings()[0], how.scales()[0], chat=asking.template(model, how))
    states = read(model, asking.pieced(model, made, how), None, asked.size)
    return states[:, :least], states[:, least:]
