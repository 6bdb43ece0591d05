"""Probes have the minimum of their loss, whatever the shape of the samples."""

import numpy as np
import pytest
from scipy import optimize

from vatjax.edits import logistic


def loss(q, x, y, ridge):
    return np.logaddexp(0, -y * (x @ q[:-1] + q[-1])).sum() + 0.5 * ridge * (q[:-1] ** 2).sum()


@pytest.mark.parametrize(("n", "width", "apart"), [(12, 40, 3.0), (60, 5, 0.3), (20, 20, 30.0)])
def test_the_minimum_is_scipys(n, width, apart):
    random = np.random.default_rng(n)
    positive, negative = (random.normal(size=(2, n, width)) + side * apart / width**0.5 for side in (1, -1))
    found = logistic.fit(np.float32(positive), np.float32(negative), ridge=0.5)
    for layer in range(2):
        x = np.concatenate([np.float32(positive[layer]), np.float32(negative[layer])]).astype(np.float64)
        size = np.sqrt((x**2).sum(-1).mean())
        y = np.repeat([1.0, -1.0], n)
        best = optimize.minimize(
            loss, np.zeros(width + 1), (x / size, y, 0.5), method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}
        )
        ours = np.append(found.weight[layer] * size, found.bias[layer])
        assert loss(ours, x / size, y, 0.5) <= best.fun + 1e-9
        np.testing.assert_allclose(ours, best.x, atol=1e-4 * np.abs(best.x).max())


def test_a_layer_without_any_difference_has_no_weights():
    same = np.ones((1, 9, 4), np.float32)
    found = logistic.fit(same, same)
    np.testing.assert_allclose(found.weight, 0, atol=1e-9)
    assert found.accuracy(same + 1, same - 1)[0] <= 0.5


def test_accuracy_is_the_share_on_the_right_side():
    probe = logistic.Probe(np.array([[1.0, 0.0]]), np.array([-1.0]))
    positive = np.array([[[2.0, 5.0], [0.0, 9.0]]])
    negative = np.array([[[0.5, 0.0], [3.0, 0.0]]])
    assert probe.accuracy(positive, negative)[0] == 0.5
