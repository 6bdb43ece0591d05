"""`dtype: mixed`: bfloat16 weights under a float32 residual stream, in every family, in training and on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import FAMILIES, checkpoint
from tests.tiers import quick
from vatjax import models, train

pytestmark = pytest.mark.fast_compile

TOKENS = np.random.default_rng(0).integers(3, 90, (4, 24))


def rounded(folder):
    """Returns the model in float32 with its weights rounded to bfloat16: what `mixed` approximates."""
    model = models.load(folder, "bfloat16")
    return models.Model(jax.tree.map(lambda x: x.astype(jnp.float32), model.arrays), model.config)


@pytest.mark.parametrize("family", quick(FAMILIES, ["llama", "gemma3", "olmo2"]))
def test_mixed_logits_are_closer_to_float32_than_bfloat16_ones(family):
    folder = checkpoint(family).folder
    expected = np.asarray(models.logits(rounded(folder), TOKENS), np.float64)
    gaps = {}
    for dtype in ("bfloat16", "mixed"):
        ours = np.asarray(models.logits(models.load(folder, dtype), TOKENS), np.float64)
        gaps[dtype] = np.sqrt(((ours - expected) ** 2).mean() / (expected**2).mean())
    assert gaps["mixed"] < gaps["bfloat16"]
    assert gaps["mixed"] < 0.02  # a few roundings of 2**-8 a layer


def test_a_mixed_model_trains_as_its_float32_twin_does():
    folder = checkpoint("gemma3").folder
    losses = {}
    for dtype, model in {"float32": rounded(folder), "mixed": models.load(folder, "mixed")}.items():
        prompts = [train.Example(tuple(row[:12].tolist()), (tuple(row[12:].tolist()),)) for row in TOKENS]
        data = train.make_rows(prompts, 4)
        state = train.init(model, train.Lora(rank=4), train.Adam(rate=1e-2), steps=6)
        losses[dtype] = []
        for _ in range(6):
            state, logs = train.step(state, next(train.batches(data)), train.sft())
            losses[dtype].append(float(logs["loss"]))
    assert losses["mixed"][-1] < 0.95 * losses["mixed"][0]
    np.testing.assert_allclose(losses["mixed"], losses["float32"], rtol=0.02)


def test_a_mixed_model_is_saved_with_its_bfloat16_weights(tmp_path):
    model = models.load(checkpoint("olmo2").folder, "mixed")
    models.save(model, tmp_path / "out")
    again = models.load(tmp_path / "out", "mixed")
    assert models.fingerprint(again.arrays) == models.fingerprint(model.arrays)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(again.arrays)} == {"bfloat16"}
    np.testing.assert_array_equal(models.logits(again, TOKENS), models.logits(model, TOKENS))
