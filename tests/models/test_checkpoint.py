"""Loading: damaged files, shards, dtypes, and what is missing, surplus or misshapen."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.models.checkpoints import checkpoint, torch, transformers
from vatjax import errors, models
from vatjax.models import safetensors

pytestmark = pytest.mark.fast_compile


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
    assert "model.layers.0.self_attn.q_proj.bias is not a parameter of this llama configuration" in message
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
    assert "its data would end 10 bytes after the end of the file" in refused(folder)
    file.write_bytes(whole[:5])
    assert "not a safetensors file, or cut short" in refused(folder)
    file.write_bytes((10**9).to_bytes(8, "little") + whole[8:])
    assert "its header claims 1,000,000,000 bytes" in refused(folder)
    file.write_bytes((20).to_bytes(8, "little") + b"not a header at all." + whole)
    assert "not valid JSON" in refused(folder)
    name = "model.norm.weight"
    assert "takes 240 bytes, its offsets say 256" in with_header({**header, name: {**header[name], "shape": [60]}})
    assert "is stored as I8" in with_header({**header, name: {**header[name], "dtype": "I8"}})
    assert "expected dtype, shape and data_offsets" in with_header({**header, name: 3})
    other = header["model.layers.1.self_attn.q_proj.weight"]["data_offsets"]
    twice = {**header["model.layers.0.self_attn.q_proj.weight"], "data_offsets": other}
    message = with_header({**header, "model.layers.0.self_attn.q_proj.weight": twice})
    assert "where the tensor before it ends at" in message
    assert "bytes after it belong to no tensor" in with_header(
        {
            k: v
            for k, v in header.items()
            if v != header[max(header, key=lambda k: header[k].get("data_offsets", [0])[-1])]
        }
    )
    assert "expected whole numbers" in with_header({**header, name: {**header[name], "shape": [-64]}})
    file.write_bytes(whole)
    models.load(folder)


def test_only_safetensors_is_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin is not read, since only safetensors is" in refused(folder)


def test_an_index_that_points_outside_is_refused(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    assert "shards must lie next to it" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "expected JSON with a weight_map" in refused(folder)


def test_only_what_is_looked_at_is_read(folder):
    tensor = safetensors.read_folder(folder)["model.embed_tokens.weight"]
    assert isinstance(tensor.open().base, np.memmap) or isinstance(tensor.open(), np.memmap)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no/such/folder/here", "no such folder, and neither pocket nor a name on the Hub"),
        ("owner/absent", "it is not in the local cache, and HF_HUB_OFFLINE is set"),
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


def test_a_head_that_differs_from_the_embedding_it_is_said_to_be_is_the_head(folder):
    rewrite(folder, lambda content: content.update({"lm_head.weight": content["model.embed_tokens.weight"].copy()}))
    assert models.load(folder).config.tied
    rewrite(folder, lambda content: content.update({"lm_head.weight": content["lm_head.weight"] * 1.5}))
    model = models.load(folder)
    assert not model.config.tied
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = np.arange(3, 23)[None]
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(models.logits(model, tokens), expected, rtol=0, atol=3e-5)


def test_each_device_reads_only_its_slices(folder, monkeypatch):
    """The entries that are looked at, all devices together, are those of the checkpoint: none is read for nothing."""
    from vatjax.models import checkpoint as loading

    read = []
    plain = loading._slice

    def counted(*arguments):
        part = plain(*arguments)
        read.append(part.size)
        return part

    monkeypatch.setattr(loading, "_slice", counted)
    models.load(folder, mesh=models.mesh(1, 4, 2))
    cut = sum(x.size for name, x in load_file(folder / "model.safetensors").items() if "norm" not in name)
    assert cut <= sum(read) < 1.1 * cut  # norms are whole everywhere
    assert max(read) <= 112 * 64 // 8


def test_the_header_s_shapes_are_those_of_matrices_and_vectors(folder):
    rewrite(folder, lambda content: content.update({"model.norm.weight": np.array(3.0, np.float32)}))
    assert "holds no matrix and no vector" in refused(folder)


def test_headers_and_configurations_that_are_nested_too_deeply(folder):
    deep = b'{"a":' * 50_000
    (folder / "model.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    assert "not valid JSON" in refused(folder)
    (folder / "config.json").write_text("[" * 200_000)
    assert "not valid JSON" in refused(folder)


@pytest.mark.parametrize("end", ["x", [[1]], 10**30, -1, 1.5, True])
def test_a_stop_token_that_is_none(folder, end):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(errors.InputError, match=r"generation_config\.json: eos_token_id: expected tokens by number"):
        models.stop_tokens(models.load(folder))


@pytest.mark.parametrize("name", ["owner/a--b", "owner/..", "owner/" + "x" * 300, "a/b/c"])
def test_names_that_no_repository_has(name):
    with pytest.raises(errors.InputError):
        models.load(name)
