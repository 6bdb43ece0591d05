"""The loop: a run that is killed goes on and ends with the same bytes; what is wrong is named and nothing good is lost."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.models.checkpoints import checkpoint
from tests.train.test_rows import drawn, load
from vatjax import errors, models, train
from vatjax.runtime import preemption
from vatjax.train import log

pytestmark = pytest.mark.long

LORA = train.Lora(rank=2, targets=("query", "down"))
COURSE = train.Course(steps=12, log=2, save=3, keep=2)


def begun(rate=1e-2, key=1):
    return train.init(load("llama"), LORA, train.Adam(rate=rate), steps=12, key=key)


def data(count=9, rows=4, seed=0, texts=2):
    return train.make_rows(drawn(count, texts, seed), rows)


def leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.progress.trained)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def test_the_loop_is_its_steps(tmp_path):
    ended = train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run")
    state, found = begun(), []
    for step in range(12):
        state, logs = train.step(state, train.batch(data(), train.rows_at_step(data(), step)), train.dpo())
        found.append(float(logs["loss"]))
    assert same(ended.state, state)
    assert ended.stop_reason == "steps"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 6, 8, 10, 12]
    assert [line["loss"] for line in lines] == [found[0], *found[1::2]]
    assert lines[-1]["epoch"] == 4
    assert lines[-1]["num_tokens"] == 4 * data().tokens
    names = {
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    }
    assert names | {"grad_norm", "learning_rate"} <= set(lines[0])
    timing = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert all(line["tokens_per_second"] > 0 for line in timing)


def test_a_run_that_was_broken_off_goes_on(tmp_path):
    class Off(Exception):
        pass

    def off(metrics, _):
        if metrics["step"] == 8:
            raise Off

    whole = train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "whole")
    with pytest.raises(Off):
        train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run", on_step=off)
    ended = train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run")
    assert ended.start_step == 6
    assert same(ended.state, whole.state)
    for name in ("metrics.jsonl",):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run")
    assert again.start_step == 12
    assert same(again.state, whole.state)
    assert len(again.metrics) == 7


SCRIPT = """
import sys
from tests.train.test_loop import COURSE, LORA, data
from vatjax import models, train
state = train.init(models.load(sys.argv[1]), LORA, train.Adam(rate=1e-2), steps=12, key=1)
ended = train.run(state, data(), train.dpo(), COURSE, sys.argv[2], on_step=lambda m, _: print(int(m["step"]), flush=True))
models.save_adapter(train.export(ended.state), state.base.config, sys.argv[2] + "/adapter")
"""


def start(where, root):
    command = [sys.executable, "-c", SCRIPT, str(checkpoint("llama").folder), str(where)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.thorough  # as studies are killed at random each time, trainings of theirs too
def test_kill_9_at_a_random_step_and_the_same_command_again(tmp_path, root, random_seed):
    kill = random.Random(random_seed).randint(1, 11)
    with start(tmp_path / "run", root) as broken:
        for line in broken.stdout:
            if int(line) == kill:
                broken.send_signal(signal.SIGKILL)
                break
    assert broken.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "adapter").exists()
    with start(tmp_path / "run", root) as again:
        steps = [int(line) for line in again.stdout]
    assert again.returncode == 0
    assert steps == list(range(steps[0], 13)), f"killed at {kill}"
    assert steps[0] <= kill + 1
    whole = train.run(begun(), data(), train.dpo(), COURSE)
    models.save_adapter(train.export(whole.state), whole.state.base.config, tmp_path / "adapter")
    found, expected = (
        (folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (tmp_path / "run", tmp_path)
    )
    assert found == expected, f"killed at {kill}"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_keeps_the_step_that_it_is_at(tmp_path, number, status):
    """Between the checkpoints that its course asks for, at a step where it is told to."""

    def ask(metrics, _):
        if metrics["step"] == 8:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(preemption.Stopped, match=number.name) as stopped, preemption.handle_stop_signals():
        train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run", on_step=ask)
    assert stopped.value.status == status
    assert signal.getsignal(number) == before
    ended = train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run")
    assert ended.start_step == 8
    assert same(ended.state, train.run(begun(), data(), train.dpo(), COURSE).state)


def test_a_second_ctrl_c_ends_a_run_at_once():
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt), preemption.handle_stop_signals():
        twice()


def test_one_run_at_a_time_in_a_folder(tmp_path):
    def second(*_):
        train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run")

    with pytest.raises(errors.InputError, match=rf"run: a run is at work there: process {os.getpid()} on "):
        train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run", on_step=second)
    assert train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run").start_step < 12


def test_a_gradient_of_nothing_is_no_training():
    """Thrown so far in one step that nothing reaches it: the loss may even be below that of the beginning."""
    course = dataclasses.replace(COURSE, steps=40)
    state = train.init(load("llama"), LORA, train.Adam(rate=1e9, clip=0), steps=40, key=1)
    with pytest.raises(
        train.Diverged, match=r"step \d+: the gradient has been 0 for 20 steps, at a loss of .* on file:\d"
    ):
        train.run(state, data(texts=1), train.sft(), course)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    where = tmp_path_factory.mktemp("finished") / "run"
    train.run(begun(), data(), train.dpo(), COURSE, where)
    return where


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of which the last checkpoint and the one before are kept, at steps 9 and 12."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": data(seed=5)}, r"another run, which differs in data \(checkpoint [0-9a-f]{32}, run [0-9a-f]{32}\)"),
        ({"loss": train.dpo(beta=0.2)}, r'differs in loss \(checkpoint \["dpo", .*0.1.*\], run \["dpo", .*0.2.*\)'),
        (
            {"state": begun(rate=2e-2)},
            r"differs in rate \(checkpoint 0.01.*, run 0.02.*\); give the same, or another folder",
        ),
    ],
    ids=["data", "loss", "rate"],
)
def test_another_run_is_refused_by_name(run, change, message):
    given = {"state": begun(), "data": data(), "loss": train.dpo(), **change}
    with pytest.raises(errors.InputError, match=message):
        train.run(given["state"], given["data"], given["loss"], COURSE, run)


def test_another_model_is_refused(run):
    state = train.init(load("mistral"), LORA, train.Adam(rate=1e-2), steps=12, key=1)
    with pytest.raises(errors.InputError, match=r"differs in model \(checkpoint [0-9a-f]{32}, "):
        train.run(state, data(), train.dpo(), COURSE, run)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves its tasks behind
@pytest.mark.parametrize("harm", [flip, lambda path: path.write_bytes(path.read_bytes()[:-9]), pathlib.Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(run, harm):
    whole = train.run(begun(), data(), train.dpo(), COURSE, run).state
    newest = run / "checkpoints" / "12"
    for path in (path for path in newest.rglob("*") if path.is_file() and path.stat().st_size > 200):
        harm(path)
    told = []
    ended = train.run(begun(), data(), train.dpo(), COURSE, run, on_message=told.append)
    assert "the checkpoint of step 12 is damaged; resuming from the one before" in told[0]
    assert ended.start_step == 9
    assert same(ended.state, whole)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["12", "9", "damaged-12-1"]
    assert train.run(begun(), data(), train.dpo(), COURSE, run, on_message=told.append).start_step == 12
    assert [line.split(": ")[1] for line in told] == [
        "the checkpoint of step 12 is damaged; resuming from the one before",
        "resuming from the checkpoint of step 9",
        "resuming from the checkpoint of step 12",
    ]


def test_a_damaged_validation_loss(tmp_path):
    course, held = dataclasses.replace(COURSE, validate=3), data(5, seed=3)
    whole = train.run(begun(), data(), train.dpo(), course, tmp_path / "run", validation=held).state
    metrics = tmp_path / "run" / "checkpoints" / "12" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text()[:9])
    ended = train.run(begun(), data(), train.dpo(), course, tmp_path / "run", validation=held)
    assert ended.start_step == 9
    assert same(ended.state, whole)


def test_all_damaged(run):
    for step in ("9", "12"):
        (run / "checkpoints" / step / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(errors.InputError, match=r"every checkpoint is damaged \(steps 9, 12\); remove the folder"):
        train.run(begun(), data(), train.dpo(), COURSE, run)


FULL = """
import pathlib, resource, signal, sys, time
from tests.train.test_loop import COURSE, LORA, data
from vatjax import errors, models, train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def full(metrics, _):
    if metrics["step"] == 9:  # from here on no file may be longer than a log
        while not pathlib.Path(sys.argv[2], "checkpoints", "6").exists():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
state = train.init(models.load(sys.argv[1]), LORA, train.Adam(rate=1e-2), steps=12, key=1)
try:
    train.run(state, data(), train.dpo(), COURSE, sys.argv[2], on_step=full)
except errors.InputError as error:
    print(error)
"""


@pytest.mark.thorough
def test_a_disk_without_room_leaves_the_checkpoint_before(tmp_path, root):
    command = [sys.executable, "-c", FULL, str(checkpoint("llama").folder), str(tmp_path / "run")]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "checkpoints: the checkpoint can't be written: file too large" in found.stdout
    told = []
    ended = train.run(begun(), data(), train.dpo(), COURSE, tmp_path / "run", on_message=told.append)
    assert ended.start_step == 6
    assert told == [f"{tmp_path / 'run'}: resuming from the checkpoint of step 6"]
    assert same(ended.state, train.run(begun(), data(), train.dpo(), COURSE).state)


def test_the_best_is_kept_and_patience_ends_a_run(tmp_path):
    """At a rate that soon overfits nine pairs, validation gets worse: the best checkpoint stays, and the run ends."""
    course = train.Course(steps=40, log=4, save=4, keep=1, validate=4, patience=2)
    state = train.init(load("llama"), LORA, train.Adam(rate=5e-2, warmup=0), steps=40, key=1)
    ended = train.run(state, data(4), train.dpo(beta=0.5), course, tmp_path / "run", validation=data(8, seed=7))
    assert ended.stop_reason == "patience"
    found = {line["step"]: line["eval_loss"] for line in ended.metrics if "eval_loss" in line}
    best = min(found, key=found.get)
    steps = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert steps == sorted({best, max(found)})
    assert max(found) == best + 8
    chosen = dataclasses.replace(course, best=True)
    state = train.init(load("llama"), LORA, train.Adam(rate=5e-2, warmup=0), steps=40, key=1)
    kept = train.run(state, data(4), train.dpo(beta=0.5), chosen, tmp_path / "run", validation=data(8, seed=7))
    assert (kept.start_step, int(kept.state.progress.step), kept.stop_reason) == (best + 8, best, "patience")
    again = train.evaluate(kept.state, data(8, seed=7), train.dpo(beta=0.5))
    assert again["loss"] == pytest.approx(found[best], rel=1e-6)
    with pytest.raises(errors.InputError, match="patience: needs validation; set validate"):
        train.Course(patience=2).check()


@pytest.mark.thorough
def test_validation_is_the_loss_divided_once():
    state, held = begun(), data(7, seed=3)
    state, _ = train.step(state, train.batch(data(), range(4)), train.dpo())
    wide = train.make_rows(held.examples, rows=7)
    _, logs = train.step(state, train.batch(wide, range(7)), train.dpo())
    found = train.evaluate(state, held, train.dpo())
    assert found == {name: pytest.approx(float(logs[name]), rel=1e-5, abs=1e-7) for name in found}
    assert {"loss", "rewards/accuracies", "rewards/margins", "logps/chosen"} <= set(found)


@pytest.mark.thorough
def test_a_mesh_gives_the_losses_of_one_device(tmp_path):
    mesh = models.mesh(data=2, tensor=2, devices=jax.devices()[:4])
    model = models.load(checkpoint("llama").folder, mesh=mesh)
    course, found = train.Course(steps=4, log=1, validate=2), []
    for own in (model, load("llama")):
        made, held = (train.with_reference(own, data(5, seed=seed)) for seed in (0, 3))
        state = train.init(own, LORA, train.Adam(rate=1e-2), steps=4, key=1)
        ended = train.run(state, made, train.dpo(), course, tmp_path / str(len(found)), validation=held)
        found.append([[line[name] for name in ("loss", "eval_loss") if name in line] for line in ended.metrics])
    assert [len(line) for line in found[0]] == [1, 2, 1, 2]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    uneven = train.init(model, LORA, train.Adam(), steps=4)
    with pytest.raises(errors.InputError, match="3 rows can't be shared out over 2 devices; expected a multiple of 2"):
        train.run(uneven, data(rows=3), train.dpo(), course, validation=held)


def test_a_loss_that_is_no_number_names_its_batch_and_keeps_the_state(tmp_path):
    own = train.with_reference(load("llama"), data(8))
    reference = own.reference.copy()
    reference[3] = np.nan
    own = dataclasses.replace(own, reference=reference)
    bad = next(step for step in range(12) if 3 in train.rows_at_step(own, step))
    with pytest.raises(errors.InputError, match=rf"step {bad + 1}: the loss is nan .* at a learning rate of .*file:4"):
        train.run(begun(), own, train.dpo(), COURSE, tmp_path / "run")
    with pytest.raises(train.Diverged) as caught:
        train.run(begun(), own, train.dpo(), COURSE)
    assert int(caught.value.state.progress.step) == bad
    assert all(np.isfinite(x).all() for x in leaves(caught.value.state))
    with train.Checkpoints(tmp_path / "run" / "checkpoints", {}) as checkpoints:
        assert checkpoints.steps[-1:] == [bad]


def test_a_rate_that_drives_the_loss_away(tmp_path):
    state = train.init(load("llama"), train.FullFinetune(), train.Adam(rate=3.0, warmup=0, clip=0), steps=200)
    with pytest.raises(errors.InputError, match=r"the learning rate, 3 at its highest, is too high|lower the rate"):
        train.run(state, data(texts=1), train.sft(), train.Course(steps=200))


@pytest.mark.thorough
def test_the_penalty_and_the_probe_come_every_few_steps(tmp_path):
    seen = []
    course = train.Course(steps=7, probe=3, log=1, penalise=3)
    price = Constant(np.float32(2.0))
    ended = train.run(
        begun(), data(), train.dpo(), course, tmp_path / "run", price, probe=lambda state, step: seen.append(step)
    )
    assert seen == [0, 3, 6, 7]
    assert [("penalty" in line) for line in ended.metrics] == [True, False, False, True, False, False, True]


@pytest.mark.thorough
def test_a_price_is_no_runaway():
    """A price that comes late and is high is not the loss running away."""
    course = train.Course(steps=40, penalise=1)
    state = train.init(load("llama"), LORA, train.Adam(rate=1e-4), steps=40)
    ended = train.run(state, data(), train.dpo(), course, penalty=Rising(np.float32(100.0)))
    assert ended.metrics[-1]["penalty"] > 50


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant:
    """A price that nothing changes."""

    value: jax.Array

    def __call__(self, weights, config, edit, key, memory):
        return jax.numpy.asarray(self.value), {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rising:
    """A price that is another in every step."""

    value: jax.Array

    def __call__(self, weights, config, edit, key, memory):
        return jax.numpy.asarray(self.value) * jax.random.uniform(key, minval=0.6), {}


def test_courses_that_no_run_can_take():
    for course, message in (
        (train.Course(steps=0), "steps: expected at least 1, found 0"),
        (train.Course(log=0), "log: expected at least 1, found 0"),
        (train.Course(save=-1), "save: expected 0 or more, found -1"),
    ):
        with pytest.raises(errors.InputError, match=message):
            course.check()
    with pytest.raises(errors.InputError, match="validate: needs validation examples; none were given"):
        train.run(begun(), data(), train.dpo(), train.Course(validate=2))
    with pytest.raises(errors.InputError, match="best: needs validation; set validate"):
        train.Course(best=True).check()
    with pytest.raises(errors.InputError, match="best: needs a run folder"):
        train.run(begun(), data(), train.dpo(), train.Course(validate=2, best=True), validation=data(5, seed=3))


def test_a_log_whose_last_line_is_torn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    run = log.Log(tmp_path, 4)
    assert run.lines["metrics"] == [{"step": 2, "loss": 1.0}]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2, "loss": 1.0}\n'
