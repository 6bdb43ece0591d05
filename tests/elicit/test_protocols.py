"""Answers find their places: planted ratings come back as the state that each protocol defines."""

import dataclasses

import numpy as np
import pytest

from vatjax import errors, items
from vatjax.elicit import protocols

DATA = items.bundled().where(country=["Egypt", "Germany"], topic=items.bundled().topic[0], type=["Power", "Security"])
TOTAL = 56


def planted(asked, seed=0):
    rows = list(asked.rows)
    ratings = np.random.default_rng(seed).integers(1, 6, len(rows)).astype(float)
    return rows, ratings


def test_paired_is_half_the_difference_of_a_pair():
    asked = protocols.make_questions(DATA, "paired")
    rows, ratings = planted(asked)
    state, level = protocols.answers_to_state(asked, ratings, 3.0, TOTAL)
    by_action = {(row["scene"], row["action"]): rating for row, rating in zip(rows, ratings, strict=True)}
    pairs = DATA.pair()
    assert len(pairs.express) == (~np.isnan(state)).sum()
    for e, s in zip(pairs.express, pairs.suppress, strict=True):
        context = [i for i, scene in enumerate(asked.contexts["scene"]) if scene == DATA.scene[e]]
        own, other = by_action[DATA.scene[e], DATA.action[e]], by_action[DATA.scene[s], DATA.action[s]]
        assert state[context[0], DATA.value[e]] == (own - other) / 2
        assert level[context[0], DATA.value[e]] == (own + other) / 2 - 3
    assert np.isnan(state[:, DATA.taxonomy.index("Wisdom")]).all()


def test_a_scene_with_one_value_has_country_and_topic_as_its_context():
    one = DATA.where(value="Wealth")
    scenes = np.array([f"{scene} {value}" for scene, value in zip(DATA.scene, DATA.value, strict=True)], object)
    apart = dataclasses.replace(DATA, scene=scenes)
    asked = protocols.make_questions(apart, "paired")
    assert set(asked.contexts) == {"country", "topic"}
    rows, ratings = planted(asked)
    state, _ = protocols.answers_to_state(asked, ratings, 3.0, TOTAL)
    assert state.shape == (2, TOTAL)  # two scenes of each place and value are averaged
    place = asked.contexts["country"].tolist().index("Egypt")
    column = one.taxonomy.index("Wealth")
    own = [
        (side, rating)
        for row, side, rating in zip(rows, asked.side, ratings, strict=True)
        if row["country"] == "Egypt" and row["value"] == "Wealth"
    ]
    assert len(own) == 4
    assert state[place, column] == pytest.approx(sum(side * rating for side, rating in own) / 4)


def test_labelled_gives_each_item_its_rating_times_its_labels():
    asked = protocols.make_questions(DATA, "labelled")
    rows, ratings = planted(asked)
    labels = np.random.default_rng(1).integers(-1, 2, (len(rows), TOTAL))
    state, level = protocols.answers_to_state(asked, ratings, 3.0, TOTAL, labels)
    np.testing.assert_array_equal(state, ((ratings - 3)[:, None] * labels).astype(np.float32))
    assert level is None
    assert [row["action"] for row in rows] == list(DATA.action)


def test_dense_has_a_row_for_each_pair_and_a_column_for_each_standpoint():
    asked = protocols.make_questions(DATA, "dense")
    rows, ratings = planted(asked)
    state, level = protocols.answers_to_state(asked, ratings, 3.0, TOTAL)
    pairs = DATA.pair()
    assert state.shape == (len(pairs.express), TOTAL)
    seen = {(r["scene"], r["action"], r["value"]): x for r, x in zip(rows, ratings, strict=True)}
    for row in (0, 7, len(pairs.express) - 1):
        e, s = pairs.express[row], pairs.suppress[row]
        assert asked.contexts["value"][row] == DATA[e].value
        for column in (0, 30, 55):
            name = DATA.taxonomy.names[column]
            own, other = seen[DATA.scene[e], DATA.action[e], name], seen[DATA.scene[s], DATA.action[s], name]
            assert state[row, column] == (own - other) / 2
            assert level[row, column] == (own + other) / 2 - 3
    assert len(np.unique(asked.clusters)) == len(set(DATA.extra["situation"])) == 3  # two of its four scenes are copies


def test_stated_has_a_row_for_each_place():
    asked = protocols.make_questions(DATA, "stated")
    rows, ratings = planted(asked)
    state, level = protocols.answers_to_state(asked, ratings, 3.0, TOTAL)
    assert state.shape == (2, TOTAL)
    assert level is None
    for row, rating, context, column in zip(rows, ratings, asked.context, asked.value, strict=True):
        assert asked.contexts["country"][context] == row["country"]
        assert DATA.taxonomy.names[column] == row["value"]
        assert state[context, column] == rating - 3


def test_a_missing_answer_is_missing_and_nothing_else():
    asked = protocols.make_questions(DATA, "paired")
    _, ratings = planted(asked)
    whole, _ = protocols.answers_to_state(asked, ratings, 3.0, TOTAL)
    ratings[5] = np.nan
    state, level = protocols.answers_to_state(asked, ratings, 3.0, TOTAL)
    changed = np.isnan(state) & ~np.isnan(whole)
    assert changed.sum() == 1
    assert changed[asked.context[5], asked.value[5]]
    assert (np.isnan(level) == np.isnan(state)).all()


@pytest.mark.parametrize("protocol", ["paired", "dense"])
def test_items_without_a_partner_are_counted_and_named(protocol):
    lonely = DATA.take(np.arange(len(DATA)) != 1)
    with pytest.warns(UserWarning, match=f"1 of {len(lonely)} items have no partner .* such as line"):
        asked = protocols.make_questions(lonely, protocol)
    assert len(list(asked.rows)) == (len(DATA) - 2) * (TOTAL if protocol == "dense" else 1)


def test_items_that_do_not_allow_a_protocol_say_why():
    alone = DATA.where(polarity="express")
    with pytest.raises(errors.InputError, match="paired is not possible: no scene has both"):
        protocols.make_questions(alone, "paired")
    with pytest.raises(errors.InputError, match="did you mean 'paired'"):
        protocols.make_questions(DATA, "pared")


def test_stated_asks_about_the_values_that_items_are_chosen_for():
    data = items.bundled().where(country="Egypt", value=["Wealth", "Wisdom"])
    asked = protocols.make_questions(data, "stated")
    rows = list(asked.rows)
    assert {row["value"] for row in rows} == {"Wealth", "Wisdom"}
    assert len(rows) == len(asked.value) == 2 * len(asked.clusters)
    assert [data.taxonomy.names[v] for v in asked.value] == [row["value"] for row in rows]
    assert protocols.asked_cells(asked, 56) == len(rows)
