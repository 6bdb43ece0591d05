"""A study: its pieces, what is taken again, what a kill leaves, what fails, and what its results say."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.test_cli import run
from vatjax import config, edits, elicit, errors, items, models, prompts, report, states, store, study
from vatjax.interventions import Cell, TrainingSettings, of_kind
from vatjax.items import Source
from vatjax.runtime import processes
from vatjax.store import claims
from vatjax.store import leases as held_by
from vatjax.store.artifacts import Artifact, ArtifactStore, topological_order
from vatjax.study import failures, folder, graph, locks, statistics
from vatjax.study import planning as plans
from vatjax.study.design import Design
from vatjax.train import Adam

pytestmark = pytest.mark.long

TEXT = """
models: [pocket]
targets: [power]
out: {out}
scenes: 16
placebos: 1
resamples: 100
texts: 0
interventions:
  examples: {{kind: shots, counts: [2]}}
  vector: {{kind: residual, layers: ["0"], strengths: [0.5, 1]}}
  sft: {{kind: sft, training: {{steps: 6, checkpoints: 3, rows: 4, trained: {{rank: 4, alpha: 8}}, adam: {{rate: 0.01}}}}}}
"""


def design(out, **changes):
    return dataclasses.replace(config.parse(Design, TEXT.format(out=out), "study.yaml"), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that was run to its end."""
    own = design(tmp_path_factory.mktemp("study") / "a")
    ran = study.run(study.plan(own))
    return ran, study.write(ran)


def test_every_arm_has_its_numbers(whole):
    ran, found = whole
    assert found.failed == []
    assert ran.reused == 0
    real = found.where(level="types", placebo="none")
    assert [(row["intervention"], row["amount"], row["unit"]) for row in real] == [
        ("examples", 2, "examples"),
        ("vector", 0.5, "strength"),
        ("vector", 1, "strength"),
        *[("sft", step, "steps") for step in (2, 4, 6)],
    ]
    blind = [
        (row["intervention"], row["placebo"], row["amount"])
        for row in found.where(level="types")
        if row["placebo"] != "none"
    ]
    assert sorted(blind) == sorted(
        [
            ("examples", "neutral shots", 2),
            *[("vector", name, level) for name in ("random", "shuffled labels") for level in (0.5, 1)],
            *[("sft", "neutral text", step) for step in (2, 4, 6)],
        ]
    )
    assert {row["target"] for row in found.rows} == {"Power"}
    for row in real:
        assert row["resolved"] == (row["gain_p"] <= 0.05)
        assert row["nvat_q"] >= row["over_placebo_nvat_p"]
    by = {(row["intervention"], row["amount"]): row for row in real}
    assert by["examples", 2]["gain"] > 0.5
    assert by["vector", 1]["gain"] > by["vector", 0.5]["gain"] > 0.2
    assert by["examples", 2]["over_placebo"] == "neutral shots"
    assert by["examples", 2]["over_placebo_gain"] > 0.3
    assert by["examples", 2]["over_placebo_gain_low"] is None  # one draw of a placebo says nothing of the next
    assert by["examples", 2]["over_placebo_draws"] == 1
    assert len(found.where(level="values")) == len(real)


def test_a_row_is_what_the_packages_say_by_hand(whole):
    """The same model, asked under the same edit without any study."""
    _, found = whole
    row = found.where(level="types", intervention="vector", amount=1.0, placebo="none")[0]
    model, data = models.load("pocket"), items.bundled()
    _, asked = plans.load_items(found.design)
    edit = edits.find(model, data, "Power", 1, "mean", 0)
    np.testing.assert_allclose(found.edit(row, model).residual, edit.residual, atol=1e-6)
    before, after = elicit.rate(model, asked), elicit.rate(model, asked, edit=edit)
    was, now = found.states(row)
    np.testing.assert_allclose(was.state, before.state, atol=2e-5)
    np.testing.assert_allclose(now.state, after.state, atol=2e-5)
    member = data.taxonomy.mask("Power")
    gain = np.nanmean(data.taxonomy.aggregate(after.state - before.state)[:, data.taxonomy.column_mask("Power")])
    assert row["gain"] == pytest.approx(gain, abs=1e-4)
    assert found.result(row)["levels"]["values"]["target_names"] == [
        n for n, own in zip(data.taxonomy.names, member, strict=True) if own
    ]
    shown = found.where(level="types", intervention="examples", placebo="none")[0]
    shots = prompts.demonstrations(data, "Power", 1, 2)
    np.testing.assert_allclose(found.states(shown)[1].state, elicit.rate(model, asked, shots=shots).state, atol=2e-5)
    with pytest.raises(errors.InputError, match="examples: the study has no edit of its own for the kind shots"):
        found.edit(shown, model)
    with pytest.raises(errors.InputError, match="unknown column 'targt'; did you mean 'target'"):
        found.where(targt="Power")


def test_ten_kills_at_random_change_no_byte(whole, tmp_path, monkeypatch, root, random_seed):
    """Processes that are killed and started again, two of them over one folder; `scripts/soak.py` has more of both."""
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import soak

    expected = soak.contents(whole[1].folder)
    assert soak.soaked(tmp_path, TEXT, expected, wanted=10, shards=2, chance=random.Random(random_seed)) >= 1


def test_what_lies_beside_the_table(whole):
    _, found = whole
    names = sorted(path.name for path in (found.folder / "states").iterdir())
    assert [name.rsplit("-", 1)[0] for name in names if "vector" not in name and "sft" not in name] == [
        "pocket-examples-towards-Power-2-examples",
        "pocket-unedited",
    ]
    half = next(name for name in names if name.startswith("pocket-vector-towards-Power-0.5-strength-"))
    row = found.where(level="types", intervention="vector", amount=0.5, placebo="none")[0]
    own = states.load(found.folder / "states" / half)
    np.testing.assert_array_equal(own.state, found.states(row)[1].state)
    last = next((found.folder / "edits").glob("pocket-sft-towards-Power-6-steps-*"))
    edit = models.load_edit(last, models.load("pocket"))
    assert set(edit.lora)
    times = (found.folder / "time.csv").read_text().splitlines()
    assert len(times) == 1 + len(whole[0].planned.artifacts())
    same = study.open_study(found.folder)
    assert same.rows == found.rows
    assert same.comparisons == found.comparisons


def test_nothing_is_made_twice(whole, tmp_path):
    first, found = whole
    again = study.run(study.plan(found.design))
    assert (again.computed, again.reused) == (0, first.computed)
    before = (found.folder / "results.csv").read_bytes()
    study.write(again)
    assert (found.folder / "results.csv").read_bytes() == before
    # Another study that shares its pieces: one strength is new, and one intervention is called otherwise.
    own = dict(found.design.interventions)
    changed = {"renamed": own["vector"], "examples": dataclasses.replace(own["examples"], counts=(2, 4))}
    other = dataclasses.replace(
        found.design, out=str(tmp_path / "b"), pieces=str(found.folder / "pieces"), interventions=changed
    )
    planned = study.plan(other)
    shelf = plans.open_artifact_store(other)
    new = [piece for piece in planned.artifacts() if not shelf.has(piece)]
    assert {piece.kind for piece in new} == {"state", "result", "placebo", "comparison"}
    assert [p.label for p in new if p.kind == "state"] == [
        "pocket: examples towards Power, 4 examples",
        "pocket: examples towards Power, 4 examples, neutral shots 1",
    ]


def test_the_example_reads_a_study(whole, root, tmp_path):
    _, found = whole
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(found.folder)
    command = [sys.executable, root / "scripts" / "examples" / "read_study.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples express 2" in done.stdout


@pytest.mark.thorough
def test_a_kill_loses_nothing_and_changes_no_bit(whole, tmp_path):
    _, found = whole
    own = tmp_path / "k"
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(out=own))
    command = [sys.executable, "-m", "vatjax", "run", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ)
    for line in process.stderr:
        if ": 7 of " in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    ran = study.run(study.plan(design(own)))
    assert ran.reused >= 6  # the line is shown before the seventh is computed
    assert ran.computed > 7
    study.write(ran)
    for name in ("results.csv", "comparisons.csv"):
        assert (own / name).read_bytes() == (found.folder / name).read_bytes()


def shards(file, count, killed=()):
    """Runs of all shards at once, of which some are killed when they have made their first piece."""
    command = [sys.executable, "-m", "vatjax", "run", str(file), "--shard"]
    started = [
        subprocess.Popen([*command, f"{number}/{count}"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(1, count + 1)
    ]
    for number in killed:
        for line in started[number - 1].stderr:
            if re.search(r"\d+ of \d+: ", line):
                break
        started[number - 1].kill()
    return [(process.communicate(timeout=600), process.returncode) for process in started]


def agree(where, found):
    """Whether a study came to the same bytes as another one, but for its name."""
    for name in ("results.csv", "comparisons.csv"):
        assert (where / name).read_bytes() == (found.folder / name).read_bytes()
    for mine in (where / "states").iterdir():
        assert mine.read_bytes() == (found.folder / "states" / mine.name).read_bytes()


@pytest.mark.thorough
def test_shards_make_one_study_and_take_over_what_a_lost_one_had_begun(whole, tmp_path):
    _, found = whole
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(out=tmp_path / "s"))
    (lost, survivor) = shards(file, 2, killed=[1])
    assert lost[1] == -signal.SIGKILL
    assert survivor[1] == 0, survivor
    agree(tmp_path / "s", found)
    assert (tmp_path / "s" / "report.html").exists()
    assert store.Claims(tmp_path / "s" / "pieces" / "claims").holders() == {}


@pytest.mark.thorough
def test_four_shards_give_the_bits_of_one_run(whole, tmp_path):
    _, found = whole
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(out=tmp_path / "s"))
    ended = shards(file, 4)
    assert [status for _, status in ended] == [0] * 4, ended
    agree(tmp_path / "s", found)
    made = [int(re.search(r"(\d+) artifacts computed", out)[1]) for (out, _), _ in ended]
    assert sum(made) == len(whole[0].planned.artifacts())
    assert sum(count > 0 for count in made) > 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0"])
def test_a_shard_is_one_of_many(text):
    with pytest.raises(errors.InputError, match=f"shard: expected which of how many, such as 3/16, found '{text}'"):
        study.parse_shard(text)


def test_shards_and_whole_runs_keep_out_of_each_others_way(tmp_path):
    def refused(name, match):
        with pytest.raises(errors.InputError, match=match), locks.exclusive_access(tmp_path, study.parse_shard(name)):
            pass

    with (
        locks.exclusive_access(tmp_path, study.parse_shard("1/4")),
        locks.exclusive_access(tmp_path, study.parse_shard("2/4")),
    ):
        refused("", r"shard 1/4 is at work there: process .*; shard 2/4 is at work there")
        refused("2/4", r"shard 2/4 is at work there")
    with locks.exclusive_access(tmp_path):
        refused("2/4", r"a run is at work there")


@pytest.mark.thorough
def test_a_study_that_is_asked_to_stop_goes_on(whole, tmp_path, capsys):
    """Between two batches; the command says so with the status that schedulers know."""
    _, found = whole
    pieces = tmp_path / "pieces"
    shutil.copytree(found.folder / "pieces", pieces)
    for numbers_of in list(pieces.rglob("numbers.json")):
        (numbers_of.parent / "piece.json").unlink()
        numbers_of.unlink()
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(out=tmp_path / "s") + f"pieces: {pieces}\n")
    made = statistics.arm_statistics

    def ask(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return made(*given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(statistics, "arm_statistics", ask)
        status, _, err = run(capsys, "run", str(file))
    assert status == 75
    assert err.endswith("stopped by SIGTERM: the same command continues from here\n")
    assert store.Claims(tmp_path / "s" / "claims").holders() == {}
    status, _, err = run(capsys, "run", str(file))
    assert status == 0, err
    agree(tmp_path / "s", found)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (errors.InputError("the logits are not finite"), False),  # all of them meet it
        (errors.LocalError("no space left on device"), True),
        (OSError(28, "No space left on device"), True),
        (MemoryError(), True),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), True),
    ],
)
def test_of_several_processes_none_goes_on_alone(monkeypatch, error, ends):
    failures.raise_if_local(error)
    monkeypatch.setattr(processes, "is_multiprocess", lambda: True)
    if not ends:
        failures.raise_if_local(error)
        return
    with pytest.raises(type(error)):
        failures.raise_if_local(error)


def test_what_failed_in_another_shard_is_not_tried_again_and_in_an_earlier_run_it_is(tmp_path):
    early = failures.Failures(tmp_path)
    other = failures.Failures(tmp_path)
    assert early.why("a") is None
    other.add("a", "no luck")
    assert early.why("a") == "no luck"
    late = failures.Failures(tmp_path)
    assert late.why("a") is None
    other.add("a", "no luck")  # once more, after the late one began
    assert late.why("a") == "no luck"
    late = failures.Failures(tmp_path)
    late.forget("a")
    assert failures.Failures(tmp_path).before == {}


def test_a_damaged_piece_is_made_again_and_a_moved_shelf_is_the_one_that_is_given(whole, tmp_path):
    _, found = whole
    own = dataclasses.replace(found.design, out=str(tmp_path / "d"), pieces=str(tmp_path / "shelf"))
    shutil.copytree(found.folder / "pieces", tmp_path / "shelf")
    planned, shelf = study.plan(own), plans.open_artifact_store(own)
    pieces = {piece.label: piece for piece in planned.artifacts()}
    told = []
    names = {
        "pocket: vector towards Power, 1 strength": "state.npz",
        "pocket: vector towards Power: finding it": "edit",
    }
    for label, name in names.items():
        place = shelf.path(pieces[label]) / name
        file = place / "edit.safetensors" if place.is_dir() else place
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-9])
    again = study.run(planned, told.append)
    assert again.computed == 2
    assert [line.split(" is damaged")[0].split(": /")[0] for line in told if "damaged" in line] == sorted(names)[::-1]
    study.write(again)
    agree(tmp_path / "d", found)
    # Another shelf, with the same pieces on it.
    (tmp_path / "shelf").rename(tmp_path / "elsewhere")
    moved = dataclasses.replace(own, pieces=str(tmp_path / "elsewhere"))
    assert study.run(study.plan(moved)).computed == 0
    assert study.open_study(tmp_path / "d").design.pieces == str(tmp_path / "elsewhere")
    result = shelf.path(pieces["pocket: vector towards Power, 1 strength: its numbers"]).relative_to(shelf.folder)
    (tmp_path / "elsewhere" / result / "numbers.json").write_text("{")
    opened = study.open_study(tmp_path / "d")
    row = opened.where(level="types", intervention="vector", amount=1.0, placebo="none")[0]
    with pytest.raises(errors.InputError, match=r"numbers.json: damaged; run the study again"):
        opened.result(row)


def test_a_strength_more_is_all_that_is_made(whole, tmp_path):
    _, found = whole
    kinds = {"vector": found.design.interventions["vector"]}
    more = {"vector": dataclasses.replace(kinds["vector"], strengths=(0.5, 1.0, 2.0))}
    own = dataclasses.replace(
        found.design, out=str(tmp_path / "m"), pieces=str(found.folder / "pieces"), interventions=more
    )
    shelf = plans.open_artifact_store(own)
    new = [piece.label for piece in study.plan(own).artifacts() if not shelf.has(piece)]
    assert new
    assert all("2 strength" in label for label in new)


@pytest.mark.thorough
def test_a_group_that_was_cut_in_two_gives_the_same_bits(whole, tmp_path):
    """What a kill between two pieces of a group leaves: the rest is computed among the same others."""
    _, found = whole
    own = dataclasses.replace(found.design, out=str(tmp_path / "c"))
    kinds = {"vector": own.interventions["vector"]}
    own = dataclasses.replace(own, interventions=kinds)
    study.run(study.plan(own))
    shelf, planned = plans.open_artifact_store(own), study.plan(own)
    gone = [p for p in planned.artifacts() if p.kind == "state" and p.dependencies][2]
    kept = (shelf.path(gone) / "state.npz").read_bytes()
    for file in shelf.path(gone).iterdir():
        file.unlink()
    again = study.run(planned)
    assert again.computed == 1
    assert (shelf.path(gone) / "state.npz").read_bytes() == kept


@pytest.mark.thorough
def test_what_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    own = design(tmp_path / "f")
    own = dataclasses.replace(own, interventions={k: own.interventions[k] for k in ("examples", "vector")})
    real, alone = elicit.states_under, elicit.ratings

    def broken(model, asked, changes, how=None, **options):
        raise ValueError("no\nluck")

    def unedited(*asked, edit=None, **options):
        return alone(*asked, **options) if edit is None else broken(*asked, edit)

    monkeypatch.setattr(elicit, "states_under", broken)
    monkeypatch.setattr(elicit, "ratings", unedited)
    said = []
    found = study.write(study.run(study.plan(own), said.append))
    assert [row["intervention"] for row in found.where(level="types", placebo="none")] == ["examples"]
    assert "ValueError: no (in full in " in found.failed[0]
    assert found.failed[-1].endswith("artifacts that depend on them")
    trace = found.failed[0].split("in full in ")[1].rstrip(")")
    assert "no\nluck" in pathlib.Path(trace).read_text()

    assert "6 artifacts at once: not computed together (no); trying two halves" in said
    sizes = []

    def small(model, asked, changes, how=None, **options):
        sizes.append(len(changes))
        if len(changes) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return real(model, asked, changes, how, **options)

    monkeypatch.setattr(elicit, "states_under", small)
    monkeypatch.setattr(elicit, "ratings", alone)
    ran = study.run(study.plan(own))
    assert ran.failed == {}
    assert sizes[0] == max(sizes)


def test_one_run_at_a_time_and_one_study_a_folder(whole, tmp_path):
    _, found = whole
    with (
        locks.exclusive_access(found.folder),
        pytest.raises(errors.InputError, match=rf"a run is at work there: process {os.getpid()} on "),
    ):
        study.run(study.plan(found.design))
    other = dataclasses.replace(found.design, scenes=12)
    with pytest.raises(errors.InputError, match="holds a study that differs in scenes; give another out"):
        folder.write_design(other, found.folder)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    # Said before a model is opened, also by a plan, and nothing is written.
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(errors.InputError, match="contains files that are not of a study"):
        study.check_folder(dataclasses.replace(found.design, out=str(foreign)))
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]
    with pytest.raises(errors.InputError, match="contains files that are not of a study"):
        folder.write_design(other, tmp_path / "x")
    with pytest.raises(errors.InputError, match="no study there"):
        study.open_study(tmp_path / "x")
    folder.write_design(design(tmp_path / "y"), tmp_path / "y")
    with pytest.raises(errors.InputError, match="a study without results: run it to its end"):
        study.open_study(tmp_path / "y")


def elsewhere(folder, piece, seconds):
    """A claim of a process on another machine."""
    mine = store.Claims(folder / "claims", seconds).claim(piece)
    mine.holder = mine.holder._replace(host="another-machine")
    mine.renew()
    return mine


def test_a_folder_of_a_machine_that_is_gone_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(held_by, "_POLL_SECONDS", 0.1)
    elsewhere(tmp_path, "run", 1.0)
    told = []
    with locks.exclusive_access(tmp_path, on_message=told.append) as held:
        assert not held.lost()
    assert re.search(
        r"a run is at work there: process \d+ on another-machine; if it is gone, the folder is free in", told[0]
    )
    assert len(told) == 1


def test_a_folder_of_a_machine_that_works_is_refused(tmp_path, monkeypatch):
    import threading

    monkeypatch.setattr(held_by, "_POLL_SECONDS", 0.1)
    other = elsewhere(tmp_path, "run", 60.0)
    threading.Timer(0.5, other.renew).start()
    with (
        pytest.raises(errors.InputError, match=r"a run is at work there: .* on another-machine; wait for it"),
        locks.exclusive_access(tmp_path),
    ):
        pass


@pytest.mark.thorough
def test_a_training_of_a_machine_that_is_gone_is_made_by_another_shard(tmp_path, monkeypatch):
    """Its batch's claim is what counts: none of its own keeps the training's folder."""
    lessons = of_kind("sft")(training=TrainingSettings(steps=2, rows=4))
    own = design(tmp_path / "a", interventions={"sft": lessons}, placebos=0, pieces=str(tmp_path / "pieces"))
    planned = study.plan(own)
    (training,) = (piece for piece in planned.artifacts() if piece.kind == "training")
    place = plans.open_artifact_store(own).path(training)
    elsewhere(place / "run", "run", 900.0)
    ran = study.run(planned, shard=study.parse_shard("1/2"))
    assert ran.failed == {}


def test_a_long_piece_of_work_keeps_its_folder(tmp_path, monkeypatch):
    """The claim is renewed while nothing else happens."""

    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.5)
    with locks.exclusive_access(tmp_path) as held:
        time.sleep(2.5)
        with pytest.raises(errors.InputError, match="a run is at work there"), locks.exclusive_access(tmp_path):
            pass
        assert not held.lost()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: shot", "unknown kind of intervention 'shot'; did you mean 'shots'"),
        ("kind: shots, strengths: [1]", "strengths: the kind shots does not have this setting"),
        ("kind: conva, operator: set", "operator: the kind conva does not have this setting"),
        ("kind: residual, strengths: [0, 1]", "strengths: 0 is the model itself"),
        ("kind: residual, strengths: [1, 1]", "strengths: expected at least one, and none twice"),
        ("kind: shots, counts: [0]", "counts: expected at least 1 example"),
        ("kind: tax-aware", "training.price.weight: a tax-aware training needs a price above 0"),
        ("kind: dpo, training: {price: {weight: 1}}", "training.price: this kind has no price; use kind: tax-aware"),
        ("kind: sft, training: {steps: 10, checkpoints: 3}", "checkpoints: expected a number that divides the steps"),
        ("kind: sft, training: {trained: {what: all}}", "trained.what: unknown choice 'all'"),
        ("kind: instruction, wording: plane", "unknown wording 'plane'"),
    ],
)
def test_an_intervention_that_can_not_be_is_named_with_its_line(text, message):
    whole_text = TEXT.format(out="x") + f"  other: {{{text}}}\n"
    with pytest.raises(errors.InputError) as found:
        config.parse(Design, whole_text, "study.yaml")
    assert message in str(found.value)
    assert "study.yaml:13" in str(found.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets: [power]": "targets: [pwer]"}, "did you mean 'Power'"),
        ({"models: [pocket]": "models: [pockt]"}, "pockt: no such folder"),
        ({'layers: ["0"]': 'layers: ["7"]'}, "layer 7: the model has layers 0 to 3"),
        ({"  vector:": "  examples:"}, "the key 'interventions.examples' is given twice"),
        ({"placebos: 1": "placebos: -1"}, "placebos: expected 0 to 1,000, found -1"),
        ({"scenes: 16": "seeds: [-1]"}, "seeds: expected numbers from 0 to 2,147,483,647, found -1"),
        ({"resamples: 100": "resamples: 10000000"}, "resamples: expected 100 to 1,000,000, found 10,000,000"),
        ({"kind: shots, counts": "counts"}, "kind: an intervention needs one of "),
        (
            {"kind: shots, counts": "kind: conva, counts"},
            "kind conva does not have this setting; it has targets, layers",
        ),
        ({"{kind: sft, training: {": "{kind: sft, training: {loss: dpo, "}, "training.loss: the kind names the loss"),
        ({"  sft:": "  Vector: {kind: instruction}\n  sft:"}, "would share their files where case makes no difference"),
        ({"scenes: 16": "directions: []"}, "directions: expected at least one"),
        ({"scenes: 16": "how: {protocol: labelled}"}, "a study supports paired, dense or stated"),
        ({"scenes: 16": "items: {type: [Security]}"}, "no pair of Power among the "),
    ],
)
def test_a_study_that_can_not_be_is_one_message(capsys, tmp_path, change, message):
    text = TEXT.format(out=tmp_path / "z")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "study.yaml"
    file.write_text(text)
    status, out, err = run(capsys, "run", str(file))
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "z").exists()


def test_a_folder_that_can_not_be_written_to(capsys, tmp_path):
    file = tmp_path / "study.yaml"
    (tmp_path / "plain").write_text("")
    file.write_text(TEXT.format(out=tmp_path / "plain" / "z"))
    status, _, err = run(capsys, "run", str(file))
    assert status == 2
    assert f"out: {tmp_path / 'plain'} is a file; give a folder" in err
    file.write_text(TEXT.format(out=tmp_path / "fine") + f"pieces: {tmp_path / 'plain'}\n")
    for more in ((), ("--dry-run",)):
        status, _, err = run(capsys, "run", str(file), *more)
        assert status == 2
        assert f"pieces: {tmp_path / 'plain'} is a file; give a folder" in err
    assert not (tmp_path / "fine").exists()


def test_the_command_says_what_is_to_be_done_and_what_was(capsys, whole, tmp_path):
    _, found = whole
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(out=found.folder))
    status, out, _ = run(capsys, "run", str(file), "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0
    assert all(piece["present"] for piece in plan["artifacts"])
    assert not any(piece["tokens"] for piece in plan["artifacts"])
    status, out, _ = run(capsys, "run", str(file), "--out", str(tmp_path / "new"), "--dry-run", "--json")
    fresh = json.loads(out)
    assert {piece["kind"] for piece in fresh["artifacts"]} == {
        "edit",
        "training",
        "state",
        "result",
        "placebo",
        "comparison",
    }
    for piece in fresh["artifacts"]:
        assert (piece["tokens"] > 0) == (piece["kind"] in ("training", "state") or "finding it" in piece["label"])
    assert not (tmp_path / "new").exists()
    status, out, _ = run(capsys, "run", str(file))
    assert status == 0
    assert "0 artifacts computed" in out
    assert str(found.folder / "report.html") in out
    assert [line for line in out.splitlines() if len(line) > 100 and str(found.folder) not in line] == []


# Parts --------------------------------------------------------------------------------------------------------------


def test_addresses_hang_on_what_decides_and_on_nothing_else(tmp_path):
    one = Artifact("state", "a", {"x": 1}, {"edit": Artifact("edit", "e", {"y": 2})})
    same = Artifact("state", "called otherwise", {"x": 1}, {"edit": Artifact("edit", "f", {"y": 2})}, task=3)
    assert one.address == same.address
    assert one.address != Artifact("state", "a", {"x": 1}, {"edit": Artifact("edit", "e", {"y": 3})}).address
    assert one.address != Artifact("state", "a", {"x": 1}).address
    assert one.address != Artifact("result", "a", one.inputs, one.dependencies).address
    assert [piece.kind for piece in topological_order([one, same])] == ["edit", "state"]
    shelf = ArtifactStore(tmp_path)
    assert not shelf.has(one)
    shelf.mark_complete(one, 1.5, {"jax": "x"})
    assert shelf.has(same)
    assert shelf.read_json(one, "time.json")["seconds"] == 1.5
    (shelf.path(one) / "piece.json").write_text("{")
    with pytest.raises(errors.InputError, match=r"piece\.json: damaged; remove "):
        shelf.read_json(one, "piece.json")


def test_what_decides_each_kind_of_piece(tmp_path):
    """A change of a setting changes what hangs on it, and no more."""
    data = items.bundled()
    _, asked = data.split()

    def addresses(data=data, asked=asked, identity="w", **changes):
        made = graph.build_graph(dataclasses.replace(design("x"), **changes), "pocket", identity, data, asked)
        return {piece.label: (piece.kind, piece.address) for piece in topological_order(made.final_artifacts())}

    base = addresses()

    def changed(**changes):
        new = addresses(**changes)
        return {label for label in base if new.get(label) != base[label]}

    assert changed(out="y", pieces="z") == set()
    kinds = {"edit", "training", "state", "result", "placebo", "comparison"}

    def kinds_of(**changes):
        new = addresses(**changes)
        return {kind for label, (kind, own) in base.items() if new.get(label) != (kind, own)}

    assert kinds_of(resamples=200) == {"result"}
    assert kinds_of(reading="full") == {"result"}
    assert kinds_of(dtype="bfloat16") == kinds
    assert kinds_of(items=Source(seed=1)) == kinds
    assert kinds_of(identity="v") == kinds
    assert kinds_of(asked=asked.take(np.arange(56))) == {"state", "result", "placebo", "comparison"}
    # Every state hangs on what is asked about, also those under examples.
    new = addresses(asked=asked.take(np.arange(56)))
    assert not {label for label, (kind, own) in base.items() if kind == "state" and new[label] == (kind, own)}
    own = design("x").interventions
    lessons = own["sft"].training
    for change in ({"rows": 8}, {"adam": Adam(rate=0.5)}, {"length": 512}):
        later = dict(own, sft=dataclasses.replace(own["sft"], training=dataclasses.replace(lessons, **change)))
        differ = changed(interventions=later)
        assert "pocket: sft towards Power: training" in differ
        assert all("sft" in label for label in differ)
    file = tmp_path / "lessons.jsonl"
    found = []
    for text in ("a", "b", "a"):
        file.write_text(text)
        taught = dataclasses.replace(lessons, file=str(file))
        found.append(addresses(interventions=dict(own, sft=dataclasses.replace(own["sft"], training=taught))))
    assert found[0] == found[2] != found[1]
    swept = dict(own, vector=of_kind("residual")(layers=("0",), strengths=(0.5, 1.0, 3.0)))
    assert "pocket: unedited" not in changed(interventions=swept)
    assert "pocket: vector towards Power: finding it" not in changed(interventions=swept)  # its place is given
    tried = dict(own, vector=of_kind("residual")(layers=("0", "1"), strengths=(0.5, 1.0)))
    more = dict(own, vector=of_kind("residual")(layers=("0", "1"), strengths=(0.5, 1.0, 3.0)))
    first, second = addresses(interventions=tried), addresses(interventions=more)
    assert first["pocket: vector towards Power: finding it"] != second["pocket: vector towards Power: finding it"]
    moral = dataclasses.replace(data.taxonomy, title="another")
    other = dataclasses.replace(data, taxonomy=moral)
    assert kinds_of(data=other, asked=dataclasses.replace(asked, taxonomy=moral)) == kinds


def test_draws_of_placebos_are_draws_of_their_own():
    own = design("x").interventions["vector"]
    cells = [
        Cell("pocket", "vector", own, target, way, seed)
        for target in ("Power", "Wealth")
        for way in ("express", "suppress")
        for seed in (0, 1)
    ]
    assert len({cell.draw_seed(draw) for cell in cells for draw in range(3)}) == 24


def test_resolved_designs_come_back():
    own = design("x")
    assert config.parse(Design, config.to_yaml(own), "again") == own
    shipped = config.read(Design, "configs/quickstart.yaml")
    assert config.parse(Design, config.to_yaml(shipped), "again") == shipped


def test_targets_by_sets_and_spellings():
    taxonomy = items.bundled().taxonomy
    assert design("x", targets=("types",)).target_names(taxonomy) == taxonomy.types
    assert design("x", targets=("values", "social power")).target_names(taxonomy) == taxonomy.names
    assert len(design("x", targets=("all",)).target_names(taxonomy)) == 66
    assert design("x", targets=("openness",)).target_names(taxonomy)[0] in taxonomy.groups


def test_a_report_is_written_again_from_the_folder(capsys, whole):
    _, found = whole
    status, out, _ = run(capsys, "report", str(found.folder), "--portraits", "1")
    assert status == 0
    page = (found.folder / "report.html").read_bytes()
    assert out.strip() == str(found.folder / "report.html")
    report.write(found, 1)
    assert (found.folder / "report.html").read_bytes() == page
    assert store.path(found.folder / "figures").exists()


@pytest.mark.thorough
def test_one_value_is_judged_among_values_and_an_instruction_beside_a_plain_sentence(tmp_path):
    kinds = {"said": of_kind("instruction")()}
    own = dataclasses.replace(
        design(tmp_path / "v"), targets=("Wealth",), directions=("suppress",), seeds=(0, 1), interventions=kinds
    )
    found = study.write(study.run(study.plan(own)))
    assert found.failed == []
    assert [(row["seed"], row["level"], row["headline"], row["placebo"]) for row in found.rows] == [
        (0, "types", False, "none"),
        (0, "values", True, "none"),
        (0, "values", True, "neutral sentence"),
    ]
    told = found.rows[1]
    before, after = found.states(told)
    column = list(before.values).index("Wealth")
    assert told["gain"] == pytest.approx(-np.nanmean(after.state[:, column] - before.state[:, column]), abs=1e-4)
    assert told["over_placebo_gain"] > 0.3
    text = report.write(found).read_text()
    assert f"said: Wealth fell by {told['gain']:.2f} [" in text


def test_an_arm_that_answers_nothing_is_a_broken_row_and_not_a_failure(tmp_path, monkeypatch):
    """Below the floor every cell is missing: the arm has a row without numbers, and the others are compared all the same."""
    own = dataclasses.replace(
        design(tmp_path / "s"),
        targets=("Power",),
        interventions={"vector": of_kind("residual")(layers=("0",), strengths=(0.5, 400.0))},
        placebos=1,
        texts=2,
    )
    found = study.write(study.run(study.plan(own)))
    assert found.failed == []
    rows = {row["amount"]: row for row in found.where(level="types", placebo="none")}
    assert rows[0.5]["gain"] is not None
    assert rows[400.0]["broken"]
    assert rows[400.0]["gain"] is None
    assert "no rating of the target is left" in rows[400.0]["warnings"]
    assert not rows[400.0]["front"]
    silent = found.texts(rows[400.0])  # nothing is rated: what it writes is shown for the strongest ratings before
    assert len(silent) == 2
    assert all(one["after"]["mass"] < 0.1 for one in silent)
    assert all(one["state_after"] is None for one in silent)
    first, second = found.texts(rows[0.5])
    before, after = found.states(rows[0.5])
    moved = np.nanmax(np.abs(after.state - before.state), 0)
    assert abs(first["state_after"] - first["state_before"]) == pytest.approx(np.nanmax(moved), abs=1e-5)
    assert first["value"] != second["value"]
    assert first["before"]["prompt"] == first["after"]["prompt"]  # an edit says nothing
    model, data = models.load("pocket"), plans.load_items(found.design)[1]
    rows_of = [
        i for i in range(len(data)) if data.scene[i] == first["context"]["scene"] and data[i].value == first["value"]
    ]
    asked = next(i for i in rows_of if data.action[i] in first["asked"])
    shown = elicit.answers(model, [prompts.item_fields(data, asked)], elicit.ElicitConfig())
    assert first["before"]["rating"] == pytest.approx(float(shown.ratings[0]), abs=1e-4)
    report.write(found)


def test_what_a_wording_says_decides_the_addresses(tmp_path):
    data = items.bundled()
    _, asked = data.split()
    path = tmp_path / "mine.yaml"

    def addresses(text):
        path.write_text(
            f"version: 1\nwordings:\n  mine:\n    system: {text}\n    weak: a\n    strong: b\n"
            '    levels: ["Scene: {scene}", "Action: {action}"]\n    answer: "Rating:"\n'
        )
        own = dataclasses.replace(design("x"), how=elicit.ElicitConfig(wording=str(path)))
        made = graph.build_graph(own, "pocket", "w", data, asked)
        return {piece.label: piece.address for piece in topological_order(made.final_artifacts())}

    one, other = addresses("Rate {low} to {high}."), addresses("Judge {low} to {high}.")
    assert one.keys() == other.keys()
    assert not [label for label in one if one[label] == other[label]]


def test_edits_and_lessons_are_asked_as_pairs_are():
    how = elicit.ElicitConfig("dense", wording="all", reading="argmax", prior=True, prefill="I say ", high=7, chat=True)
    pairs = how.of_pairs()
    assert (pairs.protocol, pairs.wording, pairs.reading, pairs.prior) == ("paired", "agree", "expected", False) or (
        pairs.wording == ""
    )
    assert (pairs.prefill, pairs.high, pairs.chat) == ("I say ", 7, True)
    assert elicit.ElicitConfig(wording="right").of_pairs().wording == "right"
