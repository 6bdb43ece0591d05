"""Greedy tokens are those of torch; stops, padding, drawing, and prompts that don't fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.models.checkpoints import FAMILIES, checkpoint, torch
from tests.tiers import quick
from vatjax import errors, models
from vatjax.models import generation
from vatjax.models.generation import Sampling

pytestmark = pytest.mark.fast_compile


def prompts(rows=3, time=12):
    tokens = np.random.default_rng(0).integers(3, 96, (rows, time))
    mask = np.ones((rows, time), np.int32)
    mask[1, :5] = 0
    return tokens, mask


@pytest.mark.parametrize("family", quick(FAMILIES, ["gemma3"]))
def test_64_greedy_tokens_are_those_of_transformers(family):
    made = checkpoint(family)
    tokens, mask = prompts()
    model = models.load(made.folder)
    count = min(64, model.config.context - tokens.shape[1])  # Ministral 3 has a short context here
    written = models.generate(model, tokens, mask, Sampling(count, stop=()))
    with torch.no_grad():
        theirs = made.torch.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
        )
    np.testing.assert_array_equal(written.tokens, theirs[:, tokens.shape[1] :])
    assert written.lengths.tolist() == [count] * 3


def test_what_is_written_is_what_the_uncached_pass_prefers():
    for family in ("llama", "gemma3"):
        model = models.load(checkpoint(family).folder)
        tokens, mask = prompts()
        written = models.generate(model, tokens, mask, Sampling(10, stop=()))
        whole = np.concatenate([tokens, written.tokens], axis=1)
        full = np.concatenate([mask, np.ones((3, 10), np.int32)], axis=1)
        logits = np.asarray(models.logits(model, whole, full))[:, tokens.shape[1] - 1 : -1]
        np.testing.assert_array_equal(logits.argmax(-1), written.tokens)
        expected = np.take_along_axis(
            np.asarray(jax.nn.log_softmax(logits, -1)), np.asarray(written.tokens)[..., None], -1
        )
        np.testing.assert_allclose(written.log_probs, expected[..., 0], atol=1e-4)


def test_a_stop_ends_a_text_and_padding_follows():
    model = models.load(checkpoint("llama").folder)
    tokens, mask = prompts()
    free = models.generate(model, tokens, mask, Sampling(20, stop=()))
    stop = int(free.tokens[0, 4])
    stopped = models.generate(model, tokens, mask, Sampling(20, stop=(stop, 95), pad=7))
    for row in range(3):
        ends = np.flatnonzero(np.isin(free.tokens[row], (stop, 95)))
        length = int(ends[0]) + 1 if len(ends) else 20
        assert int(stopped.lengths[row]) == length
        np.testing.assert_array_equal(stopped.tokens[row, :length], free.tokens[row, :length])
        assert (np.asarray(stopped.tokens[row, length:]) == 7).all()
        assert (np.asarray(stopped.log_probs[row, length:]) == 0).all()


def test_padding_does_not_change_what_is_written():
    model = models.load(checkpoint("mistral").folder)
    tokens, mask = prompts()
    together = models.generate(model, tokens, mask, Sampling(8, stop=()))
    alone = models.generate(model, tokens[1:2, 5:], None, Sampling(8, stop=()))
    np.testing.assert_array_equal(together.tokens[1], alone.tokens[0])


def test_draws_follow_the_temperature_and_the_seed():
    logits = jnp.tile(jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), (20_000, 1))
    key = jax.random.key(0)
    for temperature, top_p, expected in (
        (1.0, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (2.0, 1.0, np.sqrt([0.5, 0.3, 0.15, 0.05])),
        (1.0, 0.79, [0.5, 0.3, 0, 0]),
        (1.0, 0.81, [0.5, 0.3, 0.15, 0]),
        (1.0, 0.01, [1, 0, 0, 0]),
    ):
        drawn = np.bincount(generation.choose_tokens(logits, key, Sampling(1, temperature, top_p)), minlength=4)
        expected = np.array(expected) / np.sum(expected)
        assert (drawn[expected == 0] == 0).all()
        if (expected > 0).sum() > 1:
            assert stats.chisquare(drawn[expected > 0], 20_000 * expected[expected > 0]).pvalue > 1e-3
    model = models.load(checkpoint("llama").folder)
    tokens, mask = prompts()
    one, same, other = (
        models.generate(model, tokens, mask, Sampling(8, 1.0, stop=()), key).tokens.tolist()
        for key in (key, key, jax.random.key(1))
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": Sampling(250)}, "a prompt of 12 tokens and 250 more are beyond the model's context of 256"),
        ({"sampling": Sampling(2, 1.0)}, "drawing tokens needs a PRNG key"),
        ({"mask": np.arange(12)[None] < np.array([[12], [12], [9]])}, "padded on the left"),
    ],
)
def test_what_can_not_be_written(options, message):
    model = models.load(checkpoint("llama").folder)
    with pytest.raises(errors.InputError) as caught:
        models.generate(model, prompts()[0], **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [{"tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_that_makes_no_sense(options):
    with pytest.raises(errors.InputError, match=f"{next(iter(options))}: "):
        Sampling(**options)


def test_stop_tokens_are_those_of_the_configuration():
    assert models.stop_tokens(models.load(checkpoint("llama").folder)) == (2,)


@pytest.mark.parametrize("family", quick(["llama", "gemma3", "phi3"], ["gemma3"]))
def test_a_trunk_is_what_every_prompt_begins_with(family):
    """With padding before it, too."""
    model = models.load(checkpoint(family).folder)
    tokens, mask = prompts()
    trunk = np.random.default_rng(1).integers(3, 96, 20)
    whole = np.concatenate([np.repeat(trunk[None], 3, 0), tokens], 1)
    # A row whose rest is padded is no text with a gap: its own tokens follow the trunk.
    rows = [np.concatenate([trunk, row[there.astype(bool)]]) for row, there in zip(tokens, mask, strict=True)]
    padded = np.zeros_like(whole)
    there = np.zeros_like(whole)
    for i, row in enumerate(rows):
        padded[i, -len(row) :], there[i, -len(row) :] = row, 1
    expected = models.generate(model, padded, there, Sampling(30, stop=()))
    for front in (0, 12):
        begin = np.concatenate([np.full(front, -1), trunk])
        found = models.generate(model, tokens, mask, Sampling(30, stop=()), trunk=begin)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)


def test_a_text_with_a_key_of_its_own_is_drawn_alike_beside_any_other():
    model = models.load(checkpoint("llama").folder)
    tokens, mask = prompts()
    keys = jax.vmap(jax.random.key)(np.arange(3, dtype=np.uint32))
    sampling = Sampling(12, temperature=1.0, stop=())
    whole = models.generate(model, tokens, mask, sampling, keys)
    turned = models.generate(model, tokens[::-1], mask[::-1], sampling, keys[::-1])
    np.testing.assert_array_equal(turned.tokens[::-1], whole.tokens)
    assert len({tuple(row) for row in np.asarray(whole.tokens).tolist()}) == 3
    same = models.generate(model, np.repeat(tokens[:1], 3, 0), np.repeat(mask[:1], 3, 0), sampling, keys)
    assert len({tuple(row) for row in np.asarray(same.tokens).tolist()}) == 3
