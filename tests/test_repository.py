"""What must hold for the repository as a whole."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

ORDER = (
    "errors",
    "names",
    "dtypes",
    "text_table",
    "store",
    "drawing",
    "runtime",
    "config",
    "tables",
    "values",
    "items",
    "human",
    "states",
    "metrics",
    "analysis",
    "summary",
    "comparison",
    "prompts",
    "models",
    "prefix",
    "elicit",
    "organism",
    "authoring",
    "train",
    "edits",
    "interventions",
    "validate",
    "study",
    "estimate",
    "report",
    "api",
    "doctor",
    "commands",
    "cli",
)


def imports(path):
    """Returns the first names of the vatjax modules that a file imports, at its top level or inside a function."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vatjax":
            parts = node.module.split(".")
            imported |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("vatjax.")}
    return imported


def test_imports_run_downwards(root):
    for path in (root / "vatjax").rglob("*.py"):
        room = path.relative_to(root / "vatjax").parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for other in imports(path) - {room}:
            assert ORDER.index(other) < ORDER.index(room), f"{path} imports {other}"


def test_every_test_file_is_collected(root):
    """A folder that pytest skips by its name, such as `build`, would hide its tests."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-m",
        "",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    ]
    listed = subprocess.run([*command, "-o", "addopts="], cwd=root, capture_output=True, text=True, check=False).stdout
    collected = {line.split("::")[0] for line in listed.splitlines() if "::" in line}
    files = {path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py")}
    # without its libraries or its checkpoint a file is skipped as a whole, which pytest says
    assert files - collected <= {f"tests/real/{name}.py" for name in ("test_mistral",)}


def test_the_bundled_items_are_what_the_parts_give(root):
    subprocess.run([sys.executable, root / "scripts" / "build_items.py", "--check"], check=True)


def test_the_top_level_is_the_agreed_one(root):
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    top = {name.split("/")[0] for name in listed.stdout.split() if not name.startswith(".")}
    assert top <= {"LICENSE", "README.md", "configs", "pyproject.toml", "scripts", "tests", "vatjax"}


def test_the_published_data_are_not_copied(root, value_actions):
    """They have no licence: not one of their actions may stand in the repository."""
    import gzip
    import json

    with gzip.open(value_actions, "rt") as lines:
        theirs = {json.loads(line)["action"] for line in lines}
    ours = (root / "vatjax" / "assets" / "items.json").read_text() + "".join(
        path.read_text() for path in (root / "scripts").rglob("*.yaml")
    )
    assert not [action for action in theirs if len(action) > 20 and action in ours]


def test_the_readme_begins_with_the_two_commands(root):
    readme = (root / "README.md").read_text()
    first = re.search(r"```[a-z]*\n(.*?)```", readme, re.DOTALL)
    assert [line.split("#")[0].strip() for line in first[1].strip().splitlines()] == [
        "./scripts/quickstart",
        "./scripts/test",
    ]
    assert len(readme[: first.start()].strip().split("\n\n")) <= 2  # a title and one paragraph


def test_every_command_is_in_the_readme(root):
    from vatjax import cli

    readme = (root / "README.md").read_text()
    for command in cli.COMMANDS:
        assert f"vatjax {' '.join(command.words)}" in readme


def test_the_readme_shows_the_hello_that_runs(root):
    block = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert (root / "scripts" / "examples" / "hello.py").read_text().endswith('"""\n\n' + block[1])


def test_links_of_the_readmes_lead_somewhere(root):
    readmes = [
        root / "README.md",
        *(root / "vatjax").rglob("README.md"),
        root / "scripts/README.md",
        root / "configs/README.md",
    ]
    for readme in readmes:
        for link in re.findall(r"\]\(([^)#]+)\)", readme.read_text()):
            assert link.startswith("https://") or (readme.parent / link).exists(), f"{readme}: {link}"


def test_scripts_are_sound_shell(root):
    shell = [path for path in (root / "scripts").iterdir() if path.suffix == ".sh"]
    for path in (*shell, *(root / name for name in ("scripts/quickstart", "scripts/test", ".ci/run"))):
        subprocess.run(["bash", "-n", path], check=True)
        if shutil.which("shellcheck"):  # its wheels are for common systems
            subprocess.run(["shellcheck", "-x", path], cwd=root, check=True)


def test_launchers_say_what_they_would_run(root):
    def dry(*words, **more):
        env = {**os.environ, "DRY": "1", "HOME": "/home/me", **more}
        found = subprocess.run(["bash", *words], cwd=root, env=env, capture_output=True, text=True, check=True)
        return found.stdout

    tasks = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    said = dry("scripts/launch_slurm.sh", "study.yaml", "/shared/runs/a b", **tasks)
    assert shlex.split(said) == [
        *("/home/me/vatjax/bin/vatjax", "run", "study.yaml", "--out", "/shared/runs/a b", "--shard", "3/16")
    ]
    lines = [shlex.split(line) for line in dry("scripts/launch_tpu.sh", "study.yaml", "gs://b/runs").splitlines()]
    assert [line[0] for line in lines] == ["gcloud"] * 4
    assert lines[-1][-1].strip().endswith("vatjax run study.yaml --out 'gs://b/runs'")
    assert "--worker=all" in lines[-1]
    job = yaml.safe_load((root / "scripts" / "launch_gke.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shard = container["command"][-1].split("--shard ")[1]
    found = subprocess.run(
        ["bash", "-c", f"echo {shard}"], env={"JOB_COMPLETION_INDEX": "15"}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "16/16\n"
    assert job["spec"]["completions"] == 16
    assert job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [75]


@pytest.mark.thorough
def test_a_study_under_ten_random_kills(root, random_seed):
    subprocess.run(
        [sys.executable, root / "scripts" / "soak.py", "--kills", "10", "--seed", str(random_seed)], check=True
    )


def test_no_package_but_interventions_knows_a_kind_by_name(root):
    from vatjax import interventions

    for package in ("study", "report", "estimate"):
        for path in (root / "vatjax" / package).rglob("*.py"):
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            ordinary = {"weights", "prompt", "edit", "adapter", "function", "instruction"}  # keys of other things too
            assert not words & (set(interventions.KINDS) - ordinary), path


def test_the_readme_of_a_package_names_its_files(root):
    for readme in (root / "vatjax").rglob("README.md"):
        text = readme.read_text()
        if "## Files" in text:
            files = {path.name for path in readme.parent.glob("*.py")} - {"__init__.py"}
            assert not [name for name in files if f"`{name}`" not in text], readme
