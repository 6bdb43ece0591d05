"""`vatjax tax`: ratings from anywhere, through the command line."""

import csv
import json

import numpy as np
import pytest

from vatjax import analysis, cli, states, values
from vatjax.commands import tax as command

TAX = values.schwartz()


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["tax", *map(str, arguments)])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def write(path, x, names=TAX.names, keys=None, header=("country", "number")):
    keys = [(f"c{i // 4}", i % 4) for i in range(len(x))] if keys is None else keys
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, *names])
        writer.writerows([*key, *("" if np.isnan(r) else r for r in row)] for key, row in zip(keys, x, strict=True))
    return path


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Power is pushed, with a strength and an angle that vary from context to context."""
    folder, rng = tmp_path_factory.mktemp("ratings"), np.random.default_rng(0)
    angle = TAX.angles[TAX.type_of] - TAX.angles[TAX.types.index("Power")]
    strength = rng.normal([1, 0], 0.5, size=(58, 2))
    before = rng.normal(3, 0.6, size=(58, 56))
    after = before + 0.6 * (strength[:, :1] * np.cos(angle) + strength[:, 1:] * np.sin(angle))
    after += rng.normal(0, 0.3, size=before.shape)
    pre, post = (np.clip(np.round(x * 2) / 2, 1, 5) for x in (before, after))
    return write(folder / "pre.csv", pre), write(folder / "post.csv", post), pre, post


OPTIONS = ("--target", "Power", "--resamples", "200")


@pytest.fixture(scope="module")
def document(ratings):
    pre, post = (states.read_ratings(path) for path in ratings[:2])
    return analysis.as_json(analysis.analyse(pre, post, TAX, "Power", resamples=200))


def test_the_document_has_what_it_promises(document, ratings):
    promised = {
        "n",
        "clusters",
        "target",
        "direction",
        "gain",
        "gnd",
        "vat",
        "nvat",
        "gini",
        "coupling",
        "types",
        "values",
    }
    assert promised | {"floor", "order_test", "levels"} <= set(document)
    assert set(document["levels"]) == {"types", "values"}
    assert document["n"] == document["clusters"] == 58
    assert document["types"] == list(TAX.types)
    assert document["values"] == list(TAX.names)
    _, _, pre, post = ratings
    power = TAX.mask("Power")
    gain = (post - pre)[:, power].mean()
    for part in (document["gain"], document["levels"]["types"]["gain"]):
        assert set(part) == {"estimate", "low", "high"}
        np.testing.assert_allclose(part["estimate"], gain, rtol=1e-5)
        assert part["low"] < gain < part["high"]
    np.testing.assert_allclose(
        document["gnd"]["Wealth"]["estimate"], (post - pre)[:, TAX.index("Wealth")].mean() / abs(gain), rtol=1e-4
    )
    assert np.shape(document["coupling"]["estimate"]) == (56, 56)
    assert np.shape(document["levels"]["types"]["coupling"]["low"]) == (10, 10)
    assert document["order_test"]["p"] < 1e-3
    assert document["order_test"]["arrangements"] == 907_200
    assert document["nvat"]["estimate"] > document["floor"]["nvat_95"]
    assert document["reading"] == "rms"
    against = {"gain", "shift", "shift_holm", "off_target", "nvat", "vat", "gini"}
    assert set(document["p"]) == against
    assert set(document["ipsatised"]["p"]) == {"gain", "nvat", "vat", "gini"}  # all values move there, mechanically
    for part in (document, document["ipsatised"], document["levels"]["types"]):
        assert set(part["floor"]) == {"nvat", "nvat_95", "vat", "vat_95", "gini", "gini_95", "off_target"}
        assert part["p"]["nvat"] < 0.01 < part["floor"]["off_target"] < part["off_target"]["estimate"]
    types = document["levels"]["types"]["p"]
    assert types["shift_holm"]["Power"] is None  # the target is no side effect
    assert types["shift_holm"]["Security"] >= types["shift"]["Security"]
    np.testing.assert_allclose(document["levels"]["types"]["ipsatised"]["mechanical_gnd"], -1 / 9, rtol=1e-6)
    assert "a GND of -0.111" in command.sentences(document)[-1]
    json.dumps(document, allow_nan=False)
    alone = {**document, "target": "Wealth", "levels": {**document["levels"]}}
    alone["levels"]["values"] = {**document["levels"]["values"], "gain": {"estimate": 9.0, "low": 8.0, "high": 10.0}}
    assert command.sentences(alone)[0] == "Wealth rose by 9.00, a gain of 9.00 [8.00, 10.00]."


def test_for_a_person(capsys, ratings):
    status, out, _ = run(capsys, *ratings[:2], *OPTIONS)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 100
    assert "58 contexts in 58 clusters; target Power, express" in out
    assert "Power * " in out
    assert "Power rose by" in out
    assert "Their coupling follows the order of the circle" in out


def test_json_alone_on_standard_output(capsys, ratings, tmp_path):
    pre, post = ratings[:2]
    status, out, _ = run(capsys, pre, post, *OPTIONS, "--json", "--reading", "offdiag", "--direction", "suppress")
    assert status == 0
    content = json.loads(out)
    assert content["direction"] == "suppress"
    assert content["gain"]["estimate"] < 0
    r = np.array(content["coupling"]["estimate"], float)
    np.testing.assert_allclose(content["nvat"]["estimate"], np.sqrt(((r - np.eye(56)) ** 2).sum() / 56), rtol=1e-4)


def test_states_and_tables_give_the_same(capsys, ratings, tmp_path):
    for name, path in zip(("pre", "post"), ratings[:2], strict=True):
        states.save(states.read_ratings(path), tmp_path / f"{name}.npz")
    small = ("--target", "Wealth", "--resamples", "200", "--json")
    _, tables, _ = run(capsys, *ratings[:2], *small)
    _, saved, _ = run(capsys, tmp_path / "pre.npz", tmp_path / "post.npz", *small)
    assert json.loads(tables) == json.loads(saved)


def test_clusters_of_tables_and_states_are_the_same(ratings, tmp_path):
    states.save(states.read_ratings(ratings[0]), tmp_path / "pre.npz")
    command_of = lambda where: command.Tax(str(where), "", "Power", clusters="country")  # noqa: E731
    table, saved = (command_of(where)._read(str(where), TAX) for where in (ratings[0], tmp_path / "pre.npz"))
    assert len(set(table.clusters.tolist())) == len(set(saved.clusters.tolist())) == 15
    np.testing.assert_array_equal(table.clusters, saved.clusters)


def test_a_turned_scale_gives_the_same_tax(ratings, tmp_path):
    _, _, pre, post = ratings
    turned = [write(tmp_path / f"{i}.csv", 6 - x) for i, x in enumerate((pre, post))]
    one, other = (
        analysis.analyse(*(states.read_ratings(p, scale=scale) for p in paths), TAX, "Power", resamples=200)
        for paths, scale in ((ratings[:2], (1, 5)), (turned, (5, 1)))
    )
    np.testing.assert_allclose(one.levels["values"].inference.gain, other.levels["values"].inference.gain, rtol=1e-4)


@pytest.mark.thorough
def test_missing_cells_rows_and_values_are_missing_and_said(ratings, tmp_path):
    _, _, pre, post = ratings
    rated = [name for name in TAX.names if name not in ("Clean", "Devout")]
    columns = [TAX.index(name) for name in rated]
    pre, post = pre[:40, columns].copy(), post[:40, columns].copy()
    pre[0, 0] = post[5, 3] = np.nan
    pre[9] = np.nan
    post[:, 1] = pre[:, 1]
    keys = [(f"c{i}", 0) for i in range(40)]
    first = states.read_ratings(write(tmp_path / "a.csv", pre, rated, keys))
    second = states.read_ratings(write(tmp_path / "b.csv", post[:38], rated, keys[:38]))
    found = analysis.analyse(first, second, TAX, "Power", resamples=200)
    content = analysis.as_json(found)
    assert content["n"] == content["clusters"] == 37
    assert content["left_out"] == {"pre": 2, "post": 0, "blank": 1}
    assert any("any rating in both states: 1 contexts" in warning for warning in content["warnings"])
    assert "Clean" not in content["values"]
    assert content["vat"][rated[1]]["estimate"] is None
    assert any(rated[1] in warning for warning in content["warnings"])
    assert any("2 contexts of PRE" in warning for warning in content["warnings"])
    assert any("only 37 clusters" in warning for warning in content["warnings"])
    json.dumps(content, allow_nan=False)


def test_a_gain_of_zero_gives_null_and_says_so(ratings, tmp_path):
    _, _, pre, post = ratings
    still = post.copy()
    still[:, TAX.mask("Power")] = pre[:, TAX.mask("Power")]
    paths = write(tmp_path / "a.csv", pre), write(tmp_path / "b.csv", still)
    found = analysis.analyse(*map(states.read_ratings, paths), TAX, "Power", resamples=200)
    content = analysis.as_json(found)
    assert not content["resolved"]
    assert content["gnd"]["Clean"]["estimate"] is None
    assert any("can't be told from 0" in warning for warning in content["warnings"])
    assert command.sentences(content)[0].startswith("Whether Power moved can't be told from noise")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "Powr"}, "did you mean 'Power'?"),
        ({"target": "Clean"}, "no value of the target 'Clean' is rated in both; rated are 'Wealth', 'Devout'"),
        ({"keys": [("z", i) for i in range(8)]}, "no context in common"),
        ({"names": ("Wealth", "Humble")}, "different values"),
        ({"rows": 1}, "intervals need at least two clusters"),
        ({"scale": "1-5"}, "expected LOW:HIGH such as 1:5, found '1-5'"),
        ({"scale": "1:3"}, "lies outside the scale 1:3"),
        ({"resamples": "5"}, "at least 100 are needed, found 5"),
        ({"clusters": "contry"}, "did you mean 'country'?"),
        ({"post": "absent.csv"}, "absent.csv: no such file"),
        ({"value": "inf"}, "expected a rating, found 'inf'"),
    ],
)
def test_bad_input_is_one_message(capsys, tmp_path, change, message):
    x = np.arange(16.0).reshape(8, 2) % 5 + 1
    rows = change.get("rows", 8)
    pre = write(tmp_path / "a.csv", x[:rows], ("Wealth", "Devout"))
    post = write(tmp_path / "b.csv", x[:rows][::-1], change.get("names", ("Wealth", "Devout")), change.get("keys"))
    if "value" in change:
        post.write_text(post.read_text().replace("1.0", change["value"], 1))
    arguments = [pre, change.get("post", post), "--target", change.get("target", "Wealth")]
    for name in ("scale", "resamples", "clusters"):
        if name in change:
            arguments += [f"--{name}", change[name]]
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.thorough
def test_two_columns_of_constant_shifts_give_null_and_no_number(capsys, tmp_path):
    x = np.arange(16.0).reshape(8, 2) % 4 + 1
    paths = write(tmp_path / "a.csv", x, ("Wealth", "Devout")), write(tmp_path / "b.csv", x + 1, ("Wealth", "Devout"))
    status, out, err = run(capsys, *paths, "--target", "Wealth", "--resamples", "200", "--json")
    assert status == 0
    content = json.loads(out)
    assert content["coupling"]["estimate"] == [[None, None], [None, None]]
    assert content["nvat"]["estimate"] is None
    assert content["p"]["nvat"] is None
    assert "without a correlation" in err
