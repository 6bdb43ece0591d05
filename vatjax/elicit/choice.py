"""The choice form: both actions of a pair at once, as A and B, in both orders.

preference = mean over orders of p(the express action's letter) / (p(A) + p(B))
x[scene, v] = 2 preference - 1                    from -1 (always suppress) to 1 (always express)
position bias = mean over pairs and orders of p(A) / (p(A) + p(B)) - 1/2
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vatjax import prompts
from vatjax.elicit import ask, prefill, protocols, provenance, rating
from vatjax.items import Items
from vatjax.metrics.arrays import mean_present
from vatjax.models import Edit, Model
from vatjax.prefix.plan import Size
from vatjax.prompts import ElicitConfig, Letters
from vatjax.states import ValueState


class Chosen(NamedTuple):
    """Choices of a model between the actions of pairs.

    Attributes:
        state: preferences from -1 to 1, contexts and values as in `paired`.
        preference: [pairs] for the express action, from 0 to 1.
        bias: how much likelier the first of two actions is, from -1/2 to 1/2.
        mass: [pairs, orders] probability of both letters together.
    """

    state: ValueState
    preference: np.ndarray
    bias: float
    mass: np.ndarray


def choose(
    model: Model,
    items: Items,
    wording: str = "",
    *,
    instruction: str = "",
    edit: Edit | None = None,
    size: Size | None = None,
    how: ElicitConfig | None = None,
) -> Chosen:
    """Asks a model which action of each pair it prefers.

    Args:
        model: the model; it needs a tokenizer.
        items: the items; they must allow `paired`.
        wording: one of the shipped wordings of the choice form.
        instruction: a sentence before the rubric.
        edit: a change of the computation.
        size: how much is computed at one time.
        how: of the ratings; chat template, prefill and template options are taken from it.
    """
    settings = prefill.resolve_prefill(model, how or ElicitConfig())
    questions, rows, prompt_set = build_choice_prompts(model, items, settings, wording, instruction)
    read_as = ask.tokenize_with_spellings(model, prompt_set, settings)
    result = ask.score_prompts(
        model, [prompt_set], [read_as], edit, ask.RunOptions(size), name=lambda i: ask.prompt_name(rows, i)
    )
    share = np.exp(result.logs[0]).reshape(-1, 2, 2)  # [pairs, orders, letters]; the express action is A, then B
    mass = share.sum(-1)
    first = share[..., 0] / np.where((mass > 0) & (mass >= settings.floor), mass, np.nan)
    preference = (first[:, 0] + 1 - first[:, 1]) / 2
    bias = mean_present(first) - 0.5
    # The state holds half the difference of these two.
    ratings = np.stack([2 * preference - 1, 1 - 2 * preference], 1).ravel()
    state, _ = protocols.answers_to_state(questions, ratings, 0.0, len(items.taxonomy.names))
    chosen = prompts.choice_wording(wording)
    meta = {
        **provenance.model_meta(model, edit),
        **provenance.items_meta(items),
        "prompts": {"sha256": [prompt_set.digest], "versions": {chosen.name: chosen.version}},
        "how": {
            "wording": [chosen.name],
            "template": dict(settings.template),
            "prefill": settings.prefill,
            "chat": ask.chat_format(model, settings) is not None,
        },
        "instruction": instruction,
        "form": "choice",
        "mass": provenance.mass_summary(mass),
        "cost": result.costs[0]._asdict(),
        "position_bias": bias,
    }
    return Chosen(rating.state_of(state, questions, items, meta), preference, bias, mass)


def build_choice_prompts(
    model: Model, items: Items, settings: ElicitConfig, wording: str = "", instruction: str = ""
) -> tuple[protocols.Questions, list[dict[str, str]], prompts.Prompts]:
    """Builds the prompts of each pair in both orders: with the express action as A, then as B.

    Returns:
        The questions, the fields of each prompt, and the prompts.
    """
    questions = protocols.make_questions(items, "paired")
    rows = _rows(list(questions.rows))
    frame = ask.chat_format(model, settings)
    return questions, rows, prompts.assemble(rows, prompts.choice_wording(wording), Letters(), (), frame, instruction)


def _rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Returns the fields of each pair in both orders, the express action first and then second."""
    return [
        {**express, "first": first["action"], "second": second["action"]}
        for express, suppress in zip(rows[::2], rows[1::2], strict=True)
        for first, second in ((express, suppress), (suppress, express))
    ]
