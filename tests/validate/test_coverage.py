"""The metrics on planted answers find what was planted; and a check says so only where they do."""

import numpy as np
import pytest

from vatjax.validate import checks, coverage


@pytest.mark.thorough
def test_intervals_cover_and_independence_is_left_alone():
    found = [*coverage._coverage(range(12)), *coverage._independence(range(10))]
    assert [check for check in found if not check.passed] == []
    assert {check.part for check in found} == {"planted circle", "planted independence"}


@pytest.mark.thorough
def test_a_style_fools_the_raw_numbers_alone():
    style = coverage.response_style(range(10))
    assert style.raw_alarms == 1
    assert style.ipsatised_alarms <= 0.3
    assert style.ipsatised < 0.05 < style.raw


@pytest.mark.thorough
def test_a_hub_is_found():
    assert all(check.passed for check in coverage._hub(range(2)))


@pytest.mark.thorough
def test_a_truth_that_is_another_is_missed(monkeypatch):
    """The check of coverage can fail."""
    plain = coverage._holds
    monkeypatch.setattr(coverage, "_holds", lambda interval, truth: plain(interval, np.asarray(truth) + 0.5))
    assert not any(check.passed for check in coverage._coverage(range(10)))


def test_bounds_allow_for_chance_and_no_more():
    assert checks.share_at_most("", "", 5, 40, 0.05).passed
    assert not checks.share_at_most("", "", 7, 40, 0.05).passed
    assert checks.share_at_least("", "", 34, 40, 0.95).passed
    assert not checks.share_at_least("", "", 33, 40, 0.95).passed
    assert not checks.at_least("", "", float("nan"), 0).passed
    assert not checks.at_most("", "", float("nan"), 1).passed
    assert checks.at_most("", "", 1, 1) == ("", "", 1.0, "<= 1", True)


@pytest.mark.parametrize("kind", ["circle", "agreement"])
def test_a_seed_draws_everything_anew(kind):
    one, same, other = (coverage._world(kind, seed, 5).pull["c0"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
