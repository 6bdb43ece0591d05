"""Eight devices in every split over the three axes give what one device gives; and where each parameter lies."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import FAMILIES, checkpoint
from tests.tiers import quick
from vatjax import errors, models
from vatjax.models import families, sharding, weights

pytestmark = pytest.mark.fast_compile

SPLITS = [split for split in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(split) == 8]
RUN = jax.jit(models.logits)


def texts(rows=8, time=24):
    tokens = np.random.default_rng(0).integers(3, 96, (rows, time)).astype(np.int32)
    mask = np.ones((rows, time), np.int32)
    mask[1, :9] = 0
    return tokens, mask


@pytest.mark.parametrize(
    ("family", "split"),
    quick(
        [*(("llama", split) for split in SPLITS), ("gemma3", (2, 2, 2)), ("gemma3", (1, 2, 4))],
        [("llama", (8, 1, 1)), ("llama", (1, 8, 1)), ("llama", (1, 1, 8)), ("gemma3", (2, 2, 2))],
    ),
)
def test_every_split_gives_the_logits_of_one_device(family, split):
    folder, (tokens, mask) = checkpoint(family).folder, texts()
    expected = RUN(models.load(folder), jnp.asarray(tokens), jnp.asarray(mask))
    mesh = models.mesh(*split)
    model = models.load(folder, mesh=mesh)
    placed = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in (tokens, mask)]
    np.testing.assert_allclose(RUN(model, *placed)[mask > 0], expected[mask > 0], rtol=0, atol=2e-5)


def specs(config, mesh):
    """The placement of every parameter by name, with its layer axis."""
    return {p.name: sharding.parameter_shardings(p, mesh)[1].spec for p in weights.parameters(config)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_lies_as_the_golden_file_says(root, family):
    golden = json.loads((root / "tests" / "models" / "golden_shardings.json").read_text())
    config = families.read_config(checkpoint(family).folder)
    found = {name: str(cut) for name, cut in specs(config, models.mesh(2, 2, 2)).items()}
    assert found == golden[family]


def test_each_device_holds_only_its_part():
    model = models.load(checkpoint("llama").folder, mesh=models.mesh(1, 4, 2))
    gate = model.arrays["layers"]["gate"]
    assert gate.shape == (4, 64, 112)
    assert {shard.data.shape for shard in gate.addressable_shards} == {(4, 16, 56)}
    assert {shard.data.shape for shard in model.arrays["embedding"].addressable_shards} == {(48, 16)}


def test_an_axis_that_can_not_be_cut_evenly_is_not_cut():
    mesh = models.mesh(1, 1, 8)
    config = families.read_config(checkpoint("llama with biases").folder)
    assert str(specs(config, mesh)["key"]) == str(jax.P(None, "fsdp", None))  # two heads on eight devices
    assert str(specs(config, models.mesh(1, 4, 2))["key"]) == str(jax.P(None, "fsdp", "tensor"))
    assert specs(config, models.mesh(1, 8, 1))["gate"][1] == "fsdp"
    odd = families.parse({**json.loads((checkpoint("llama").folder / "config.json").read_text()), "vocab_size": 97})
    assert specs(odd, mesh)["embedding"][0] is None


def test_a_mesh_takes_all_devices():
    assert dict(models.mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    for sizes in ((3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (16, 1, 1)):
        with pytest.raises(errors.InputError, match="8 devices; one size may be -1"):
            models.mesh(*sizes)


def test_everything_else_runs_on_a_mesh_as_on_one_device(tmp_path):
    folder, (tokens, mask) = checkpoint("phi3").folder, texts()
    mask = np.ones_like(mask)
    mesh = models.mesh(2, 2, 2)
    one, spread = models.load(folder), models.load(folder, mesh=mesh)
    placed = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in (tokens, mask)]
    np.testing.assert_allclose(
        models.log_probs(spread, *placed), models.log_probs(one, tokens, mask), rtol=0, atol=2e-5
    )
    sampling = models.Sampling(tokens=6, stop=())
    mine, other = models.generate(one, tokens, mask, sampling), models.generate(spread, *placed, sampling)
    np.testing.assert_array_equal(mine.tokens, other.tokens)
    np.testing.assert_allclose(mine.log_probs, other.log_probs, rtol=0, atol=2e-5)
    models.save(spread, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, one.arrays, models.load(tmp_path).arrays)


def test_the_head_stays_where_the_texts_are():
    """Each device takes the logits of its own texts; none gathers the residual stream of all."""
    folder, (tokens, mask) = checkpoint("llama").folder, texts()
    mesh = models.mesh(8, 1, 1)
    placed = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in (tokens, mask)]
    text = jax.jit(models.log_probs).lower(models.load(folder, mesh=mesh), *placed).compile().as_text()
    assert "all-gather" not in text
