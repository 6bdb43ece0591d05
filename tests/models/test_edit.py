"""An edit at strength 0 is no edit, bit for bit; each kind does what its formula says; a stack of edits is a loop."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import checkpoint
from tests.tiers import quick
from vatjax import errors, models
from vatjax.models import decoder
from vatjax.models.edit import PROJECTIONS

pytestmark = pytest.mark.fast_compile

FAMILIES = ("llama", "gemma2", "olmo2")
RUN = jax.jit(models.logits)
RANK = 3


def edit(config, kind, strength=0.7, seed=0):
    keys = iter(jax.random.split(jax.random.key(seed), 20))

    def random(*shape):
        return 0.3 * jax.random.normal(next(keys), (config.layers, *shape))

    parts = {}
    if kind in ("residual", "all"):
        parts["residual"] = random(config.width)
    if kind in ("neurons", "all"):
        parts["neurons"] = random(config.hidden)
    if kind in ("lora", "all"):
        queries, pairs = config.heads * config.head_size, config.kv_heads * config.head_size
        sizes = {
            "query": (config.width, queries),
            "key": (config.width, pairs),
            "value": (config.width, pairs),
            "output": (queries, config.width),
            "gate": (config.width, config.hidden),
            "up": (config.width, config.hidden),
            "down": (config.hidden, config.width),
        }
        assert tuple(sizes) == PROJECTIONS
        parts["lora"] = {
            name: models.LowRank(random(inner, RANK), random(RANK, outer)) for name, (inner, outer) in sizes.items()
        }
    return models.Edit(jnp.float32(strength), **parts)


def texts():
    tokens = np.random.default_rng(0).integers(3, 96, (3, 20))
    mask = np.ones((3, 20), np.int32)
    mask[1, :6] = 0
    mask[2, -5:] = 0
    return jnp.asarray(tokens), jnp.asarray(mask)


@pytest.mark.parametrize(
    ("family", "kind"),
    quick(
        itertools.product(FAMILIES, ["residual", "neurons", "lora", "all"]),
        [("llama", "residual"), ("gemma2", "neurons"), ("olmo2", "lora"), *((family, "all") for family in FAMILIES)],
    ),
)
def test_strength_0_is_the_unedited_model_bit_for_bit(family, kind):
    model, (tokens, mask) = models.load(checkpoint(family).folder), texts()
    change = edit(model.config, kind)
    plain = RUN(model, tokens, mask)
    np.testing.assert_array_equal(RUN(model, tokens, mask, change * 0.0), plain)
    broken = jax.tree.map(lambda x: x * jnp.inf, change)
    np.testing.assert_array_equal(RUN(model, tokens, mask, dataclasses.replace(broken, strength=jnp.float32(0))), plain)
    assert np.abs(RUN(model, tokens, mask, change) - plain).max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_is_a_change_of_the_weights(family):
    model, (tokens, mask) = models.load(checkpoint(family).folder), texts()
    change = edit(model.config, "lora")
    weights = model.arrays
    for name, part in change.lora.items():
        weights["layers"][name] = weights["layers"][name] + change.strength * jnp.einsum(
            "lir,lro->lio", part.down, part.up, precision="highest"
        )
    merged = models.Model(weights, model.config)
    ours, expected = RUN(model, tokens, mask, change), RUN(merged, tokens, mask)
    np.testing.assert_allclose(ours[mask > 0], expected[mask > 0], rtol=0, atol=5e-5)


def test_a_residual_vector_moves_the_stream_after_its_layer():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    weights, config = model.arrays, model.config
    vector = edit(config, "residual").residual.at[jnp.array([0, 1, 3])].set(0)
    hidden, positions = decoder.embed(weights, config, tokens), models.positions_of(mask)
    present = mask.astype(bool)
    layout = decoder.Layout(positions, present)
    below = decoder.run_layers(weights, config, hidden, layout, last=3).hidden
    expected = decoder.run_layers(weights, config, below + 0.5 * vector[2][None, None], layout, first=3).hidden
    whole = decoder.run_layers(weights, config, hidden, layout, edit=models.Edit(jnp.float32(0.5), residual=vector))
    np.testing.assert_allclose(whole.hidden, expected, rtol=0, atol=1e-5)


def test_neurons_are_added_before_the_down_projection():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    change = edit(model.config, "neurons")
    weights = model.arrays
    moved = jnp.einsum("li,lio->lo", change.strength * change.neurons, weights["layers"]["down"], precision="highest")
    weights["layers"]["down_bias"] = moved
    expected = RUN(models.Model(weights, model.config), tokens, mask)
    np.testing.assert_allclose(RUN(model, tokens, mask, change)[mask > 0], expected[mask > 0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_of_edits_is_a_loop_over_them(family):
    model, (tokens, mask) = models.load(checkpoint(family).folder), texts()
    edits = [edit(model.config, "all", strength, seed) for seed, strength in enumerate((0.0, 0.5, -1.0))]
    stack = jax.tree.map(lambda *parts: jnp.stack(parts), *edits)
    together = jax.jit(jax.vmap(lambda e: models.logits(model, tokens, mask, e)))(stack)
    for one, found in zip(edits, together, strict=True):
        np.testing.assert_allclose(found[mask > 0], RUN(model, tokens, mask, one)[mask > 0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", quick(FAMILIES, ["gemma2"]))
def test_each_token_is_edited_once_in_cached_decoding(family):
    model = models.load(checkpoint(family).folder)
    change = edit(model.config, "all", 0.3)
    tokens, _ = texts()
    written = models.generate(model, tokens, None, models.Sampling(6), edit=change)
    whole = jnp.concatenate([tokens, written.tokens], axis=1)
    logits = RUN(model, whole, jnp.ones_like(whole), change)[:, 19:-1]
    np.testing.assert_array_equal(jnp.argmax(logits, -1), written.tokens)
    share = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), written.tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(written.log_probs, share, atol=1e-4)


def test_scaled_and_turned():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    change = edit(model.config, "all")
    assert float((2 * change).strength) == pytest.approx(1.4)
    np.testing.assert_array_equal(RUN(model, tokens, mask, -1.0 * -change), RUN(model, tokens, mask, change))


@pytest.mark.parametrize("kind", ["residual", "neurons", "lora"])
@pytest.mark.parametrize("at", quick([0.0, 0.7], [0.0]))
def test_the_strength_has_its_derivative_also_where_it_is_zero(kind, at):
    model = models.load(checkpoint("llama").folder)
    random = np.random.default_rng(3)

    def drawn(*shape):
        return jnp.asarray(random.normal(scale=0.3, size=shape), jnp.float32)

    parts = {
        "residual": {"residual": drawn(4, 64)},
        "neurons": {"neurons": drawn(4, 112)},
        "lora": {"lora": {"query": models.LowRank(drawn(4, 64, 2), drawn(4, 2, 64))}},
    }[kind]
    tokens = jnp.arange(3, 15)[None]

    def total(strength):
        return jnp.sum(jnp.tanh(models.logits(model, tokens, edit=models.Edit(strength, **parts))))

    slope = jax.jit(jax.grad(total))(jnp.asarray(at))
    step = 1e-2
    above, below = (jax.jit(total)(jnp.asarray(at + side * step)) for side in (1, -1))
    expected = (above - below) / (2 * step)
    assert abs(expected) > 0.1
    np.testing.assert_allclose(slope, expected, rtol=0.02)


def test_an_edit_that_does_not_fit_is_refused():
    model = models.load(checkpoint("llama").folder)
    tokens = jnp.arange(3, 9)[None]
    factors = models.LowRank(jnp.zeros((4, 64, 2)), jnp.zeros((4, 2, 64)))
    with pytest.raises(errors.InputError, match="unknown projection 'querry'; did you mean 'query'"):
        models.logits(model, tokens, edit=models.Edit(jnp.ones(()), lora={"querry": factors}))
    with pytest.raises(errors.InputError, match=r"residual has the shape \[3, 64\], expected \[4, 64\]"):
        models.logits(model, tokens, edit=models.Edit(jnp.ones(()), residual=jnp.zeros((3, 64))))
