"""Two states of one model, joined by place, and the widest gaps first."""

import dataclasses

import numpy as np
import pytest

from vatjax import elicit, errors
from vatjax.states import ValueState
from vatjax.values import schwartz

TAX = schwartz()


def state(array, meta=None, **contexts):
    array = np.asarray(array, np.float32)
    keys = {key: np.array(column) for key, column in contexts.items()}
    meta = {"how": {"low": 1, "high": 5}, "model": {"weights": "w"}, **(meta or {})}
    return ValueState(array, ~np.isnan(array), np.arange(len(array), dtype=np.int32), TAX.names, keys, meta)


def planted():
    random = np.random.default_rng(0)
    stated = state(random.uniform(-2, 2, (3, 56)), country=["A", "A", "B"], topic=["x", "y", "x"])
    acted = random.uniform(-2, 2, (4, 56))
    acted[:, 5] = stated.state[[0, 0, 2, 2], 5]  # no gap
    acted[:, 7], acted[:, 9] = -2, np.nan
    wide = stated.state.copy()
    wide[:, 7] = 2
    stated = state(wide, country=["A", "A", "B"], topic=["x", "y", "x"])
    return stated, state(acted, country=["A", "A", "B", "B"], topic=["x", "x", "x", "z"], scene=["1", "2", "3", "4"])


def test_each_acted_context_meets_the_stated_one_of_its_place():
    stated, acted = planted()
    found = elicit.stated_and_acted(stated, acted, TAX)
    assert (found["contexts"], found["only_acted"], found["only_stated"]) == (3, 1, 1)
    table = {row["name"]: row for row in found["values"]}
    assert found["values"][0]["name"] == TAX.names[7]
    assert found["values"][0]["distance"] == pytest.approx(1)
    assert found["values"][0]["bias"] == pytest.approx(-1)
    assert found["values"][-1]["name"] == TAX.names[9]
    assert found["values"][-1]["distance"] is None
    said, done = stated.state[[0, 0, 2], 20], acted.state[:3, 20]
    assert table[TAX.names[20]]["distance"] == pytest.approx(np.abs(said - done).mean() / 4, abs=1e-6)
    assert table[TAX.names[5]]["agreement"] >= 2 / 3
    assert len(found["types"]) == 10
    members = np.flatnonzero(TAX.type_of == 0)
    apart = np.abs(stated.state[[0, 0, 2]][:, members].mean(1) - acted.state[:3][:, members].mean(1)).mean() / 4
    assert next(r for r in found["types"] if r["name"] == TAX.types[0])["distance"] == pytest.approx(apart, abs=1e-6)


def test_states_that_do_not_belong_together_are_refused():
    stated, acted = planted()
    other = dataclasses.replace(acted, meta={**acted.meta, "model": {"weights": "other"}})
    with pytest.raises(errors.InputError, match="come from different models"):
        elicit.stated_and_acted(stated, other, TAX)
    other = dataclasses.replace(acted, meta={**acted.meta, "how": {"low": 1, "high": 7}})
    with pytest.raises(errors.InputError, match="rated on different scales"):
        elicit.stated_and_acted(stated, other, TAX)
    other = dataclasses.replace(acted, meta={**acted.meta, "edit": "steered"})
    with pytest.raises(errors.InputError, match="come from different edits"):
        elicit.stated_and_acted(stated, other, TAX)
    other = dataclasses.replace(acted, meta={**acted.meta, "form": "choice"})
    with pytest.raises(errors.InputError, match="expected a state of the protocol paired"):
        elicit.stated_and_acted(stated, other, TAX)
    with pytest.raises(errors.InputError, match="no context key in common"):
        elicit.stated_and_acted(stated, dataclasses.replace(acted, contexts={}), TAX)
    elsewhere = {**acted.contexts, "country": np.array(["C"] * 4)}
    with pytest.raises(errors.InputError, match="share no country and topic"):
        elicit.stated_and_acted(stated, dataclasses.replace(acted, contexts=elsewhere), TAX)


def test_a_type_is_averaged_over_the_values_that_both_sides_have():
    one, other = np.full((2, 56), np.nan), np.full((2, 56), 2.0)
    first = np.flatnonzero(TAX.type_of == 1)[0]
    one[:, first] = 2.0
    other[:, np.arange(56) != first] = -2.0
    places = {"country": ["A", "B"], "topic": ["x", "x"]}
    found = elicit.stated_and_acted(state(other, **places), state(one, **places), TAX)
    row = next(row for row in found["types"] if row["name"] == TAX.types[1])
    assert (row["distance"], row["agreement"]) == (0, 1)
