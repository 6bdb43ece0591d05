import dataclasses
import json
import os
import shlex
import subprocess
import sys
from typing import Annotated

import pytest
import tyro

from vatjax import cli, config, doctor, items


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def imported(code):
    """The modules that a fresh interpreter has after running this code."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


def test_importing_vatjax_imports_nothing_heavy():
    heavy = {"jax", "torch", "transformers", "flax", "numpy", "scipy", "matplotlib", "yaml", "rich", "tyro"}
    assert not imported("import vatjax") & heavy


def test_a_command_without_torch_says_nothing_of_it():
    script = """
import importlib.metadata, importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else found(name, package)
sys.argv[1:] = ["models", "check", "pocket"]
from vatjax import cli
try: cli.main()
finally: assert "transformers" in sys.modules and "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "a chat template" in result.stdout


def test_help_imports_nothing_heavy():
    code = """
from vatjax import cli
try: cli.main(["--help"])
except SystemExit: pass
"""
    modules = imported(code)
    assert "vatjax.cli" in modules
    assert not modules & {"jax", "torch", "transformers", "flax", "numpy", "scipy", "yaml", "rich", "tyro", "etils"}


@pytest.mark.parametrize("command", ["rate", "steer", "validate"])
def test_the_help_of_a_command_waits_for_no_jax(command):
    modules = imported(f"import vatjax.commands.{command}")
    assert f"vatjax.commands.{command}" in modules
    assert not modules & {"jax", "torch", "transformers", "flax", "matplotlib"}


def test_items_values_and_states_do_without_jax():
    modules = imported("from vatjax import items, states, store, values; items.bundled(); values.schwartz()")
    assert "vatjax.states" in modules
    assert not modules & {"jax", "torch", "transformers", "flax"}


def test_submodules_appear_on_demand():
    import vatjax

    assert vatjax.values.schwartz().types[0] == "Self-direction"
    assert "states" in dir(vatjax)
    assert vatjax.__version__.startswith("0")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = vatjax.nonsense


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_every_command(capsys, flag):
    status, out, err = run(capsys, flag)
    assert (status, err) == (0, "")
    assert all(" ".join(command.words) in out for command in cli.COMMANDS)


def test_every_command_has_typed_help(capsys):
    for command in cli.COMMANDS:
        status, out, _ = run(capsys, *command.words, "--help")
        assert status == 0
        assert ("--json" in out) == (command.words != ("completion",))  # which prints a script
        assert "--config FILE" in out


def test_a_family_of_commands_has_help(capsys):
    status, out, err = run(capsys, "items", "--help")
    assert (status, err) == (0, "")
    assert "items check" in out
    assert "doctor" not in out


def test_version(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith("vatjax 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["docter"], "did you mean 'doctor'?"),
        (["items", "chek"], "unknown items command 'chek'; did you mean 'check'?"),
        (["items"], "items needs one of: check"),
        (["items", "check", "/absent.csv"], "/absent.csv: no such file or directory"),
        (["items", "check", "--items.country", "Egpt"], "did you mean 'Egypt'?"),
        (["items", "check", "--config"], "--config needs a file"),
        (["items", "check", "--config", "/absent.yaml"], "/absent.yaml: no such file or directory"),
        (["items", "check", "--items.sed", "3"], "--items.seed"),
        (["items", "check", "--items.seed", "three"], "--items.seed"),
        (["items", "check", "--items.test", "2"], "more than 0"),
        (["items", "check", "--items.layout", "vatjx"], "vatjax"),
        (["items", "check", "--items.columns", "action"], "--items.columns"),
        (["items", "check", ""], "the name of a file is empty"),
        (["items", "check", "one.csv", "--items", "two.csv"], "two files are given: 'one.csv' and 'two.csv'"),
        (["items", "check", "--config", "a.yaml", "--config", "b.yaml"], "--config is given twice"),
        (["items", "check", "foo://bucket/x.csv"], "can't open foo://; known are gs://"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("items: {sed: 1}", ":1: unknown key 'items.sed'; did you mean 'items.seed'?"),
        ("items:\n  seed: x\n", ":2: items.seed: expected a whole number, found 'x'"),
        ("items: {test: 1.5}", ":1: items: test: the share of test scenes must be more than 0 and less than 1"),
        ("items: !!python/object/apply:os.system [exit]", "is not supported; plain YAML only"),
    ],
)
def test_a_mistake_in_a_configuration_is_one_line(capsys, tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    status, out, err = run(capsys, "items", "check", "--config", str(path))
    assert (status, out) == (2, "")
    assert err.startswith(f"vatjax: {path}:")
    assert message in err
    assert len(err.splitlines()) == 1


def test_flags_go_before_the_file_and_the_whole_is_shown(capsys, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("items: {seed: 1, country: [Egypt]}")
    arguments = [
        "items",
        "check",
        f"--config={path}",
        "--items.seed",
        "2",
        "--items.columns",
        "action",
        "text",
        "--print-config",
    ]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    from vatjax.commands.items import Check

    shown = config.parse(Check, out, "shown")
    assert shown.items == items.Source(seed=2, country=("Egypt",), columns={"action": "text"})


def test_items_check_of_the_bundled_items_as_json(capsys):
    status, out, err = run(capsys, "items", "check", "--json")
    assert (status, err) == (0, "")
    summary = json.loads(out)
    assert (summary["items"], summary["scenes"], summary["pairs"]) == (29_568, 264, 14_784)
    assert summary["split"]["train_scenes"] + summary["split"]["test_scenes"] == 264
    assert summary["protocols"]["paired"]["allowed"]
    assert summary["problems"] == []


def test_items_check_for_a_person(capsys):
    status, out, _ = run(capsys, "items", "check")
    assert status == 0
    assert "29,568 items in 264 scenes" in out
    assert max(map(len, out.splitlines())) <= 100
    assert out.isascii() or "─" in out


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.csv"
    path.write_text(
        "country,topic,scene,value,polarity,action\n"
        "Egypt,Religion,S.,Wealth,express,I ask.\n"
        "Egypt,Religion,S.,Welth,suppress,I give.\n"
        "Egypt,Religion,S.,Wealth,suppress,\n"
    )
    return str(path)


def test_items_check_names_lines_and_ends_with_2(capsys, broken):
    status, out, err = run(capsys, "items", "check", broken)
    assert status == 2
    assert f"{broken}:3: unknown value 'Welth'" in err
    assert f"{broken}:4: action: empty text" in err
    assert "1 items" in out


def test_a_file_without_any_good_row_still_gives_its_problems(capsys, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("oops\n" * 60)
    status, out, err = run(capsys, "items", "check", str(path), "--json")
    assert status == 2
    assert json.loads(out)["items"] == 0
    assert len(json.loads(out)["problems"]) == 60
    assert "... and 10 more problems" in err


def test_items_check_can_skip_bad_rows_and_says_how_many(capsys, broken):
    status, out, err = run(capsys, "items", "check", broken, "--items.skip-bad", "--json")
    assert status == 0
    assert "skipped 2 of 3 rows" in err
    assert json.loads(out)["skipped"] == 2
    assert [problem["line"] for problem in json.loads(out)["problems"]] == [3, 4]


def test_doctor_as_json_and_for_a_person(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    checks = {check["name"]: check for check in report["checks"]}
    assert status == 0
    assert report["ok"]
    assert {"python", "jax", "flax", "devices", "memory", "bundled items", "model hub"} <= set(checks)
    assert checks["devices"]["found"].startswith("8 x ")
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    assert "vatjax can work here" in out


def test_doctor_says_what_is_missing_and_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["absent-package>=1", "numpy>=99"])
    status, out, _ = run(capsys, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 1
    assert checks["absent-package"]["status"] == "wrong"
    assert checks["absent-package"]["remedy"] == "pip install 'absent-package>=1'"
    assert "needs >=99" in checks["numpy"]["found"]


def test_doctor_says_where_models_can_not_be_kept(capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/proc/version/hub")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    status, out, _ = run(capsys, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 1
    assert checks["model hub"]["remedy"].startswith("set HF_HOME")


def test_doctor_never_shows_a_token(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    _, out, err = run(capsys, "doctor", "--json")
    assert "hf_secret" not in out + err
    assert "with a token" in out


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_early_is_no_error(unbuffered):
    process = subprocess.Popen(
        [sys.executable, "-m", "vatjax", "items", "check"],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 128 + 13
    assert err == b""


def test_ctrl_c_is_one_word(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert run(capsys, "doctor") == (130, "", "stopped\n")


def test_a_missing_package_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    status, _, err = run(capsys, "doctor")
    assert status == 2
    assert err == "vatjax: the package tyro is not installed: pip install tyro\n"


def test_names_in_any_script_end_no_run_on_a_plain_terminal(tmp_path):
    path = tmp_path / "own.jsonl"
    row = {"country": "日本", "topic": "é", "scene": "S.", "value": "Wealth", "polarity": "express", "action": "A."}
    path.write_text(json.dumps(row))
    result = subprocess.run(
        [sys.executable, "-m", "vatjax", "items", "check", str(path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0
    assert b"\\u65e5" in result.stdout


def test_closed_output_is_no_traceback():
    command = f"{sys.executable} -m vatjax --help >&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert b"Traceback" not in result.stderr


@dataclasses.dataclass(frozen=True)
class _Part:
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class _Options:
    """Options as a later command may have them: required ones, and parts that share a name."""

    pre: Annotated[str, tyro.conf.Positional]
    target: str
    first: _Part = _Part()
    second: _Part = _Part(1)

    def run(self):
        print(self.pre, self.target, self.first.seed, self.second.seed)
        return 0


def test_required_options_come_from_flags_or_from_the_file(capsys, tmp_path):
    command = cli.Command(("try",), "a command", __name__, "_Options", ("vatjax try",))
    assert cli._parse_and_run(command, _Options, ["a.npz", "--target", "Power", "--second.seed", "5"]) == 0
    assert capsys.readouterr().out == "a.npz Power 0 5\n"
    path = tmp_path / "try.yaml"
    path.write_text("target: Power\nfirst: {seed: 3}")
    assert cli._parse_and_run(command, _Options, ["b.npz", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "b.npz Power 3 1\n"
    with pytest.raises(SystemExit) as caught:
        cli._parse_and_run(command, _Options, ["--config", str(path)])
    assert caught.value.code == 2


def test_output_that_can_not_be_written_is_one_message():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "vatjax", "items", "check"],
            env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert result.returncode == 2
    assert b"no space left" in result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: " ".join(command.words))
def test_the_examples_of_a_help_are_commands(command, root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert len(command.examples) == 2
    for example in command.examples:
        if "$(" in example or ">" in example:
            continue  # for a shell
        words = shlex.split(example)
        assert words[0] == "vatjax"
        status, out, err = run(capsys, *words[1:], "--print-config")
        assert status == 0, err
        assert ":" in out


def test_bash_completes_commands_flags_and_choices(capsys):
    status, script, _ = run(capsys, "completion", "bash")
    assert status == 0

    def completed(*words):
        call = (
            f"COMP_WORDS=({shlex.join(['vatjax', *words])}); COMP_CWORD={len(words)}; _vatjax; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", f"{script}\n{call}"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("ste") == ["steer"]
    assert completed("human", "") == ["sample", "score"]
    assert completed("steer", "--direction", "") == ["express", "suppress"]
    assert {"--items", "--items.country"} <= set(completed("human", "sample", "--items"))
    assert completed("rate", "--part", "te") == ["test"]
    status, script, _ = run(capsys, "completion", "fish")
    assert "-l direction -x -a 'express suppress'" in script
    assert all(line.startswith("complete -c vatjax ") for line in script.splitlines())


@pytest.mark.parametrize("name", ["ratings", "items", "preferences"])
def test_example_files_are_what_the_printed_command_takes(name, tmp_path, capsys):
    status, out, _ = run(capsys, "example", name, str(tmp_path))
    assert status == 0
    words = shlex.split(out)
    if name != "preferences":
        assert run(capsys, *words[1:])[0] == 0
    else:
        status, out, _ = run(capsys, *words[1:], "--dry-run", "--json")
        assert json.loads(out)["examples"] == 110
    status, _, err = run(capsys, "example", name, str(tmp_path))
    assert status == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    "words",
    [
        ("rate", "--model", "pocket", "--out", "a.npz", "--no-chat"),
        ("run", "configs/quickstart.yaml", "--how.no-chat"),
        ("build-items", "configs/build_items.yaml", "--no-chat"),
    ],
)
def test_no_chat_is_a_flag_of_every_command_that_asks_a_model(words, capsys, root, monkeypatch):
    monkeypatch.chdir(root)
    status, out, _ = run(capsys, *words, "--print-config")
    assert status == 0
    assert "chat: false" in out
