"""Rows of shared prompts and packed examples give each text the log-probability that it has by itself."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import checkpoint
from tests.tiers import quick
from vatjax import errors, models, train
from vatjax.models.tokens import pad_batch

pytestmark = pytest.mark.fast_compile

VOCABULARY = 96


@functools.cache
def load(family):
    return models.load(checkpoint(family).folder)


def drawn(count=9, texts=2, seed=0, longest=14):
    random = np.random.default_rng(seed)

    def text(least):
        return tuple(random.integers(3, VOCABULARY, random.integers(least, longest)).tolist())

    return [
        train.Example(text(1), tuple(text(1) for _ in range(texts)), bool(i % 2), f"file:{i + 1}") for i in range(count)
    ]


def alone(model, examples, edit=None):
    """Each text behind its prompt, by itself: [examples, texts]."""
    whole = [one.prompt + text for one in examples for text in one.texts]
    behind = [len(one.prompt) for one in examples for _ in one.texts]
    rows = pad_batch(whole, min_length=40)
    found = models.log_probs(model, rows.tokens, rows.mask, edit)
    late = jnp.arange(40)[None, :] >= jnp.asarray(behind)[:, None]
    return jnp.sum(jnp.where(late, found, 0), 1).reshape(len(examples), -1)


# Windows that lie by positions and not by places, caps, norms: whatever a row could disturb.
@pytest.mark.parametrize(
    ("family", "pack"),
    quick(
        itertools.product(["llama", "mistral", "gemma2"], [False, True]),
        [("llama", False), ("mistral", True), ("gemma2", True)],
    ),
)
def test_each_text_is_what_it_is_alone(family, pack):
    model, examples = load(family), drawn()
    data = train.make_rows(examples, rows=4, length=64 if pack else None, pack=pack)
    assert (len(data.rows) < len(examples)) == pack
    expected = alone(model, examples)
    for start in range(0, len(data.rows), 4):
        chosen = range(start, min(start + 4, len(data.rows)))
        found = np.asarray(train.text_log_probs(model.arrays, model.config, train.batch(data, chosen)))
        for place, row in enumerate(chosen):
            for k, i in enumerate(data.rows[row]):
                np.testing.assert_allclose(found[place, 2 * k : 2 * k + 2], expected[i], rtol=2e-6, atol=5e-5)
            assert (found[place, 2 * len(data.rows[row]) :] == 0).all()


def test_nothing_is_computed_twice_and_nothing_lost():
    examples = drawn(40)
    data = train.make_rows(examples, rows=4, length=64, pack=True)
    assert sorted(i for row in data.rows for i in row) == list(range(40))
    assert data.tokens == sum(len(one.prompt) + sum(map(len, one.texts)) for one in examples)
    for row in range(len(data.rows)):
        made = train.batch(data, [row])
        members = [examples[i] for i in data.rows[row]]
        assert (made.segment > 0).sum() == sum(one.length for one in members)
        assert made.length.sum() == sum(len(text) for one in members for text in one.texts)
    filled = data.tokens / (len(data.rows) * 64)
    assert filled > 0.85


def test_every_epoch_has_every_row_once():
    data = train.make_rows(drawn(10), rows=4)
    assert data.steps == 3
    epochs = [
        [row for step in range(e * 3, e * 3 + 3) for row in train.rows_at_step(data, step, seed=1)] for e in range(3)
    ]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert train.rows_at_step(data, 4, seed=1) == train.rows_at_step(data, 4, seed=1)
    assert [train.rows_at_step(data, step, seed=2) for step in range(3)] != [
        train.rows_at_step(data, step, seed=1) for step in range(3)
    ]


@pytest.mark.thorough
def test_an_edit_and_a_gradient_see_the_same():
    model, examples = load("llama"), drawn(3)
    data = train.make_rows(examples, rows=3)
    vector = jax.random.normal(jax.random.key(0), (model.config.layers, model.config.width)) / 4

    def ours(vector):
        edit = models.Edit(jnp.float32(1), residual=vector)
        return train.text_log_probs(model.arrays, model.config, train.batch(data, range(3)), edit).sum()

    def theirs(vector):
        edit = models.Edit(jnp.float32(1), residual=vector)
        return alone(model, examples, edit).sum()

    np.testing.assert_allclose(ours(vector), theirs(vector), rtol=1e-6)
    mine, other = jax.grad(ours)(vector), jax.grad(theirs)(vector)
    np.testing.assert_allclose(mine, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("remat", quick(["products", "layers"], ["layers"]))
def test_memory_changes_no_result(remat):
    model, data = load("llama"), train.make_rows(drawn(4), rows=4)

    def value(weights, memory):
        return train.text_log_probs(weights, model.config, train.batch(data, range(4)), None, memory).sum()

    plain, gradient = jax.value_and_grad(value)(model.arrays, train.Memory())
    other, anew = jax.value_and_grad(value)(model.arrays, train.Memory(remat=remat, unroll=2, places=3))
    np.testing.assert_allclose(other, plain, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max())), anew, gradient)


def test_the_logits_of_a_batch_never_exist():
    """A vocabulary of 30,000: what a step takes beyond its arguments stays below the logits alone."""
    model = load("llama")
    wide = 30_000
    embedding = jax.ShapeDtypeStruct((wide, model.config.width), jnp.float32)
    config = dataclasses.replace(model.config, vocabulary=wide)
    data = train.make_rows(drawn(8, longest=60, seed=3), rows=8)
    made = train.batch(data, range(8))

    def value(weights):
        return train.text_log_probs(weights, config, made, None, train.Memory(remat="layers", places=16)).sum()

    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(model.arrays))
    compiled = jax.jit(jax.grad(value)).lower({**weights, "embedding": embedding}).compile()
    gradient = wide * model.config.width * 4
    logits = 4 * made.targets.size * wide
    assert logits > 30e6
    assert compiled.memory_analysis().temp_size_in_bytes - 2 * gradient < logits / 2


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (train.Example((), ((4,), (5,)), True, "a.jsonl:3"), "a.jsonl:3: the prompt is empty"),
        (
            train.Example((4,), ((4,),), True, "a.jsonl:3"),
            "expected pairs, as the first example is, found texts",
        ),
        (train.Example((4,), ((4,), ()), True, "a.jsonl:3"), "a completion is empty"),
        (train.Example((4,), ((4, 5), (4, 5)), True, "a.jsonl:3"), "a.jsonl:3: chosen and rejected are the same"),
        (
            train.Example((4,) * 30, ((4,), (5,)), True, "a.jsonl:3"),
            "it has 32 tokens and a row 16: its completion would be cut off",
        ),
    ],
)
def test_what_can_not_be_trained_on(example, message):
    first = train.Example((4,), ((5,), (6,)))
    with pytest.raises(errors.InputError, match=message):
        train.make_rows([first, example], rows=2, length=16)


def test_no_examples():
    with pytest.raises(errors.InputError, match="expected at least one training example"):
        train.make_rows([], rows=2)
    with pytest.raises(errors.InputError, match="rows: expected at least 1, found 0"):
        train.make_rows(drawn(2), rows=0)


def test_references_are_computed_for_the_rows_that_a_run_draws(tmp_path):
    model, examples = load("llama"), drawn(12)
    data = train.make_rows(examples, rows=3)
    rows = train.rows_drawn(data, 2, seed=1)
    assert rows == sorted({*train.rows_at_step(data, 0, 1), *train.rows_at_step(data, 1, 1)})
    done = []
    some = train.with_reference(model, data, tmp_path, on_progress=done.append, rows=rows)
    whole = train.with_reference(model, data)
    seen = sorted(i for row in rows for i in data.rows[row])
    assert sum(done) == len(rows)
    np.testing.assert_allclose(some.reference[seen], whole.reference[seen], rtol=1e-5)
    assert np.isnan(some.reference[[i for i in range(12) if i not in seen]]).all()
    # A longer run adds what is missing; what is there is not computed again.
    done.clear()
    more = train.with_reference(model, data, tmp_path, on_progress=done.append)
    assert done[0] == len(rows)
    np.testing.assert_allclose(more.reference, whole.reference, rtol=1e-5)
    assert train.rows_drawn(data, 1000) == list(range(len(data.rows)))
