import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatjax import errors, names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Self-direction", "self direction"),
        ("Self-direction", "SELFDIRECTION"),
        ("A World at Peace", "world at peace"),
        ("Honoring of Parents and Elders", "Honouring of Parents & Elders"),
        ("Reciprocation of Favors", "reciprocation of favours"),
        ("Égalité", "egalite"),
        ("Naïve", "NAIVE"),
    ],
)
def test_spelling_variants_meet(one, other):
    assert names.canonical(one) == names.canonical(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Wealth", "Health"), ("हिंदी", "हद"), ("公平", "平公"), ("Power", "Social Power")]
)
def test_different_names_stay_apart(one, other):
    assert names.canonical(one) != names.canonical(other)


@given(st.text())
def test_canonical_is_idempotent_without_a_leading_article(text):
    key = names.canonical(text)
    assert names.canonical(key) == key


def test_an_unknown_name_is_answered_with_the_nearest():
    assert names.unknown_name("value", "Creativty", ["Creativity", "Power"]).endswith("did you mean 'Creativity'?")


def test_few_known_names_are_all_listed_where_none_is_near():
    assert names.unknown_name("protocol", "zzz", ["paired", "dense"]).endswith("known are: paired, dense")


def test_many_known_names_are_counted_where_none_is_near():
    assert "there are 40" in names.unknown_name("value", "zzz", [f"name {i}" for i in range(40)])


@pytest.mark.parametrize("name", ["zzz", "", "\0", "🎈"])
def test_find_refuses_what_is_not_there(name):
    with pytest.raises(errors.InputError, match="unknown value"):
        names.find("value", name, {"power": 1}, ["Power"])


def test_many_problems_become_one_error_with_a_count():
    problems = [errors.Problem("a.csv", line, "bad") for line in range(1, 31)]
    text = str(errors.all_of(problems, "Mend them."))
    assert text.splitlines()[0] == "a.csv:1: bad"
    assert "and 10 more problems" in text
    assert text.endswith("Mend them.")
