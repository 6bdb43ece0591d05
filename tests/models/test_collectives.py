"""What a mesh divides, by the compiler's own output: equal numbers do not show that no device does the work of all."""

import jax
import numpy as np
import pytest

from tests.models.checkpoints import checkpoint
from tests.models.collectives import collectives, of_all_rows
from tests.tiers import quick
from vatjax import models, train
from vatjax.models import sharding
from vatjax.train import steps

pytestmark = pytest.mark.fast_compile

ROWS, TIME = 16, 48  # no width of the model has ROWS x TIME
SPLITS = [(1, 8, 1), (2, 2, 2), (1, 1, 8)]


def load(split):
    folder = checkpoint("llama", num_attention_heads=8, num_key_value_heads=8).folder
    return models.load(folder, mesh=models.mesh(*split))


def log_probs(model):
    placed = jax.device_put(np.ones((ROWS, TIME), np.int32), sharding.batch_sharding(model.config.mesh))
    return jax.jit(models.log_probs).lower(model, placed, placed).compile()


def step(model, remat="products"):
    random = np.random.default_rng(0)

    def drawn():
        return tuple(random.integers(3, 90, TIME // 3).tolist())

    data = train.make_rows([train.Example(drawn(), (drawn(), drawn())) for _ in range(ROWS)], ROWS)
    state = train.init(model, train.Lora(rank=2), train.Adam(rate=1e-3), 10)
    batch = train.batch(data, train.rows_at_step(data, 0, 0))
    assert batch.tokens.shape == (ROWS, TIME)
    return steps.lower(state, batch, train.dpo(), None, 1, train.Memory(remat=remat)).compile()


@pytest.mark.parametrize("program", quick([log_probs, step], [log_probs]))
def test_slices_of_weights_are_gathered_and_rows_are_not(program):
    """fsdp alone is data parallel: a layer's collectives are gathers of weights and sums of gradients."""
    model = load((1, 8, 1))
    found = collectives(program(model))
    assert of_all_rows(found, ROWS, TIME) == []
    width, hidden = model.config.width, model.config.hidden
    weights = {(width, width), (width, hidden), (hidden, width), (model.config.vocabulary, width)}
    assert {shape for kind, dtype, shape in found if kind == "all-gather" and dtype == "f32"} <= weights
    # The rows of the embedding: each device's own, in eight parts.
    exchanged = {shape for kind, _, shape in found if kind == "all-to-all"}
    assert exchanged == {(ROWS // 8, TIME, width // 8)}
    assert not [one for one in found if one[0] == "collective-permute"]


@pytest.mark.parametrize("program", quick([log_probs, step], [log_probs]))
def test_heads_are_cut_and_a_layer_has_two_sums(program):
    """Beside the gathers of weights: two all-reduces of its own rows in a layer forward, and none of scores or heads."""
    model = load((2, 2, 2))
    found = collectives(program(model))
    own, width = ROWS // 4 * TIME, model.config.width
    assert of_all_rows(found, ROWS, TIME) == []
    forward = [one for one in found if one == ("all-reduce", "f32", (own, width))]
    assert len(forward) >= 2
    if program is log_probs:
        assert len(forward) == 2  # of the one body that is scanned over the layers
    gathered = {shape for kind, dtype, shape in found if kind == "all-gather" and dtype == "f32"}
    assert all(np.prod(shape) <= model.config.vocabulary * width for shape in gathered)
    assert not [one for one in found if len(one[2]) > 3]  # scores and heads have four axes and more


def test_less_is_held_than_by_one_device():
    """Temporaries of a step shrink with the devices, whichever axis they are on."""
    alone = models.load(checkpoint("llama", num_attention_heads=8, num_key_value_heads=8).folder)
    whole = step(alone).memory_analysis().temp_size_in_bytes
    for split, share in (((1, 8, 1), 0.4), ((1, 1, 8), 0.7)):
        assert step(load(split)).memory_analysis().temp_size_in_bytes < share * whole, split


def test_key_heads_are_cut_between_heads_or_not_at_all():
    """Two key heads on four devices: half a head would have to be exchanged for every token."""
    folder = checkpoint("llama", num_attention_heads=8, num_key_value_heads=2).folder
    mesh = models.mesh(1, 2, 4)
    model, alone = models.load(folder, mesh=mesh), models.load(folder)
    layers = model.arrays["layers"]
    assert layers["query"].sharding.spec == jax.P(None, "fsdp", "tensor")
    assert layers["key"].sharding.spec == jax.P(None, "fsdp", None)
    tokens = np.random.default_rng(0).integers(3, 90, (8, 20))
    np.testing.assert_allclose(models.logits(model, tokens), models.logits(alone, tokens), rtol=0, atol=2e-5)


@pytest.mark.parametrize("split", SPLITS)
def test_rows_of_an_embedding_are_those_of_one_device(split):
    """Also of tokens that there are not, whose rows are NaN, and its gradient."""
    mesh = models.mesh(*split)
    random = np.random.default_rng(1)
    table = random.normal(size=(96, 64)).astype(np.float32)
    tokens = random.integers(0, 96, (ROWS, 7))
    tokens[3, 2], tokens[5, 6] = -1, 96
    placed = jax.device_put(table, jax.NamedSharding(mesh, jax.P("tensor", "fsdp")))
    rows = jax.jit(lambda t, x: sharding.look_up_embeddings(t, x, mesh))(placed, tokens)
    expected = np.where(((tokens >= 0) & (tokens < 96))[..., None], table[np.clip(tokens, 0, 95)], np.nan)
    np.testing.assert_array_equal(rows, expected)
    weight = random.normal(size=(ROWS, 7, 64)).astype(np.float32)
    there = (tokens >= 0) & (tokens < 96)

    def total(t, mesh):
        found = sharding.look_up_embeddings(t, np.where(there, tokens, 0), mesh)
        return (found * weight).sum()

    slope = jax.jit(jax.grad(total), static_argnums=1)
    np.testing.assert_allclose(slope(placed, mesh), slope(table, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", [(8, 1, 1), (2, 2, 2)])
def test_any_number_of_texts_is_shared_out(split):
    """Five texts on eight devices: filled up, and the numbers are those of one device."""
    spread, alone = load(split), models.load(checkpoint("llama", num_attention_heads=8, num_key_value_heads=8).folder)
    tokens = np.random.default_rng(0).integers(3, 90, (5, 12))
    np.testing.assert_allclose(models.log_probs(spread, tokens), models.log_probs(alone, tokens), rtol=0, atol=2e-5)
    keys = jax.random.split(jax.random.key(1), 5)
    for sampling, key in (
        (models.Sampling(6), None),
        (models.Sampling(6, 1.0), keys),
        (models.Sampling(6, 1.0), keys[0]),
    ):
        mine, other = (models.generate(model, tokens, sampling=sampling, key=key) for model in (alone, spread))
        np.testing.assert_array_equal(mine.tokens, other.tokens)
        assert other.tokens.shape == (5, 6)


def test_writing_holds_an_eighth_on_eight_devices():
    """The cache and every layer's activations lie with their texts."""
    alone = models.load(checkpoint("llama", num_attention_heads=8, num_key_value_heads=8).folder)
    sampling = models.Sampling(16, stop=())

    def held(model):
        tokens = np.ones((32, 64), np.int32)
        if model.config.mesh is not None:
            tokens = jax.device_put(tokens, sharding.batch_sharding(model.config.mesh))
        program = jax.jit(lambda m, x: models.generate(m, x, sampling=sampling)).lower(model, tokens).compile()
        return program.memory_analysis().temp_size_in_bytes, collectives(program)

    whole, _ = held(alone)
    share, found = held(load((8, 1, 1)))
    assert share < 0.25 * whole
    assert not [one for one in found if len(one[2]) > 1]  # nothing but counts of what has ended
