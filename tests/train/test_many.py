"""Many adapters in one step are each what they are alone: data, rate, schedule and key of their own."""

import jax
import numpy as np
import pytest

from tests.tiers import quick
from tests.train.test_rows import drawn, load
from vatjax import errors, models, train
from vatjax.train import many_adapters

pytestmark = pytest.mark.fast_compile

LORA = train.Lora(rank=2, targets=("query", "down"))
RATES, STEPS = (1e-2, 3e-3, 2e-2), (6, 12, 30)


def states(model=None):
    model = model or load("llama")
    return [
        train.init(model, LORA, train.Adam(rate=rate, epsilon=1e-2), steps, key)
        for key, (rate, steps) in enumerate(zip(RATES, STEPS, strict=True))
    ]


def data():
    return train.pad_to_common_shape(
        [train.make_rows(drawn(5, seed=seed, longest=10 + seed), rows=4) for seed in range(3)]
    )


@pytest.mark.parametrize("at_once", quick([1, 2, 3], [2]))
def test_each_is_what_it_is_alone(at_once):
    own, apart = data(), states()
    state = train.stack(apart)
    for step in range(3):
        batches = [train.batch(one, train.rows_at_step(one, step, seed)) for seed, one in enumerate(own)]
        state, logs = train.step_many(state, train.stack_batches(batches), train.dpo(), at_once=at_once)
        for i, batch in enumerate(batches):
            apart[i], alone = train.step(apart[i], batch, train.dpo())
            for name, value in alone.items():
                np.testing.assert_allclose(logs[name][i], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert [int(x) for x in state.progress.step] == [3, 3, 3]
    for one, other in zip(train.unstack(state), apart, strict=True):
        a, b = (jax.tree.leaves(train.export(s).lora) for s in (one, other))
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.thorough
def test_on_a_mesh_devices_share_the_adapters():
    from tests.models.checkpoints import checkpoint

    mesh = models.mesh(data=3, devices=jax.devices()[:3])
    model = models.load(checkpoint("llama").folder, mesh=mesh)
    own = data()
    batches = train.stack_batches([train.batch(one, train.rows_at_step(one, 0)) for one in own])
    spread, logs = train.step_many(train.stack(states(model)), batches, train.dpo())
    leaf = jax.tree.leaves(spread.progress.trained)[0]
    assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {1}
    plain, told = train.step_many(train.stack(states()), batches, train.dpo())
    np.testing.assert_allclose(logs["loss"], told["loss"], rtol=1e-5)
    for a, b in zip(*(jax.tree.leaves(s.progress.trained) for s in (spread, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_one_compilation():
    batches = train.stack_batches([train.batch(one, train.rows_at_step(one, 0)) for one in data()])
    before = many_adapters._pure._cache_size()
    state = train.stack(states())
    for _ in range(2):
        state, _ = train.step_many(state, batches, train.ipo())
    assert many_adapters._pure._cache_size() == before + 1


def test_what_can_not_be_stacked():
    first, *_ = states()
    other = train.init(load("mistral"), train.Lora(rank=2), train.Adam(), 6)
    with pytest.raises(errors.InputError, match="state 1: its model is not that of state 0; adapters share one"):
        train.stack([first, other])
    other = train.init(load("llama"), train.Lora(rank=3), train.Adam(), 6)
    with pytest.raises(errors.InputError, match=r"state 1: what: expected Lora\(rank=2.*, found Lora\(rank=3"):
        train.stack([first, other])
    with pytest.raises(errors.InputError, match="stack: expected at least one state"):
        train.stack([])
    whole = train.init(load("llama"), train.FullFinetune(), train.Adam(), 6)
    with pytest.raises(errors.InputError, match="only LoRA adapters can share a model"):
        train.stack([whole])
    with pytest.raises(errors.InputError, match="cannot train on pairs and texts in one step"):
        train.pad_to_common_shape([train.make_rows(drawn(4, texts=n), rows=4) for n in (1, 2)])
    with pytest.raises(errors.InputError, match="all adapters need the same number of rows in a batch"):
        train.pad_to_common_shape([train.make_rows(drawn(4), rows=n) for n in (1, 2)])
    batches = train.stack_batches([train.batch(one, train.rows_at_step(one, 0)) for one in data()[:2]])
    with pytest.raises(errors.InputError, match="expected batches of 3 adapters, found 2"):
        train.step_many(train.stack(states()), batches, train.dpo())
