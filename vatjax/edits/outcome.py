"""What many edits do, each measured in the same way: to the target, to the other values, and to the model itself.

    preference odds    L_n - L_p                                           which of two actions it would choose
    utility odds       log((e^-Lp + e^-Ln) / (1 - e^-Lp - e^-Ln))          whether it answers the question at all

with L_p and L_n the negative log-likelihoods of the letters of the wanted and of the unwanted action, in both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vatjax import elicit, errors, metrics, prompts
from vatjax.elicit import together
from vatjax.items import Items
from vatjax.models import Edit, Model, decoder, hosts, sharding
from vatjax.models.edit import PROMPT, WRITTEN
from vatjax.models.model import positions_of
from vatjax.models.scoring import token_log_probs
from vatjax.models.tokens import batch, encode
from vatjax.progress import OnProgress, silent, within

Array = jax.Array

# A model whose options keep less than this share of their probability, or that reads plain text so much worse, is broken.
LEAST_MASS = 0.5
MOST_PERPLEXITY = 10.0


class Outcome(NamedTuple):
    """What one edit does.

    Attributes:
        gain: of the target, over the values of the state.
        off_target: mean absolute shift of the other types.
        nvat: of the types, as measured.
        success: the share of contexts in which the target is leaned to as wanted.
        preference: odds in nats, the mean over pairs and orders.
        utility: odds in nats, likewise.
        mass: mean option mass of the ratings.
        perplexity: on neutral text, in units of the unedited model's; NaN for a model that reads it worse than by chance.
        mass_before: mean option mass of the unedited model.
    """

    gain: float
    off_target: float
    nvat: float
    success: float
    preference: float
    utility: float
    mass: float
    perplexity: float
    mass_before: float = 1.0

    @property
    def broken(self) -> bool:
        """Returns whether the model has stopped to answer, or to write."""
        return breaks(self.mass, self.perplexity, self.mass_before)


def breaks(mass: float, perplexity: float, before: float = 1.0) -> bool:
    """Returns whether an intervention keeps a model from answering, or from writing.

    Args:
        mass: mean option mass.
        perplexity: on neutral text, in units of the unedited model's; NaN says nothing.
        before: mean option mass of the unedited model.
    """
    return not mass >= LEAST_MASS * before or perplexity > MOST_PERPLEXITY


def outcomes(
    model: Model,
    items: Items,
    target: str,
    edits: Sequence[Edit],
    direction: int = 1,
    texts: Sequence[str] | None = None,
    size: elicit.Size | None = None,
    at_once: int = 0,
    how: elicit.How | None = None,
    on_progress: OnProgress = silent,
) -> list[Outcome]:
    """Measures edits of one form against the unedited model.

    Args:
        model: the model.
        items: what is asked about; they must allow `paired`.
        target, direction: what was to be pushed, and which way.
        edits: of one form.
        texts: neutral ones; the bundled ones by default.
        size: how much is computed at one time.
        at_once: how many edits are computed together.
        how: how it is asked; `paired` by default.
        on_progress: is called with the completed fraction.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    if edits[0].positions == "written":
        raise errors.InputError(
            "ratings are read at the prompt's last token, so that an edit of written ones does nothing"
        )
    every = [edits[0] * 0.0, *edits]
    taxonomy, member = items.taxonomy, items.taxonomy.mask(target)
    ratings, choices = within(on_progress, 0, 0.85), within(on_progress, 0.85, 0.98)
    found = elicit.states_under(model, items, every, how, size, at_once, ratings)
    pairs = items.take(np.flatnonzero(member[items.value]))
    share = elicit.choices_under(model, pairs, every, size, at_once, how, choices)
    odds, useful = odds_of(share[..., ::direction])
    worse = perplexities(model, every, texts, at_once)
    by_type = [taxonomy.aggregate(x, ~np.isnan(x), "types") for x in found.states]
    own = jnp.asarray(taxonomy.columns(target))
    made = []
    # Without a strength it is the model itself: what rounds differently in another batch is no shift.
    for e in [e if float(edit.strength) else 0 for e, edit in enumerate(every)][1:]:
        tax = metrics.tax(by_type[0], by_type[e], own, direction)
        shift = np.asarray(tax.shift)[~np.asarray(own)]
        moved = (found.states[e] - found.states[0])[:, member]
        made.append(
            Outcome(
                gain=float(np.nanmean(np.nanmean(moved, 0)) * direction),
                off_target=float(np.nanmean(np.abs(shift))),
                nvat=float(tax.nvat),
                success=_share(found.states[e][:, member] * direction),
                preference=float(odds[e]),
                utility=float(useful[e]),
                mass=float(found.mass[e].mean()),
                mass_before=float(found.mass[0].mean()),
                perplexity=float(worse[e]),
            )
        )
    return made


def _share(leaning: np.ndarray) -> float:
    """How often a leaning is above 0, where there is one."""
    there = leaning[~np.isnan(leaning)]
    return float(np.mean(there > 0)) if there.size else float("nan")


def odds_of(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Preference and utility odds, each [edits], from probabilities [edits, pairs, orders, (wanted, unwanted)]."""
    least = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(share, least))
    mass = np.clip(share.sum(-1), least, 1 - 2.0**-24)  # no more is left over than float32 can tell
    preference = (logs[..., 0] - logs[..., 1]).mean((1, 2))
    utility = (np.log(mass) - np.log1p(-mass)).mean((1, 2))
    return preference, utility


def perplexities(
    model: Model, edits: Sequence[Edit], texts: Sequence[str] | None = None, at_once: int = 0
) -> np.ndarray:
    """The perplexity of neutral texts under each edit, in units of the unedited model's, [edits].

    NaN where that one reads them worse than by chance, as a model does that was never taught to: then there is nothing to
    spoil; and for edits of a prompt's last token.

    Args:
        model: the model.
        edits: of one form.
        texts: neutral ones; the bundled ones by default.
        at_once: how many edits are computed together.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    if edits[0].positions == "last":
        return np.full(len(edits), np.nan)  # a plain text has no prompt
    encoded = [encode(model.tokenizer, text) for text in texts or prompts.neutral_texts()]
    padded_texts = batch(encoded, multiple=16)
    tokens, present = sharding.filled((padded_texts.tokens, padded_texts.mask.astype(bool)), model.config.mesh)
    present = present & (np.arange(len(tokens)) < len(encoded))[:, None]  # rows that only fill up count for nothing
    every = [edits[0] * 0.0, *edits]
    count = min(at_once or together.AT_ONCE, len(every))
    nll = []
    for start in range(0, len(every), count):
        chosen = every[start : start + count]
        padded = [*chosen, *[chosen[-1]] * (count - len(chosen))]
        nll.append(hosts.fetch(_likelihoods(model, together.stacked(padded), tokens, present))[: len(chosen)])
    plain, *others = np.concatenate(nll).tolist()
    known = plain < np.log(model.config.vocabulary)
    return np.exp(np.array(others) - plain) if known else np.full(len(others), np.nan)


@jax.jit
def _likelihoods(model: Model, edits: Edit, tokens: Array, present: Array) -> Array:
    weights, config = model.arrays, model.config

    def one(edit: Edit) -> Array:
        kind = jnp.full(tokens.shape, WRITTEN if edit.positions == "written" else PROMPT, jnp.int8)
        hidden = decoder.embed(weights, config, tokens)
        hidden = decoder.layers(weights, config, hidden, positions_of(present), present, edit=edit, kind=kind).hidden
        found = token_log_probs(weights, config, hidden[:, :-1], tokens[:, 1:])
        return -jnp.sum(jnp.where(present[:, 1:], found, 0)) / jnp.sum(present[:, 1:]).astype(jnp.float32)

    nll: Array = jax.vmap(one)(edits)
    return nll
