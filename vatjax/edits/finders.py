"""The entry point of all methods that find edits: a model, items and a target give an edit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from vatjax import errors, names, prompts
from vatjax.edits.conditional import conditional, fit_condition
from vatjax.edits.conva import conva
from vatjax.edits.directions import Method as DirectionMethod
from vatjax.edits.directions import Operator, directions, layer_shares, steer
from vatjax.edits.neurons import TOP, Form, neuron_edit
from vatjax.edits.pairs import PAIRS, Contrast, Way, contrast, contrasts, last_token_states
from vatjax.edits.placebo import shuffle_labels
from vatjax.edits.split import Training, split
from vatjax.elicit import ask, prefill
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.models.edit import Positions
from vatjax.prefix import Size
from vatjax.prefix.packed_attention import Every
from vatjax.prompts import ElicitConfig

Method = Literal["mean", "pca", "probe", "conva", "split", "neurons", "conditional"]
METHODS: tuple[Method, ...] = get_args(Method)


class EditResult(NamedTuple):
    """An edit, and facts about how it was found.

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
    """Returns an edit that pushes a model towards a target or away from it, found on the train side of some items.

    Args:
        model: the model; it needs a tokenizer.
        items: all items; their test side is not used.
        target: a value, type or group.
        direction: +1 towards it, -1 away from it.
        method: "mean", "pca", "probe", "conva", "split", "neurons" or "conditional".
        layers: edited layers, one or several; by default the middle one, for `conva` and `conditional` those that they
            choose, for `neurons` all.
        **options: of `find_with_facts`.
    """
    return find_with_facts(model, items, target, direction, method, layers, **options).edit


def find_with_facts(
    model: Model,
    items: Items,
    target: str,
    direction: int = 1,
    method: Method = "mean",
    layers: Sequence[int] | int = (),
    *,
    way: Way = "acted",
    operator: Operator = "add",
    positions: Positions = "all",
    pairs: int = PAIRS,
    top: int = TOP,
    form: Form = "add",
    probability: float = 0.99,
    gate: bool = False,
    training: Training | None = None,
    exchanged: int | None = None,
    test: float = 0.25,
    seed: int = 0,
    draw: int = 0,
    size: Size | None = None,
    how: ElicitConfig | None = None,
) -> EditResult:
    """Returns the edit of `find`, with facts about how it was found.

    Args:
        model, items, target, direction, method, layers: as in `find`.
        way: the kind of contrast pair; see `contrast`.
        operator: of mean, pca and probe: "add", "project", "set" or "turn".
        positions: edited tokens.
        pairs: their number, or all if there are fewer.
        top, form: of `neuron_edit`.
        probability: P0 of `conva`.
        gate: if True, `conva` leaves states unchanged that are not about the target.
        training: of `split`.
        exchanged: seed that flips the labels of half of the target's pairs, as a placebo. None flips none.
        test, seed: of the split by scene, and of the sample of pairs.
        draw: index of the sample of pairs.
        size: limits of a pass.
        how: elicitation settings: chat template, prefill, wording.
    """
    if method not in METHODS:
        raise errors.InputError(names.unknown_name("method", method, METHODS))
    depth = model.config.layers
    layers = (layers,) if isinstance(layers, int) else layers
    chosen = sorted({layer % depth for layer in layers if layer_shares([layer], depth).any()})
    request = _Request(
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
        prefill.resolve_prefill(model, how or ElicitConfig()),
    )
    edit, facts = _FINDERS[method](request)
    settings = {"method": method, "target": target, "direction": direction, "positions": positions}
    return EditResult(edit, {**settings, **request.drawn, **facts})


class _Request(NamedTuple):
    """Arguments of a finder; the fields are those of `find_with_facts`."""

    model: Model
    items: Items
    target: str
    direction: int
    layers: list[int]
    way: Way
    operator: Operator
    positions: Positions
    pairs: int
    top: int
    form: Form
    probability: float
    gate: bool
    training: Training | None
    exchanged: int | None
    drawn: dict[str, Any]
    size: Size | None
    how: ElicitConfig

    @property
    def contrast(self) -> Contrast:
        """Returns the target's contrast pairs."""
        return self.contrast_of("residual")

    def contrast_of(self, every: Every) -> Contrast:
        """Returns the target's contrast pairs, of the residual stream or of neurons."""
        options: dict[str, Any] = {"every": every, "size": self.size, "how": self.how, **self.drawn}
        pairs = contrast(self.model, self.items, self.target, self.direction, self.way, self.pairs, **options)
        return pairs if self.exchanged is None else shuffle_labels(pairs, self.exchanged)

    @property
    def layers_or_middle(self) -> list[int]:
        """Returns the requested layers, or the middle one."""
        return self.layers or [self.model.config.layers // 2]


def _find_direction(method: DirectionMethod, request: _Request) -> tuple[Edit, dict[str, Any]]:
    pairs = request.contrast
    vectors = directions(pairs, method, request.drawn["seed"])
    facts: dict[str, Any] = {
        "way": request.way,
        "pairs": len(pairs.scene),
        "operator": request.operator,
        "accuracy": vectors.accuracy.tolist(),
    }
    edit = steer(vectors, request.layers_or_middle, request.operator, request.positions)
    return edit, {**facts, "layers": request.layers_or_middle}


def _find_split(request: _Request) -> tuple[Edit, dict[str, Any]]:
    result = split(
        request.model,
        request.items,
        request.target,
        request.direction,
        request.layers,
        request.training,
        request.pairs,
        request.positions,
        request.exchanged,
        how=request.how,
        **request.drawn,
    )
    return result.edit, {
        "loss": float(result.losses[-1]),
        "margin": float(result.margins[-1]),
        "layers": request.layers_or_middle,
    }


def _find_neurons(request: _Request) -> tuple[Edit, dict[str, Any]]:
    # Other types are always pushed towards themselves: their neurons do not depend on the target's direction.
    others = [name for name in request.items.taxonomy.types if not _overlap(request.items, name, request.target)]
    if not others:
        raise errors.InputError(
            f"{request.target} overlaps every type: no other type is left to compare its neurons with"
        )
    options: dict[str, Any] = {
        "way": request.way,
        "pairs": request.pairs,
        "size": request.size,
        "every": "neurons",
        "how": request.how,
        **request.drawn,
    }
    pairs_by_name = contrasts(request.model, request.items, others, 1, **options)
    pairs_by_name[request.target] = request.contrast_of("neurons")
    result = neuron_edit(pairs_by_name, request.target, request.top, request.form, request.positions)
    chosen = result.neurons[np.isin(result.neurons[:, 0], request.layers)] if request.layers else result.neurons
    if not len(chosen):
        with_neurons = sorted(set(result.neurons[:, 0].tolist()))
        raise errors.InputError(
            f"layers: the neurons of {request.target} are in {with_neurons}, found {request.layers}"
        )
    edit = result.edit.only_layers(request.layers) if request.layers else result.edit
    return edit, {"way": request.way, "form": request.form, "neurons": chosen.tolist(), "shared": result.dropped}


def _find_conva(request: _Request) -> tuple[Edit, dict[str, Any]]:
    pairs, gate_states = request.contrast, _gate_states(request) if request.gate else None
    result = conva(pairs, request.probability, gate_states, positions=request.positions, seed=request.drawn["seed"])
    layers = [layer for layer in result.layers if layer in request.layers or not request.layers]
    if not layers:
        raise errors.InputError(
            f"layers: only the probes of {result.layers} are accurate enough, found {request.layers}"
        )
    edit = result.edit.only_layers(layers)
    facts: dict[str, Any] = {"way": request.way, "pairs": len(pairs.scene), "probability": request.probability}
    facts |= {"accuracy": result.accuracy.tolist(), "layers": layers}
    return edit, facts | ({} if result.gate_accuracy is None else {"gate_accuracy": result.gate_accuracy.tolist()})


def _find_conditional(request: _Request) -> tuple[Edit, dict[str, Any]]:
    if len(request.layers) > 1:
        raise errors.InputError(f"conditional: one layer has the condition and the direction, found {request.layers}")
    pairs = request.contrast
    vectors, condition = (
        directions(pairs, seed=request.drawn["seed"]),
        fit_condition(*_gate_states(request)),
    )
    live = np.abs(vectors.vector).max(-1) > 0
    layer = request.layers[0] if request.layers else int(np.argmax(np.where(live, condition.f1, -1)))
    facts: dict[str, Any] = {"way": request.way, "pairs": len(pairs.scene), "layers": [layer]}
    facts |= {"f1": float(condition.f1[layer]), "threshold": float(condition.threshold[layer])}
    return conditional(vectors, condition, layer, request.positions), facts


_FINDERS: Mapping[str, Callable[[_Request], tuple[Edit, dict[str, Any]]]] = {
    "mean": functools.partial(_find_direction, "mean"),
    "pca": functools.partial(_find_direction, "pca"),
    "probe": functools.partial(_find_direction, "probe"),
    "conva": _find_conva,
    "split": _find_split,
    "neurons": _find_neurons,
    "conditional": _find_conditional,
}


def _overlap(items: Items, name: str, target: str) -> bool:
    return bool((items.taxonomy.mask(name) & items.taxonomy.mask(target)).any())


def _gate_states(request: _Request) -> tuple[np.ndarray, np.ndarray]:
    """Returns states of questions about the target's items, and about equally many others, each [layers, n, width]."""
    items, model = request.items, request.model
    train, _ = items.split(request.drawn["test"], request.drawn["seed"])
    about_target = items.taxonomy.mask(request.target)[train.value]
    draw = np.random.default_rng(request.drawn["seed"])
    sides = [draw.permutation(np.flatnonzero(side))[: request.pairs] for side in (about_target, ~about_target)]
    least = min(map(len, sides))
    if not least:
        raise errors.InputError(
            f"{items.source}: the train side has no items but those of {request.target} to compare with"
        )
    rows = [prompts.item_fields(train, int(i)) for side in sides for i in side[:least]]
    how = request.how
    assembled = prompts.assemble(rows, how.wordings()[0], how.scales()[0], chat=ask.chat_format(model, how))
    states = last_token_states(model, ask.tokenize(model, assembled, how), None, request.size)
    return states[:, :least], states[:, least:]
