"""Nothing that is read can run code, and nothing that is secret is written."""

import ast
import zipfile

import pytest

from tests.test_cli import run
from tests.tiers import quick

SECRET = "hf_ThisMustNotBeSeenAnywhere"
STUDY = """
models: [pocket]
targets: [power]
out: {out}
scenes: 16  # as many as in other tests, whose programs serve here too
placebos: 0
resamples: 100
interventions:
  examples: {{kind: shots, counts: [2]}}
"""


def calls(tree):
    """Every call in a file: what is called, and its keywords."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}


def test_nothing_that_is_read_can_run_code(root):
    for path in [*(root / "vatjax").rglob("*.py"), *(root / "scripts").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}, path
                assert not (isinstance(node, ast.ImportFrom) and node.module == "yaml"), (
                    path
                )  # its name tells what is called
        for name, keywords in calls(tree):
            assert name not in (
                "eval",
                "exec",
                "yaml.load",
                "yaml.unsafe_load",
                "yaml.full_load",
                "torch.load",
                "os.system",
            ), path
            assert keywords.get("allow_pickle") != "True", path
            assert keywords.get("trust_remote_code") != "True", path
            assert keywords.get("shell") != "True", path


def test_a_configuration_can_not_make_objects(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text("models: !!python/object/apply:os.system ['touch " + str(tmp_path / "made") + "']\n")
    status, _, said = run(capsys, "run", str(file))
    assert status == 2
    assert "study.yaml" in said
    assert not (tmp_path / "made").exists()


def contents(folder):
    """Every file of a folder, and every member of its archives."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        yield path, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield path, archive.read(name)


@pytest.mark.parametrize("what", quick(["rate", "run"], ["rate"]))
def test_a_token_is_in_none_of_what_a_command_writes(tmp_path, capsys, monkeypatch, what):
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, SECRET)
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(STUDY.format(out=out))
    few = ("--model", "pocket", "--items.country", "Egypt", "--items.topic", "Citizenship", "--items.value", "Wealth")
    words = {"run": (str(file), "--json"), "rate": (*few, "--out", str(out / "state.npz"), "--json")}
    status, told, said = run(capsys, what, *words[what])
    assert status == 0, said
    assert SECRET not in told + said
    for command in (
        ("doctor", "--json"),
        ("run", str(file), "--print-config"),
        ("rate", "--model", "no/such-model", "--out", str(out / "x.npz")),
    ):
        _, told, said = run(capsys, *command)
        assert SECRET not in told + said, command
    found = list(contents(out))
    assert len(found) > (10 if what == "run" else 0)
    assert [path for path, content in found if SECRET.encode() in content] == []
