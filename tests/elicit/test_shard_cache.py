"""A run that is cut off goes on where it was, with the same bits; what is in the way is said."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.elicit.speaking import speaking, tokenizer
from tests.models.checkpoints import checkpoint
from tests.test_cli import run
from vatjax import elicit, errors, items, models, prefix, states
from vatjax.elicit import provenance, shard_cache
from vatjax.prefix import execute
from vatjax.runtime import preemption

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:the options have")]

TOPIC = "Environment"  # has situations on both sides of the split
DATA = items.bundled().where(country=["Egypt", "Germany", "France"], topic=TOPIC, value=["Wealth", "Wisdom"])
SIZE = prefix.Size(tokens=128, shard=100)


class Cut(Exception):
    """Stands for whatever ends a run."""


def test_what_is_kept_is_not_computed_again_and_the_bits_are_the_same(tmp_path, monkeypatch):
    whole = elicit.ratings(speaking(), DATA, size=SIZE)
    folder, computed = tmp_path / "shards", []

    def cut_after(count):
        plain = shard_cache.ShardCache.put

        def put(self, *arguments):
            plain(self, *arguments)
            if self.count == count:
                raise Cut

        monkeypatch.setattr(shard_cache.ShardCache, "put", put)

    cut_after(2)
    with pytest.raises(Cut):
        elicit.ratings(speaking(), DATA, size=SIZE, keep=folder)
    monkeypatch.undo()
    assert len(list(folder.glob("shard-*.npz"))) == 2
    plain = execute.Run.shard
    monkeypatch.setattr(execute.Run, "shard", lambda self, n: (computed.append(n), plain(self, n))[1])
    told = []
    again = elicit.ratings(speaking(), DATA, size=SIZE, keep=folder, on_cost=lambda *said: told.append(said))
    ((cost, left, ready),) = told
    assert computed == list(range(2, 2 + len(computed)))
    assert len(computed) > 1
    assert 0 < left < cost.computed
    assert ready == sum(len(np.load(path)["prompts"]) for path in sorted(folder.glob("shard-*.npz"))[:2])
    np.testing.assert_array_equal(again.shares, whole.shares)
    np.testing.assert_array_equal(again.state.state, whole.state.state)


def test_a_run_that_is_asked_to_stop_ends_behind_a_shard(tmp_path, monkeypatch):
    whole = elicit.ratings(speaking(), DATA, size=SIZE)
    put = shard_cache.ShardCache.put

    def ask(self, *arguments):
        put(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(shard_cache.ShardCache, "put", ask)
    with pytest.raises(preemption.Stopped, match="SIGTERM"), preemption.handle_stop_signals():
        elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("shard-*.npz"))) == 1
    again = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    np.testing.assert_array_equal(again.shares, whole.shares)


def test_a_run_that_ran_out_of_memory_goes_on_in_the_smaller_passes(tmp_path, monkeypatch):
    plain, sizes = execute.run_pass, []

    def scarce(*arguments):
        sizes.append(arguments[4].tokens.size)
        if len(sizes) > 3 and arguments[4].tokens.size > 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return plain(*arguments)

    monkeypatch.setattr(execute, "run_pass", scarce)
    whole = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path / "whole")
    assert max(sizes[-3:]) == 64 < max(sizes)
    sizes.clear()
    put = shard_cache.ShardCache.put

    def cut(self, order, number, *rest):
        put(self, order, number, *rest)
        if len(sizes) > 12:
            raise Cut

    monkeypatch.setattr(shard_cache.ShardCache, "put", cut)
    with pytest.raises(Cut):
        elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path / "cut")
    assert (tmp_path / "cut" / "size.json").exists()
    monkeypatch.setattr(shard_cache.ShardCache, "put", put)
    monkeypatch.setattr(
        execute, "run_pass", plain
    )  # now there would be room: the bits must still be those of the small passes
    again = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path / "cut")
    np.testing.assert_array_equal(again.shares, whole.shares)


def test_what_is_left_of_another_run_does_not_change_the_bits(tmp_path):
    """Memory ran out in the first shard, and the run was killed there: all that it left is the size it came down to."""
    kept = shard_cache.ShardCache(tmp_path, {"a": 1})
    kept.save_size(prefix.Size(64, 8))
    assert shard_cache.ShardCache(tmp_path, {"a": 1}).saved_size() == prefix.Size(64, 8)
    with pytest.raises(errors.InputError, match="it holds shards of another run"):
        elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    (tmp_path / "run.json").unlink()
    found = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    np.testing.assert_array_equal(found.shares, elicit.ratings(speaking(), DATA, size=SIZE).shares)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(errors.InputError, match=r"run.json: damaged; remove the folder"):
        elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)


def test_a_damaged_shard_is_computed_again(tmp_path):
    whole = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    shard = sorted(tmp_path.glob("shard-*.npz"))[1]
    shard.write_bytes(shard.read_bytes()[:100])
    again = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    np.testing.assert_array_equal(again.shares, whole.shares)


def test_a_shard_of_other_prompts_is_computed_again(tmp_path):
    whole = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    first, second = sorted(tmp_path.glob("shard-*.npz"))[:2]
    first.write_bytes(second.read_bytes())
    again = elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    np.testing.assert_array_equal(again.shares, whole.shares)


def test_shards_of_another_run_are_not_taken(tmp_path):
    elicit.ratings(speaking(), DATA, size=SIZE, keep=tmp_path)
    with pytest.raises(errors.InputError, match=r"it holds shards of another run \(how, passes, tokens differ\)"):
        elicit.ratings(speaking(), DATA, elicit.ElicitConfig(wording="right"), size=SIZE, keep=tmp_path)
    with pytest.raises(errors.InputError, match=r"\(passes differ\)"):
        elicit.ratings(speaking(), DATA, size=prefix.Size(256, 100), keep=tmp_path)


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("model")
    made = checkpoint("llama", vocab_size=512, max_position_embeddings=2048)
    models.save(models.load(made.folder), where / "m")
    tokenizer().save_pretrained(where / "m")
    return where / "m"


def arguments(folder, out, *more):
    filters = ("--items.country", "Egypt", "Germany", "--items.topic", TOPIC, "--items.type", "Power")
    return (
        "rate",
        "--model",
        str(folder),
        "--items",
        "bundled",
        "--out",
        str(out),
        "--allow-low-mass",
        *filters,
        *more,
    )


def test_the_command_writes_the_state_that_the_function_gives(folder, tmp_path, capsys):
    out = tmp_path / "state.npz"
    status, printed, said = run(capsys, *arguments(folder, out, "--json"))
    assert status == 0
    content = json.loads(printed)
    data = items.bundled().where(country=["Egypt", "Germany"], topic=TOPIC, type="Power")
    expected = elicit.rate(models.load(folder), data)
    np.testing.assert_array_equal(states.load(out).state, expected.state)
    assert content["meta"]["cost"] == expected.meta["cost"]
    assert f"{len(data)} prompts: " in said
    assert "distinct tokens of" in said
    assert "the options have" in said
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    status, _, said = run(capsys, *arguments(folder, out))
    assert status == 2
    assert "a state already exists" in said


@pytest.mark.thorough
def test_shots_come_from_the_train_side_and_tax_reads_what_was_written(folder, tmp_path, capsys):
    places = ("--items.country", "Egypt", "Germany", "France", "--part", "test", "--items.test", "0.5")
    lenient = ("--allow-low-mass", "--floor", "0")
    more = (
        "rate",
        "--model",
        str(folder),
        *lenient,
        "--items.type",
        "Power",
        "Security",
        "--items.topic",
        TOPIC,
        *places,
    )
    for name, options in (("pre", ()), ("post", ("--shots", "4", "--towards", "Power"))):
        status, _, said = run(capsys, *more, "--out", str(tmp_path / f"{name}.npz"), *options)
        assert status == 0, said
    pre, post = (states.load(tmp_path / f"{name}.npz") for name in ("pre", "post"))
    assert len(post.meta["shots"]) == 4
    np.testing.assert_array_equal(pre.contexts["scene"], post.contexts["scene"])
    assert np.abs(pre.state - post.state)[pre.mask].max() > 1e-4


@pytest.mark.thorough
def test_killed_at_any_moment_the_same_command_goes_on(folder, tmp_path):
    """The kill comes while shards are being kept; the process has no say in it."""
    out = tmp_path / "state.npz"
    script = (
        "import sys\nfrom vatjax import cli\nfrom vatjax.prefix import plan, scorer\n"
        "scorer.size_for = lambda model, tokens=0: plan.Size(128, 200)\n"
        "import vatjax.prefix\nvatjax.prefix.size_for = scorer.size_for\n"
        "cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, *arguments(folder, out)]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    shards = tmp_path / "state.npz.shards"
    while started.poll() is None and len(list(shards.glob("shard-*.npz")) if shards.exists() else []) < 1:
        pass
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    before = sorted(path.name for path in shards.glob("shard-*.npz"))
    assert before
    assert not out.exists()
    (shards / ".shard-0001.npz.4711.deadbeef.tmp").write_bytes(b"torn")  # what a kill leaves where it hits a write
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "answers are cached" in done.stderr
    assert not shards.exists()
    data = items.bundled().where(country=["Egypt", "Germany"], topic=TOPIC, type="Power")
    expected = elicit.rate(models.load(folder), data, size=prefix.Size(128, 200))
    np.testing.assert_array_equal(states.load(out).state, expected.state)


@pytest.mark.thorough
def test_an_annotator_gives_labels_once(folder, tmp_path, capsys):
    few = ("--items.country", "Egypt", "--items.topic", TOPIC, "--items.value", "Wealth")
    more = (
        "rate",
        "--model",
        str(folder),
        *few,
        "--allow-low-mass",
        "--protocol",
        "labelled",
        "--annotator",
        str(folder),
    )
    status, _, said = run(capsys, *more, "--out", str(tmp_path / "a.npz"))
    assert status == 0
    assert "of the items have the label of their own value and polarity" in said
    labels = elicit.labels.load(tmp_path / "a.labels.npz")
    assert states.load(tmp_path / "a.npz").meta["labels"]["annotator"] == labels.meta["model"]
    (tmp_path / "a.npz").unlink()
    status, _, said = run(capsys, *more, "--out", str(tmp_path / "a.npz"))
    assert status == 0
    assert said.count("distinct tokens of") == 1  # the annotator is not asked again
    status, _, said = run(capsys, *more, "--out", str(tmp_path / "a.npz"), "--high", "7")
    assert "a state already exists" in said
    (tmp_path / "a.npz").unlink()
    status, _, said = run(capsys, *more, "--out", str(tmp_path / "a.npz"), "--high", "7")
    assert status == 2
    assert "it has labels of another annotator, other items or other settings" in said


def test_a_full_disk_keeps_what_is_done(folder, tmp_path, capsys, monkeypatch):
    plain = shard_cache.ShardCache.put

    def put(self, order, number, *rest):
        if number == 1:
            raise OSError(28, "No space left on device", str(self._file(order, number)))
        plain(self, order, number, *rest)

    monkeypatch.setattr(shard_cache.ShardCache, "put", put)
    monkeypatch.setattr(prefix, "size_for", lambda model, tokens=0: prefix.Size(128, 200))
    status, _, said = run(capsys, *arguments(folder, tmp_path / "s.npz"))
    assert status == 2
    assert "no space left on device; finished shards are kept in" in said
    assert len(list((tmp_path / "s.npz.shards").glob("shard-*.npz"))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--out", "state.csv"), "a value state is an .npz"),
        (("--protocol", "labelled"), "needs a label for each item and value"),
        (("--wording", "agre"), "did you mean 'agree'"),
        (("--part", "train", "--items", "other.jsonl"), "other.jsonl: no such file"),
        (("--chat", "True"), "no chat template"),
        (("--labels", "nowhere.npz", "--protocol", "labelled"), "nowhere.npz: no such file"),
        (
            ("--labels", "a.npz", "--annotator", "m", "--protocol", "labelled"),
            "--labels and --annotator: give only one of them",
        ),
        (("--instruction", "first"), "--instruction and --towards go together"),
        (("--instruction", "frst", "--towards", "Power"), "unknown instruction 'frst'; did you mean 'first'"),
        (("--annotator", "m"), "labels belong to the protocol labelled, not to paired"),
        (("--shots", "-4", "--towards", "Power", "--part", "test"), "shots: expected 0 or more, found -4"),
        (("--tokens", "-5"), "tokens: expected a number above 0, found -5"),
        (("--high", "0"), "scale: expected whole numbers"),
        (("--shots", "4"), "--shots and --towards go together"),
        (("--shots", "4", "--towards", "Power"), "give --part test"),
        (("--shots", "4", "--towards", "Powr", "--part", "test"), "did you mean 'Power'"),
        (("--shots", "400", "--towards", "Power", "--part", "test"), "400 shots of Power need 200 actions for it"),
    ],
)
def test_mistakes_end_with_one_sentence(folder, tmp_path, capsys, change, message):
    status, out, said = run(capsys, *arguments(folder, tmp_path / "s.npz", *change))
    assert (status, out) == (2, "")
    assert message in said
    assert "Traceback" not in said


def test_a_state_names_what_decided_it():
    first, second = (elicit.rate(speaking(), DATA, size=SIZE).meta for _ in range(2))
    assert first == second
    other = elicit.rate(speaking(), DATA.where(country="Egypt"), size=SIZE).meta
    assert other["items"]["sha256"] != first["items"]["sha256"]
    assert provenance.digest(DATA) == first["items"]["sha256"]
