"""Kinds of other packages: found by their entry points, and named in every error of theirs."""

import os
import subprocess
import sys

import pytest

from vatjax import config, errors, interventions, study
from vatjax.study.design import Design

MODULE = '''
"""A package of somebody else."""
import dataclasses

from vatjax import edits, elicit, interventions, items, models, store


@interventions.register("flipped")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Flipped(interventions.Intervention):
    """A vector against the target, with an artifact and a placebo."""

    unit = "strength"
    strengths: tuple[float, ...] = (0.5,)

    def levels(self):
        return self.strengths

    def placebo_names(self):
        return ("random",)

    def dependencies(self, arm, plan):
        return {"vector": self.artifact("flipped", f"{arm.cell}: flipping", arm, plan, without=("strengths",))}

    def make(self, batch, work):
        edit = -1.0 * edits.find(work.model, work.items, batch[0].task[0].target, layers=[0])
        models.save_edit(edit, work.model, work.artifact_store.path(batch[0]) / "edit")

    def condition(self, arm, state, work):
        edit = models.load_edit(work.artifact_store.path(state.dependencies["vector"]) / "edit", work.model)
        if arm.placebo:
            edit = edits.random_like(edit, arm.draw)
        return elicit.Condition(edit=arm.level * edit)


@interventions.register("wordy")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Wordy(interventions.Intervention):
    def levels(self):
        return ("many",)


@interventions.register("odd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Odd(interventions.Intervention):
    """Breaks one rule of the protocol."""

    what: str = ""

    def levels(self):
        return (1, 1) if self.what == "twice" else (1,)

    def placebo_names(self):
        if self.what == "missing file":
            open("nowhere")
        return {"text": "random", "none": ("none",)}.get(self.what, ())

    def check(self, protocol, depth=None):
        if self.what == "check" and depth:
            raise KeyError("boom")

    def dependencies(self, arm, plan):
        if self.what == "reserved":
            return {"x": self.artifact("result", "mine", arm, plan)}
        return {}

    def inputs(self, arm, plan):
        return {"x": object()} if self.what == "object" else {}


@interventions.register("strict")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Strict(interventions.Intervention):
    """Has a setting without a default."""

    name: str
    """A name."""


@interventions.register("raises")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Raises(interventions.Intervention):
    what: str = "condition"

    def levels(self):
        return (1,)

    def placebo_names(self):
        return ()

    def condition(self, arm, state, work):
        if self.what == "condition":
            raise KeyError("mine")
        if self.what == "text":
            return "a text"
        import jax.numpy as jnp
        return elicit.Condition(edit=models.Edit(jnp.asarray(1.0), residual=jnp.ones((2, 3))))
'''
POINTS = "[vatjax.interventions]\nflipped = demo_kinds:Flipped\nwordy = demo_kinds:Wordy\nraises = demo_kinds:Raises\nodd = demo_kinds:Odd\nstrict = demo_kinds:Strict\nabsent = nowhere:X\nwrong = demo_kinds:Flipped\n"
STUDY = """
models: [pocket]
targets: [Power]
out: {out}
scenes: 8
placebos: 1
resamples: 100
texts: 0
interventions:
  mine: {{kind: flipped}}
  examples: {{kind: shots, counts: [2]}}
"""


def package(folder, name="demo-kinds", points=POINTS):
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    package(folder)
    (folder / "demo_kinds.py").write_text(MODULE)
    return folder


def vatjax(site, *words):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-m", "vatjax", *words], env=environment, capture_output=True, text=True, check=False
    )


def test_a_plug_in_stands_in_the_help_in_a_study_and_in_the_report(site, tmp_path):
    assert "flipped" in vatjax(site, "run", "--help").stdout
    (tmp_path / "study.yaml").write_text(STUDY.format(out=tmp_path / "out"))
    done = vatjax(site, "run", str(tmp_path / "study.yaml"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mine" in page
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert sum(",flipped," in row for row in rows) == 3  # types and values, and types of the placebo
    again = vatjax(
        site,
        "run",
        str(tmp_path / "study.yaml"),
        "--interventions.mine.strengths",
        "0.25",
        "--dry-run",
        "--out",
        str(tmp_path / "b"),
    )
    assert again.returncode == 0, again.stderr


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))


def design(tmp_path, text):
    return config.parse(Design, STUDY.format(out=tmp_path / "s").partition("interventions:")[0] + text, "study.yaml")


def refusal(tmp_path, settings):
    """The error of planning a study with one intervention."""
    with pytest.raises(errors.InputError) as caught:
        study.plan(design(tmp_path, f"interventions: {{a: {settings}}}"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "the plug-in demo-kinds: ModuleNotFoundError: No module named 'nowhere'"),
        ("wrong", "the plug-in demo-kinds: demo_kinds:Flipped does not register the kind 'wrong'"),
        ("wordy", "interventions.a: the kind wordy has levels that are not finite numbers: ['many']"),
    ],
)
def test_a_plug_in_that_can_not_be_used_is_named(installed, tmp_path, kind, message):
    assert message in refusal(tmp_path, f"{{kind: {kind}}}")


def test_a_kind_of_two_packages_names_both(installed, tmp_path, monkeypatch):
    package(tmp_path / "more", "other-kinds", "[vatjax.interventions]\ntwice = a:B\n")
    package(tmp_path / "again", "third-kinds", "[vatjax.interventions]\ntwice = c:D\n")
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    monkeypatch.syspath_prepend(str(tmp_path / "again"))
    with pytest.raises(errors.InputError, match="packages other-kinds and third-kinds both register the kind 'twice'"):
        design(tmp_path, "interventions: {a: {kind: twice}}")


@pytest.mark.parametrize(
    ("what", "message"),
    [  # each is a study of its own
        ("condition", "the kind raises (demo_kinds.Raises): KeyError: 'mine'"),
        ("text", "the kind raises gives a str, not an elicit.Condition"),
        pytest.param("edit", "residual", marks=pytest.mark.thorough),
    ],
)
def test_a_condition_that_fails_ends_its_arm_alone(installed, tmp_path, what, message):
    text = f"interventions: {{bad: {{kind: raises, what: {what}}}, good: {{kind: prompt, text: Be kind.}}}}"
    outcome = study.run(study.plan(design(tmp_path, text)))
    results = study.write(outcome)
    assert any(message in why for why in results.failed), results.failed
    assert {row["intervention"] for row in results.rows} == {"good"}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("twice", "interventions.a: the kind odd has a level twice: [1, 1]"),
        ("text", "placebo_names is a tuple of different names, and none is called 'none'; found 'random'"),
        ("none", "found ('none',)"),
        ("check", "interventions.a: the kind odd (demo_kinds.Odd): KeyError: 'boom'"),
        ("missing file", "the kind odd (demo_kinds.Odd): FileNotFoundError"),
        ("reserved", "interventions.a: an artifact cannot have the kind 'result', which the study itself makes"),
        ("object", "the kind odd (demo_kinds.Odd): inputs: no content address for object"),
    ],
)
def test_a_kind_that_breaks_the_protocol_ends_the_plan_with_one_line(installed, tmp_path, what, message):
    assert message in refusal(tmp_path, f"{{kind: odd, what: {what}}}")


def test_a_class_that_is_not_registered_is_refused(installed, tmp_path):
    import dataclasses

    shots = interventions.of_kind("shots")
    other = dataclasses.dataclass(frozen=True, kw_only=True)(type("Other", (shots,), {}))
    planned = dataclasses.replace(design(tmp_path, "interventions: {a: {kind: shots}}"), interventions={"a": other()})
    with pytest.raises(errors.InputError, match=r"Other is not registered: decorate it with @interventions.register"):
        study.plan(planned)


def test_a_plug_in_cannot_take_the_name_of_a_shipped_kind(tmp_path, monkeypatch):
    package(tmp_path / "more", "other-kinds", "[vatjax.interventions]\nshots = a:B\n")
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    with pytest.raises(errors.InputError, match="plug-in other-kinds: 'shots' is a kind of vatjax itself"):
        interventions.of_kind("shots")


def test_the_artifacts_and_states_of_a_plug_in_depend_on_push_model_settings_and_code(installed, site, tmp_path):
    def addresses(text="{kind: flipped}", **changes):
        import dataclasses

        planned = dataclasses.replace(design(tmp_path, f"interventions: {{a: {text}}}"), **changes)
        (graph,) = study.plan(planned).graphs
        return {
            (arm.cell.direction, arm.level, arm.placebo): (
                state.address,
                state.dependencies["vector"].address,
            )
            for (arm, _), state in graph.states.items()
            if arm is not None
        }

    both = addresses(directions=("express", "suppress"))
    assert len({vector for _, vector in both.values()}) == 2
    more = addresses("{kind: flipped, strengths: [0.5, 1]}")
    assert more["express", 0.5, ""][1] == both["express", 0.5, ""][1]  # an edit does not depend on strengths
    other = addresses(dtype="bfloat16")
    assert other["express", 0.5, ""] != both["express", 0.5, ""]
    module = site / "demo_kinds.py"
    text = module.read_text()
    try:
        module.write_text(text + "\n# changed\n")
        changed = addresses()
        assert not set(changed.values()) & set(both.values())
    finally:
        module.write_text(text)


def test_the_kind_of_the_readme_runs(root, tmp_path, monkeypatch):
    import importlib
    import re

    text = (root / "vatjax" / "interventions" / "README.md").read_text()
    code = re.search(r"```python\n(@interventions.register\(.*?)```", text, re.DOTALL)[1]
    head = "import dataclasses\nfrom vatjax import edits, elicit, interventions, models\n"
    (tmp_path / "readme_kind.py").write_text(head + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("readme_kind").Stern(strengths=(1.0, 2.0))
    planned = Design(
        models=("pocket",),
        targets=("Power",),
        scenes=6,
        out=str(tmp_path / "out"),
        placebos=1,
        resamples=100,
        texts=0,
        interventions={"mine": mine},
    )
    results = study.write(study.run(study.plan(planned)))
    assert not results.failed
    assert len(results.where(level="types")) == 4
    interventions.KINDS.pop("stern")


def test_a_setting_without_a_default_is_shown_as_required(installed, capsys):
    from vatjax import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(["interventions", "strict"])
    assert ended.value.code == 0
    assert "# A name. Required." in capsys.readouterr().out
