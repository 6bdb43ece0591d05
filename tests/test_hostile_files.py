"""Files that lie: each ends in one line, before it takes memory, time, or another's files."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest

from tests.test_cli import run
from vatjax import config, errors, models, names, states, store, study, tables
from vatjax.commands import show
from vatjax.models import saving, templates
from vatjax.store.artifacts import Artifact, ArtifactStore
from vatjax.study.columns import read_csv, to_csv

# An artifact store ---------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """An artifact with two files."""
    shelf = ArtifactStore(tmp_path / "pieces")
    artifact = Artifact("state", "mine", {"x": 1})
    store.commit_json(shelf.path(artifact) / "numbers.json", {"gain": 0.123})
    store.commit_json(shelf.path(artifact) / "inside" / "more.json", {"a": 1})
    shelf.mark_complete(artifact, 1.0, {})
    assert shelf.status([artifact]) == ({artifact.address}, [])
    return shelf, artifact


def test_a_changed_digit_is_found(kept):
    shelf, artifact = kept
    path = shelf.path(artifact) / "numbers.json"
    path.write_text(path.read_text().replace("0.123", "0.124"))
    assert shelf.status([artifact]) == (set(), [artifact])


def test_the_record_of_the_computation_may_differ(kept):
    shelf, artifact = kept
    (shelf.path(artifact) / "time.json").write_text("{}")
    assert shelf.status([artifact]) == ({artifact.address}, [])
    assert "time.json" not in json.loads((shelf.path(artifact) / "piece.json").read_text())["files"]


@pytest.mark.parametrize("level", ["the artifact", "its parent", "a folder inside", "a file", "scratch"])
def test_a_link_is_never_followed(kept, tmp_path, level):
    shelf, artifact = kept
    victim = tmp_path / "victim"
    place = shelf.path(artifact)
    if level == "scratch":
        victim.mkdir()
        (victim / "precious").write_text("mine")
        (place / "shards").symlink_to(victim)
        shelf.mark_complete(artifact, 1.0, {})
        assert not (place / "shards").exists()
    else:
        linked = {"the artifact": place, "its parent": place.parent, "a folder inside": place / "inside"}.get(
            level, place / "numbers.json"
        )
        if linked.is_dir():
            shutil.copytree(linked, victim)
            shutil.rmtree(linked)
        else:
            victim.mkdir()
            shutil.copy(linked, victim / "precious")
            linked.unlink()
        (victim / "precious").write_text("mine")
        linked.symlink_to(victim if level != "a file" else victim / "precious")
        assert shelf.status([artifact]) == (set(), [artifact])
        shelf.drop(artifact)
        assert not place.exists()
    assert (victim / "precious").read_text() == "mine"


# Limits before memory ------------------------------------------------------------------------------------------------


def archive(path, name, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open(name, "w", force_zip64=True) as opened:
        for part in content:
            opened.write(part)


def header(shape):
    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return text.getvalue()


def test_an_archive_is_as_large_as_it_says(tmp_path, monkeypatch):
    archive(tmp_path / "lie.npz", "state.npy", [header((2**40,)), b"12345678"])
    with pytest.raises(errors.InputError, match="damaged"):
        states.load(tmp_path / "lie.npz")
    monkeypatch.setenv("VATJAX_EXPANDED_GB", "0.001")
    archive(tmp_path / "bomb.npz", "state.npy", [header((10**6,)), *[bytes(10**6)] * 8])
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    with pytest.raises(errors.InputError, match=r"bomb.npz: expands to 0.0 GB, and at most 0.001 GB are read"):
        states.load(tmp_path / "bomb.npz")
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"scene,Power\n" + b"a,3\n" * 400_000))
    with pytest.raises(
        errors.InputError, match=r"bomb.csv.gz: expands to more than 0.001 GB; raise the limit with VATJAX"
    ):
        tables.read(tmp_path / "bomb.csv.gz")
    monkeypatch.setenv("VATJAX_EXPANDED_GB", "1")
    assert len(tables.read(tmp_path / "bomb.csv.gz").rows) == 400_000
    monkeypatch.setenv("VATJAX_EXPANDED_GB", "much")
    with pytest.raises(errors.InputError, match="VATJAX_EXPANDED_GB: expected a number of gigabytes, found 'much'"):
        tables.read(tmp_path / "bomb.csv.gz")


def test_a_file_of_bad_rows_alone_is_not_read_to_its_end(tmp_path):
    (tmp_path / "bad.jsonl").write_text("[]\n" * 150_000)
    table = tables.read(tmp_path / "bad.jsonl")
    assert len(table.problems) == 100_001
    assert table.lost
    assert "100,000 rows are bad; what follows is lost" in table.problems[-1].message


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(errors.InputError, match=r"a.csv: not a regular file"):
        tables.read(tmp_path / "a.csv")
    shutil.copytree(models.hub.local_folder("pocket"), tmp_path / "m", ignore=shutil.ignore_patterns("sha256.json"))
    (tmp_path / "m" / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "m" / "model.safetensors")
    with pytest.raises(errors.InputError, match=r"model.safetensors: not a regular file"):
        models.open_checkpoint(tmp_path / "m")


# Checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(models.hub.local_folder("pocket"), folder, ignore=shutil.ignore_patterns("sha256.json"))
    return folder


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def set_header(path, edit):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    content = json.loads(data[8 : 8 + length])
    edit(content)
    text = json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_size_of_a_configuration_decides_nothing_before_it_is_checked(copy):
    change(copy / "config.json", head_dim=2**31 - 2)
    with pytest.raises(errors.InputError, match="head_dim: expected 8,192 at most, found 2,147,483,646"):
        models.open_checkpoint(copy)


@pytest.mark.parametrize("value", [["F32"], None, {"a": 1}, 3])
def test_a_type_that_is_no_text_is_one_line(copy, value):
    set_header(copy / "model.safetensors", lambda content: content["model.norm.weight"].update(dtype=value))
    with pytest.raises(errors.InputError, match="is stored as"):
        models.open_checkpoint(copy)


def test_deep_and_foreign_text_is_one_line(copy):
    (copy / "generation_config.json").write_text("[" * 100_000)
    with pytest.raises(errors.InputError, match=r"generation_config.json: not valid JSON"):
        models.open_checkpoint(copy)
    (copy / "generation_config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(errors.InputError, match=r"generation_config.json: not valid JSON"):
        models.open_checkpoint(copy)
    (copy / "generation_config.json").unlink()
    (copy / "model.safetensors.index.json").write_text("[" * 1_000_000)
    with pytest.raises(errors.InputError, match=r"index.json: expected JSON with a weight_map"):
        models.open_checkpoint(copy)


def test_a_regular_expression_of_a_tokenizer_that_never_ends_is_one_line(copy, capsys):
    """The regex library gives up after a limit, with a Rust panic, which is no Exception in Python."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change(copy / "tokenizer.json", pre_tokenizer=split)
    status, _, said = run(capsys, "models", "check", str(copy), "--prompt", "a" * 40 + "!", "--tokens", "1")
    assert status == 2
    assert said.endswith(
        "vatjax: the tokenizer failed on a text (Onig: Regex search error: retry-limit-in-match over)\n"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ none + 1 }}", "unsupported operand"),
        ("{% include 'x' %}", "no loader"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ 'a' * 10**6 }}", "it makes 1,000,000 characters, and at most"),
        ("{{ raise_exception('\x1b[31mred\x07') }}", r"\\x1b\[31mred\\x07"),
    ],
)
def test_a_template_that_fails_is_one_line(copy, capsys, template, message):
    import re

    change(copy / "tokenizer_config.json", chat_template=template)
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    status, _, said = run(capsys, "models", "check", str(copy), "--prompt", "Hello", "--chat", "--tokens", "1")
    assert status == 2
    assert re.search(message, said), said
    assert not set(said) & {"\x1b", "\x07"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 'a' * 10**9 }}", "it takes more than 1 GB of memory"),
        ("{{ 'a' * 10**8 }}", "makes 100,000,000 characters"),
        ("{{ '%999999999d' % 1 }}", "memory|characters"),
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "it takes longer than 5 s"),
        ("{{ 10**(10**9) }}", "it takes longer than 5 s|memory"),
    ],
)
def test_a_template_has_limits_of_memory_time_and_output(template, message):
    messages = [{"role": "user", "content": "Hello"}]
    with pytest.raises(errors.InputError, match=message):
        templates.render(template, messages, True, {})
    assert templates.render("{{ messages[0].content }}", messages, True, {}) == "Hello"  # the next one is rendered


def test_a_normalizer_that_blows_texts_up_is_refused(copy):
    bomb = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}
    change(copy / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [bomb, bomb, bomb]})
    with pytest.raises(
        errors.InputError,
        match=r"normalizer of its tokenizer has 4 steps and can make a text 1e\+09 times as long; at most 100 and 64",
    ):
        models.open_checkpoint(copy)


def test_a_template_gives_the_text_that_transformers_gives(copy):
    model = models.load(copy)
    messages = [{"role": "system", "content": "Be \u2063 it."}, {"role": "user", "content": "Hi\n<b>"}]
    for answering in (True, False):
        expected = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
        render = models.tokens.render_chat if answering else models.tokens.render_conversation
        assert render(model.tokenizer, messages) == expected


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_with_their_name(copy, number):
    path = copy / "model.safetensors"
    place = {}
    set_header(path, lambda content: place.update(content["model.layers.2.mlp.up_proj.weight"]))
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    assert place["dtype"] == "BF16"
    start = 8 + length + place["data_offsets"][0] + 40
    data[start : start + 2] = np.float32(number).tobytes()[2:]  # the upper half
    path.write_bytes(data)
    with pytest.raises(
        errors.InputError, match=r"weights that are NaN or infinite in 'model.layers.2.mlp.up_proj.weight'"
    ):
        models.load(copy)


# What is shown -------------------------------------------------------------------------------------------------------


def test_control_characters_are_shown_as_escapes():
    assert names.printable("a\x1b[31m\x07\r\u202eb\u2066\x9b\n\tc") == "a\\x1b[31m\\x07\\r\\u202eb\\u2066\\x9b\n\tc"
    assert names.printable("Ärger, 価値, שלום") == "Ärger, 価値, שלום"


def test_no_cell_of_a_table_begins_a_formula(tmp_path):
    texts = ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "'a", "a"]
    path = tmp_path / "t.csv"
    tables.write(path, ("text",), ((text,) for text in texts))
    cells = [line.strip('"') for line in path.read_bytes().decode().split("\n")[1:-1]]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [row["text"] for row in tables.read(path).rows] == texts
    rows = [{"intervention": "=cmd()", "gain": -0.5}]
    (tmp_path / "results.csv").write_bytes(to_csv(rows))
    assert b"'=cmd(),-0.5" in (tmp_path / "results.csv").read_bytes()
    assert read_csv(tmp_path / "results.csv") == rows


def test_an_address_in_an_index_is_no_path(tmp_path):
    from vatjax.study.results import Study

    study = Study(tmp_path, None, [], [], [], [])
    with pytest.raises(errors.InputError, match=r"index.json: damaged"):
        study._artifact_folder("../../../../etc")


# Names and folders ---------------------------------------------------------------------------------------------------

HOSTILE = "a\x1b[31m \u202e<script>'\"%s{0} ünï-日本 =1"


def test_a_hostile_name_of_an_edit_is_only_a_name(tmp_path, capsys):
    model = models.load("pocket")
    folder, out = tmp_path / HOSTILE, tmp_path / ("out " + HOSTILE) / ("state" * 40 + ".npz")
    residual = np.full((model.config.layers, model.config.width), 0.01, np.float32)
    models.save_edit(models.Edit(np.float32(1), residual), model, folder)
    options = ("--model", "pocket", "--part", "test", "--scenes", "4", "--edit", str(folder), "--out", str(out))
    status, said, err = run(capsys, "rate", *options)
    assert status == 0, err
    assert "\x1b" not in said + err
    assert "\u202e" not in said + err
    assert r"outa\x1b[31m\u202e<script>" in "".join(said.split())  # the heading is folded
    assert states.load(out).state.shape[0] == 4


AS_USER = """
import os, sys
from vatjax import cli
from vatjax.commands import rate, run, steer, train  # before its files can no longer be read
import vatjax.study, vatjax.models, vatjax.elicit, vatjax.edits, vatjax.train, vatjax.report
if os.geteuid() == 0:
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("rate", "--part", "test", "--out", "{}/in/state.npz"), "--out"),
        (("train", "--target", "Power", "--loss", "sft", "--out", "{}/in/run"), "--out"),
        (("steer", "--target", "Power", "--out", "{}/in/edit"), "--out"),
    ],
)
def test_a_folder_that_can_not_be_written_to_is_said_before_the_work(command, name):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/in", 0o555)
        arguments = [part.format(folder) for part in command]
        ended = subprocess.run(
            [sys.executable, "-c", AS_USER, *arguments, "--model", "pocket"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr.endswith("can't be written to (permission denied); give another folder\n")
    assert f"vatjax: {name}: " in ended.stderr
    assert "loading" not in ended.stderr


def test_closed_standard_output_is_refused():
    ended = subprocess.run(
        f"{sys.executable} -m vatjax doctor >&-", shell=True, stderr=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == "vatjax: standard output is closed; redirect it, if only to /dev/null\n"


@pytest.mark.parametrize("name", ["checkpoints", "adapter", "results.csv"])
def test_a_link_in_a_folder_of_results_is_refused(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.InputError, match=f"{name}: a link to .*elsewhere, and results would be written there"):
        store.refuse_links(tmp_path / "out")
    store.refuse_links(tmp_path / "out", allowed=(name,))
    store.refuse_links(tmp_path / "absent")


def test_a_leftover_link_in_an_artifact_is_removed_before_it_is_computed(tmp_path):
    shelf, artifact = ArtifactStore(tmp_path / "pieces"), Artifact("state", "mine", {"x": 2})
    (tmp_path / "numbers.json").write_text("precious")
    (shelf.path(artifact) / "inside").mkdir(parents=True)
    (shelf.path(artifact) / "numbers.json").symlink_to(tmp_path / "numbers.json")
    (shelf.path(artifact) / "inside" / "more").symlink_to(tmp_path)
    shelf.remove_links(artifact)
    assert [path.name for path in shelf.path(artifact).rglob("*")] == ["inside"]
    assert (tmp_path / "numbers.json").read_text() == "precious"


def test_the_checkpoint_that_is_replaced_has_no_link(copy):
    (copy.parent / "templates").mkdir()
    (copy.parent / "templates" / "x.jinja").write_text("precious")
    (copy / "additional_chat_templates").symlink_to(copy.parent / "templates")
    with pytest.raises(errors.InputError, match="additional_chat_templates: a link"):
        saving.remove_checkpoint(copy, True)
    (copy / "additional_chat_templates").unlink()
    (copy / "tokenizer_x").mkdir()
    with pytest.raises(errors.InputError, match="tokenizer_x: a folder, where a checkpoint has a file"):
        saving.remove_checkpoint(copy, True)
    assert (copy / "config.json").exists()
    assert (copy.parent / "templates" / "x.jinja").exists()


def test_an_edit_is_not_written_through_a_link(tmp_path):
    model = models.load("pocket")
    residual = np.full((model.config.layers, model.config.width), 0.01, np.float32)
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "edit").mkdir()
    for name in ("edit.json", "edit.safetensors"):
        (tmp_path / "edit" / name).symlink_to(tmp_path / "precious")
    models.save_edit(models.Edit(np.float32(1), residual), model, tmp_path / "edit")
    assert (tmp_path / "precious").read_text() == "mine"
    models.load_edit(tmp_path / "edit", model)


def test_new_arrays_never_meet_the_facts_of_an_older_edit(tmp_path, monkeypatch):
    model = models.load("pocket")
    residual = np.full((model.config.layers, model.config.width), 0.01, np.float32)
    models.save_edit(models.Edit(np.float32(1), residual), model, tmp_path / "edit", {"target": "Power"})

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "commit_json", fail)
        with pytest.raises(OSError, match="No space"):
            models.save_edit(models.Edit(np.float32(1), -residual), model, tmp_path / "edit", {"target": "Hedonism"})
    with pytest.raises(errors.InputError, match=r"no edit.json there"):
        models.load_edit(tmp_path / "edit", model)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 64}] * 200}),
        ("decoder", {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000}),
    ],
)
def test_a_tokenizer_that_makes_texts_longer_is_refused(copy, part, content):
    change(copy / "tokenizer.json", **{part: content})
    with pytest.raises(errors.InputError, match=f"the {part} of its tokenizer has .* steps and can make a text"):
        models.open_checkpoint(copy)


def test_gguf_metadata_that_claim_more_than_the_file_has_are_refused(tmp_path):
    pytest.importorskip("gguf")
    header = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    array = (1).to_bytes(8, "little") + b"a" + (9).to_bytes(4, "little") + bytes(4) + (2**40).to_bytes(8, "little")
    (tmp_path / "lie.gguf").write_bytes(header + array)
    with pytest.raises(errors.InputError, match="damaged or cut short"):
        models.open_checkpoint(tmp_path / "lie.gguf")


def test_settings_of_many_megabytes_are_refused():
    with pytest.raises(errors.InputError, match=r"s.yaml: 2,000,006 characters, and at most 2,000,000 are read"):
        config.parse(study.Design, "out: " + "x" * 2_000_001, "s.yaml")


def test_json_output_has_no_character_that_turns_a_line_around(capsys):
    show.print_json({"a": "b\u202ec\x9b\u2028é"})
    said = capsys.readouterr().out
    assert r"b\u202ec\u009b\u2028é" in said
    assert json.loads(said) == {"a": "b\u202ec\x9b\u2028é"}
