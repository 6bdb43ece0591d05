"""Two actions at once: preferences that do not hang on the order, and how much the order does."""

import numpy as np
import pytest

from tests.elicit.speaking import CHAT, speaking
from tests.elicit.test_rating import DATA, by_hand
from tests.tiers import quick
from vatjax import elicit, errors, prefix, prompts
from vatjax.elicit import ask, protocols
from vatjax.models import tokens

pytestmark = pytest.mark.filterwarnings("ignore:the options have")


@pytest.mark.parametrize("template", quick([None, CHAT], [CHAT]))
def test_preferences_are_those_of_whole_prompts_in_both_orders(template):
    model = speaking("llama", template)
    chat = None if template is None else lambda messages: tokens.render_chat(model.tokenizer, messages)
    found = elicit.choose(model, DATA, how=elicit.ElicitConfig(floor=0))
    rows = list(protocols.make_questions(DATA, "paired").rows)
    assert found.preference.shape == (len(rows) // 2,)
    for pair in (0, len(found.preference) - 1):
        express, suppress = rows[2 * pair], rows[2 * pair + 1]
        shares = [
            by_hand(model, {**express, "first": a, "second": b}, prompts.choice_wording(), prompts.Letters(), chat)
            for a, b in ((express["action"], suppress["action"]), (suppress["action"], express["action"]))
        ]
        expected = (shares[0][0] / shares[0].sum() + shares[1][1] / shares[1].sum()) / 2
        assert found.preference[pair] == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(found.mass[pair], [share.sum() for share in shares], rtol=1e-3)
    pairs = DATA.pair()
    scenes = found.state.contexts["scene"].tolist()
    for pair, (e, preference) in enumerate(zip(pairs.express, found.preference, strict=True)):
        cell = found.state.state[scenes.index(DATA.scene[e]), pairs.value[pair]]
        assert cell == pytest.approx(2 * preference - 1, abs=1e-6)


def test_the_bias_towards_a_place_is_told_apart_from_the_preference(monkeypatch):
    shares = np.array([[0.6, 0.2], [0.6, 0.2], [0.1, 0.3], [0.7, 0.1]])  # two pairs, two orders each

    def answers(model, made, read_as, edit, run, **_):
        assert len(made[0]) == 2 * 6
        logs = np.log(np.concatenate([shares, np.tile(shares, (2, 1))]))
        return ask.Scored([logs], [prefix.Cost(12, 1, 1, 1)], prefix.Size())

    monkeypatch.setattr(ask, "score_prompts", answers)
    found = elicit.choose(speaking(), DATA.where(country="Egypt"))
    np.testing.assert_allclose(found.preference[:2], [0.5, (0.25 + 0.125) / 2])
    first = shares[:, 0] / shares.sum(1)
    assert found.bias == pytest.approx(first.mean() - 0.5)
    assert found.state.meta["position_bias"] == found.bias
    assert found.state.meta["form"] == "choice"


@pytest.mark.thorough
def test_there_are_three_wordings():
    states = [elicit.choose(speaking(), DATA, wording=name).state for name in ("should", "better", "likely")]
    assert len({state.meta["prompts"]["sha256"][0] for state in states}) == 3
    with pytest.raises(errors.InputError, match="unknown wording 'shoud'; did you mean 'should'"):
        elicit.choose(speaking(), DATA, wording="shoud")
