"""Where a run happens: several processes give the numbers of one, on every mesh; and how they are named."""

import itertools
import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import spmd
from vatjax import config, errors, models, states, study
from vatjax.commands.rate import Rate
from vatjax.runtime import cluster
from vatjax.study.design import Design

pytestmark = pytest.mark.long

SPLITS = [split for split in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(split) == 8]


# The flags by which processes that `together` starts find each other.
CLUSTER = ["--distributed", "127.0.0.1:{port}", "--distributed.processes", "{count}", "--distributed.index", "{index}"]


def rating(out):
    """A short command."""
    return ["rate", "--model", "pocket", "--out", str(out), "--part", "test", "--items.country", "Egypt"]


def free():
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def together(count, root, *words, env=None):
    """Processes that are started at the same time: (status, output) of each."""
    port = str(free())
    started = [
        subprocess.Popen(
            [sys.executable, *(word.format(index=i, count=count, port=port) for word in words)],
            cwd=root,
            env={
                **os.environ,
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                "JAX_PLATFORMS": "cpu",
                **(env or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]
    try:
        said = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:  # none is left behind, whatever happens
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.mark.parametrize(
    ("count", "splits"),
    [
        (2, [(2, 2, 1)]),
        pytest.param(2, [(2, 2, 1), (4, 1, 1), (1, 4, 1), (1, 1, 4), (1, 2, 2)], marks=pytest.mark.thorough),
        *[pytest.param(4, [split], marks=pytest.mark.thorough) for split in SPLITS],
    ],
    ids=str,
)
def test_processes_give_the_numbers_of_one(count, splits, root, tmp_path):
    parts = ("rated", "dpo") if (count, len(splits)) == (2, 1) else spmd.PARTS
    alone = spmd.measured(None, parts)
    names = [",".join(map(str, split)) for split in splits]
    words = ("{index}", "{count}", "{port}", str(tmp_path), "+".join(parts), *names)
    ended = together(count, root, "-m", "tests.spmd", *words)
    assert [status for status, _ in ended] == [0] * count, ended
    for name in names:
        found = np.load(tmp_path / f"{name}.npz")
        assert set(found) == set(alone)
        for key, expected in alone.items():
            close = 1e-4 if "sft" in key or "dpo" in key or "many" in key else 1e-5
            np.testing.assert_allclose(found[key], expected, rtol=0, atol=close, err_msg=f"{key} on {name}")


@pytest.mark.thorough
def test_the_command_writes_once_and_only_the_first_process_speaks(root, tmp_path):
    options = rating(tmp_path / "state.npz")
    (first, told), (second, silent) = together(2, root, "-m", "vatjax", *options, *CLUSTER)
    assert (first, second) == (0, 0), (told, silent)
    assert "option mass" in told
    assert "option mass" not in silent
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


@pytest.mark.thorough
def test_what_one_process_alone_refuses_ends_all_of_them(root, tmp_path):
    options = rating(tmp_path / "state.npz")
    code = "import sys\nfrom vatjax import cli\ncli.main(sys.argv[2:] + ['--items.country', 'Atlantis'] * (sys.argv[1] == '1'))"
    (first, told), (second, said) = together(2, root, "-c", code, "{index}", *options, *CLUSTER)
    assert second == 2
    assert "Atlantis" in said
    assert first == 75, told
    assert "another process of this run is gone" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed: on", "distributed: coordinator: expected auto, off or host:port, found 'on'"),
        ("distributed: {coordinator: 'a:1', processes: 2, index: 2}", "expected an index from 0 to 1, found 2 of 2"),
        ("distributed: {coordinator: auto, processes: 2}", "coordinator: auto takes neither processes nor index"),
        ("mesh: {data: -1}", "mesh: data: expected 0 or more, found -1"),
    ],
)
def test_what_is_no_cluster_is_named(text, message):
    with pytest.raises(errors.InputError, match=message):
        config.parse(Rate, f"model: pocket\nout: x.npz\n{text}\n", "rate.yaml")


def test_words_and_flags():
    read = config.parse(Rate, "model: pocket\nout: x.npz\ndistributed: off\nmesh: {fsdp: 8}\n", "rate.yaml")
    assert read.distributed == cluster.Cluster("off")
    assert read.device_mesh().shape == {"data": 1, "fsdp": 8, "tensor": 1}
    assert Rate("pocket", "x.npz").device_mesh() is None  # eight devices of one CPU are one


@pytest.mark.thorough
def test_a_run_goes_on_on_another_mesh(tmp_path):
    alone, _ = spmd.course(None, tmp_path / "alone")
    split = models.mesh(fsdp=4, devices=jax.devices()[:4])
    with pytest.raises(spmd.Off):
        spmd.course(split, tmp_path / "run", until=5)
    other = models.mesh(data=2, fsdp=2, tensor=2)
    losses, told = spmd.course(other, tmp_path / "run")
    assert "resuming from the checkpoint of step 4" in told[0]
    np.testing.assert_allclose(losses, alone, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_goes_on_on_another_number_of_processes(root, tmp_path, damaged):
    """And where the newest checkpoint is damaged, in a part that not all of them read, from the one before."""
    alone, _ = spmd.course(None, tmp_path / "alone")
    words = ("-m", "tests.spmd", "{index}", "{count}", "{port}", str(tmp_path))
    assert [status for status, _ in together(2, root, *words, "broken", "1,4,1")] == [0, 0]
    if damaged:
        folder = tmp_path / "run" / "checkpoints" / "4"
        data = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        content = bytearray(data.read_bytes())
        content[len(content) // 3] ^= 4
        data.write_bytes(content)
    ended = together(4, root, *words, "resumed", "1,4,2")
    assert [status for status, _ in ended] == [0] * 4, ended
    said = ended[0][1]
    assert ("the checkpoint of step 4 is damaged" in said) == damaged
    assert f"resuming from the checkpoint of step {2 if damaged else 4}" in said
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), alone, atol=1e-4)


def test_a_coordinator_that_is_not_there(monkeypatch):
    monkeypatch.setattr(cluster, "WAIT", 1)
    with pytest.raises(errors.InputError, match=r"no answer from 127.0.0.1:\d+ \(connection refused\); process 0"):
        cluster.start(cluster.Cluster(f"127.0.0.1:{free()}", 2, 1))


@pytest.mark.thorough
def test_a_process_that_nobody_joins_says_so(root, tmp_path):
    code = "import sys\nfrom vatjax import cli\nfrom vatjax.runtime import cluster\ncluster.WAIT = 4\ncli.main(sys.argv[1:])"
    cluster = [word.replace("{count}", "2") for word in CLUSTER]
    ((status, said),) = together(1, root, "-c", code, *rating(tmp_path / "state.npz"), *cluster)
    assert status == 2
    assert "distributed: not all processes connected within 4 seconds; give each its own index, from 0" in said


LOST = """
import importlib, os, signal, sys
from vatjax import cli
from vatjax.runtime import cluster
cluster.HEARTBEAT = 15
index, who, module, *names, left = sys.argv[1].split()
if index == who:
    left, place = int(left), importlib.import_module(module)
    for name in names[:-1]:
        place = getattr(place, name)
    real = getattr(place, names[-1])
    def dying(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(place, names[-1], dying)
cli.main(sys.argv[2:])
"""


@pytest.mark.thorough
def test_a_process_that_is_lost_ends_the_others(root, tmp_path):
    """They say so, and do not wait for ever; what is done is kept for the same command."""
    out = tmp_path / "state.npz"
    options = rating(out)
    (first, told), (second, _) = together(
        2, root, "-c", LOST, "{index} 1 vatjax.prefix.execute advance 0", *options, *CLUSTER
    )
    assert second == -9
    assert first == 75
    assert "vatjax: another process of this run is gone; start the same command" in told
    assert "Traceback" not in told
    assert not out.exists()
    status, _ = together(1, root, "-m", "vatjax", *options)[0]
    assert status == 0
    assert out.exists()


STUDY = """
models: [pocket]
targets: [Power]
out: {out}
scenes: 8
placebos: 1
resamples: 100
texts: 0
interventions:
  examples: {{kind: shots, counts: [2]}}
  vector: {{kind: residual, layers: ["0"], strengths: [0.5, 1]}}
  sft: {{kind: sft, training: {{steps: 4, checkpoints: 2, rows: 8, trained: {{rank: 4, alpha: 8}}, adam: {{rate: 0.01}}}}}}
  priced: {{kind: tax-aware, training: {{loss: sft, steps: 4, rows: 8, price: {{weight: 0.1, scenes: 8, rows: 8}}}}}}
"""


def studied(folder, name):
    """A study file, and its folder."""
    file = folder / f"{name}.yaml"
    file.write_text(STUDY.format(out=folder / name))
    return file, folder / name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What one process makes of the study."""
    file, _ = studied(tmp_path_factory.mktemp("studies"), "alone")
    return study.write(study.run(study.plan(config.read(Design, str(file)))))


# Coupling is of ranks. Where rounding exchanges two neighbours in a column of 8 contexts, a correlation moves by 12 times
# what lies between their ranks in the other column, 7 at most, over 8 * 63; of all pairs the column is in 2 of 56.
EXCHANGED = 12 * 7 / (8 * 63) * 2 / 56


def same_numbers(out, expected):
    """States to rounding, decisions exactly, and numbers as far as a ratio of small ones lets them be, and ranks."""
    files = sorted((expected.folder / "states").iterdir())
    assert [path.name for path in files] == sorted(path.name for path in (out / "states").iterdir())
    for path in files:
        ours, theirs = (states.load(folder / "states" / path.name) for folder in (out, expected.folder))
        np.testing.assert_allclose(ours.state, theirs.state, rtol=0, atol=1e-5, err_msg=path.name)
    rows = study.open_study(out).rows
    assert len(rows) == len(expected.rows)
    for ours, theirs in zip(rows, expected.rows, strict=True):
        assert set(ours) == set(theirs)
        for key, number in theirs.items():
            if isinstance(number, float):
                close = EXCHANGED if "nvat" in key or "gini" in key else 1e-4
                np.testing.assert_allclose(ours[key], number, atol=close, rtol=1e-3, err_msg=f"{key} of {theirs}")
            elif key != "seconds":
                assert ours[key] == number


@pytest.mark.thorough
@pytest.mark.parametrize("count", [2, 4])
def test_a_study_has_the_numbers_of_one_process(count, undisturbed, root, tmp_path):
    file, out = studied(tmp_path, "several")
    ended = together(count, root, "-m", "vatjax", "run", str(file), *CLUSTER, "--mesh.fsdp", "2")
    assert [status for status, _ in ended] == [0] * count, ended
    same_numbers(out, undisturbed)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("who", "where"),
    [
        (1, "vatjax.prefix.execute advance 4"),
        (0, "vatjax.train.steps _donating 2"),
        (1, "vatjax.train.loop Checkpoints save 1"),
        (0, "vatjax.train.checkpoints fingerprint 1"),
        (0, "vatjax.report write 0"),
    ],
    ids=["rating", "training", "a checkpoint", "a checkpoint of the first", "the report"],
)
def test_whatever_a_process_is_lost_at_the_others_end_and_the_rest_goes_on(who, where, undisturbed, root, tmp_path):
    file, out = studied(tmp_path, "several")
    ended = together(2, root, "-c", LOST, f"{{index}} {who} {where}", "run", str(file), *CLUSTER)
    assert ended[who][0] == -9
    assert ended[1 - who][0] == 75, ended[1 - who][1]
    assert "another process of this run is gone" in ended[1 - who][1]
    made = len(list((out / "pieces").rglob("piece.json")))
    ended = together(2, root, "-m", "vatjax", "run", str(file), *CLUSTER)
    assert [status for status, _ in ended] == [0, 0], ended
    assert re.search(rf"\b{made} reused", ended[0][1]), ended[0][1]
    same_numbers(out, undisturbed)
