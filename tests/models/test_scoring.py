"""Log-probabilities of given tokens: those of the full logits, without their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import checkpoint
from tests.models.test_decoder import texts, theirs
from vatjax import errors, models
from vatjax.models import decoder, scoring

pytestmark = pytest.mark.fast_compile


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_log_probs_are_those_of_transformers(family):
    made = checkpoint(family)
    model = models.load(made.folder)
    tokens, mask = texts()
    share = jax.nn.log_softmax(theirs(made.torch, tokens, mask).astype(np.float64), axis=-1)
    expected = np.take_along_axis(np.asarray(share)[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    found = np.asarray(jax.jit(models.log_probs)(model, tokens, mask))
    both = (mask[:, 1:] > 0) & (mask[:, :-1] > 0)
    np.testing.assert_allclose(found[:, 1:][both], expected[both], rtol=0, atol=4e-5)
    assert (found[:, 0] == 0).all()
    assert (found[:, 1:][~both] == 0).all()
    assert both.sum() < both.size


@pytest.mark.parametrize("last", [1, 7, 40])
def test_the_last_places_alone(last):
    model = models.load(checkpoint("llama").folder)
    tokens, mask = texts()
    whole = models.log_probs(model, tokens, mask)
    part = models.log_probs(model, tokens, mask, last=last)
    assert part.shape == (3, last)
    np.testing.assert_allclose(part, whole[:, -last:], rtol=0, atol=1e-5)


def test_a_text_of_one_token_has_nothing_to_score():
    model = models.load(checkpoint("llama").folder)
    assert models.log_probs(model, jnp.array([[5], [6]])).tolist() == [[0.0], [0.0]]
    assert models.log_probs(model, jnp.array([[5, 7]]), last=0).shape == (1, 0)
    with pytest.raises(errors.InputError, match="last: expected 0 to 2, the number of tokens; found 4"):
        models.log_probs(model, jnp.array([[5, 7]]), last=4)


@pytest.mark.parametrize("chunk", [1, 5, 33, 1000])
def test_chunks_change_neither_values_nor_gradients(chunk):
    model = models.load(checkpoint("llama").folder)
    weights, config = model.arrays, model.config
    hidden = jax.random.normal(jax.random.key(0), (3, 11, config.width))
    targets = jax.random.randint(jax.random.key(1), (3, 11), 0, config.vocabulary)

    def plain(hidden):
        share = jax.nn.log_softmax(decoder.head(weights, config, hidden), -1)
        return jnp.take_along_axis(share, targets[..., None], -1)[..., 0]

    def chunked(hidden):
        return scoring.token_log_probs(weights, config, hidden, targets, chunk)

    np.testing.assert_allclose(chunked(hidden), plain(hidden), rtol=0, atol=1e-5)
    ours, expected = (jax.grad(lambda h, f=f: jnp.sum(jnp.tanh(f(h))))(hidden) for f in (chunked, plain))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_the_logits_of_a_batch_never_exist():
    """Peak memory of value and gradient, at a vocabulary that would make them the largest array by far."""
    model = models.load(checkpoint("llama", vocab_size=8192).folder)
    weights, config = model.arrays, model.config
    hidden, targets = jnp.zeros((4, 512, config.width)), jnp.zeros((4, 512), jnp.int32)

    def loss(weights, hidden, chunk):
        return jnp.sum(scoring.token_log_probs(weights, config, hidden, targets, chunk))

    def peak(chunk):
        step = jax.jit(jax.value_and_grad(loss), static_argnums=2)
        return step.lower(weights, hidden, chunk).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 512 * 8192 * 4
    assert peak(64) < logits / 4
    assert peak(2048) > logits
