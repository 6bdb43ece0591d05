"""`vatjax models check`: what a checkpoint is, and every bad one with one sentence and status 2."""

import json
import shutil

import pytest

from tests.models.checkpoints import checkpoint
from tests.models.test_tokens import WORDS, made
from tests.test_cli import run

pytestmark = pytest.mark.fast_compile


@pytest.fixture
def folder(tmp_path):
    folder = shutil.copytree(checkpoint("gemma2").folder, tmp_path / "model")
    made().save_pretrained(folder)
    return folder


def test_a_checkpoint_is_described(folder, capsys):
    status, out, err = run(capsys, "models", "check", str(folder), "--json")
    content = json.loads(out)
    assert (status, err) == (0, "")
    assert content["family"] == "gemma2"
    assert content["parameters"] == sum(p.numel() for p in checkpoint("gemma2").torch.parameters())
    assert content["options"]["attention_cap"] == 5.0
    assert content["windows"] == [6]
    assert content["tokenizer"] == {"tokens": len(WORDS), "chat_template": True}
    status, out, _ = run(capsys, "models", "check", str(folder))
    assert status == 0
    assert "gemma2" in out
    assert "attention_cap 5.0" in " ".join(out.split())


def test_it_writes(folder, capsys):
    arguments = ("models", "check", str(folder), "--prompt", "help a neighbour", "--tokens", "5")
    status, out, _ = run(capsys, *arguments, "--json")
    content = json.loads(out)
    assert status == 0
    assert content["prompt"] == "help a neighbour"
    assert isinstance(content["written"], str)
    _, out, _ = run(capsys, *arguments, "--chat", "--json")
    assert json.loads(out)["prompt"] == "<s><user> help a neighbour <assistant>"


def broken(folder, how):
    if how == "missing shard":
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        index = {"weight_map": {"model.norm.weight": "model-1.safetensors", "x": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "truncated":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:-7])
    elif how == "lying header":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + content[8:])
    elif how == "unknown family":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba2"}))
    elif how == "vocabulary":
        made([*WORDS, *(f"word{i}" for i in range(100))]).save_pretrained(folder)
    elif how == "no template":
        made(template=None).save_pretrained(folder)
        (folder / "chat_template.jinja").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        ("missing shard", (), "1 of 2 shards are missing: model-2.safetensors"),
        ("truncated", (), "after the end of the file, which is cut short"),
        ("lying header", (), "its header claims 1,099,511,627,776 bytes"),
        ("unknown family", (), "unknown model_type 'mamba2'"),
        ("vocabulary", (), "its tokenizer has 113 tokens, its model embeddings for 96"),
        ("no template", ("--prompt", "win", "--chat"), "no chat template"),
        ("nothing", ("--prompt", "win " * 300), "longer than the model's context of 256"),
        ("nothing", ("--chat",), "give one with --prompt"),
        ("nothing", ("--prompt", "win", "--tokens", "0"), "at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(folder, capsys, monkeypatch, how, options, message):
    from vatjax import models

    broken(folder, how)
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("weights were loaded"))
    status, out, err = run(capsys, "models", "check", str(folder), *options)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no/such/place/at/all", "no such folder"),
        ("owner/absent", "not in the local cache, and HF_HUB_OFFLINE is set"),
        ("model/config.json", "a checkpoint is a folder with a config.json, and this is a file"),
        ("empty", "no config.json there"),
    ],
)
def test_a_place_that_is_no_checkpoint(folder, capsys, monkeypatch, where, message):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    status, _, err = run(capsys, "models", "check", where)
    assert status == 2
    assert message in err
