"""What training lessens, each a pure function of the log-probabilities of whole texts.

A policy p is trained beside a reference q that stays as it is. For a prompt x with a chosen text c and a rejected text r,

    C = log p(c | x) - log q(c | x)        R = log p(r | x) - log q(r | x)        h = C - R

and `mean log p` is the log-probability divided by the number of the text's tokens. `dpo(beta=0.1)` gives a `Loss`, which
a training step takes; called with log-probabilities it gives one number for each pair:

    loss = train.dpo(beta=0.1)
    loss(Pairs(...))                       # [pairs]

In this literature "label smoothing" is two different losses: here they are `cdpo` and `robust_dpo`.
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

# The nearest to 0 that a mean log-probability is taken to be where the odds p / (1 - p) are formed.
_SURE = -1e-6


class Texts(NamedTuple):
    """Log-probabilities of texts, each [n] float32.

    Attributes:
        policy: the sum over a text's tokens, under the model that is trained.
        reference: the same under the reference; 0 for losses without one.
        length: how many tokens.
    """

    policy: Array
    reference: Array
    length: Array

    @property
    def ratio(self) -> Array:
        """`log p - log q`."""
        return self.policy - self.reference

    @property
    def mean(self) -> Array:
        """`mean log p`."""
        return self.policy / self.length

    @property
    def mean_ratio(self) -> Array:
        """`mean log p - mean log q`."""
        return self.ratio / self.length


class Pairs(NamedTuple):
    """Pairs of texts behind the same prompts."""

    chosen: Texts
    rejected: Texts


class Judged(NamedTuple):
    """Texts with a verdict.

    Attributes:
        texts: their log-probabilities.
        good: [n] bool, which are desirable.
        drift: scalar, how far the policy has moved from the reference on texts that don't belong to their prompts.
    """

    texts: Texts
    good: Array
    drift: Array


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss with its settings; two with the same settings are equal, so that a compiled step serves both.

    Attributes:
        name: what it is called.
        kind: what one number belongs to: a text, a pair of texts, or a text with a verdict.
        function: from log-probabilities and settings to numbers.
        options: the settings.
        reference: whether it compares with a reference.
        reward: what the rewards are made of that are reported: `beta (log p - log q)`, or their means over tokens.
    """

    name: str
    kind: Kind
    function: Callable[..., Array]
    options: tuple[tuple[str, float], ...]
    reference: bool
    reward: Callable[[Texts], Array]

    def __call__(self, found: Any) -> Array:
        """One number for each text or pair; given `Texts`, `Pairs` or `Judged`."""
        return self.function(found, **dict(self.options))

    def rewards(self, texts: Texts) -> Array:
        """The implicit reward of each text, `beta (log p - log q)`."""
        return dict(self.options).get("beta", 1.0) * self.reward(texts)


def _made(
    kind: Kind, reward: Callable[[Texts], Array], reference: bool = True
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Loss]]:
    """Turns a function of log-probabilities and settings into one of its settings alone."""

    def of(function: Callable[Concatenate[Any, P], Array]) -> Callable[P, Loss]:
        @functools.wraps(function)
        def make(*values: P.args, **named: P.kwargs) -> Loss:
            names = list(function.__kwdefaults__ or {})
            settings = {**(function.__kwdefaults__ or {}), **named}
            wrong = [name for name in settings if name not in names]
            if values or wrong:
                raise TypeError(f"{function.__name__}: its settings are {', '.join(names) or 'none'}, given by name")
            _check(function.__name__, settings)
            return Loss(function.__name__, kind, function, tuple(sorted(settings.items())), reference, reward)

        return make

    return of


def _check(name: str, settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not jnp.isfinite(value):
            raise errors.InputError(f"{name}: {key}: expected a number, found {value!r}")
        if key == "flipped" and not 0 <= value < 0.5:
            raise errors.InputError(f"{name}: flipped: expected a share from 0 to below 0.5, found {value}")
        if key == "beta" and value <= 0:
            raise errors.InputError(f"{name}: beta: expected more than 0, found {value}")


@_made("texts", lambda texts: texts.policy, reference=False)
def sft(texts: Texts) -> Array:
    """Supervised fine-tuning: `-log p(c | x)` of the completion alone, summed here and divided by tokens once.

    Ouyang et al. (2022), Training language models to follow instructions with human feedback, section 3.5.
    """
    return -texts.policy


@_made("pairs", lambda texts: texts.ratio)
def dpo(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Direct preference optimisation: `-log sigmoid(beta h)`.

    Rafailov et al. (2023), Direct Preference Optimization, equation 7.
    """
    return -jax.nn.log_sigmoid(beta * (pairs.chosen.ratio - pairs.rejected.ratio))


@_made("pairs", lambda texts: texts.ratio)
def cdpo(pairs: Pairs, *, beta: float = 0.1, flipped: float = 0.1) -> Array:
    """Conservative DPO: cross-entropy where a share of the labels is taken to be wrong.

    `-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)`; Mitchell (2023), A note on DPO with noisy preferences.
    """
    logit = beta * (pairs.chosen.ratio - pairs.rejected.ratio)
    return -(1 - flipped) * jax.nn.log_sigmoid(logit) - flipped * jax.nn.log_sigmoid(-logit)


@_made("pairs", lambda texts: texts.ratio)
def robust_dpo(pairs: Pairs, *, beta: float = 0.1, flipped: float = 0.1) -> Array:
    """DPO whose mean over wrong labels is DPO's own on the right ones.

    `(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e)`; Chowdhury et al. (2024), Provably Robust DPO.
    """
    logit = beta * (pairs.chosen.ratio - pairs.rejected.ratio)
    kept, turned = jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)
    return (-(1 - flipped) * kept + flipped * turned) / (1 - 2 * flipped)


@_made("pairs", lambda texts: texts.mean_ratio)
def ipo(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Identity preference optimisation: `(h - 1 / (2 beta))^2`, with h from means over tokens.

    Azar et al. (2023), A General Theoretical Paradigm, equation 17; the means are its authors' correction.
    """
    return (pairs.chosen.mean_ratio - pairs.rejected.mean_ratio - 1 / (2 * beta)) ** 2


@_made("pairs", lambda texts: texts.ratio)
def hinge(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """A hinge on the margin: `max(0, 1 - beta h)`; Zhao et al. (2023), SLiC-HF."""
    return jax.nn.relu(1 - beta * (pairs.chosen.ratio - pairs.rejected.ratio))


@_made("pairs", lambda texts: texts.mean, reference=False)
def simpo(pairs: Pairs, *, beta: float = 2.0, margin: float = 1.0) -> Array:
    """Without a reference: `-log sigmoid(beta (mean log p(c) - mean log p(r)) - margin)`; Meng et al. (2024), SimPO."""
    return -jax.nn.log_sigmoid(beta * (pairs.chosen.mean - pairs.rejected.mean) - margin)


@_made("pairs", lambda texts: texts.mean, reference=False)
def orpo(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """SFT on what was chosen, and its odds over what was rejected.

    `-mean log p(c) - beta log sigmoid(log odds(c) - log odds(r))` with `odds = e^m / (1 - e^m)` and m the mean log p;
    Hong et al. (2024), ORPO, equations 6 and 7.
    """
    gap = _log_odds(pairs.chosen.mean) - _log_odds(pairs.rejected.mean)
    return -pairs.chosen.mean - beta * jax.nn.log_sigmoid(gap)


def _log_odds(mean: Array) -> Array:
    """`m - log(1 - e^m)`, in the form that keeps its digits."""
    mean = jnp.minimum(mean, _SURE)
    near = mean > -jnp.log(2.0)
    close, far = jnp.where(near, mean, -1.0), jnp.where(near, -1.0, mean)
    return mean - jnp.where(near, jnp.log(-jnp.expm1(close)), jnp.log1p(-jnp.exp(far)))


@_made("pairs", lambda texts: texts.ratio)
def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> Array:
    """Anchored preference optimisation: what is chosen gains, what is rejected loses.

    `1 - sigmoid(beta C) + sigmoid(beta R)`; D'Oosterlinck et al. (2024), Anchored Preference Optimization, APO-zero.
    """
    return 1 - jax.nn.sigmoid(beta * pairs.chosen.ratio) + jax.nn.sigmoid(beta * pairs.rejected.ratio)


@_made("judged", lambda texts: texts.ratio)
def kto(judged: Judged, *, beta: float = 0.1, good: float = 1.0, bad: float = 1.0) -> Array:
    """Kahneman-Tversky optimisation, of single texts that are desirable or not.

    `good (1 - sigmoid(beta (C - z)))` for the first and `bad (1 - sigmoid(beta (z - R)))` for the others, with z the drift
    `max(0, mean(log p - log q))` over texts of other prompts, through which no gradient flows; Ethayarajh et al. (2024),
    KTO, equation 8.
    """
    drift = jax.lax.stop_gradient(judged.drift)
    gain = beta * (judged.texts.ratio - drift)
    return jnp.where(judged.good, good * (1 - jax.nn.sigmoid(gain)), bad * (1 - jax.nn.sigmoid(-gain)))


LOSSES: dict[str, Callable[..., Loss]] = {
    make.__name__: make for make in (sft, dpo, cdpo, robust_dpo, ipo, hinge, simpo, orpo, apo_zero, kto)
}
