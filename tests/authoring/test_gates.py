"""Gates that need no model, on actions written by hand, good and bad."""

import gzip
import json

import pytest

from vatjax import authoring, items, values
from vatjax.authoring import text_gates
from vatjax.authoring.records import Request, Text
from vatjax.authoring.settings import Gates

SCENE = "The clerk at the post office in Lyon asks who was first, and two of us answer."
PROMPT = f"Read the situation and say one concrete thing that the person in it does. Situation: {SCENE}"
WORDS = authoring.words_for(values.schwartz())


def action(text, value="Helpful", ended=True, settings=None):
    request = Request("action", {"scene": SCENE, "value": value, "polarity": "express"}, "zero-shot")
    return text_gates.run_text_gates(
        Text(text, ended), text_gates.GateInput(request, PROMPT, WORDS[value], settings or Gates())
    )


GOOD = [
    "I let the man with the crutches go before me and hold the door for him.",
    "I tell the clerk that I came second, and step back into the line.",
    "I say nothing, take out my parcel and push it over the counter before he can speak.",
    "We agree to ask the clerk for two forms and to fill them in side by side.",
]
BAD = [
    ("", "whole: empty"),
    ("  \n", "whole: empty"),
    ("... !?", "whole: no words"),
    ("I go.", "length: 2 words, expected 4 to 50"),
    ("I wait and " * 20, "length: 60 words, expected 4 to 50"),
    (SCENE, "echo: 100% copied from the prompt"),
    ("say one concrete thing that the person in it does", "echo: 100% copied from the prompt"),
    ("Ich lasse den alten Mann vor und halte ihm die Tür auf, bis er draußen ist.", "language: de with probability"),
    ("Je laisse passer le vieux monsieur et je lui tiens la porte jusqu'à la rue.", "language: fr with probability"),
    ("Dejo pasar al señor mayor y le sujeto la puerta hasta que está en la calle.", "language: es with probability"),
    ("I am helpful and let the man with the crutches go first.", "leak: names the value: 'helpful'"),
    ("With all my helpfulness I let the man go before me.", "leak: names the value: 'helpfulness'"),
    ("I enjoy helping the man with the crutches to the counter.", "leak: names the value: 'helping'"),
]


@pytest.mark.parametrize("text", GOOD)
def test_good_actions_pass(text):
    assert [one.gate for one in action(text) if one.passed] == ["whole", "length", "echo", "language", "leak"]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_bad_actions_are_refused_with_their_reason(text, why):
    found = action(text)
    assert f"{found[-1].gate}: {found[-1].why}".startswith(why)
    assert found[-1].passed is False
    assert all(one.passed for one in found[:-1])


def test_a_script_without_spaces_has_as_many_words_as_letters():
    found = action("我让拄着拐杖的老人先走,替他扶着门。", settings=Gates(language="zh"))
    assert [one.passed for one in found] == [True] * 5
    assert found[1].score == 16


def test_a_text_without_an_end_is_refused_unless_that_is_wanted():
    assert action(GOOD[0], ended=False)[-1].why == "does not end"
    assert action(GOOD[0], ended=False, settings=Gates(ended=False))[-1].passed


@pytest.mark.parametrize(
    ("value", "text", "word"),
    [
        ("Wealth", "I buy shares and grow wealthy.", "wealthy"),
        ("Obedient", "I do it out of obedience.", "obedience"),
        ("Social Power", "I speak of power, and of social things.", "social power"),
        ("Social Power", "I switch the power off.", ""),
        ("Self-Respect", "I keep my self-respect.", "self respect"),
        ("Self-Respect", "I say calmly what the work is worth.", ""),
        ("Self-Respect", "I seat myself by the door.", ""),
        ("Equality", "Everybody gets an equal part.", "equal"),
        ("Honest", "Honestly, I leave.", "Honestly"),
        ("A World at Peace", "I work for peace in the world.", "world peace"),
        *[
            (value, f"It is {word} that I sit down.", word)
            for value, forms in {
                "Helpful": "helpful helpfully helping helpfulness",
                "Obedient": "obedient obediently obedience obey",
                "Successful": "successfully success successes succeed",
                "Ambitious": "ambitiously ambition ambitions",
                "Independent": "independently independence",
                "Responsible": "responsibly responsibility responsibilities",
                "Curious": "curiously curiosity",
                "Respect for Tradition": "tradition traditions traditional",
                "Forgiving": "forgave forgiven forgiveness forgive",
                "Honest": "honesty honestly",
                "Wealth": "wealthy wealth",
                "Loyal": "loyalty loyally",
                "Influential": "influence influences influential",
            }.items()
            for word in forms.split()
        ],
        ("Enjoying Life", "I enjoy my life.", "enjoy life"),
        ("Freedom", "I pick up the keys and drive to the sea.", ""),
        ("Clean", "I sweep the hall and the stairs.", ""),
    ],
)
def test_a_value_that_is_named_is_found(value, text, word):
    assert authoring.find_leak(WORDS[value], text) == word


def test_a_value_is_found_in_the_forms_of_its_own_language():
    assert authoring.find_leak(["Gehorsam"], "Er tut es gehorsame Wege lang.", "de") == "gehorsame"
    assert authoring.find_leak(["Freiheit"], "Sie spricht von Freiheiten.", "de") == "Freiheiten"
    assert (
        authoring.find_leak(["gehoorzaam"], "Hij is gehoorzame.", "xx") == ""
    )  # whose forms nobody knows: the word itself alone
    assert authoring.find_leak(["gehoorzaam"], "Hij is Gehoorzaam.", "xx") == "Gehoorzaam"


def test_the_bundled_actions_pass():
    """They were written by people who knew the rules; a word for the value stands in some."""
    leaks = 0
    data = items.bundled()
    some = data.take(list(range(0, len(data), 97)))
    for item in some:
        request = Request("action", {"scene": item.scene, "value": item.value, "polarity": item.polarity}, "")
        found = text_gates.run_text_gates(
            Text(item.action), text_gates.GateInput(request, item.scene, WORDS[item.value], Gates())
        )
        assert all(one.passed for one in found if one.gate != "leak"), (item, found)
        leaks += not all(one.passed for one in found)
    assert leaks <= len(some) * 0.05


def test_published_actions_are_english(value_actions):
    with gzip.open(value_actions, "rt") as file:
        rows = [json.loads(line) for line in file][::50]
    texts = [next(row[key] for key in row if "action" in key.lower() and isinstance(row[key], str)) for row in rows]
    refused = [
        text for text in texts if any(one.gate == "language" and not one.passed for one in action(text, "Wisdom"))
    ]
    assert len(refused) <= len(texts) // 200


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ("I ask the clerk for two forms.", "i ASK the clerk for two forms!", 1.0),
        ("I ask the clerk for two forms.", "I ask the clerk for three forms.", 3 / 7),
        ("I ask the clerk for two forms.", "We walk home along the river.", 0.0),
        ("我拒绝了邀请留在家里", "我拒绝了邀请留在家里", 1.0),
        ("", "", 0.0),
    ],
)
def test_near_duplicates(one, other, share):
    index = authoring.ShingleIndex()
    index.add("a", one)
    found = index.nearest(other)
    assert (found.share if found else 0.0) == pytest.approx(share)
    sets = authoring.shingles(one), authoring.shingles(other)
    if sets[0] | sets[1]:
        assert len(sets[0] & sets[1]) / len(sets[0] | sets[1]) == pytest.approx(share)


def test_the_nearest_is_that_of_every_pair():
    data = items.bundled()
    texts = [item.action for item in data.take(list(range(0, 3000, 13)))]
    index = authoring.ShingleIndex()
    for number, text in enumerate(texts):
        sets = [authoring.shingles(other) for other in texts[:number]]
        own = authoring.shingles(text)
        best = max((len(own & other) / len(own | other) for other in sets), default=0.0)
        found = index.nearest(text)
        assert (found.share if found else 0.0) == pytest.approx(best)
        index.add(str(number), text)
