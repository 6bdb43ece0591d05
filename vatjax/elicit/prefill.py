"""Choice of a prefill: option mass with and without the wording's answer cue, measured once for a model.

After a chat template many models begin with words of their own: "Rating: 4", "I would say 4". The assistant's turn then has
to begin with the answer cue, or the options have hardly any probability and the ratings are noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from vatjax import errors, items, models, prompts
from vatjax.elicit import ask
from vatjax.elicit.provenance import LOW_MASS
from vatjax.models import Model, computation_key
from vatjax.prompts import CUE, NO_PREFILL, ElicitConfig

# Bundled train-side items that a prefill is tried on.
_TRIED = 8
# A model with this option mass needs no prefill.
_ENOUGH = 0.8


class PrefillTrial(NamedTuple):
    """Option mass under the prefills that were tried.

    Attributes:
        prefill: the chosen one: "none", "cue" or a text.
        mass: mean option mass by prefill; empty where nothing had to be measured.
    """

    prefill: str
    mass: Mapping[str, float]

    def sentence(self, wording: prompts.Wording) -> str:
        """Returns the measured masses and the choice as a sentence; "" where nothing was measured."""
        if not self.mass:
            return ""
        masses = ", ".join(f"{mass:.2f} with {_called(name, wording)}" for name, mass in self.mass.items())
        return f"prefill: {_called(self.prefill, wording)}; option mass on {_TRIED} prompts: {masses}"


def _called(prefill: str, wording: prompts.Wording) -> str:
    if prefill == NO_PREFILL:
        return "none"
    return repr(f"{wording.answer} ") if prefill == CUE else repr(prefill)


def resolve_prefill(model: Model, how: ElicitConfig) -> ElicitConfig:
    """Returns the settings with a prefill other than "auto": the one that `choose_prefill` takes."""
    return how if how.prefill != "auto" else dataclasses.replace(how, prefill=choose_prefill(model, how).prefill)


def choose_prefill(model: Model, how: ElicitConfig, weights: str = "") -> PrefillTrial:
    """Measures the option mass of the unedited model with and without the answer cue, and chooses.

    The cue is taken where the model does not answer without it, and does with it. The prompts are the same for every model
    and every set of items, so that both sides of a comparison are asked alike.

    Args:
        model: the model; an abstract one, without weights, gets none.
        how: the settings of elicitation; a prefill other than "auto" is taken as it is.
        weights: the fingerprint of the model's weights, where it is known.
    """
    if how.prefill != "auto":
        return PrefillTrial(how.prefill, {})
    plain = dataclasses.replace(how, prefill=NO_PREFILL)
    if is_abstract(model) or ask.chat_format(model, plain) is None:
        return PrefillTrial(NO_PREFILL, {})
    key = _key(weights or models.fingerprint(model.arrays), model, plain)
    if key not in _MEASURED:
        _MEASURED[key] = _measured(model, plain)
    return _MEASURED[key]


def option_mass(model: Model, how: ElicitConfig) -> float:
    """Returns the mean option mass of the unedited model on a few bundled prompts, under a prefill that is not "auto"."""
    train, _ = items.bundled().split()
    chosen = np.linspace(0, len(train) - 1, _TRIED).astype(int)
    rows = [prompts.item_fields(train, int(i)) for i in chosen]
    chat = ask.chat_format(model, how)
    prompt_sets = ask.build_prompts(rows, dataclasses.replace(how, prior=False), ask.PLAIN, chat)
    result = ask.score_prompts(
        model, prompt_sets, [ask.tokenize_with_spellings(model, prompt_set, how) for prompt_set in prompt_sets]
    )
    return float(np.mean([np.exp(logs).sum(-1).mean() for logs in result.logs]))


def ensure_option_mass(
    model: Model, how: ElicitConfig, allow_low_mass: bool = False, on_message: Callable[[str], None] = lambda _: None
) -> ElicitConfig:
    """Returns the settings with the prefill resolved; a command checks a model with it before it asks anything.

    Args:
        model: the model, unedited; an abstract one is not measured.
        how: the settings of elicitation.
        allow_low_mass: go on with a model that hardly answers.
        on_message: is called with the measured masses.

    Raises:
        InputError: if the options have less than half of the probability on average.
    """
    if is_abstract(model) or how.reading == "generate":  # written answers need no mass on the scale
        return resolve_prefill(model, how)
    on_message("measuring how much of its probability the model puts on the scale")
    attempt, wording = choose_prefill(model, how), how.wordings()[0]
    how = dataclasses.replace(how, prefill=attempt.prefill)
    if not attempt.mass:
        attempt = PrefillTrial(how.prefill, {how.prefill: option_mass(model, how)})
    on_message(attempt.sentence(wording))
    mass = attempt.mass[how.prefill]
    if mass < LOW_MASS and not allow_low_mass:
        masses = "; ".join(f"{_called(name, wording)}: {share:.0%}" for name, share in attempt.mass.items())
        if not wording.answer and how.chat is not False:
            masses += f"; the wording {wording.name} has no answer cue to try"
        raise errors.InputError(
            f"{model.name or 'the model'}: the options have {mass:.0%} of the probability on average, so that ratings would "
            f"be noise (prefills tried: {masses}); try another --prefill or --wording, or give --allow-low-mass"
        )
    return how


def is_abstract(model: Model) -> bool:
    """Returns whether a model is abstract: shapes without weights."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model.arrays))


# Measurements, by all inputs they depend on: the model itself is not kept.
_MEASURED: dict[tuple[str, ...], PrefillTrial] = {}


def _key(weights: str, model: Model, how: ElicitConfig) -> tuple[str, ...]:
    settings = ("protocol", "wording", "low", "high", "counterbalance", "chat", "template", "floor")
    wordings = repr([dataclasses.astuple(wording) for wording in how.wordings()])
    template = str(getattr(model.tokenizer, "chat_template", None))
    return (weights, computation_key(model), template, wordings, *(repr(getattr(how, name)) for name in settings))


def recorded_mass(weights: str, model: Model, how: ElicitConfig) -> Mapping[str, float]:
    """Returns the option mass by prefill that was measured of a model in this process; empty if none was.

    Args:
        weights: the fingerprint of the model's weights.
        model, how: as in `choose_prefill`.
    """
    return _MEASURED[key].mass if (key := _key(weights, model, how)) in _MEASURED else {}


def _measured(model: Model, how: ElicitConfig) -> PrefillTrial:
    mass = {NO_PREFILL: option_mass(model, how)}
    if mass[NO_PREFILL] >= _ENOUGH or not all(wording.answer for wording in how.wordings()):
        return PrefillTrial(NO_PREFILL, mass)
    mass[CUE] = option_mass(model, dataclasses.replace(how, prefill=CUE))
    answers = mass[CUE] > mass[NO_PREFILL] and mass[CUE] >= how.floor
    return PrefillTrial(CUE if answers else NO_PREFILL, mass)


__all__ = [
    "PrefillTrial",
    "choose_prefill",
    "ensure_option_mass",
    "is_abstract",
    "option_mass",
    "recorded_mass",
    "resolve_prefill",
]
