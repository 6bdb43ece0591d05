"""A step is a function of state and batch: the same in parts as at once, whatever is trained; and nothing bad is taken."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.tiers import quick
from tests.train.test_rows import drawn, load
from vatjax import errors, models, train
from vatjax.train import optimizer
from vatjax.train.examples import with_mismatched_completions

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]

LORA = train.Lora(rank=3, alpha=6.0, targets=("query", "up", "down"))


def begun(what=LORA, rate=1e-2, family="llama", **adam):
    return train.init(load(family), what, train.Adam(rate=rate, **adam), steps=20, key=4)


@functools.cache
def laid(rows=8, pack=False, texts=2, count=8):
    examples = drawn(count, texts)
    return train.make_rows(examples, rows, 64 if pack else None, pack)


def first(data):
    return train.batch(data, range(min(data.shape.rows, len(data.rows))))


def moved(before, after):
    return [float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)]


@pytest.mark.thorough
def test_dpo_begins_at_log_2_with_any_reference():
    """Exactly one factor of each low-rank change is zero: nothing is changed, and there is a gradient."""
    state, batch = begun(), first(laid())
    after, logs = train.step(state, batch, train.dpo())
    assert float(logs["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert float(logs["rewards/margins"]) == pytest.approx(0, abs=1e-5)
    assert float(logs["grad_norm"]) > 1e-3
    kept = train.with_reference(load("llama"), laid())
    _, others = train.step(state, first(kept), train.dpo())
    assert float(others["loss"]) == pytest.approx(math.log(2), abs=1e-6)
    assert int(after.progress.step) == 1
    np.testing.assert_allclose(
        models.logits(load("llama"), jnp.array([[5, 6]]), edit=train.export(state)),
        models.logits(load("llama"), jnp.array([[5, 6]])),
        atol=1e-6,
    )


@pytest.mark.parametrize("parts", quick([2, 4], [4]))
@pytest.mark.parametrize("make", quick([train.sft, train.dpo, train.kto], [train.dpo]), ids=lambda make: make.__name__)
def test_parts_are_the_whole(make, parts):
    """4 x 2 rows are 2 x 4 rows are 8: tokens and pairs are counted over the batch, and so is the drift of KTO."""
    data = laid(texts=2) if make is not train.sft else laid(texts=1)
    if make is train.kto:
        data = train.make_rows(with_mismatched_completions(drawn(8, 1)), 8)
    # Adam divides by what a gradient's root is: with a small epsilon it makes much of one that is nothing but rounding.
    state, batch = begun(epsilon=1e-2), first(data)
    state, _ = train.step(state, batch, make())  # away from where both factors' product is zero
    whole, logs = train.step(state, batch, make())
    other, told = train.step(state, batch, make(), parts=parts)
    assert logs.keys() == told.keys()
    for name in logs:
        np.testing.assert_allclose(told[name], logs[name], rtol=2e-5, atol=1e-6, err_msg=name)
    for a, b in zip(*(jax.tree.leaves(s.progress.trained) for s in (whole, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(errors.InputError, match="a batch of 8 rows can't be split into 3 equal parts"):
        train.step(state, batch, make(), parts=3)


def test_what_is_no_step_is_named():
    state, batch = begun(), first(laid(texts=2))
    several, beside = train.stack([begun(), begun()]), train.stack_batches([batch, batch])
    for call, message in (
        (lambda: train.step(state, batch, "dpo"), r"loss: expected the result of train.dpo\(\), found 'dpo'"),
        (lambda: train.step(state, batch, train.dpo), r"loss: expected the result of train.dpo\(\), found <function"),
        (lambda: train.step(state, laid(texts=2), train.dpo()), r"batch: expected the result of train.batch\(data, "),
        (
            lambda: train.step(several, batch, train.dpo()),
            r"state: expected one adapter \(.*\), found several adapters",
        ),
        (
            lambda: train.step(state, beside, train.dpo()),
            r"batch: expected one adapter \(.*\), found several adapters",
        ),
        (
            lambda: train.step_many(several, batch, train.dpo()),
            r"batch: expected several adapters \(train.stack_batches",
        ),
        (lambda: train.step_many(state, beside, train.dpo()), r"state: expected several adapters \(train.stack\("),
    ):
        with pytest.raises(errors.InputError, match=message):
            call()


def test_packing_changes_no_number():
    loose, packed = laid(rows=8, texts=1), laid(rows=8, texts=1, pack=True)
    assert len(packed.rows) < len(loose.rows)
    state = begun()
    (_, logs), (_, told) = (train.step(state, first(data), train.sft()) for data in (loose, packed))
    np.testing.assert_allclose(told["loss"], logs["loss"], rtol=1e-6)
    np.testing.assert_allclose(told["grad_norm"], logs["grad_norm"], rtol=1e-5)
    assert logs["tokens"] == told["tokens"]


def test_a_step_is_optax_on_the_gradient_of_the_formula():
    """The whole chain against one written out: mean over tokens, clipping, AdamW, warm-up and decline."""
    settings = {"rate": 1e-2, "decay": 0.1, "clip": 0.5, "warmup": 0.2, "epsilon": 1e-4}
    model, data = load("llama"), laid(texts=1)
    state = train.init(model, train.FullFinetune(), train.Adam(**settings), steps=10)
    batch = first(data)
    schedule = optax.schedules.join_schedules(
        [optax.schedules.linear_schedule(0.5e-2, 1.5e-2, 2), optax.schedules.linear_schedule(1e-2, 0, 8)], [2]
    )
    with jax.numpy_dtype_promotion("standard"):
        chain = optax.chain(
            optax.clip_by_global_norm(0.5), optax.adamw(schedule, eps=1e-4, weight_decay=0.1, mask=optimizer.decay_mask)
        )
        weights = model.arrays
        memory = chain.init(weights)

        def loss(weights):
            found = train.text_log_probs(weights, model.config, batch)
            return -jnp.sum(found) / jnp.sum(batch.length)

        for _ in range(3):
            gradient = jax.grad(loss)(weights)
            change, memory = chain.update(gradient, memory, weights)
            weights = optax.apply_updates(weights, change)
    for _ in range(3):
        state, logs = train.step(state, batch, train.sft())
    np.testing.assert_allclose(logs["learning_rate"], 1e-2, rtol=1e-6)
    found = train.export(state).arrays
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("decline", ["constant", "linear", "cosine"])
def test_rates(decline):
    adam, pace = train.Adam(decline=decline, warmup=0.25), optimizer.Pace(jnp.float32(2.0), jnp.int32(8))
    rates = [float(optimizer.learning_rate(adam, pace, jnp.int32(step))) for step in range(8)]
    assert rates[:2] == [1.0, 2.0]
    falling = {"constant": [2] * 6, "linear": [2 * (6 - i) / 6 for i in range(6)]}
    falling["cosine"] = [1 + math.cos(math.pi * (1 - (6 - i) / 6)) for i in range(6)]
    if decline == "cosine":
        falling["cosine"] = [1 - math.cos(math.pi * (6 - i) / 6) for i in range(6)]
    np.testing.assert_allclose(rates[2:], falling[decline], atol=1e-6)


@pytest.mark.parametrize(
    "what",
    quick(
        [
            train.FullFinetune(),
            train.FullFinetune(layers=(1, 2)),
            train.Lora(rank=2, layers=(0, 3)),
            train.Lora(targets=("query", "down")),
        ],
        [train.FullFinetune(layers=(1, 2)), train.Lora(targets=("query", "down"))],
    ),
    ids=str,
)
def test_what_is_trained_moves_and_nothing_else(what):
    model, state = load("llama"), begun(what)
    before = jax.tree.map(np.asarray, model.arrays)
    state, _ = train.step(state, first(laid()), train.dpo())
    state, _ = train.step(state, first(laid()), train.dpo())
    made = train.export(state)
    assert not any(moved(before, model.arrays))  # the reference stays as it is
    if isinstance(what, train.Lora):
        chosen = set(what.layers or range(4))
        assert set(made.lora) == set(what.targets)
        for change in made.lora.values():
            product = jnp.einsum("lir,lro->lio", change.down, change.up)
            assert {i for i in range(4) if jnp.abs(product[i]).max() > 0} == chosen
        return
    layers = jax.tree.map(
        lambda a, b: jnp.abs(a - b).reshape(4, -1).max(-1) > 0, before["layers"], made.arrays["layers"]
    )
    chosen = set(what.layers or range(4))
    for name, which in layers.items():
        assert set(np.flatnonzero(which).tolist()) == chosen, name
    assert (float(jnp.abs(before["norm"] - made.arrays["norm"]).max()) > 0) == (not what.layers)


def test_a_trained_model_is_saved_and_loaded(tmp_path):
    state, _ = train.step(begun(train.FullFinetune()), first(laid()), train.dpo())
    made = train.export(state)
    models.save(made, tmp_path / "model")
    again = models.load(tmp_path / "model")
    assert models.fingerprint(again.arrays) == models.fingerprint(made.arrays)


@pytest.mark.thorough
def test_small_steps_are_not_lost_in_bfloat16():
    """A hundredth of what a bfloat16 weight can show, a hundred times: the float32 master weights add it up."""
    wide = load("llama")
    arrays = jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide.arrays)
    model = models.Model(arrays, wide.config, None)
    state = train.init(model, train.FullFinetune(), train.Adam(rate=1e-6, decline="constant", warmup=0), steps=10)
    after, logs = train.step(state, first(laid()), train.dpo())
    assert np.isfinite(logs["loss"])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after.progress.trained))
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(train.export(after).arrays))
    shift = max(moved(state.progress.trained, after.progress.trained))
    assert 0 < shift < 2e-6


def test_rank_stabilised():
    plain, stable = train.Lora(rank=16, alpha=8.0), train.Lora(rank=16, alpha=8.0, stabilised=True)
    assert plain.scale == 0.5
    assert stable.scale == 2.0


# Guards --------------------------------------------------------------------------------------------------------------


def test_a_gradient_that_is_no_number_is_not_taken():
    state, batch = begun(), first(laid())
    broken = dataclasses.replace(batch, reference=np.full(batch.length.shape, np.nan, np.float32))
    after, logs = train.step(state, broken, train.dpo())
    assert not logs["finite"]
    assert math.isnan(logs["loss"])
    assert int(after.progress.step) == 0
    assert not any(moved(state.progress.trained, after.progress.trained))
    assert not any(moved(state.progress.optimizer, after.progress.optimizer))


def test_a_batch_of_nothing_is_not_taken():
    state, data = begun(), laid()
    after, logs = train.step(state, train.batch(data, []), train.dpo())
    assert logs["empty"]
    assert float(logs["loss"]) == 0
    assert int(after.progress.step) == 0
    assert not any(moved(state.progress.trained, after.progress.trained))


def test_rows_that_are_empty_change_nothing():
    state, data = begun(), laid()
    few = train.batch(data, range(3))
    alone = jax.tree.map(lambda x: x[:3], few)
    for make in (train.dpo, train.orpo):
        (_, a), (_, b) = (train.step(state, one, make()) for one in (few, alone))
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=2e-5)


def test_a_step_is_pure_unless_it_may_overwrite():
    state, batch = begun(), first(laid())
    one, _ = train.step(state, batch, train.dpo())
    again, _ = train.step(state, batch, train.dpo())
    assert not any(moved(one.progress.trained, again.progress.trained))
    taken, _ = train.step(again, batch, train.dpo(), donate=True)
    assert any(x.is_deleted() for x in jax.tree.leaves(again.progress.trained))
    assert not any(x.is_deleted() for x in jax.tree.leaves(load("llama").arrays))
    assert int(taken.progress.step) == 2


@pytest.mark.thorough
def test_rates_lengths_and_keys_share_a_compilation():
    batch = first(laid())
    before = train.steps._pure._cache_size()
    for rate, steps, key in ((1e-3, 10, 0), (1e-2, 20, 1), (3e-2, 300, 2)):
        train.step(train.init(load("llama"), LORA, train.Adam(rate=rate), steps, key), batch, train.hinge())
    assert train.steps._pure._cache_size() == before + 1


@pytest.mark.parametrize(
    ("what", "adam", "message"),
    [
        (train.Lora(rank=0), train.Adam(), "LoRA: expected a rank and an alpha above 0, found 0"),
        (train.Lora(targets=("quary",)), train.Adam(), "LoRA: .*quary.*query"),
        (train.Lora(targets=()), train.Adam(), "LoRA: targets: expected at least one of .*, found none"),
        (train.Lora(layers=(4,)), train.Adam(), "layer 4: the model has layers 0 to 3"),
        (train.FullFinetune(layers=(1, 1)), train.Adam(), "layers: duplicates: 1, 1"),
        (LORA, train.Adam(rate=0), "rate: expected more than 0, found 0"),
        (LORA, train.Adam(warmup=1.5), "warmup: expected a share from 0 to 1, found 1.5"),
        (LORA, train.Adam(second=1.0), "second: expected 0 to below 1, found 1.0"),
    ],
    ids=str,
)
def test_settings_that_nothing_can_go_by(what, adam, message):
    with pytest.raises(errors.InputError, match=message):
        train.init(load("llama"), what, adam, steps=3)


def test_pairs_need_two_texts():
    with pytest.raises(errors.InputError, match="dpo needs rows of kind pairs, found texts"):
        train.step(begun(), first(laid(texts=1)), train.dpo())
    with pytest.raises(errors.InputError, match="sft needs rows of kind texts, found pairs"):
        train.evaluate_batch(begun(), first(laid()), train.sft())
    with pytest.raises(errors.InputError, match=r"kto needs rows of kind judged, found pairs; train\.with_mismatched"):
        train.step(begun(), first(laid()), train.kto())
