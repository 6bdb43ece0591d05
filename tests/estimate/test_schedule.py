"""What a study takes: on paper for accelerators that are not here, and as programs that are compiled from shapes."""

import importlib.util
import json
import math
import shutil

import jax
import pytest

from tests.test_cli import run
from vatjax import config, elicit, items, models, train
from vatjax.estimate import accelerators, schedule
from vatjax.estimate.costs import Work
from vatjax.store.artifacts import Artifact
from vatjax.study.design import Design

TEXT = """
models: [{model}]
targets: [Power]
out: {out}
scenes: 4
placebos: 0
texts: 0
interventions:
  examples: {{kind: shots, counts: [2]}}
  vector: {{kind: residual, layers: ["0"], strengths: [0.5, 1]}}
  sft: {{kind: sft, training: {{steps: 6, rows: 4}}}}
"""


@pytest.fixture
def shape(tmp_path):
    """A checkpoint of which only the configuration is there."""
    folder = tmp_path / "small"
    folder.mkdir()
    source = json.loads((models.open_checkpoint("pocket").folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**source, "vocab_size": 50_000, "max_position_embeddings": 4096}))
    return folder


def design(tmp_path, model="pocket"):
    return config.parse(Design, TEXT.format(model=model, out=tmp_path / "out"), "study.yaml")


def test_tokens_are_those_that_a_run_computes(tmp_path):
    own = design(tmp_path)
    (load,) = schedule.workloads(own)
    kinds = [(kind, len(load.of_kind(kind))) for kind in ("state", "training", "edit")]
    assert kinds == [("state", 5), ("training", 1), ("edit", 1)]
    model, source = models.load("pocket"), own.items
    _, test = items.bundled().split(source.test, source.seed)
    unedited = next(piece for piece in load.of_kind("state") if piece.task[0] is None)
    asked = sorted({*test.scene})
    assert load.works[unedited.address].tokens > 0
    assert load.weights == sum(leaf.size for leaf in jax.tree.leaves(model.arrays))
    data = train.prepare_data(
        model, load.of_kind("training")[0].maker.run(load.of_kind("training")[0].task[0], own)
    ).data
    batch = train.batch(data, train.rows_at_step(data, 0, 0))
    assert load.work("training").tokens == 3 * 6 * batch.tokens.size
    assert len(asked) > own.scenes

    plain = elicit.ratings(model, schedule.plan(own).test_items, size=schedule.SIZE).cost
    assert load.works[unedited.address].tokens == plain.computed


def test_operations_are_twice_the_weights_and_what_attention_and_the_head_take(tmp_path):
    (load,) = schedule.workloads(design(tmp_path))
    model = models.load("pocket")
    layers = sum(leaf.size for leaf in jax.tree.leaves(model.arrays["layers"]))
    unedited = next(piece for piece in load.of_kind("state") if piece.task[0] is None)
    tokens, operations = load.works[unedited.address]
    cost = elicit.cost(model, schedule.plan(design(tmp_path)).test_items, size=schedule.SIZE)
    shape = model.config
    seen = cost.full / cost.prompts
    attention = 2 * 2 * shape.layers * shape.heads * shape.head_size * seen  # products with keys, and with values
    head = 2 * shape.width * shape.vocabulary * cost.prompts
    assert operations == pytest.approx(tokens * (2 * layers + attention) + head)


@pytest.mark.thorough
def test_more_items_scale_what_is_rated_and_leave_trainings_alone(tmp_path):
    own = design(tmp_path)
    (once,), (thrice,) = schedule.workloads(own), schedule.workloads(own, 3 * len(schedule.plan(own).test_items))
    assert thrice.work("state").tokens == pytest.approx(3 * once.work("state").tokens, abs=5)
    assert thrice.work("training", "edit") == once.work("training", "edit")
    assert thrice.answers == pytest.approx(3 * once.answers, abs=5)


def load_of(works: dict[str, tuple[str, float, tuple[str, ...]]], held: int = 10**9) -> schedule.Workload:
    """A load of pieces by name: their kind, their operations, and what they need."""
    made: dict[str, Artifact] = {}
    for name, (kind, _, needs) in works.items():
        made[name] = Artifact(kind, name, {"name": name}, {need: made[need] for need in needs})
    pieces, each = list(made.values()), [[one] for one in made.values()]
    return schedule.Workload(
        "m", 10**9, held, 0, False, pieces, each, {made[n].address: Work(0, w[1]) for n, w in works.items()}, 0
    )


def test_hours_are_those_of_shards_side_by_side_behind_what_they_need():
    """Two shards of four chips; a training of 8 s, then its state of 4 s; meanwhile three states of 4 s."""
    where, assumed = (
        accelerators.parse_slice("v5e-8"),
        schedule.Assumed(rating=0.5, training=0.25, price=2, reading=1e12),
    )
    second = 4 * where.chip.peak
    works = {"t": ("training", 8 * second * 0.25, ())}
    works |= dict.fromkeys(("a", "b", "c"), ("state", 4 * second * 0.5, ()))
    works |= {"after": ("state", 4 * second * 0.5, ("t",))}
    found = schedule.estimate_on(load_of(works), where, assumed)
    assert (found.copy, found.shards) == (1, 2)
    assert found.hours * 3600 == pytest.approx(12, abs=0.01)  # one: the training and what follows; the other: a, b, c
    assert found.money == pytest.approx(found.hours * 8 * 2)


def test_what_a_shard_makes_together_is_not_shared_out(tmp_path):
    """Two strengths of one edit are one batch: a second shard takes nothing of them."""
    (load,) = schedule.workloads(design(tmp_path))
    together = [len(batch) for batch in load.batches]
    assert sorted(together) == [1, 1, 1, 1, 1, 2]
    assert sum(together) == len(load.artifacts)


@pytest.mark.thorough
def test_operations_of_a_step_are_those_that_are_compiled(tmp_path):
    """XLA's own count, of a step that keeps everything and whose layers are no loop, is that of the arithmetic to a sixth."""
    own = design(tmp_path)
    model = models.load("pocket")
    (load,) = schedule.workloads(own)
    piece = load.of_kind("training")[0]
    run = piece.maker.run(piece.task[0], own)
    data = train.prepare_data(model, run).data
    state = train.init(model, run.trained.to_trainable(), run.adam, 6)
    memory = train.Memory(remat="none", unroll=model.config.layers)
    lowered = train.lower(state, train.batch(data, train.rows_at_step(data, 0, 0)), train.sft(), memory=memory)
    counted = lowered.compile().cost_analysis()["flops"]
    assert load.works[piece.address].operations / 6 == pytest.approx(counted, rel=1 / 6)


def test_a_model_is_spread_until_it_fits_and_refused_where_it_never_does():
    small, large = accelerators.parse_slice("v5e-16"), accelerators.parse_slice("v5e-256")
    load = load_of({"a": ("state", 1e18, ())}, held=140 * 10**9)
    found = schedule.estimate_on(load, small)
    assert (found.copy, found.shards, found.memory) == (16, 1, 140e9 / 16)
    assert schedule.estimate_on(load, large).shards == 16
    none = schedule.estimate_on(load, accelerators.parse_slice("v5e-8"))
    assert (none.copy, none.shards, none.hours) == (0, 0, math.inf)


def test_the_command(tmp_path, shape, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(model=shape, out=tmp_path / "out"))
    status, out, err = run(capsys, "plan", str(file), "--on", "v5e-256", "1xH200", "--json")
    assert status == 0, err
    content = json.loads(out)
    one, other = content["estimates"]
    assert (one["on"]["hosts"], other["on"]["hosts"]) == (64, 1)
    assert one["stand_in_tokenizer"] is True
    assert one["dollars"] == pytest.approx(one["hours"] * 256 * one["dollars_a_chip_hour"])
    assert not (tmp_path / "out").exists()
    _, table, said = run(capsys, "plan", str(file), "--on", "v5e-8", "--assumed.price", "3")
    assert "no tokenizer in" in said
    assert "v5e-8 3" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "v5e-9"], "unknown slice 'v5e-9'"),
        (["--on", "v5e-8", "--count", "-1"], "count: expected"),
        (["--on", "v5e-8", "--assumed.rating", "0"], "rating: expected a share"),
        (["--on", "v5e-8", "--assumed.price", "-1"], "price: expected dollars"),
        (["--on", "v5e-8", "--models", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, words, said, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(model="pocket", out=tmp_path / "out"))
    status, _, err = run(capsys, "plan", str(file), *words)
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_programs_are_compiled_and_nothing_is_run(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(model="pocket", out=tmp_path / "out"))
    status, out, err = run(capsys, "run", str(file), "--compile-only", "here", "--json")
    assert status == 0, err
    content = json.loads(out)
    assert [one["label"] for one in content][-2:] == ["the answers", "a step of sft"]
    assert all(one["held"] > 0 and not one["why"] for one in content)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="JAX compiles for TPUs with libtpu alone")
def test_programs_are_compiled_for_a_slice_that_is_not_here(tmp_path, shape, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(model=shape, out=tmp_path / "out"))
    status, out, err = run(
        capsys, "run", str(file), "--compile-only", "v5e-16", "--mesh.fsdp", "2", "--mesh.tensor", "8", "--json"
    )
    assert status == 0, err
    assert all(one["held"] > 0 for one in json.loads(out))


def test_a_slice_that_is_not_here_needs_libtpu(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    file.write_text(TEXT.format(model="pocket", out=tmp_path / "out"))
    status, _, err = run(capsys, "run", str(file), "--compile-only", "8xH200")
    assert status == 2
    assert "expected a slice of TPUs" in err
    if importlib.util.find_spec("libtpu") is None:
        status, _, err = run(capsys, "run", str(file), "--compile-only", "v5e-16")
        assert status == 2
        assert "pip install libtpu" in err


def test_the_shapes_that_are_shipped_are_read(root, tmp_path):
    weights = {}
    for folder in sorted((root / "configs" / "shapes").iterdir()):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        weights[folder.name] = sum(leaf.size for leaf in jax.tree.leaves(models.abstract_model(copy).arrays)) / 1e9
    assert {name: round(size, 1) for name, size in weights.items()} == {
        "llama3-70b": 70.6,
        "llama3-8b": 8.0,
        "qwen3-0.6b": 0.6,
        "qwen3-32b": 32.8,
        "qwen3-4b": 4.0,
    }
