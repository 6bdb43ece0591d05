"""What is written loads in `transformers`, with the same logits, and comes back bit for bit."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.elicit.speaking import speaking
from tests.models.checkpoints import FAMILIES, SHAPE, checkpoint, torch, transformers
from tests.models.test_tokens import made as made_tokenizer
from tests.tiers import quick
from vatjax import errors, models

pytestmark = pytest.mark.fast_compile

TOKENS = np.random.default_rng(0).integers(3, SHAPE["vocab_size"], (2, 24))


@pytest.mark.parametrize("family", quick(FAMILIES, ["llama", "gemma3", "phi3", "qwen2"]))
def test_the_round_trip_loads_in_transformers(family, tmp_path):
    made = checkpoint(family)
    model = models.load(made.folder)
    models.save(model, tmp_path / "out")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    with torch.no_grad():
        expected = made.torch(torch.tensor(TOKENS)).logits
        np.testing.assert_array_equal(theirs.eval()(torch.tensor(TOKENS)).logits, expected)
    stored, again = (load_file(folder / "model.safetensors") for folder in (made.folder, tmp_path / "out"))
    assert stored.keys() == again.keys()
    jax.tree.map(np.testing.assert_array_equal, model.arrays, models.load(tmp_path / "out").arrays)


def test_a_changed_model_is_what_is_written(tmp_path):
    model = models.load(checkpoint("llama").folder)
    changed = jax.tree.map(lambda x: x * 1.1, model)
    models.save(changed, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(models.logits(changed, TOKENS), expected, rtol=0, atol=3e-5)
    assert np.abs(models.logits(model, TOKENS) - expected).max() > 0.1


def test_half_precision_stays_half(tmp_path):
    model = models.load(checkpoint("qwen2").folder, dtype="bfloat16")
    models.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16
    back = models.load(tmp_path, dtype="bfloat16").arrays
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), model.arrays, back)


def test_shards_have_an_index_and_load(tmp_path):
    made = checkpoint("phi3")
    model = models.load(made.folder)
    models.save(model, tmp_path, shard=100_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    total = sum(x.nbytes for x in load_file(made.folder / "model.safetensors").values())
    assert len(shards) > 2
    assert all(shard.stat().st_size < 100_000 + 5_000 for shard in shards)
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == total
    jax.tree.map(np.testing.assert_array_equal, model.arrays, models.load(tmp_path).arrays)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        tokens = torch.tensor(TOKENS)
        np.testing.assert_array_equal(theirs(tokens).logits, made.torch(tokens).logits)


def test_a_checkpoint_is_not_overwritten_by_accident_and_leaves_no_shards_behind(tmp_path):
    model = models.load(checkpoint("llama").folder)
    models.save(model, tmp_path, shard=100_000)
    with pytest.raises(errors.InputError, match="there is a checkpoint already"):
        models.save(model, tmp_path)
    models.save(model, tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    models.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="this is a file"):
        models.save(model, tmp_path / "file")


def test_the_tokenizer_and_the_stop_tokens_go_along(tmp_path):
    folder = shutil.copytree(checkpoint("llama").folder, tmp_path / "in")
    made_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7], "temperature": 0.6}')
    model = models.load(folder)
    assert models.stop_tokens(model) == (2, 7)
    models.save(model, tmp_path / "out")
    back = models.load(tmp_path / "out")
    assert models.stop_tokens(back) == (2, 7)
    text = "help a neighbour win"
    assert back.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    assert theirs.chat_template == model.tokenizer.chat_template


def test_nothing_of_another_checkpoint_stays(tmp_path):
    folder = shutil.copytree(checkpoint("llama").folder, tmp_path / "in")
    made_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    (folder / "notes.md").write_text("mine")
    models.save(models.load(checkpoint("llama").folder), folder, overwrite=True)
    kept = {path.name for path in folder.iterdir()}
    assert kept - {"notes.md", "config.json", "model.safetensors", "generation_config.json"} == set()
    assert models.stop_tokens(models.load(folder)) == (2,)


def test_several_templates_are_kept(tmp_path):
    folder = shutil.copytree(checkpoint("llama").folder, tmp_path / "in")
    tokenizer = made_tokenizer()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages[0].content }}"}
    tokenizer.save_pretrained(folder)
    models.save(models.load(folder), tmp_path / "out")
    assert models.load(tmp_path / "out").tokenizer.chat_template == tokenizer.chat_template


def test_mixed_dtypes_and_a_model_without_a_configuration(tmp_path):
    model = models.load(checkpoint("llama").folder, dtype="bfloat16")
    mixed = dict(model.arrays, norm=model.arrays["norm"].astype(np.float32))
    models.save(models.Model(mixed, model.config, None, model.source), tmp_path / "out")
    assert {str(x.dtype) for x in load_file(tmp_path / "out" / "model.safetensors").values()} == {"float32", "bfloat16"}
    with pytest.raises(errors.InputError, match=r"no config\.json to write"):
        models.save(models.Model(mixed, model.config), tmp_path / "none")


def test_no_code_is_pointed_to(tmp_path):
    folder = shutil.copytree(checkpoint("llama").folder, tmp_path / "in")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    models.save(models.load(folder), tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_to_a_bucket(bucket, tmp_path):
    from vatjax import store

    model = models.load(checkpoint("llama").folder)
    models.save(model, f"{bucket}/model", shard=100_000)
    for path in store.path(f"{bucket}/model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    jax.tree.map(np.testing.assert_array_equal, model.arrays, models.load(tmp_path).arrays)


def test_the_source_s_tokenizer_files_are_copied_byte_for_byte(tmp_path):
    """What transformers 4 and other programs wrote they can read again; files written anew by version 5 they cannot."""
    source = tmp_path / "source"
    models.save(speaking(), source)
    path = source / "tokenizer_config.json"
    content = {**json.loads(path.read_text()), "added_by": "transformers 4"}
    path.write_text(json.dumps(content, indent=7))
    models.save(models.load(source), tmp_path / "copy")
    for file in source.glob("tokenizer*"):
        assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()
    changed = models.load(source)
    changed.tokenizer.chat_template = "{{ messages[0].content }}"
    models.save(changed, tmp_path / "changed")
    assert models.load(tmp_path / "changed").tokenizer.chat_template == "{{ messages[0].content }}"
