"""The way of gain and tax: states of steps against the first, and when each value has arrived."""

import dataclasses

import numpy as np
import pytest

from tests.train.test_examples import few, pocket
from vatjax import elicit, errors, metrics, train, values


def test_drift_time():
    steps = [10, 20, 30, 40]
    shift = np.array(
        [
            [0.96, 0.5, 1.2, 0.0, -0.3, np.nan, 0.99],
            [0.97, 0.9, 0.5, 0.0, -0.7, np.nan, 0.2],
            [0.98, 0.94, 0.96, 0.0, -0.95, np.nan, 0.99],
            [1.0, 1.0, 1.0, 0.0, -1.0, np.nan, 1.0],
        ]
    )
    found = train.drift_time(steps, shift)
    np.testing.assert_array_equal(found, [10, 40, 30, np.nan, 30, np.nan, 30])
    assert train.drift_time([5], shift[-1:])[0] == 5


def test_points_are_the_tax_against_the_first():
    taxonomy = values.schwartz()
    state = elicit.rate(pocket(), few().where(topic=few().topic[0], value=["Wealth", "Social Power", "Loyalty"]))
    later = dataclasses.replace(state, state=state.state + np.where(state.mask, 0.1, 0).astype(np.float32))
    last = dataclasses.replace(
        state, state=state.state + np.random.default_rng(0).normal(0, 0.2, state.state.shape).astype(np.float32)
    )
    way = train.trajectory({20: last, 0: state, 10: later}, taxonomy, "Power", -1)
    assert way.steps.tolist() == [10, 20]
    assert way.gain[0] == pytest.approx(-0.1, abs=1e-6)
    expected = metrics.tax(
        taxonomy.aggregate(state.state, state.mask, "types"),
        taxonomy.aggregate(last.state, last.mask, "types"),
        taxonomy.column_mask("Power"),
        -1,
    )
    assert way.gain[1] == pytest.approx(float(expected.gain), rel=1e-6)
    np.testing.assert_allclose(way.shift[1], expected.shift, rtol=1e-6)
    content = way.as_dict(taxonomy)
    assert [point["step"] for point in content["points"]] == [10, 20]
    assert set(content["drift_time"]) == set(taxonomy.names)


def test_probes_are_rated_once(tmp_path, monkeypatch):
    asked = few().where(topic=few().topic[0], value=["Wealth", "Loyalty"])
    probes = train.Probes(asked, tmp_path, about={"rate": 1.0})
    state = train.init(pocket(), train.Lora(rank=2), train.Adam(), steps=3)
    probes(state, 0)
    before = elicit.rate(pocket(), asked)
    np.testing.assert_allclose(probes.states()[0].state, before.state, atol=1e-5)
    monkeypatch.setattr(elicit, "ratings", None)
    probes(state, 0)
    assert list(probes.states()) == [0]
    assert train.Probes(asked, tmp_path, about={"rate": 2.0}).states() == {}  # another run begins anew
    with pytest.raises(errors.InputError, match="a start and at least one later step, found 1 states"):
        train.trajectory(probes.states(), asked.taxonomy, "Power")
