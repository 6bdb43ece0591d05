"""What a model answers under many edits at one time: value states, and choices between the actions of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors
from vatjax.elicit import asking, choice, prefill, protocols, together
from vatjax.elicit.plan import Size
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.progress import OnProgress, silent, within
from vatjax.prompts import How, Scale
from vatjax.states import ValueState


class Under(NamedTuple):
    """Answers under several edits.

    Attributes:
        states: [edits, contexts, values] float32, NaN where nothing is asked.
        agreement: where actions come in pairs, how far both are agreed with, likewise; else None.
        mass: [edits, prompts], the options' probability, the mean over wordings.
        cell_mass: [edits, contexts, values], the least of each cell's prompts.
        clusters: [contexts] int32.
        contexts: what each context is, by key.
        values: their names.
    """

    states: np.ndarray
    agreement: np.ndarray | None
    mass: np.ndarray
    cell_mass: np.ndarray
    clusters: np.ndarray
    contexts: Mapping[str, np.ndarray]
    values: tuple[str, ...]

    def state(self, edit: int, meta: Mapping[str, Any] | None = None, reads: str = "") -> ValueState:
        """The value state under one of the edits; with `reads="agreement"` that of agreement."""
        array = self.states[edit] if not reads or self.agreement is None else self.agreement[edit]
        contexts, mass = dict(self.contexts), None if reads else self.cell_mass[edit]
        return ValueState(array, ~np.isnan(array), self.clusters, self.values, contexts, dict(meta or {}), mass=mass)


def states_under(
    model: Model,
    items: Items,
    edits: Sequence[Edit],
    how: How | None = None,
    size: Size | None = None,
    at_once: int = 0,
    on_progress: OnProgress = silent,
) -> Under:
    """Value states of a model under several edits of one form; what lies below the first edited layer is computed once.

    Args:
        model: the model.
        items: what is asked about.
        edits: of one form.
        how: how it is asked: any protocol but `labelled`, read by `expected` or `argmax`.
        size: how much is computed at one time.
        at_once: how many edits are computed together.
        on_progress: is called with the completed fraction.
    """
    how = prefill.resolved(model, how or How())
    if how.protocol == "labelled" or how.reading == "generate":
        what = "the protocol labelled" if how.protocol == "labelled" else "written answers"
        raise errors.InputError(f"{what} can't be asked under many edits at one time: ask under one after the other")
    asked = protocols.ask(items, how.protocol)
    rows = list(asked.rows)
    made = asking.posed(rows, how, asking.PLAIN, asking.template(model, how))
    count, values, middle = len(rows), len(items.taxonomy.names), Scale(how.low, how.high).middle
    logs = []
    for i, one in enumerate(made):
        part = within(on_progress, i / len(made), (i + 1) / len(made))
        read_as = asking.tokenised(model, one, how)
        logs.append(together.score(model, *read_as, edits, size, at_once, on_progress=part))
    ratings = [
        asking.averaged(
            [
                asking.read_off(log[e, :count], log[e, count:], one.scale, how)
                for one, log in zip(made, logs, strict=True)
            ],
            how,
        )
        for e in range(len(edits))
    ]
    read = [protocols.answered(asked, one, middle, values) for one in ratings]
    pairs = [one.agreement for one in read if one.agreement is not None]
    mass = np.mean([np.exp(log[:, :count]).sum(-1) for log in logs], 0)
    return Under(
        np.stack([one.state for one in read]),
        np.stack(pairs) if pairs else None,
        mass,
        np.stack([protocols.least_of_cells(asked, own, values) for own in mass]),
        asked.clusters,
        asked.contexts,
        tuple(items.taxonomy.names),
    )


def choices_under(
    model: Model,
    items: Items,
    edits: Sequence[Edit],
    size: Size | None = None,
    at_once: int = 0,
    how: How | None = None,
    on_progress: OnProgress = silent,
) -> np.ndarray:
    """The probability of both letters where a model is to choose between the actions of pairs, in both orders.

    Args:
        model: the model.
        items: whose pairs are asked about.
        edits: of one form.
        size, at_once: as in `states_under`.
        how: of the ratings; chat template, prefill and template options are taken from it.

    Returns:
        [edits, pairs, orders, 2], for the express action and for the suppress action.
    """
    how = prefill.resolved(model, how or How())
    _, _, made = choice.posed(model, items, how)
    read_as = asking.tokenised(model, made, how)
    logs = together.score(model, *read_as, edits, size, at_once, on_progress=on_progress)
    share: np.ndarray = np.exp(logs).reshape(len(edits), -1, 2, 2)  # the express action is A, then B
    share[:, :, 1] = share[:, :, 1, ::-1]
    return share
