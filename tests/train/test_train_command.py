"""`vatjax train`: one configuration, one folder; a dry run; and mistakes as sentences."""

import json

import pytest

from vatjax import cli, models, train

pytestmark = pytest.mark.long

SMALL = ["--rows", "8", "--course.steps", "4", "--course.log", "1", "--trained.rank", "2", "--items.country", "Egypt"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_run(tmp_path, root, capsys):
    out = tmp_path / "run"
    probed = ["--course.probe", "2", "--probe-scenes", "3"]
    status, text, err = call(capsys, root / "configs/dpo.yaml", *SMALL, *probed, "--out", out, "--json")
    assert status == 0, err
    for step in (1, 2, 3, 4):
        assert f"vatjax: step {step} of 4: loss " in err
    assert "tokens a second" in err
    content = json.loads(text)
    assert content["steps"] == 4
    assert [point["step"] for point in content["trajectory"]["points"]] == [2, 4]
    assert set(content["metrics"]) >= {"loss", "eval_loss", "rewards/margins", "eval_rewards/accuracies"}
    model = models.load("pocket")
    edit, adapter = models.load_edit(str(out / "edit"), model), models.load_adapter(out / "adapter", model.config)
    assert edit.lora.keys() == adapter.lora.keys()
    assert (out / "metrics.jsonl").exists()
    status, _, err = call(capsys, root / "configs/dpo.yaml", *SMALL, "--out", out)
    assert status == 2
    assert "a finished run already exists" in err


@pytest.mark.thorough
def test_a_dry_run_writes_nothing(tmp_path, root, capsys):
    status, text, _ = call(capsys, root / "configs/sft.yaml", *SMALL, "--out", tmp_path / "run", "--dry-run", "--json")
    assert status == 0
    plan = json.loads(text)
    assert plan["examples"] > 0
    assert plan["trained"] < plan["weights"]
    assert plan["memory"]["total"] == plan["memory"]["arguments"] + plan["memory"]["working"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sft", "dpo", "placebo", "placebo_sft", "qwen3_4b_power"])
def test_shipped_configurations_are_read(root, name, capsys):
    status, text, err = call(capsys, root / f"configs/{name}.yaml", "--print-config")
    assert status == 0, err
    assert "target: Power" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "Powr"], "Powr.*Power"),
        (["--loss", "dpo", "--settings", "beda", "1"], "settings: dpo: .*beda"),
        (["--loss", "cdpo", "--settings", "beda"], "expected names and numbers in turn"),
        (["--course.parts", "3"], "course.parts: 8 rows can't be split into 3 equal parts"),
        (
            ["--trained.what", "whole", "--trained.rank", "4"],
            "rank, alpha, targets and stabilised apply to what: lora",
        ),
        (["--file", "x.jsonl", "--lesson", "actions"], "x.jsonl: no such file|lesson: applies to items"),
        (["--course.validate", "2"], "validation and course.validate: set both, or neither"),
        (["--validation", "1"], "validation: expected a share from 0 to below 1"),
        (["--length", "8"], "a row 8: its completion would be cut off"),
        (["--file", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--adam.rate", "0"], "rate: expected more than 0"),
        (["--price.weight", "1", "--price.rows", "5"], "32 scenes can't be rated 5 at a time"),
    ],
    ids=str,
)
def test_mistakes(tmp_path, root, capsys, arguments, message):
    status, _, err = call(capsys, root / "configs/sft.yaml", *SMALL, "--out", tmp_path / "run", *arguments)
    assert status == 2
    assert "Traceback" not in err
    import re

    assert re.search(message, err), err


def test_no_folder(root, capsys):
    status, _, err = call(capsys, "--model", "pocket", "--target", "Power")
    assert (status, err) == (2, "vatjax: out: a folder is needed for the trained weights\n")


@pytest.mark.thorough
def test_a_notebook_in_ten_lines():
    from itertools import islice

    from vatjax import items

    model = models.load("pocket")
    records = train.records_for_model(model, items.bundled().where(country="Egypt"), "Power", 1, "preferences")
    data = train.make_rows(train.tokenise(model, records), rows=8)
    state = train.init(model, train.Lora(rank=4), train.Adam(rate=1e-2), steps=20)
    for batch in islice(train.batches(data), 20):
        state, logs = train.step(state, batch, loss=train.dpo(beta=0.1))
    assert float(logs["rewards/accuracies"]) > 0.7
    assert isinstance(train.export(state), models.Edit)
