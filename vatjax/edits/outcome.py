"""Outcomes of many edits, measured in the same way: for the target, for the other values, and for the model itself.

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

from vatjax import elicit, errors, metrics, prefix, prompts
from vatjax.items import Items
from vatjax.metrics.arrays import mean_present
from vatjax.metrics.intervals import clustered_mean
from vatjax.models import Edit, Model, decoder, sharding
from vatjax.models.edit import PROMPT, WRITTEN
from vatjax.models.model import positions_of
from vatjax.models.scoring import token_log_probs
from vatjax.models.tokens import encode, pad_batch
from vatjax.prefix import score_edits
from vatjax.runtime import processes
from vatjax.runtime.progress import OnProgress, ignore_progress, stage_progress

Array = jax.Array

# A model is broken if its option mass falls below this share, or its perplexity on plain text rises by this factor.
LEAST_MASS = 0.5
MOST_PERPLEXITY = 10.0


class Outcome(NamedTuple):
    """The measured outcome of one edit.

    Attributes:
        gain: mean shift of the target's values in the given direction.
        off_target: mean absolute shift of the other types.
        nvat: of the types, as measured.
        success: share of contexts that lean to the target in the given direction.
        preference: odds in nats, the mean over pairs and orders.
        utility: odds in nats, likewise.
        mass: mean option mass of the ratings.
        perplexity: on neutral text, relative to the unedited model's; NaN if that one reads it worse than by chance.
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
        """Returns True if the model no longer answers, or no longer writes."""
        return is_broken(self.mass, self.perplexity, self.mass_before)


def is_broken(mass: float, perplexity: float, before: float = 1.0) -> bool:
    """Returns True if an intervention keeps a model from answering, or from writing.

    Args:
        mass: mean option mass.
        perplexity: on neutral text, relative to the unedited model's; NaN is ignored.
        before: mean option mass of the unedited model.
    """
    return not mass >= LEAST_MASS * before or perplexity > MOST_PERPLEXITY


def utility_loss(before: np.ndarray, after: np.ndarray, cluster: np.ndarray) -> metrics.Estimate:
    """Computes the share of the option mass that an intervention removes, with an interval over clusters.

    Args:
        before, after: option mass of each prompt, [prompts].
        cluster: the scene of each prompt, [prompts].
    """
    return clustered_mean(1 - after / np.maximum(before, 1e-6), cluster)


def outcomes(
    model: Model,
    items: Items,
    target: str,
    edits: Sequence[Edit],
    direction: int = 1,
    texts: Sequence[str] | None = None,
    size: prefix.Size | None = None,
    at_once: int = 0,
    how: elicit.ElicitConfig | None = None,
    on_progress: OnProgress = ignore_progress,
) -> list[Outcome]:
    """Measures edits of one form against the unedited model.

    Args:
        model: the model.
        items: to ask about; they must allow `paired`.
        target, direction: of the edits.
        edits: of one form.
        texts: neutral ones; the bundled ones by default.
        size: limits of a pass.
        at_once: number of edits computed together.
        how: elicitation settings; `paired` by default.
        on_progress: callback; receives the completed fraction.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    if edits[0].positions == "written":
        raise errors.InputError(
            "ratings are read at the prompt's last token, so that an edit of written ones does nothing"
        )
    every = [edits[0] * 0.0, *edits]
    taxonomy, member = items.taxonomy, items.taxonomy.mask(target)
    ratings, choices = stage_progress(on_progress, 0, 0.85), stage_progress(on_progress, 0.85, 0.98)
    rated = elicit.states_under(model, items, every, how, size, at_once, ratings)
    pairs = items.take(np.flatnonzero(member[items.value]))
    share = elicit.choices_under(model, pairs, every, size, at_once, how, choices)
    odds, useful = odds_of(share[..., ::direction])
    worse = perplexities(model, every, texts, at_once)
    by_type = [taxonomy.aggregate(x, ~np.isnan(x), "types") for x in rated.states]
    on_target = jnp.asarray(taxonomy.column_mask(target))
    results = []
    # Strength 0 is the unedited model: rounding differences between batches are not a shift.
    for e in [e if float(edit.strength) else 0 for e, edit in enumerate(every)][1:]:
        tax = metrics.tax(by_type[0], by_type[e], on_target, direction)
        shift = np.asarray(tax.shift)[~np.asarray(on_target)]
        moved = (rated.states[e] - rated.states[0])[:, member]
        results.append(
            Outcome(
                gain=mean_present(np.array([mean_present(column) for column in moved.T])) * direction,
                off_target=mean_present(np.abs(shift)),
                nvat=float(tax.nvat),
                success=_share(rated.states[e][:, member] * direction),
                preference=float(odds[e]),
                utility=float(useful[e]),
                mass=float(rated.mass[e].mean()),
                mass_before=float(rated.mass[0].mean()),
                perplexity=float(worse[e]),
            )
        )
    return results


def _share(leaning: np.ndarray) -> float:
    """Returns the share of the leanings without NaN that are above 0."""
    return mean_present(np.where(np.isnan(leaning), np.nan, leaning > 0))


def odds_of(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns preference and utility odds, each [edits]; share is [edits, pairs, orders, (wanted, unwanted)]."""
    least = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(share, least))
    mass = np.clip(share.sum(-1), least, 1 - 2.0**-24)  # float32 cannot represent a smaller remainder
    preference = (logs[..., 0] - logs[..., 1]).mean((1, 2))
    utility = (np.log(mass) - np.log1p(-mass)).mean((1, 2))
    return preference, utility


def perplexities(
    model: Model, edits: Sequence[Edit], texts: Sequence[str] | None = None, at_once: int = 0
) -> np.ndarray:
    """Returns the perplexity of neutral texts under each edit, relative to the unedited model's, [edits].

    NaN if the unedited model reads them worse than by chance, as an untrained model does: an edit can't spoil it
    further. NaN also for edits of a prompt's last token.

    Args:
        model: the model.
        edits: of one form.
        texts: neutral ones; the bundled ones by default.
        at_once: number of edits computed together.
    """
    if not edits:
        raise errors.InputError("no edits are given")
    if edits[0].positions == "last":
        return np.full(len(edits), np.nan)  # a plain text has no prompt
    plain, *others = _neutral_nll(model, [edits[0] * 0.0, *edits], texts, at_once)
    known = plain < np.log(model.config.vocabulary)
    return np.exp(np.array(others) - plain) if known else np.full(len(others), np.nan)


def relative_perplexity(model: Model, other: Model, texts: Sequence[str] | None = None) -> float:
    """Returns the perplexity of neutral texts under another checkpoint, relative to the model's; NaN as in `perplexities`.

    Args:
        model: the reference.
        other: a model with the same tokenizer.
        texts: neutral ones; the bundled ones by default.
    """
    unchanged = Edit(jnp.asarray(0.0), residual=jnp.zeros((model.config.layers, model.config.width)))
    before = _neutral_nll(model, [unchanged], texts)[0]
    changed = Edit(jnp.asarray(0.0), residual=jnp.zeros((other.config.layers, other.config.width)))
    after = _neutral_nll(other, [changed], texts)[0]
    return float(np.exp(after - before)) if before < np.log(model.config.vocabulary) else float("nan")


def _neutral_nll(
    model: Model, edits: Sequence[Edit], texts: Sequence[str] | None = None, at_once: int = 0
) -> list[float]:
    """Returns the mean negative log-likelihood of a token of neutral texts under each edit."""
    encoded = [encode(model.tokenizer, text) for text in texts or prompts.neutral_texts()]
    padded_texts = pad_batch(encoded, multiple=16)
    tokens, present = sharding.pad_and_shard_batch(
        (padded_texts.tokens, padded_texts.mask.astype(bool)), model.config.mesh
    )
    present = present & (np.arange(len(tokens)) < len(encoded))[:, None]  # padding rows are not counted
    count = min(at_once or score_edits.MAX_EDITS, len(edits))
    nll = []
    for start in range(0, len(edits), count):
        chosen = edits[start : start + count]
        padded = [*chosen, *[chosen[-1]] * (count - len(chosen))]
        nll.append(
            processes.fetch(_likelihoods(model, score_edits.stack_edits(padded), tokens, present))[: len(chosen)]
        )
    values: list[float] = np.concatenate(nll).tolist()
    return values


@jax.jit
def _likelihoods(model: Model, edits: Edit, tokens: Array, present: Array) -> Array:
    weights, config = model.arrays, model.config

    def mean_nll(edit: Edit) -> Array:
        kind = jnp.full(tokens.shape, WRITTEN if edit.positions == "written" else PROMPT, jnp.int8)
        hidden = decoder.embed(weights, config, tokens)
        layout = decoder.Layout(positions_of(present), present, kind)
        hidden = decoder.run_layers(weights, config, hidden, layout, edit=edit).hidden
        log_probs = token_log_probs(weights, config, hidden[:, :-1], tokens[:, 1:])
        return -jnp.sum(jnp.where(present[:, 1:], log_probs, 0)) / jnp.sum(present[:, 1:]).astype(jnp.float32)

    nll: Array = jax.vmap(mean_nll)(edits)
    return nll
