"""Every family against torch `transformers`, live, on random checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import FAMILIES, SHAPE, checkpoint, torch, transformers
from tests.tiers import quick
from vatjax import errors, models
from vatjax.models import decoder

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]

TIME = 40  # beyond every window, and beyond the length at which ropes are stretched


def texts(rows=3, time=TIME, seed=0):
    """Tokens with padding on the left of one row and on the right of another."""
    tokens = np.random.default_rng(seed).integers(3, SHAPE["vocab_size"], (rows, time))
    mask = np.ones((rows, time), np.int32)
    mask[1, :9] = 0
    mask[2, -11:] = 0
    return tokens, mask


def theirs(model, tokens, mask):
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.no_grad():
        out = model(torch.tensor(tokens), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions))
    return out.logits.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family):
    made = checkpoint(family)
    model = models.load(made.folder)
    tokens, mask = texts()
    ours = np.asarray(jax.jit(models.logits)(model, jnp.asarray(tokens), jnp.asarray(mask)))
    expected = theirs(made.torch, tokens, mask)
    assert 0.2 < expected[mask > 0].std() < 5
    np.testing.assert_allclose(ours[mask > 0], expected[mask > 0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", quick(FAMILIES, ["llama", "gemma3", "phi3"]))
def test_gradients_are_those_of_transformers(family):
    made = checkpoint(family)
    model = models.load(made.folder)
    tokens, _ = texts()

    def loss(model, tokens):
        logits = models.logits(model, tokens)[:, :-1]
        share = jax.nn.log_softmax(logits, -1)
        return -jnp.mean(jnp.take_along_axis(share, tokens[:, 1:, None], -1))

    value, gradient = jax.jit(jax.value_and_grad(loss))(model, jnp.asarray(tokens))
    made.torch.zero_grad()
    torch_tokens = torch.tensor(tokens)
    other = made.torch(torch_tokens, labels=torch_tokens).loss
    other.backward()
    np.testing.assert_allclose(value, other.detach().numpy(), rtol=1e-5)
    inner = made.torch.model
    pairs = [(gradient.arrays["norm"], inner.norm.weight.grad)]
    pairs += [(gradient.arrays["layers"]["down"][i], x.mlp.down_proj.weight.grad.T) for i, x in enumerate(inner.layers)]
    pairs += [
        (gradient.arrays["layers"]["output"][i], x.self_attn.o_proj.weight.grad.T) for i, x in enumerate(inner.layers)
    ]
    pairs.append((gradient.arrays["embedding"], inner.embed_tokens.weight.grad))
    for ours, expected in pairs:
        expected = expected.numpy()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_every_segment_of_layers_gives_the_same():
    model = models.load(checkpoint("gemma3").folder)
    tokens, mask = (jnp.asarray(x) for x in texts())
    weights, config = model.arrays, model.config
    present, positions = mask.astype(bool), models.positions_of(mask)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def run(hidden, first, last):
        return decoder.run_layers(
            weights, config, hidden, decoder.Layout(positions, present), first=first, last=last
        ).hidden

    whole = run(decoder.embed(weights, config, tokens), 0, config.layers)
    for cut in (1, 3, 6):
        hidden = run(decoder.embed(weights, config, tokens), 0, cut)
        np.testing.assert_allclose(run(hidden, cut, config.layers), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "step"),
    quick(
        [*((family, 7) for family in FAMILIES), ("llama", 1), ("gemma3", 1)], [("gemma3", 7), ("phi3", 7), ("llama", 1)]
    ),
)
def test_cached_decoding_is_the_uncached_pass(family, step):
    model = models.load(checkpoint(family).folder)
    tokens, mask = texts(time=21)
    mask[2] = 1
    weights, config = model.arrays, model.config
    tokens, present = jnp.asarray(tokens), jnp.asarray(mask, bool)
    positions = models.positions_of(present)
    expected = models.logits(model, tokens, mask)
    cache = decoder.empty_cache(config, 3, 25, jnp.float32)
    found = []

    @jax.jit
    def run(cache, tokens, positions, present):
        hidden = decoder.embed(weights, config, tokens)
        out = decoder.run_layers(weights, config, hidden, decoder.Layout(positions, present), cache=cache)
        return out.cache, decoder.head(weights, config, out.hidden)

    for start in range(0, 21, step):
        here = slice(start, start + step)
        cache, logits = run(cache, tokens[:, here], positions[:, here], present[:, here])
        found.append(logits)
    assert int(cache.length) == 21
    found = np.concatenate(found, axis=1)
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], rtol=0, atol=2e-5)


def test_compile_time_does_not_grow_with_depth():
    sizes = []
    for depth in (2, 8):
        model = models.load(checkpoint("llama", num_hidden_layers=depth).folder)
        lowered = jax.jit(models.logits).lower(model, jnp.zeros((1, 8), jnp.int32))
        sizes.append(len(lowered.as_text()))
    assert sizes[1] < 1.02 * sizes[0]


def test_one_trace_for_each_shape():
    model = models.load(checkpoint("llama").folder)
    traces = []

    @jax.jit
    def run(model, tokens):
        traces.append(tokens.shape)
        return models.logits(model, tokens)

    for seed in range(3):
        tokens, _ = texts(seed=seed)
        run(model, jnp.asarray(tokens))
    assert len(traces) == 1


@pytest.mark.parametrize(("remat", "unroll"), quick([("layers", 1), ("products", 1), ("none", 4)], [("layers", 1)]))
def test_remat_and_unrolling_change_nothing(remat, unroll):
    model = models.load(checkpoint("llama").folder)
    tokens, mask = (jnp.asarray(x) for x in texts())
    weights, config = model.arrays, model.config

    def total(weights, **options):
        hidden = decoder.embed(weights, config, tokens)
        run = decoder.run_layers(
            weights, config, hidden, decoder.Layout(models.positions_of(mask), mask.astype(bool)), **options
        )
        return jnp.sum(jnp.tanh(run.hidden))

    plain, other = (
        jax.jit(jax.value_and_grad(functools.partial(total, **options)))(weights)
        for options in ({}, {"remat": remat, "unroll": unroll})
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, other)


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2", "phi3"])
def test_positions_far_out_turn_as_in_transformers(family):
    made = checkpoint(family, max_position_embeddings=200_000)
    model = models.load(made.folder, context=200_000)
    tokens = np.random.default_rng(1).integers(3, SHAPE["vocab_size"], (2, 12))
    positions = np.arange(12)[None] + np.array([[99_000], [131_000]])
    if family == "phi3":
        positions = np.arange(12)[None] + np.array([[99_000], [99_000]])
    with torch.no_grad():
        expected = made.torch(torch.tensor(tokens), position_ids=torch.tensor(positions)).logits.numpy()
    ours = models.logits(model, jnp.asarray(tokens), positions=jnp.asarray(positions))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_long_texts_are_read_with_their_own_positions_where_they_are_asked_for():
    """transformers decides by each text; here it is decided at loading, and a text is never read in two ways."""
    made = checkpoint("phi3")
    usual, long = models.load(made.folder), models.load(made.folder, context=200)
    assert (usual.config.context, long.config.context) == (128, 256)
    for model, time in ((usual, 120), (long, 150)):
        tokens = np.random.default_rng(2).integers(3, SHAPE["vocab_size"], (2, time))
        with torch.no_grad():
            expected = made.torch(torch.tensor(tokens)).logits.numpy()
        np.testing.assert_allclose(models.logits(model, jnp.asarray(tokens)), expected, rtol=0, atol=3e-5)
    with pytest.raises(errors.InputError, match="beyond the model's context of 128"):
        models.generate(usual, jnp.ones((1, 120), jnp.int32), sampling=models.Sampling(9))
    models.generate(long, jnp.ones((1, 120), jnp.int32), sampling=models.Sampling(9))


@pytest.mark.parametrize("family", quick(FAMILIES, ["llama", "gemma2"]))
def test_halves_are_as_near_to_the_truth_as_torch_s(family):
    """bfloat16 against float32: rounding in another order shows as an error that is larger, or has a direction."""
    made = checkpoint(family)
    tokens, mask = texts(rows=6, seed=5)
    exact = theirs(made.torch, tokens, mask)
    half = transformers.AutoModelForCausalLM.from_pretrained(
        made.folder, dtype=torch.bfloat16, attn_implementation="eager"
    )
    positions = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))
    with torch.no_grad():
        other = half.eval()(torch.tensor(tokens), attention_mask=torch.tensor(mask), position_ids=positions)
    other = other.logits.float().numpy()
    ours = np.asarray(models.logits(models.load(made.folder, dtype="bfloat16"), tokens, mask))
    error, reference = (np.sqrt(np.mean((x - exact)[mask > 0] ** 2)) for x in (ours, other))
    assert error < 1.15 * reference


def test_float32_products_are_asked_for_in_full():
    """A GPU or a TPU would otherwise make them of shorter ones; the CPU of the tests would not show it."""
    model = models.load(checkpoint("llama").folder)
    factors = models.LowRank(jnp.zeros((4, 64, 2)), jnp.zeros((4, 2, 64)))
    edit = models.Edit(jnp.ones(()), lora={"query": factors})
    text = jax.jit(models.logits).lower(model, jnp.zeros((1, 8), jnp.int32), edit=edit).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) >= 11
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        ([3, 4], None, r"expected tokens \[batch, time\]"),
        (np.zeros((2, 0), int), None, r"expected tokens \[batch, time\]"),
        (np.zeros((2, 3)), None, "as whole numbers"),
        (np.zeros((2, 300), int), None, "a text of 300 tokens is longer than the model's context of 256"),
        (np.zeros((2, 3), int), np.ones((1, 3)), "expected a mask of the tokens' shape"),
    ],
)
def test_what_is_no_batch_of_texts_is_refused(tokens, mask, message):
    model = models.load(checkpoint("llama").folder)
    for ask in (models.logits, models.log_probs, models.generate):
        with pytest.raises(errors.InputError, match=message):
            ask(model, tokens, mask)


@pytest.mark.parametrize("token", [-1, 96, 10**6])
def test_a_token_that_there_is_not_never_passes_for_another(token):
    model = models.load(checkpoint("llama").folder)
    assert np.isnan(models.logits(model, [[3, token, 4]])[0, 1]).all()


def test_what_is_computed_anew_is_not_kept():
    """Memory of a training step: all kept, products kept, only what goes into each layer kept."""
    model = models.load(checkpoint("llama", num_hidden_layers=8).folder)
    weights, config = model.arrays, model.config
    tokens = jnp.zeros((4, 128), jnp.int32)

    def needed(remat):
        def total(weights):
            hidden = decoder.embed(weights, config, tokens)
            present = jnp.ones(tokens.shape, bool)
            run = decoder.run_layers(
                weights, config, hidden, decoder.Layout(models.positions_of(present), present), remat=remat
            )
            return jnp.sum(run.hidden**2)

        return jax.jit(jax.grad(total)).lower(weights).compile().memory_analysis().temp_size_in_bytes

    whole, products, least = (needed(remat) for remat in ("none", "products", "layers"))
    assert least < products < whole
    assert least < whole / 2


def test_products_are_kept_in_the_dtype_of_the_model():
    """Kept as the float32 that they are summed in they would take twice the memory."""
    model = models.load(checkpoint("llama").folder, dtype="bfloat16")
    weights, config = model.arrays, model.config
    tokens = jnp.ones((2, 24), jnp.int32)
    lora = models.Edit(
        jnp.float32(1),
        lora={"gate": models.LowRank(jnp.ones((4, 64, 2), jnp.float32), jnp.ones((4, 2, 112), jnp.float32))},
    )

    def total(edit):
        hidden = decoder.embed(weights, config, tokens)
        there = jnp.ones(tokens.shape, bool)
        run = decoder.run_layers(
            weights, config, hidden, decoder.Layout(models.positions_of(there), there), edit=edit, remat="products"
        )
        return jnp.sum(run.hidden.astype(jnp.float32))

    kept = jax.tree.leaves(jax.vjp(total, lora)[1])  # what the backward pass is given
    shapes = [(str(x.dtype), x.shape) for x in kept if x.ndim == 3 and x.shape[:2] == (config.layers, 48)]
    assert sorted(shapes) == sorted(
        ("bfloat16", (config.layers, 48, width))
        for width in (64, 32, 32, 64, 112, 112)  # that of down is not needed
    ), shapes
