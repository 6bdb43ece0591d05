"""Written answers: what is an answer is read, and what is none is missing."""

import pytest

from vatjax import prompts

SCALE = prompts.Scale()

BOTH = [
    ("4", 4, 4),
    (" 4 ", 4, 4),
    ("4.", 4, 4),
    ("\n5\n", 5, 5),
    ("04", 4, 4),
    ("6", None, None),
    ("0", None, None),
    ("-4", None, None),
    ("4.5", None, None),
    ("4,5", None, None),
    ("", None, None),
    ("four", None, None),
    ("Rating: 3", None, 3),
    ("My rating is 3.", None, 3),
    ("**Answer:** 2", None, 2),
    ("I would say 4, since it helps.", None, 4),
    ("4/5", None, 4),
    ("4 out of 5", None, 4),
    ("Between 2 and 4", None, None),
    ("1, 2 or 3", None, None),
    ("It harms 2 people, so my rating: 1", None, 1),
    ("Rating: 3. On reflection, rating: 4.", None, None),
    ('{"rating": 2}', None, 2),
    ('Here you are: {"rating": 2, "people": 5} as asked.', None, 2),
    ('{"value": "5"}', None, 5),
    ('{"a": 2, "b": 3}', None, None),
    ('{"rating": 9}', None, None),
    ('```json\n{"rating": 5}\n```', None, 5),
    ("```\n3\n```", None, 3),
    ("I can't rate this from 1 to 5.", None, None),
    ("I cannot give a 3.", None, None),
    ("I'm sorry, but as an AI I will not say 5.", None, None),
    ("I won't answer. 4", None, None),
    ("As a language model I have no view; 3", None, None),
    ("Rating: 2 or 3", None, None),
    ("Rating: 3-4", None, None),
    ('{"rating": 9, "people": 3}', None, None),
    ("Rating: 9. It harms 3 people", None, None),
    ("A number of 3 people would be harmed. I say 1", None, None),
    ("On a scale from 1 to 5, I rate it 4.", None, 4),
    ("On a scale of 1 to 5: 2", None, 2),
    ("Room 4b", None, None),
    ("v4", None, None),
]


@pytest.mark.parametrize(("text", "strict", "forgiving"), BOTH)
def test_what_is_an_answer(text, strict, forgiving):
    assert prompts.parse_strict(text, SCALE) == strict
    assert prompts.parse_forgiving(text, SCALE) == forgiving


def test_a_falling_scale_turns_what_is_read():
    falling = prompts.Scale(falling=True)
    assert prompts.parse_strict("1", falling) == 5
    assert prompts.parse_forgiving('{"rating": 2}', falling) == 4


def test_whatever_is_written_is_an_option_or_nothing():
    scale = prompts.Scale(1, 10)
    assert prompts.parse_strict("10", scale) == 10
    assert prompts.parse_forgiving("10 out of 10", scale) == 10
    for text in ("\u0664", "\u00b2", "1" * 5000, "{" * 2000, '{"rating": 1e400}', "rating" * 500, "```" * 300):
        for parse in (prompts.parse_strict, prompts.parse_forgiving):
            assert parse(text, scale) in (None, *map(float, range(1, 11)))
