"""Prompts of any kind, scored by the prefix tree as `models.log_probs` scores each alone."""

import itertools

import numpy as np
import pytest

from vatjax import errors, models, prefix
from vatjax.models import tokens

RUBRIC = "Rate it from 1 to 5.\n"
QUESTIONS = [f"Action: I share {n} of my things.\n" for n in ("1", "2", "3")]
CUES = ["Rating:", "Rate:"]


@pytest.fixture(scope="module")
def model():
    return models.load("pocket")


def one_by_one(model, text, answer):
    """Returns the log-probability of an answer after a text, with and without a space before it."""
    prompt, total = tokens.encode(model.tokenizer, text), 0.0
    for space in ("", " "):
        whole = tokens.encode(model.tokenizer, text + space + answer)
        logs = np.asarray(models.log_probs(model, np.array([whole])))[0]
        total += np.exp(logs[len(prompt) :].sum(dtype=np.float64)) if whole[: len(prompt)] == prompt else 0.0
    return np.log(total)


def test_scores_are_those_of_each_prompt_alone(model):
    rows = list(itertools.product([RUBRIC], QUESTIONS, CUES))
    prompts = prefix.SharedPrompts.from_rows(rows)
    assert [prompts.text(i) for i in range(len(prompts))] == ["".join(row) for row in rows]
    scores = prefix.score_texts(model, prompts, ["1", "5"])
    expected = [[one_by_one(model, "".join(row), answer) for answer in ("1", "5")] for row in rows]
    np.testing.assert_allclose(scores.log_probs, expected, atol=2e-5)
    assert scores.cost.distinct < scores.cost.full


def test_wrong_rows_and_answers_are_refused(model):
    with pytest.raises(errors.InputError, match="expected at least one row of texts"):
        prefix.SharedPrompts.from_rows([])
    with pytest.raises(errors.InputError, match="row 1: expected 2 texts, found 1 texts"):
        prefix.SharedPrompts.from_rows([("a", "b"), ("a",)])
    with pytest.raises(errors.InputError, match="row 0: expected 4 texts, found a single text"):
        prefix.SharedPrompts.from_rows(["abcd"])
    prompts = prefix.SharedPrompts.from_rows([(RUBRIC, CUES[0])])
    with pytest.raises(errors.InputError, match="has no tokenizer"):
        prefix.score_texts(models.Model(model.arrays, model.config), prompts, ["1"])
