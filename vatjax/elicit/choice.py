"""The choice form: both actions of a pair at once, as A and B, in both orders.

preference = mean over orders of p(the express action's letter) / (p(A) + p(B))
x[scene, v] = 2 preference - 1                    from -1 (always suppress) to 1 (always express)
position bias = mean over pairs and orders of p(A) / (p(A) + p(B)) - 1/2
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vatjax import prompts
from vatjax.elicit import asking, prefill, protocols, provenance, rating
from vatjax.elicit.plan import Size
from vatjax.items import Items
from vatjax.models import Edit, Model
from vatjax.prompts import How, Letters
from vatjax.states import ValueState


class Chosen(NamedTuple):
    """What a model would choose.

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
    how: How | None = None,
) -> Chosen:
    """Asks a model which action of each pair it prefers.

    Args:
        model: the model; it needs a tokenizer.
        items: what is asked about; they must allow `paired`.
        wording: one of the shipped wordings of the choice form.
        instruction: a sentence before the rubric.
        edit: a change of the computation.
        size: how much is computed at one time.
        how: of the ratings; chat template, prefill and template options are taken from it.
    """
    settings = prefill.resolved(model, how or How())
    asked, rows, made = posed(model, items, settings, wording, instruction)
    read_as = asking.tokenised(model, made, settings)
    found = asking.scored(model, [made], [read_as], edit, asking.Run(size), name=lambda i: asking.named(rows, i))
    share = np.exp(found.logs[0]).reshape(-1, 2, 2)  # [pairs, orders, letters]; the express action is A, then B
    mass = share.sum(-1)
    first = share[..., 0] / np.where((mass > 0) & (mass >= settings.floor), mass, np.nan)
    preference = (first[:, 0] + 1 - first[:, 1]) / 2
    bias = float(np.nanmean(first) - 0.5)
    # Half the difference of these two is what the state holds.
    ratings = np.stack([2 * preference - 1, 1 - 2 * preference], 1).ravel()
    state, _ = protocols.answered(asked, ratings, 0.0, len(items.taxonomy.names))
    chosen = prompts.choice(wording)
    meta = {
        **provenance.asked_of(model, edit),
        **provenance.described(items),
        "prompts": {"sha256": [made.digest], "versions": {chosen.name: chosen.version}},
        "how": {
            "wording": [chosen.name],
            "template": dict(settings.template),
            "prefill": settings.prefill,
            "chat": asking.template(model, settings) is not None,
        },
        "instruction": instruction,
        "form": "choice",
        "mass": provenance.said_mass(mass),
        "cost": found.costs[0]._asdict(),
        "position_bias": bias,
    }
    return Chosen(rating.state_of(state, asked, items, meta), preference, bias, mass)


def posed(
    model: Model, items: Items, settings: How, wording: str = "", instruction: str = ""
) -> tuple[protocols.Asked, list[dict[str, str]], prompts.Prompts]:
    """What is asked of each pair, twice: first with the express action as A, then as B."""
    asked = protocols.ask(items, "paired")
    rows = _rows(list(asked.rows))
    frame = asking.template(model, settings)
    return asked, rows, prompts.assemble(rows, prompts.choice(wording), Letters(), (), frame, instruction)


def _rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Each pair in both orders, the express action first and then second."""
    return [
        {**express, "first": first["action"], "second": second["action"]}
        for express, suppress in zip(rows[::2], rows[1::2], strict=True)
        for first, second in ((express, suppress), (suppress, express))
    ]
