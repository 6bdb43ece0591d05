"""Which prefill makes a model answer: option mass with and without the wording's answer cue, measured once for a model.

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
from vatjax.elicit import asking
from vatjax.elicit.provenance import LOW_MASS
from vatjax.models import Model, computed_as
from vatjax.prompts import CUE, NO_PREFILL, How

# Bundled train-side items that a prefill is tried on.
_TRIED = 8
# A model with this option mass needs no prefill.
_ENOUGH = 0.8


class Tried(NamedTuple):
    """Option mass under the prefills that were tried.

    Attributes:
        prefill: the one that is taken: "none", "cue" or a text.
        mass: mean option mass by prefill; empty where nothing had to be measured.
    """

    prefill: str
    mass: Mapping[str, float]

    def sentence(self, wording: prompts.Wording) -> str:
        """Returns what was measured and taken, as a sentence; "" where nothing was."""
        if not self.mass:
            return ""
        masses = ", ".join(f"{mass:.2f} with {_called(name, wording)}" for name, mass in self.mass.items())
        return f"prefill: {_called(self.prefill, wording)}; option mass on {_TRIED} prompts: {masses}"


def _called(prefill: str, wording: prompts.Wording) -> str:
    if prefill == NO_PREFILL:
        return "none"
    return repr(f"{wording.answer} ") if prefill == CUE else repr(prefill)


def resolved(model: Model, how: How) -> How:
    """Returns the settings with a prefill that is not "auto": what `tried` takes."""
    return how if how.prefill != "auto" else dataclasses.replace(how, prefill=tried(model, how).prefill)


def tried(model: Model, how: How, weights: str = "") -> Tried:
    """Measures the option mass of the unedited model with and without the answer cue, and takes one of them.

    The cue is taken where the model does not answer without it, and does with it. The prompts are the same for every model
    and every set of items, so that both sides of a comparison are asked alike.

    Args:
        model: the model; one without weights (an outline) gets none.
        how: how it is asked; a prefill other than "auto" is taken as it is.
        weights: the fingerprint of the model's weights, where it is known.
    """
    if how.prefill != "auto":
        return Tried(how.prefill, {})
    plain = dataclasses.replace(how, prefill=NO_PREFILL)
    if is_abstract(model) or asking.template(model, plain) is None:
        return Tried(NO_PREFILL, {})
    key = _key(weights or models.fingerprint(model.arrays), model, plain)
    if key not in _MEASURED:
        _MEASURED[key] = _measured(model, plain)
    return _MEASURED[key]


def mass_of(model: Model, how: How) -> float:
    """Returns the mean option mass of the unedited model on a few bundled prompts, under a prefill that is not "auto"."""
    train, _ = items.bundled().split()
    chosen = np.linspace(0, len(train) - 1, _TRIED).astype(int)
    rows = [prompts.fields(train, int(i)) for i in chosen]
    chat = asking.template(model, how)
    made = asking.posed(rows, dataclasses.replace(how, prior=False), asking.PLAIN, chat)
    found = asking.scored(model, made, [asking.tokenised(model, one, how) for one in made])
    return float(np.mean([np.exp(logs).sum(-1).mean() for logs in found.logs]))


def answering(
    model: Model, how: How, allow_low_mass: bool = False, on_message: Callable[[str], None] = lambda _: None
) -> How:
    """Returns how a model is asked, with its prefill: what a command does before it asks anything.

    Args:
        model: the model, unedited; an outline is not measured.
        how: how it is asked.
        allow_low_mass: go on with a model that hardly answers.
        on_message: hears what was measured.

    Raises:
        InputError: where the options have less than half of the probability on average.
    """
    if is_abstract(model) or how.reading == "generate":  # written answers need no mass on the scale
        return resolved(model, how)
    on_message("measuring how much of its probability the model puts on the scale")
    attempt, wording = tried(model, how), how.wordings()[0]
    how = dataclasses.replace(how, prefill=attempt.prefill)
    if not attempt.mass:
        attempt = Tried(how.prefill, {how.prefill: mass_of(model, how)})
    on_message(attempt.sentence(wording))
    mass = attempt.mass[how.prefill]
    if mass < LOW_MASS and not allow_low_mass:
        masses = "; ".join(f"{_called(name, wording)}: {one:.0%}" for name, one in attempt.mass.items())
        raise errors.InputError(
            f"{model.name or 'the model'}: the options have {mass:.0%} of the probability on average, so that ratings would "
            f"be noise (prefills tried: {masses}); try another --prefill or --wording, or give --allow-low-mass"
        )
    return how


def is_abstract(model: Model) -> bool:
    """Returns whether a model is an outline, without weights."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model.arrays))


# What was measured, by all that decides it: the model itself is not kept.
_MEASURED: dict[tuple[str, ...], Tried] = {}


def _key(weights: str, model: Model, how: How) -> tuple[str, ...]:
    settings = ("protocol", "wording", "low", "high", "counterbalance", "chat", "template", "floor")
    wordings = repr([dataclasses.astuple(wording) for wording in how.wordings()])
    template = str(getattr(model.tokenizer, "chat_template", None))
    return (weights, computed_as(model), template, wordings, *(repr(getattr(how, name)) for name in settings))


def recorded(weights: str, model: Model, how: How) -> Mapping[str, float]:
    """Returns the option mass by prefill that was measured of a model in this process; empty where none was.

    Args:
        weights: the fingerprint of the model's weights.
        model, how: as in `tried`.
    """
    return _MEASURED[key].mass if (key := _key(weights, model, how)) in _MEASURED else {}


def _measured(model: Model, how: How) -> Tried:
    mass = {NO_PREFILL: mass_of(model, how)}
    if mass[NO_PREFILL] >= _ENOUGH or not all(wording.answer for wording in how.wordings()):
        return Tried(NO_PREFILL, mass)
    mass[CUE] = mass_of(model, dataclasses.replace(how, prefill=CUE))
    answers = mass[CUE] > mass[NO_PREFILL] and mass[CUE] >= how.floor
    return Tried(CUE if answers else NO_PREFILL, mass)


__all__ = ["Tried", "answering", "is_abstract", "mass_of", "recorded", "resolved", "tried"]
