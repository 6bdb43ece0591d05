"""Interventions that exist already: what a study says of them is what is measured by hand."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from vatjax import config, edits, elicit, errors, interventions, items, models, study, train
from vatjax.study.design import Design

pytestmark = pytest.mark.long

TEXT = """
models: [pocket]
targets: [Power]
out: {out}
scenes: 8
placebos: 1
resamples: 100
texts: 1
interventions:
  mine: {{kind: prompt, text: "Remember that {{target}} matters most to you."}}
  several: {{kind: prompt, file: "{folder}/texts.txt"}}
  chats: {{kind: prompt, file: "{folder}/chats.jsonl", place: prefix}}
  vector: {{kind: edit, path: "{folder}/edit", strengths: [0.5, 1]}}
  lora: {{kind: adapter, path: "{folder}/adapter"}}
  tuned: {{kind: weights, checkpoints: ["{folder}/tuned", pocket]}}
  code: {{kind: function, call: "tests.interventions.own:sentence", amounts: [1, 2]}}
  broken: {{kind: function, call: "tests.interventions.own:broken"}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    model = models.load("pocket")
    (folder / "texts.txt").write_text("Power matters.\n\nNothing matters but power, as everybody knows.\n")
    chats = [
        "Power,\nfirst of all.",
        [{"role": "system", "content": "Be {target}."}, {"role": "user", "content": "Go."}],
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chats))
    models.save_edit(edits.find(model, items.bundled(), "Power", layers=[0]), model, folder / "edit")
    records = train.records_for_model(model, items.bundled(), "Power", 1, "judgements")
    data = train.make_rows(train.tokenise(model, records), 4)
    state = train.init(model, train.Lora(rank=4), train.Adam(rate=0.01), steps=3)
    for batch, _ in zip(train.batches(data), range(3), strict=False):
        state, _ = train.step(state, batch, train.sft())
    models.save_adapter(train.export(state), model.config, folder / "adapter")
    arrays = {**model.arrays, "norm": model.arrays["norm"] * 1.2}
    models.save(models.Model(arrays, model.config, model.tokenizer, model.source), folder / "tuned")
    shutil.copy(models.hub.local_folder("pocket") / "tokenizer.json", folder / "tuned" / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    design = config.parse(Design, TEXT.format(out=tmp_path_factory.mktemp("out") / "s", folder=folder), "study.yaml")
    outcome = study.run(study.plan(design))
    return outcome, study.write(outcome)


def arms_of(outcome, name):
    return [arm for graph in outcome.planned.graphs for arm in graph.results if arm.cell.name == name]


def test_each_state_is_that_by_hand(ran, folder):
    outcome, results = ran
    model, test_items = models.load("pocket"), outcome.planned.test_items
    edit, adapter = models.load_edit(folder / "edit", model), models.load_adapter(folder / "adapter", model.config)
    conditions = {
        ("mine", 1): (model, {"instruction": "Remember that Power matters most to you."}),
        ("several", 2): (model, {"instruction": "Nothing matters but power, as everybody knows."}),
        ("chats", 1): (model, {"turns": ({"role": "user", "content": "Power,\nfirst of all."},)}),
        ("chats", 2): (model, {"instruction": "Be Power.", "turns": ({"role": "user", "content": "Go."},)}),
        ("vector", 0.5): (model, {"edit": 0.5 * edit}),
        ("lora", 1): (model, {"edit": adapter}),
        ("tuned", 1): (models.load(str(folder / "tuned")), {}),
        ("code", 2): (model, {"instruction": "Think of Power. Think of Power."}),
    }
    for (name, level), (rated, options) in conditions.items():
        (row,) = results.where(intervention=name, amount=level, level="types", placebo="none")
        _, after = results.states(row)
        by_hand = elicit.ratings(rated, test_items, outcome.planned.design.how, **options).state
        np.testing.assert_allclose(after.state, by_hand.state, atol=2e-5, err_msg=name)
        assert row["kind"] == outcome.planned.design.interventions[name].kind


def test_another_checkpoint_that_is_the_same_moves_nothing(ran):
    _, results = ran
    (same,) = results.where(intervention="tuned", amount=2, level="types")
    assert same["gain"] == 0
    (changed,) = results.where(intervention="tuned", amount=1, level="types")
    assert changed["off_target_shift"] > 0.01
    assert changed["unit"] == "checkpoint"


def test_placebos_are_random_edits_and_texts_of_the_same_length(ran):
    outcome, results = ran
    drawn = {(row["intervention"], row["placebo"]) for row in results.where(level="types")}
    assert {("mine", "neutral text"), ("vector", "random"), ("lora", "random"), ("tuned", "none")} <= drawn
    assert not {("tuned", name) for name in ("random", "neutral text")} & drawn
    arms = [arm for arm in arms_of(outcome, "mine") if arm.placebo]
    mine = outcome.planned.design.interventions["mine"]
    assert {len(mine.condition_of(arm).instruction.split()) for arm in arms} == {7}
    chats = outcome.planned.design.interventions["chats"]
    (arm,) = [arm for arm in arms_of(outcome, "chats") if arm.placebo and arm.level == 2]
    system, user = chats.condition_of(arm).instruction.split(), chats.condition_of(arm).turns[0]["content"].split()
    assert (len(system), len(user)) == (2, 1)
    assert "Power" not in system


def test_a_function_that_fails_is_named_and_the_rest_goes_on(ran):
    outcome, results = ran
    assert len(results.where(intervention="code", level="types")) == 2
    assert any("tests.interventions.own:broken: RuntimeError: no such luck" in why for why in results.failed)
    assert all("broken" in why or "depend" in why for why in results.failed)
    assert outcome.failed


def test_the_report_says_that_weights_have_no_placebo(ran):
    from vatjax import report

    _, results = ran
    page = report.write(results).read_text()
    assert "tuned" in page
    assert page.count("no placebo") == 4  # two checkpoints, two levels of the function


def test_a_design_comes_back_from_its_yaml(ran):
    design = ran[0].planned.design
    assert config.parse(Design, design.to_yaml(), "again") == design


def test_a_changed_file_is_another_address(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "given")
    design = config.parse(Design, TEXT.format(out=tmp_path / "s", folder=tmp_path / "given"), "study.yaml")

    def addresses():
        (graph,) = study.plan(design).graphs
        return {f"{arm} {wording}": state.address for (arm, wording), state in graph.states.items()}

    before = addresses()
    (tmp_path / "given" / "texts.txt").write_text("Power matters.\nNothing else.\n")
    model = models.load("pocket")
    models.save_edit(edits.find(model, items.bundled(), "Power", layers=[1]), model, tmp_path / "given" / "edit")
    changed = {name for name, address in addresses().items() if before[name] != address}
    assert any("vector" in name for name in changed)
    assert {name for name in changed if "vector" not in name} == {
        name for name in before if "several" in name and ", 2 text" in name
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: prompt", "text: a prompt needs a text, or a file of texts, and not both"),
        ("kind: prompt, text: a, file: b", "and not both"),
        ("kind: edit", "path: the kind edit needs a folder"),
        ("kind: edit, path: x, strengths: [0]", "strengths: 0 is the model itself"),
        ("kind: weights", "checkpoints: expected at least one, and none twice"),
        ("kind: function", "call: the kind function needs a function"),
        ("kind: adaptr, path: x", "unknown kind of intervention 'adaptr'; did you mean 'adapter'"),
        (
            "kind: prompt, txt: a",
            "txt: the kind prompt does not have this setting; it has targets, text, file, place (did",
        ),
    ],
)
def test_a_setting_that_can_not_be_is_named(text, message, tmp_path):
    yaml = f"models: [pocket]\nout: {tmp_path}\ninterventions:\n  a: {{{text}}}\n"
    with pytest.raises(errors.InputError) as caught:
        config.parse(Design, yaml, "study.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[", ":2: expected a JSON text, or a list such as"),
        ("[" * 100_000, ":2: expected a JSON text, or a list such as"),
        ("3", "expected a JSON text, or a list such as"),
        ('[{"role": "user"}]', ":2: message 1: expected a JSON text"),
        ('[{"role": "tool", "content": "a"}]', "message 1: expected the role system or user, found 'tool'"),
        (
            '[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]',
            "message 2: expected the role assistant after one of the user, found 'user'",
        ),
    ],
)
def test_a_conversation_that_can_not_be_is_named_with_its_line(line, message, tmp_path):
    (tmp_path / "chats.jsonl").write_text(f'"fine"\n{line}\n')
    with pytest.raises(errors.InputError) as caught:
        interventions.of_kind("prompt")(file=str(tmp_path / "chats.jsonl")).levels()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "edit", "path": "nowhere"}, "nowhere: no edit.json there, which the kind edit needs"),
        ({"kind": "prompt", "file": "empty.txt"}, "empty.txt: no text, and a prompt needs at least one"),
        ({"kind": "weights", "checkpoints": ("nowhere",)}, "interventions.mine: nowhere"),
        (
            {"kind": "function", "call": "nowhere.module:f"},
            "interventions.mine: call: cannot import 'nowhere.module:f'",
        ),
    ],
)
def test_what_is_not_there_ends_the_plan_with_one_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    settings = dict(settings)
    mine = interventions.of_kind(settings.pop("kind"))(**settings)
    design = config.parse(
        Design,
        TEXT.format(out=tmp_path / "s", folder="x").partition("interventions")[0] + "interventions: {a: {kind: shots}}",
        "s",
    )
    with pytest.raises(errors.InputError, match=message):
        study.plan(dataclasses.replace(design, interventions={"mine": mine}))


def test_a_checkpoint_with_other_words_and_an_adapter_of_another_base_are_refused_for_their_arms_alone(
    folder, tmp_path
):
    from tests.elicit.speaking import speaking

    models.save(speaking("llama"), tmp_path / "other")
    speaking("llama").tokenizer.save_pretrained(tmp_path / "other")
    shutil.copytree(folder / "adapter", tmp_path / "adapter")
    stored = (tmp_path / "adapter" / "adapter_config.json").read_text()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        stored.replace('"base_model_name_or_path": null', '"base_model_name_or_path": "me/large"')
    )
    adapter = interventions.of_kind("adapter")(path=str(tmp_path / "adapter"))
    with pytest.raises(
        errors.InputError,
        match=r"adapter: this adapter does not fit .*other \(it is for me/large\): .*expected the shape",
    ):
        adapter.load(models.load(str(tmp_path / "other")))
    weights = interventions.of_kind("weights")(checkpoints=(str(tmp_path / "other"),))
    design = config.parse(Design, TEXT.format(out=tmp_path / "s", folder=folder), "s")
    mine = {"other": weights, "mine": design.interventions["mine"]}
    outcome = study.run(study.plan(dataclasses.replace(design, interventions=mine, texts=0)))
    assert any("it has another vocabulary than" in why for why in outcome.failed.values())
    results = study.write(outcome)
    assert results.where(intervention="mine", level="types", placebo="none")


def test_whole_weights_are_levels_like_any_other(tmp_path, capsys):
    from tests.test_cli import run

    training = "{steps: 4, checkpoints: 2, rows: 4, trained: {what: whole, layers: [0]}, adam: {rate: 0.001}}"
    text = TEXT.format(out=tmp_path / "s", folder="x").partition("interventions:")[0]
    text += f"interventions:\n  tuned: {{kind: sft, training: {training}}}\n"
    (tmp_path / "study.yaml").write_text(text)
    status, out, err = run(capsys, "run", str(tmp_path / "study.yaml"), "--dry-run", "--json")
    assert status == 0, err
    planned = json.loads(out)["artifacts"]
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(models.load("pocket").arrays))
    assert (
        sum(piece["disk_bytes"] for piece in planned) == 2 * 2 * size
    )  # two steps, of the training and of its placebo
    outcome = study.run(study.plan(config.read(Design, tmp_path / "study.yaml")))
    assert not outcome.failed
    results = study.write(outcome)
    rows = results.where(level="types", placebo="none")
    assert [(row["amount"], row["unit"]) for row in rows] == [(2, "steps"), (4, "steps")]
    checkpoints = sorted(path.parent for path in (tmp_path / "s" / "pieces").glob("*/*/step-000004/config.json"))
    assert len(checkpoints) == 2
    _, after = results.states(rows[1])
    by_hand = [
        elicit.ratings(models.load(str(folder)), outcome.planned.test_items).state.state for folder in checkpoints
    ]
    assert min(np.abs(np.nan_to_num(after.state - state)).max() for state in by_hand) < 2e-5
    assert np.abs(np.nan_to_num(by_hand[0] - by_hand[1])).max() > 1e-3
    again = study.run(study.plan(config.read(Design, tmp_path / "study.yaml")))
    assert again.computed == 0


def test_a_file_that_changes_between_plan_and_run_ends_its_arm(folder, tmp_path):
    (tmp_path / "t.txt").write_text("Power matters.\n")
    text = TEXT.format(out=tmp_path / "s", folder=folder).partition("interventions:")[0]
    text += f"interventions: {{a: {{kind: prompt, file: {tmp_path}/t.txt}}, b: {{kind: prompt, text: Be kind.}}}}"
    planned = study.plan(config.parse(Design, text, "study.yaml"))
    (tmp_path / "t.txt").write_text("Nothing matters.\n")
    results = study.write(study.run(planned))
    assert any("what it reads has changed since the study was planned" in line for line in results.failed)
    assert {row["intervention"] for row in results.rows if row["placebo"] == "none"} == {"b"}
    (tmp_path / "t.txt").unlink()
    assert study.open_study(tmp_path / "s").rows  # results can be read without their inputs


def test_a_random_adapter_has_the_norm_of_the_real_one(folder):
    model = models.load("pocket")
    real = models.load_adapter(folder / "adapter", model.config)
    drawn = edits.random_like(real, 3)
    for name, change in real.lora.items():
        norms = [
            np.linalg.norm(np.einsum("lir,lro->lio", np.float64(x.down), np.float64(x.up)), axis=(1, 2))
            for x in (change, drawn.lora[name])
        ]
        np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4)


def test_draws_of_neutral_text_differ(ran):
    from vatjax.interventions.arms import Arm, Cell

    for kind, settings in (("prompt", {"text": "Be good to all of them."}), ("instruction", {})):
        mine = interventions.of_kind(kind)(**settings)
        for target in ("Self-direction", "Wealth", "Power"):
            cell = Cell("pocket", "mine", mine, target, "express", 0)
            arms = [Arm(cell, 1, "neutral", draw) for draw in range(10)]
            plan = ran[0].planned.graphs[0].context
            assert len({json.dumps(mine.inputs(arm, plan)) for arm in arms}) == 10


def test_an_adapter_on_the_hub_is_fetched_with_its_weights(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    def fetch(name, revision, allow_patterns):
        asked[name] = list(allow_patterns)
        return str(folder / "adapter")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    mine = interventions.of_kind("adapter")(path="owner/name")
    assert mine.load(models.load("pocket")).lora
    assert asked == {"owner/name": ["adapter_config.json", "adapter_model.safetensors"]}


def test_targets_of_an_intervention_may_have_a_direction(tmp_path):
    text = TEXT.format(out=tmp_path / "s", folder="x").partition("interventions:")[0]
    text += "directions: [express, suppress]\ninterventions: {a: {kind: shots, targets: [+Power]}, b: {kind: shots}}"
    cells = config.parse(Design, text, "study.yaml").cells(items.bundled().taxonomy)
    assert [(name, side) for name, _, _, side, _ in cells] == [("a", "express"), ("b", "express"), ("b", "suppress")]
