"""Logistic probes with a ridge penalty, one for each layer, fitted in float64 by solving a few small systems.

    minimise  sum_i log(1 + e^(-y_i (w . x_i + b))) + ridge / 2 |w|^2          y = +1, -1

There are fewer samples than dimensions, and w lies in the span of the samples. The problem is projected onto that span
(an orthogonal change of coordinates, which preserves the ridge) and solved there by Newton's method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STEPS = 50


class Probe(NamedTuple):
    """`p = sigmoid(w . h + b)` for each layer.

    Attributes:
        weight: w, [layers, width].
        bias: b, [layers].
    """

    weight: np.ndarray
    bias: np.ndarray

    def score(self, hidden: np.ndarray) -> np.ndarray:
        """Returns `w . h + b` of [layers, n, width], [layers, n]."""
        score: np.ndarray = np.einsum("lnd,ld->ln", np.float64(hidden), self.weight) + self.bias[:, None]
        return score

    def accuracy(self, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        """Returns the share of hidden states that each layer's probe classifies correctly, [layers]."""
        right = [self.score(positive) > 0, self.score(negative) < 0]
        share: np.ndarray = np.concatenate(right, 1).mean(1)
        return share


def fit(positive: np.ndarray, negative: np.ndarray, ridge: float = 1.0) -> Probe:
    """Fits probes that separate positive hidden states from negative ones.

    The ridge is in units of each layer's mean square state, so that it means the same in all layers.

    Args:
        positive, negative: [layers, n, width].
        ridge: of the weights, for states of mean square length 1.
    """
    fits = [_fit(a, b, ridge) for a, b in zip(positive, negative, strict=True)]
    return Probe(np.stack([w for w, _ in fits]), np.array([b for _, b in fits]))


def _fit(positive: np.ndarray, negative: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    x = np.concatenate([positive, negative], dtype=np.float64)
    y = np.repeat([1.0, -1.0], [len(positive), len(negative)])
    size = np.sqrt((x**2).sum(-1).mean()) or 1.0
    basis, triangle = np.linalg.qr((x / size).T)  # x / size = triangle.T @ basis.T
    w, b = newton(triangle.T, y, ridge)
    return basis @ w / size, b


def newton(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """Returns w and b that minimise the loss for samples [n, d], by damped Newton steps until it stops falling."""
    whole = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(whole.shape[1], ridge)
    penalty[-1] = 0
    w = np.zeros(whole.shape[1])

    def loss(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -y * (whole @ w)).sum() + 0.5 * (penalty * w**2).sum())

    best = loss(w)
    for _ in range(STEPS):
        p = 0.5 * (1 + np.tanh(-y * (whole @ w) / 2))  # the probability of the wrong class
        gradient = -whole.T @ (y * p) + penalty * w
        curve = (whole.T * (p * (1 - p))) @ whole + np.diag(penalty)
        curve[-1, -1] += 1e-12  # for samples that are separated with certainty
        step = np.linalg.solve(curve, gradient)
        share = 1.0
        while loss(w - share * step) > best and share > 1e-6:
            share /= 2
        w = w - share * step
        now = loss(w)
        if best - now <= 1e-12 * (1 + abs(best)):
            break
        best = now
    return w[:-1], float(w[-1])
