"""Stated against acted: counted by hand, with what is missing left out and nothing else."""

import numpy as np
import pytest

from vatjax import metrics

pytestmark = pytest.mark.fast_compile


def by_hand(stated, acted, half):
    rows = []
    for v in range(stated.shape[1]):
        pairs = [(s, a) for s, a in zip(stated[:, v], acted[:, v], strict=True) if not (np.isnan(s) or np.isnan(a))]
        true = sum(s > 0 and a > 0 for s, a in pairs)
        only_said = sum(s > 0 and a <= 0 for s, a in pairs)
        only_done = sum(s <= 0 and a > 0 for s, a in pairs)
        named = 2 * true + only_said + only_done
        n = len(pairs)
        rows.append(
            (
                1 - (only_said + only_done) / n if n else np.nan,
                2 * true / named if named else np.nan,
                np.mean([abs((s + half) / (2 * half) - (a + half) / (2 * half)) for s, a in pairs]) if n else np.nan,
                np.mean([(a - s) / (2 * half) for s, a in pairs]) if n else np.nan,
                n,
            )
        )
    return np.array(rows).T


@pytest.mark.parametrize("half", [2.0, 4.5])
def test_the_gap_is_what_a_person_would_count(half):
    random = np.random.default_rng(0)
    stated, acted = (random.integers(-4, 5, (40, 6)) / 2 for _ in range(2))
    stated[random.random(stated.shape) < 0.2] = np.nan
    acted[:, 2] = np.nan
    acted[:, 3], stated[:, 3] = -1, np.where(np.isnan(stated[:, 3]), np.nan, -0.5)
    found = metrics.stated_acted_gap(stated.astype(np.float32), acted.astype(np.float32), half)
    np.testing.assert_allclose(np.stack(found), by_hand(stated, acted, half), atol=1e-6)
    assert np.isnan(found.f1[3])  # neither is ever for it
    assert found.agreement[3] == 1


def test_weights_are_frequencies():
    random = np.random.default_rng(1)
    stated, acted = (random.normal(size=(12, 3)).astype(np.float32) for _ in range(2))
    weights = random.integers(0, 4, 12)
    rows = np.repeat(np.arange(12), weights)
    for one, other in zip(
        metrics.stated_acted_gap(stated, acted, weights=weights),
        metrics.stated_acted_gap(stated[rows], acted[rows]),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
