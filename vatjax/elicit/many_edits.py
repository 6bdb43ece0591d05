"""Answers of a model under many edits at one time: value states, and choices between the actions of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vatjax import errors
from vatjax.elicit import ask, choice, prefill, protocols
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.prefix import score_edits
from vatjax.prefix.plan import Size
from vatjax.prompts import ElicitConfig, Scale
from vatjax.runtime.progress import OnProgress, ignore_progress, stage_progress
from vatjax.states import ValueState


class StatesUnderEdits(NamedTuple):
    """Value states of a model under several edits.

    Attributes:
        states: [edits, contexts, values] float32, NaN where no question is asked.
        agreement: for actions in pairs, how far the model agrees with both, likewise; else None.
        mass: [edits, prompts], the options' probability, the mean over wordings.
        cell_mass: [edits, contexts, values], the least of each cell's prompts.
        clusters: [contexts] int32.
        contexts: context key -> [contexts] text.
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
        """Returns the value state under one of the edits; with `reads="agreement"` that of agreement."""
        array = self.states[edit] if not reads or self.agreement is None else self.agreement[edit]
        contexts, mass = dict(self.contexts), None if reads else self.cell_mass[edit]
        return ValueState(array, ~np.isnan(array), self.clusters, self.values, contexts, dict(meta or {}), mass=mass)


def states_under(
    model: Model,
    items: Items,
    edits: Sequence[Edit],
    how: ElicitConfig | None = None,
    size: Size | None = None,
    at_once: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> StatesUnderEdits:
    """Rates items under several edits of one form; the layers below the first edited one are computed once.

    Args:
        model: the model.
        items: the items.
        edits: of one form.
        how: the settings of elicitation: any protocol but `labelled`, read by `expected` or `argmax`.
        size: how much is computed at one time.
        at_once: how many edits are computed together.
        on_progress: is called with the completed fraction.
    """
    how = prefill.resolve_prefill(model, how or ElicitConfig())
    if how.protocol == "labelled" or how.reading == "generate":
        what = "the protocol labelled" if how.protocol == "labelled" else "written answers"
        raise errors.InputError(f"{what} can't be asked under many edits at one time: ask under each edit in turn")
    questions = protocols.make_questions(items, how.protocol)
    rows = list(questions.rows)
    prompt_sets = ask.build_prompts(rows, how, ask.PLAIN, ask.chat_format(model, how))
    count, values, middle = len(rows), len(items.taxonomy.names), Scale(how.low, how.high).middle
    logs = []
    for i, prompt_set in enumerate(prompt_sets):
        part = stage_progress(on_progress, i / len(prompt_sets), (i + 1) / len(prompt_sets))
        read_as = ask.tokenize_with_spellings(model, prompt_set, how)
        logs.append(score_edits.score_edits(model, *read_as, edits, size, at_once, on_progress=part))
    ratings = [
        ask.average_ratings(
            [
                ask.read_ratings(log[e, :count], log[e, count:], prompt_set.scale, how)
                for prompt_set, log in zip(prompt_sets, logs, strict=True)
            ],
            how,
        )
        for e in range(len(edits))
    ]
    read = [protocols.answers_to_state(questions, edit_ratings, middle, values) for edit_ratings in ratings]
    pairs = [arrays.agreement for arrays in read if arrays.agreement is not None]
    mass = np.mean([np.exp(log[:, :count]).sum(-1) for log in logs], 0)
    return StatesUnderEdits(
        np.stack([arrays.state for arrays in read]),
        np.stack(pairs) if pairs else None,
        mass,
        np.stack([protocols.least_of_cells(questions, edit_mass, values) for edit_mass in mass]),
        questions.clusters,
        questions.contexts,
        tuple(items.taxonomy.names),
    )


def choices_under(
    model: Model,
    items: Items,
    edits: Sequence[Edit],
    size: Size | None = None,
    at_once: int = 0,
    how: ElicitConfig | None = None,
    on_progress: OnProgress = ignore_progress,
) -> np.ndarray:
    """Returns the probability of both letters where a model chooses between the actions of pairs, in both orders.

    Args:
        model: the model.
        items: whose pairs are asked about.
        edits: of one form.
        size, at_once: as in `states_under`.
        how: of the ratings; chat template, prefill and template options are taken from it.

    Returns:
        [edits, pairs, orders, 2], for the express action and for the suppress action.
    """
    how = prefill.resolve_prefill(model, how or ElicitConfig())
    _, _, prompt_set = choice.build_choice_prompts(model, items, how)
    read_as = ask.tokenize_with_spellings(model, prompt_set, how)
    logs = score_edits.score_edits(model, *read_as, edits, size, at_once, on_progress=on_progress)
    share: np.ndarray = np.exp(logs).reshape(len(edits), -1, 2, 2)  # the express action is A, then B
    share[:, :, 1] = share[:, :, 1, ::-1]
    return share
