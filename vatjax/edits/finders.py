"""One way in to all finders: from a model, items and a target to an edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts
from vatjax.edits import activations as nr
from vatjax.edits import controlled as cv
from vatjax.edits import stream as dr
from vatjax.edits import trained as sp
from vatjax.edits.gated import condition, conditional
from vatjax.edits.pairs import PAIRS, Way, contrast, contrasts, read
from vatjax.elicit import Size, asking
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.models.edit import Positions
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
    layers: Sequence[int] = (),
    **options: Any,
) -> Edit:
    """An edit that pushes a model towards a target or away from it, found from the train side of some items.

    Args:
        model: the model; it needs a tokenizer.
        items: all items; nothing of their test side is looked at.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        method: "mean", "pca", "probe", "conva", "split", "neurons" or "conditional".
        layers: which are edited; by default the middle one, for `conva` and `conditional` those that they choose, for
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
    layers: Sequence[int] = (),
    *,
    way: Way = "acted",
    operator: dr.Operator = "add",
    positions: Positions = "all",
    pairs: int = PAIRS,
    top: int = nr.TOP,
    form: nr.Form = "add",
    probability: float = 0.99,
    gate: bool = False,
    training: sp.Training | None = None,
    test: float = 0.25,
    seed: int = 0,
    size: Size | None = None,
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
        test, seed: of the division by scene, and of which pairs are drawn.
        size: how much is computed at one time.
    """
    if method not in METHODS:
        raise errors.InputError(names.unknown("method", method, METHODS))
    depth = model.config.layers
    chosen = sorted({layer % depth for layer in layers if dr.profile([layer], depth).any()})
    drawn: dict[str, Any] = {"test": test, "seed": seed}
    said: dict[str, Any] = {"method": method, "target": target, "direction": direction, "positions": positions, **drawn}
    if method == "split":
        trained = sp.split(model, items, target, direction, chosen, training, pairs, positions, **drawn)
        said |= {"loss": float(trained.losses[-1]), "margin": float(trained.margins[-1])}
        return Found(trained.edit, {**said, "layers": chosen or [depth // 2]})
    if method == "neurons":
        # Towards each type, however the target is pushed: which neurons are its own does not hang on the direction.
        others = [name for name in items.taxonomy.types if not _overlap(items, name, target)]
        wanted = contrasts(model, items, others, 1, way, pairs, size=size, every="neurons", **drawn)
        wanted[target] = contrast(model, items, target, direction, way, pairs, size=size, every="neurons", **drawn)
        own = nr.neurons(wanted, target, top, form, positions)
        edit = own.edit.only(chosen) if chosen else own.edit
        return Found(edit, {**said, "form": form, "neurons": own.neurons.tolist(), "shared": own.dropped})
    read_from = contrast(model, items, target, direction, way, pairs, size=size, **drawn)
    said |= {"way": way, "pairs": read_from.positive.shape[1]}
    if method == "conva":
        about = _about(model, items, target, pairs, test, seed, size) if gate else None
        probed = cv.conva(read_from, probability, about, positions=positions, seed=seed)
        edit = probed.edit.only(chosen) if chosen else probed.edit
        said |= {"probability": probability, "accuracy": probed.accuracy.tolist(), "layers": chosen or probed.layers}
        return Found(edit, said | ({} if probed.gated is None else {"gate_accuracy": probed.gated.tolist()}))
    if method == "conditional":
        if len(chosen) > 1:
            raise errors.InputError(f"conditional: one layer has the condition and the direction, found {chosen}")
        found = dr.directions(read_from, seed=seed)
        when = condition(*_about(model, items, target, pairs, test, seed, size))
        layer = chosen[0] if chosen else _widest(when.f1, found)
        said |= {"layers": [layer], "f1": float(when.f1[layer]), "threshold": float(when.threshold[layer])}
        return Found(conditional(found, when, layer, positions), said)
    found = dr.directions(read_from, method, seed)
    said |= {"operator": operator, "accuracy": found.accuracy.tolist(), "layers": chosen or [depth // 2]}
    return Found(dr.steer(found, chosen or [depth // 2], operator, positions), said)


def _overlap(items: Items, name: str, target: str) -> bool:
    return bool((items.taxonomy.mask(name) & items.taxonomy.mask(target)).any())


def _widest(f1: np.ndarray, found: dr.Directions) -> int:
    """The layer with the best F1 that has a direction."""
    return int(np.argmax(np.where(np.abs(found.vector).max(-1) > 0, f1, -1)))


def _about(
    model: Model, items: Items, target: str, count: int, test: float, seed: int, size: Size | None
) -> tuple[np.ndarray, np.ndarray]:
    """States of questions about a target's items, and about as many others, each [layers, n, width]."""
    train, _ = items.split(test, seed)
    own = items.taxonomy.mask(target)[train.value]
    draw = np.random.default_rng(seed)
    sides = [draw.permutation(np.flatnonzero(side))[:count] for side in (own, ~own)]
    least = min(map(len, sides))
    if not least:
        raise errors.InputError(f"{items.source}: the train side has no items but those of {target} to tell it from")
    rows = [prompts.fields(train, int(i)) for side in sides for i in side[:least]]
    how = How()
    made = prompts.assemble(rows, how.wordings()[0], how.scales()[0], chat=asking.template(model, how))
    states = read(model, asking.pieced(model, made, how), None, size)
    return states[:, :least], states[:, least:]
