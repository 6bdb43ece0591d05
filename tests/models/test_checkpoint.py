"""Loading: damaged files, shards, dtypes, and what is missing, surplus or misshapen."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.checkpoints import checkpoint
from vatjax import errors, models
from vatjax.models import safetensors


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(checkpoint("llama").folder, tmp_path / "model")


def rewrite(folder, change):
    file = folder / "model.safetensors"
    content = load_file(file)
    change(content)
    save_file(content, file)


def refused(folder):
    with pytest.raises(errors.InputError) as caught:
        models.load(folder)
    return str(caught.value)


def test_every_parameter_arrives_in_its_place(folder):
    model = models.load(folder)
    stored = load_file(folder / "model.safetensors")
    layers = model.arrays["layers"]
    for layer in range(4):
        place = f"model.layers.{layer}."
        np.testing.assert_array_equal(layers["query"][layer], stored[f"{place}self_attn.q_proj.weight"].T)
        np.testing.assert_array_equal(layers["mlp_norm"][layer], stored[f"{place}post_attention_layernorm.weight"])
    np.testing.assert_array_equal(model.arrays["embedding"], stored["model.embed_tokens.weight"])
    assert "head" not in model.arrays


def test_half_precision_in_and_float32_logits_out(folder):
    model, exact = models.load(folder, dtype="bfloat16"), models.load(folder)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(model)} == {"bfloat16"}
    tokens = np.arange(3, 23)[None]
    logits = models.logits(model, tokens)
    assert logits.dtype == np.float32
    assert 1e-4 < np.abs(logits - models.logits(exact, tokens)).max() < 0.15


def test_weights_stored_as_bfloat16_are_read_exactly(folder):
    import ml_dtypes

    rounded = {}

    def halve(content):
        for name, x in content.items():
            rounded[name] = content[name] = x.astype(ml_dtypes.bfloat16)

    rewrite(folder, halve)
    model = models.load(folder)
    np.testing.assert_array_equal(model.arrays["norm"], rounded["model.norm.weight"].astype(np.float32))


def test_shards_are_one_checkpoint(folder):
    whole = models.load(folder)
    checkpoint("llama").torch.save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    jax.tree.map(np.testing.assert_array_equal, whole.arrays, models.load(folder).arrays)
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    assert f"1 of {len(list(folder.glob('model-*'))) + 1} shards are missing: {gone.name}" in refused(folder)


def test_missing_surplus_and_misshapen_tensors_are_said_at_once(folder):
    def change(content):
        del content["model.layers.2.mlp.up_proj.weight"]
        content["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
        content["model.norm.weight"] = np.zeros(63, np.float32)
        content["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)

    rewrite(folder, change)
    message = refused(folder)
    assert "model.layers.2.mlp.up_proj.weight is missing" in message
    assert "model.layers.0.self_attn.q_proj.bias is no parameter of this llama configuration" in message
    assert "model.norm.weight: expected the shape [64], found [63]" in message
    assert "inv_freq" not in message


def test_damaged_files_are_told_apart(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def with_header(content):
        text = json.dumps(content).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
        return refused(folder)

    file.write_bytes(whole[:-10])
    assert "its data would end 10 bytes behind the end of the file" in refused(folder)
    file.write_bytes(whole[:5])
    assert "no safetensors file, or cut short" in refused(folder)
    file.write_bytes((10**9).to_bytes(8, "little") + whole[8:])
    assert "its header claims 1,000,000,000 bytes" in refused(folder)
    file.write_bytes((20).to_bytes(8, "little") + b"not a header at all." + whole)
    assert "not valid JSON" in refused(folder)
    name = "model.norm.weight"
    assert "takes 240 bytes, its offsets say 256" in with_header({**header, name: {**header[name], "shape": [60]}})
    assert "is stored as I8" in with_header({**header, name: {**header[name], "dtype": "I8"}})
    assert "expected dtype, shape and data_offsets" in with_header({**header, name: 3})
    assert "expected whole numbers" in with_header({**header, name: {**header[name], "shape": [-64]}})
    file.write_bytes(whole)
    models.load(folder)


def test_only_safetensors_is_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin is not read, since only safetensors is" in refused(folder)


def test_an_index_that_points_outside_is_refused(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    assert "shards must lie beside it" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "expected JSON with a weight_map" in refused(folder)


def test_only_what_is_looked_at_is_read(folder):
    tensor = safetensors.folder(folder)["model.embed_tokens.weight"]
    assert isinstance(tensor.open().base, np.memmap) or isinstance(tensor.open(), np.memmap)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no/such/folder/here", "no such folder, and no name on the Hub"),
        ("owner/absent", "is not in the local cache, and HF_HUB_OFFLINE is set"),
        ("config.json", "a checkpoint is a folder"),
        ("modle", "did you mean"),
    ],
)
def test_a_place_that_is_no_checkpoint(folder, monkeypatch, where, message):
    monkeypatch.chdir(folder if where == "config.json" else folder.parent)
    assert message in refused(where)


def test_an_unknown_dtype(folder):
    with pytest.raises(errors.InputError, match="did you mean 'bfloat16'"):
        models.load(folder, dtype="bfloat1")
