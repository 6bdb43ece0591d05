"""Loss functions; each is a pure function of the log-probabilities of whole texts.

A policy p is trained against a frozen reference q. For a prompt x with a chosen text c and a rejected text r,

    C = log p(c | x) - log q(c | x)        R = log p(r | x) - log q(r | x)        h = C - R

and `mean log p` is the log-probability divided by the number of the text's tokens. `dpo(beta=0.1)` returns a `Loss` for
a training step; called with log-probabilities, it returns one number per pair:

    loss = train.dpo(beta=0.1)
    loss(Pairs(...))                       # [pairs]

The literature calls two different losses "label smoothing": here they are `cdpo` and `robust_dpo`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp

from vatjax import errors

Array = jax.Array
P = ParamSpec("P")
Kind = Literal["texts", "pairs", "judged"]

# Upper bound of a mean log-probability in the odds p / (1 - p), which keeps them finite.
_SURE = -1e-6


class Texts(NamedTuple):
    """Log-probabilities of texts, each [n] float32.

    Attributes:
        policy: summed over the text's tokens, under the trained model.
        reference: the same under the reference; 0 for losses without one.
        length: number of tokens.
    """

    policy: Array
    reference: Array
    length: Array

    @property
    def ratio(self) -> Array:
        """Returns `log p - log q`."""
        return self.policy - self.reference

    @property
    def mean(self) -> Array:
        """Returns `mean log p`."""
        return self.policy / self.length

    @property
    def mean_ratio(self) -> Array:
        """Returns `mean log p - mean log q`."""
        return self.ratio / self.length


class Pairs(NamedTuple):
    """Pairs of texts that complete the same prompts."""

    chosen: Texts
    rejected: Texts


class Judged(NamedTuple):
    """Texts labelled desirable or not.

    Attributes:
        texts: their log-probabilities.
        good: [n] bool, True for desirable texts.
        drift: scalar, how far the policy has moved from the reference on completions of mismatched prompts.
    """

    texts: Texts
    good: Array
    drift: Array


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss with its settings; losses with the same settings are equal, so that they share a compiled step.

    Attributes:
        name: name of the loss.
        kind: unit of one number: a text, a pair of texts, or a labelled text.
        function: maps log-probabilities and settings to numbers.
        options: the settings.
        reference: whether it needs a reference.
        reward: the reported reward up to the factor beta: `log p - log q`, or its mean over tokens.
    """

    name: str
    kind: Kind
    function: Callable[..., Array]
    options: tuple[tuple[str, float], ...]
    reference: bool
    reward: Callable[[Texts], Array]

    def __call__(self, inputs: Any) -> Array:
        """Computes one number for each text or pair of `Texts`, `Pairs` or `Judged`."""
        return self.function(inputs, **dict(self.options))

    def rewards(self, texts: Texts) -> Array:
        """Computes the implicit reward of each text, `beta (log p - log q)`."""
        return dict(self.options).get("beta", 1.0) * self.reward(texts)


def _loss_factory(
    kind: Kind, reward: Callable[[Texts], Array], reference: bool = True
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Loss]]:
    """Turns a function of log-probabilities and settings into a function of settings that returns a `Loss`."""

    def decorate(function: Callable[Concatenate[Any, P], Array]) -> Callable[P, Loss]:
        @functools.wraps(function)
        def factory(*values: P.args, **named: P.kwargs) -> Loss:
            names = list(function.__kwdefaults__ or {})
            settings = {**(function.__kwdefaults__ or {}), **named}
            wrong = [name for name in settings if name not in names]
            if values or wrong:
                raise TypeError(f"{function.__name__}: its settings are {', '.join(names) or 'none'}, given by name")
            _check(function.__name__, settings)
            return Loss(function.__name__, kind, function, tuple(sorted(settings.items())), reference, reward)

        return factory

    return decorate


def _check(name: str, settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not jnp.isfinite(value):
            raise errors.InputError(f"{name}: {key}: expected a number, found {value!r}")
        if key == "flipped" and not 0 <= value < 0.5:
            raise errors.InputError(f"{name}: flipped: expected a share from 0 to below 0.5, found {value}")
        if key == "beta" and value <= 0:
            raise errors.InputError(f"{name}: beta: expected more than 0, found {value}")


@_loss_factory("texts", lambda texts: texts.policy, reference=False)
def sft(texts: Texts) -> Array:
    """Computes the supervised fine-tuning loss: `-log p(c | x)` of the completion, summed here, divided by tokens once.

    Ouyang et al. (2022), Training language models to follow instructions with human feedback, section 3.5.
    """
    return -texts.policy


@_loss_factory("pairs", lambda texts: texts.ratio)
def dpo(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Computes the direct preference optimisation loss: `-log sigmoid(beta h)`.

    Rafailov et al. (2023), Direct Preference Optimization, equation 7.
    """
    return -jax.nn.log_sigmoid(beta * (pairs.chosen.ratio - pairs.rejected.ratio))


@_loss_factory("pairs", lambda texts: texts.ratio)
def cdpo(pairs: Pairs, *, beta: float = 0.1, flipped: float = 0.1) -> Array:
    """Computes the conservative DPO loss: cross-entropy under an assumed share `e = flipped` of wrong labels.

    `-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)`; Mitchell (2023), A note on DPO with noisy preferences.
    """
    logit = beta * (pairs.chosen.ratio - pairs.rejected.ratio)
    return -(1 - flipped) * jax.nn.log_sigmoid(logit) - flipped * jax.nn.log_sigmoid(-logit)


@_loss_factory("pairs", lambda texts: texts.ratio)
def robust_dpo(pairs: Pairs, *, beta: float = 0.1, flipped: float = 0.1) -> Array:
    """Computes the robust DPO loss, whose mean over labels flipped with probability `e = flipped` is DPO on true ones.

    `(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e)`; Chowdhury et al. (2024), Provably Robust DPO.
    """
    logit = beta * (pairs.chosen.ratio - pairs.rejected.ratio)
    as_given, swapped = jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)
    return (-(1 - flipped) * as_given + flipped * swapped) / (1 - 2 * flipped)


@_loss_factory("pairs", lambda texts: texts.mean_ratio)
def ipo(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Computes the identity preference optimisation loss: `(h - 1 / (2 beta))^2`, with h from means over tokens.

    Azar et al. (2023), A General Theoretical Paradigm, equation 17; the means are its authors' correction.
    """
    return (pairs.chosen.mean_ratio - pairs.rejected.mean_ratio - 1 / (2 * beta)) ** 2


@_loss_factory("pairs", lambda texts: texts.ratio)
def hinge(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Computes the hinge loss of the margin: `max(0, 1 - beta h)`; Zhao et al. (2023), SLiC-HF."""
    return jax.nn.relu(1 - beta * (pairs.chosen.ratio - pairs.rejected.ratio))


@_loss_factory("pairs", lambda texts: texts.mean, reference=False)
def simpo(pairs: Pairs, *, beta: float = 2.0, margin: float = 1.0) -> Array:
    """Computes the SimPO loss, without a reference: `-log sigmoid(beta (mean log p(c) - mean log p(r)) - margin)`.

    Meng et al. (2024), SimPO.
    """
    return -jax.nn.log_sigmoid(beta * (pairs.chosen.mean - pairs.rejected.mean) - margin)


@_loss_factory("pairs", lambda texts: texts.mean, reference=False)
def orpo(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Computes the ORPO loss: SFT on the chosen text, plus its odds ratio over the rejected text.

    `-mean log p(c) - beta log sigmoid(log odds(c) - log odds(r))` with `odds = e^m / (1 - e^m)` and m the mean log p;
    Hong et al. (2024), ORPO, equations 6 and 7.
    """
    gap = _log_odds(pairs.chosen.mean) - _log_odds(pairs.rejected.mean)
    return -pairs.chosen.mean - beta * jax.nn.log_sigmoid(gap)


def _log_odds(mean: Array) -> Array:
    """Computes `m - log(1 - e^m)` in its numerically stable form."""
    mean = jnp.minimum(mean, _SURE)
    near = mean > -jnp.log(2.0)
    close, far = jnp.where(near, mean, -1.0), jnp.where(near, -1.0, mean)
    return mean - jnp.where(near, jnp.log(-jnp.expm1(close)), jnp.log1p(-jnp.exp(far)))


@_loss_factory("pairs", lambda texts: texts.ratio)
def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Computes the anchored preference optimisation loss: raises the chosen text and lowers the rejected one.

    `1 - sigmoid(beta C) + sigmoid(beta R)`; D'Oosterlinck et al. (2024), Anchored Preference Optimization, APO-zero.
    """
    return 1 - jax.nn.sigmoid(beta * pairs.chosen.ratio) + jax.nn.sigmoid(beta * pairs.rejected.ratio)


@_loss_factory("judged", lambda texts: texts.ratio)
def kto(judged: Judged, *, beta: float = 0.1, good: float = 1.0, bad: float = 1.0) -> Array:
    """Computes the Kahneman-Tversky optimisation loss on single texts that are desirable or not.

    `good (1 - sigmoid(beta (C - z)))` for desirable texts, else `bad (1 - sigmoid(beta (z - R)))`, with z the drift
    `max(0, mean(log p - log q))` over texts of other prompts, through which no gradient flows; Ethayarajh et al. (2024),
    KTO, equation 8.
    """
    drift = jax.lax.stop_gradient(judged.drift)
    gain = beta * (judged.texts.ratio - drift)
    return jnp.where(judged.good, good * (1 - jax.nn.sigmoid(gain)), bad * (1 - jax.nn.sigmoid(-gain)))


# A new loss stands here, in `settings.LossName` and in the exports of `train`; it is a kind of intervention then.
LOSSES: dict[str, Callable[..., Loss]] = {
    make.__name__: make for make in (sft, dpo, cdpo, robust_dpo, ipo, hinge, simpo, orpo, apo_zero, kto)
}
