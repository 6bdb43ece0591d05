"""Labels come from an annotator's standpoint ratings, once, and say how far it agrees with who wrote the items."""

import numpy as np
import pytest

from tests.elicit.speaking import speaking
from vatjax import elicit, errors, items
from vatjax.elicit import ask

TOPIC = items.bundled().topic[0]
DATA = items.bundled().where(country="Egypt", topic=TOPIC, value=["Wealth", "Wisdom"])

pytestmark = pytest.mark.filterwarnings("ignore:the options have")


def test_a_label_is_the_sign_of_a_rating_that_is_far_enough_from_the_middle(monkeypatch):
    values = len(DATA.taxonomy.names)
    rated = np.full((len(DATA), values), 3.2)
    rated[:, 0], rated[:, 1], rated[:, 2], rated[:, 3] = 4.0, 1.9, 3.9, np.nan
    rated[np.arange(len(DATA)), DATA.value] = 3 + 2 * DATA.polarity
    plain = ask.answers
    asked = []

    def answers(model, rows, how, *arguments, **options):
        asked.extend(rows)
        found = plain(model, rows[:2], how, *arguments, **options)
        return found._replace(ratings=rated.ravel())

    monkeypatch.setattr(ask, "answers", answers)
    found = elicit.label(speaking(), DATA)
    assert [row["value"] for row in asked[:values]] == list(DATA.taxonomy.names)
    assert asked[values - 1]["action"] == DATA.action[0] != asked[values]["action"] == DATA.action[1]
    np.testing.assert_array_equal(found.labels[:, :4], np.tile([1, -1, 0, 0], (len(DATA), 1)))
    assert found.polarity_agreement == 1
    assert found.meta["sure"] == 0.5
    weaker = elicit.label(speaking(), DATA, sure=0.4)
    np.testing.assert_array_equal(weaker.labels[:, :4], np.tile([1, -1, 1, 0], (len(DATA), 1)))


@pytest.mark.thorough
def test_labels_of_a_model_serve_the_protocol_labelled():
    found = elicit.label(speaking(), DATA, elicit.ElicitConfig("dense", floor=0), sure=0.01)
    assert found.labels.shape == (len(DATA), 56)
    assert {-1, 1} & set(np.unique(found.labels).tolist())
    rated = elicit.ratings(speaking(), DATA, elicit.ElicitConfig("labelled", floor=0), labels=found.labels)
    np.testing.assert_allclose(rated.state.state, (rated.ratings[:, None] - 3) * found.labels, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        elicit.ratings(speaking(), DATA, elicit.ElicitConfig("labelled", floor=0), labels=found).state.state,
        rated.state.state,
    )


def test_labels_are_written_and_read_with_what_produced_them(tmp_path):
    found = elicit.label(speaking(), DATA, sure=0.01)
    elicit.labels.save(found, tmp_path / "l.npz")
    again = elicit.labels.load(tmp_path / "l.npz")
    np.testing.assert_array_equal(again.labels, found.labels)
    assert (again.polarity_agreement, again.meta) == (found.polarity_agreement, found.meta)
    how = elicit.ElicitConfig("dense")
    assert elicit.labels.given_by(again, speaking(), DATA, how)
    assert not elicit.labels.given_by(again, speaking("qwen3"), DATA, how)
    assert not elicit.labels.given_by(again, speaking(), DATA.take(np.arange(4)), how)
    assert not elicit.labels.given_by(again, speaking(), DATA, elicit.ElicitConfig("dense", high=7))
    np.savez(tmp_path / "own.npz", labels=found.labels)
    np.testing.assert_array_equal(elicit.labels.load(tmp_path / "own.npz"), found.labels)
    np.savez(tmp_path / "other.npz", x=found.labels)
    with pytest.raises(errors.InputError, match=r"expected an .npz with the array `labels`"):
        elicit.labels.load(tmp_path / "other.npz")


def test_labels_of_other_items_are_refused():
    given, how = elicit.label(speaking(), DATA), elicit.ElicitConfig("labelled")
    other = items.bundled().where(country="France", topic=TOPIC, value=["Wealth", "Wisdom"])
    with pytest.raises(errors.InputError, match="the labels are of other items"):
        elicit.ratings(speaking(), other, how, labels=given)
    with pytest.raises(errors.InputError, match=r"expected the shape \(8, 56\) \(items, values\), found \(3, 56\)"):
        elicit.ratings(speaking(), DATA, how, labels=given.labels[:3])
    with pytest.raises(errors.InputError, match="expected -1, 0 and 1, found 2"):
        elicit.ratings(speaking(), DATA, how, labels=np.full((len(DATA), 56), 2))


def test_what_can_not_be_is_said():
    with pytest.raises(errors.InputError, match="as in dense, not as in paired"):
        elicit.label(speaking(), DATA, elicit.ElicitConfig("paired"))
    with pytest.raises(errors.InputError, match="sure: expected more than 0"):
        elicit.label(speaking(), DATA, sure=0)
