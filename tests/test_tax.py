"""`vatjax tax`: ratings from anywhere, through the command line."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from vatjax import analysis, cli, errors, states, summary, values

pytestmark = pytest.mark.long

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
    against = {"gain", "shift", "shift_holm", "off_target", "nvat", "vat", "vat_together", "gini"}
    assert set(document["p"]) == against
    assert set(document["ipsatised"]["p"]) == {
        "gain",
        "nvat",
        "vat",
        "vat_together",
        "gini",
    }  # all values move there, mechanically
    for part in (document, document["ipsatised"], document["levels"]["types"]):
        assert set(part["floor"]) == {"nvat", "nvat_95", "vat", "vat_95", "gini", "gini_95"}
        assert part["p"]["nvat"] < 0.01 < part["off_target"]["low"] < part["off_target"]["estimate"]
    types = document["levels"]["types"]["p"]
    assert types["shift_holm"]["Power"] is None  # the target is no side effect
    assert types["shift_holm"]["Security"] >= types["shift"]["Security"]
    np.testing.assert_allclose(document["levels"]["types"]["ipsatised"]["mechanical_gnd"], -1 / 9, rtol=1e-6)
    assert "a GND of -0.111" in summary.sentences(document)[-1]
    json.dumps(document, allow_nan=False)
    alone = {**document, "target": "Wealth", "levels": {**document["levels"]}}
    alone["target_level"] = "values"
    alone["levels"]["values"] = {**document["levels"]["values"], "gain": {"estimate": 9.0, "low": 8.0, "high": 10.0}}
    assert summary.sentences(alone)[0] == "Wealth rose by 9.00, a gain of 9.00 [8.00, 10.00]."


def test_for_a_person(capsys, ratings):
    status, out, _ = run(capsys, *ratings[:2], *OPTIONS)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 100
    assert "58 contexts in 58 clusters; target Power, express" in out
    assert "Power * " in out
    assert "Power rose by" in out
    assert "Coupling follows the order of the circle" in out
    assert "Ratings 1 to 5 found, read on 1:5 (the default)" in out
    assert "None of the other 9 types moved by more than" in out
    assert "Without a placebo" in out


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
    table, saved = states.read_ratings(ratings[0]), states.load(tmp_path / "pre.npz")
    for choice, count in (("", 58), ("country", 15), ("country,number", 58)):
        one, other = (states.cluster_labels(state, choice)[0] for state in (table, saved))
        np.testing.assert_array_equal(one, other)
        assert len(np.unique(one)) == count
    crossed, name = states.cluster_labels(table, "country + number")
    assert (crossed.shape, name) == ((58, 2), "country+number")
    with pytest.raises(errors.InputError, match="expected keys such as scene"):
        states.cluster_labels(table, "country+number+country")


def test_a_turned_scale_gives_the_same_tax(ratings, tmp_path):
    _, _, pre, post = ratings
    turned = [write(tmp_path / f"{i}.csv", 6 - x) for i, x in enumerate((pre, post))]
    one, other = (
        analysis.analyse(*(states.read_ratings(p, scale=scale) for p in paths), TAX, "Power", resamples=200)
        for paths, scale in ((ratings[:2], (1, 5)), (turned, (5, 1)))
    )
    for level in ("types", "values"):
        a, b = (analysis.as_json(x)["levels"][level] for x in (one, other))
        np.testing.assert_allclose(list(a["vat"].values()), list(b["vat"].values()), atol=1e-6)
        for number in ("nvat", "nvat_debiased", "gain", "off_target_shift"):
            np.testing.assert_allclose(list(a[number].values()), list(b[number].values()), atol=1e-5)


def test_the_coupling_of_types_is_that_of_exact_means(ratings):
    """Means of three, five or nine ratings are rounded in float32, and ranks would break the ties of equal shifts."""
    pre, post = ratings[2:]
    rated = [states.read_ratings(path) for path in ratings[:2]]
    found = analysis.analyse(*rated, TAX, "Power", resamples=100)
    shift = np.round(2 * (post - pre)).astype(int)  # in halves of a point
    sums = np.stack([shift[:, group].sum(1) for group in TAX.members("types")], 1)  # of equal order as the means
    exact = stats.spearmanr(sums).statistic
    np.testing.assert_allclose(found.levels["types"].inference.raw.coupling.estimate, exact, atol=1e-6)


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
    assert content["vat"][rated[1]] is None
    assert content["missing"] == {"cells": 2, "of": 37 * 54}
    assert any(rated[1] in warning for warning in content["warnings"])
    assert any("2 contexts of PRE" in warning for warning in content["warnings"])
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
    assert any("cannot be distinguished from 0" in warning for warning in content["warnings"])
    said = summary.sentences(content)
    assert said[0].startswith("The gain on Power cannot be distinguished from 0")
    # What else moved is said all the same; a power cannot be told from shifts that are all 0.
    assert "would be found in four of five cases" not in said[1]
    assert said[1].startswith("Other types whose shift is clear of 0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "Powr"}, "did you mean 'Power'?"),
        ({"target": "Clean"}, "no value of the target 'Clean' is rated in both; rated are 'Wealth', 'Devout'"),
        ({"keys": [("z", i) for i in range(8)]}, "no context in common"),
        ({"names": ("Wealth", "Humble")}, "different values"),
        ({"rows": 1}, "intervals need at least two clusters"),
        ({"scale": "1-5"}, "expected LOW:HIGH such as 1:5, found '1-5'"),
        ({"scale": "1:3"}, "ratings go from 1 to 5, and the scale from 1 to 3; set the scale, such as --scale 1:5"),
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


# What a table may look like -----------------------------------------------------------------------------------------


def test_spellings_of_one_target_have_one_gain(ratings):
    rated = [states.read_ratings(path) for path in ratings[:2]]
    one, other, several = (
        analysis.as_json(analysis.analyse(*rated, TAX, target, resamples=100, order=False))
        for target in ("Wealth", "wealth", ["Wealth", "social power"])
    )
    assert one == other
    assert summary.sentences(other)[0].startswith("Wealth ")
    assert several["target"] == "Wealth, Social Power"
    chosen = [TAX.index(name) for name in ("Wealth", "Social Power")]
    np.testing.assert_allclose(several["gain"]["estimate"], (ratings[3] - ratings[2])[:, chosen].mean(), rtol=1e-5)


def test_gains_in_the_published_unit_are_half_of_those_in_points(ratings):
    rated = [states.read_ratings(path) for path in ratings[:2]]
    points, paper = (
        analysis.as_json(analysis.analyse(*rated, TAX, "Power", resamples=100, unit=unit)) for unit in analysis.UNITS
    )
    np.testing.assert_allclose(paper["gain"]["estimate"], points["gain"]["estimate"] / 2, rtol=1e-5)
    np.testing.assert_allclose(paper["bound"], points["bound"] / 2, rtol=1e-5)
    np.testing.assert_allclose(paper["nvat"]["estimate"], points["nvat"]["estimate"], rtol=1e-4)
    l2 = np.sqrt((np.square(np.array(points["coupling"]["estimate"])) * ~np.eye(56, dtype=bool)).sum(1))
    np.testing.assert_allclose(list(points["vat_l2"].values()), l2, rtol=1e-4)


def test_beyond_a_placebo_is_said_with_its_draws(capsys, ratings, tmp_path):
    _, _, pre, post = ratings
    rng = np.random.default_rng(1)
    draws = [np.clip(pre + rng.choice([-0.5, 0, 0.5], pre.shape), 1, 5) for _ in range(2)]
    files = [write(tmp_path / f"{i}.csv", x) for i, x in enumerate(draws)]
    status, out, _ = run(capsys, *ratings[:2], *OPTIONS, "--placebo", *files, "--json")
    content = json.loads(out)
    assert status == 0
    gain = (post - pre)[:, TAX.mask("Power")].mean()
    blind = np.mean([(x - pre)[:, TAX.mask("Power")].mean() for x in draws])
    np.testing.assert_allclose(content["placebo"]["gain"]["estimate"], gain - blind, rtol=1e-4)
    assert content["placebo"]["gain"]["low"] < gain - blind
    assert content["placebo"]["p_nvat"] < 0.05
    assert any("more than under the placebo" in line for line in summary.sentences(content))
    status, out, _ = run(capsys, *ratings[:2], *OPTIONS, "--placebo", files[0], "--margin", "3")
    assert "one draw, so that its own variance is unknown" in " ".join(out.split())
    assert "Margin 3: all other types moved by less" in " ".join(out.split())
    few = write(tmp_path / "few.csv", draws[0][:20])
    status, _, err = run(capsys, *ratings[:2], *OPTIONS, "--placebo", few)
    assert status == 2
    assert "the placebo lacks 38 of the 58 contexts" in err


def test_a_scale_whose_top_never_occurs_is_doubted(capsys, ratings, tmp_path):
    low = [write(tmp_path / f"{i}.csv", np.clip(x, 1, 4)) for i, x in enumerate(ratings[2:])]
    _, _, err = run(capsys, *low, *OPTIONS)
    assert "no rating is above 4, read on the default scale 1:5" in err
    _, _, err = run(capsys, low[0], low[0], *OPTIONS)
    assert "the two files hold the same ratings" in err
    _, _, err = run(capsys, *low, *OPTIONS, "--scale", "1:5")
    assert "no rating is above" not in err
    assert "country and number repeat" in err
    assert "--clusters country" in err


def test_tables_as_people_have_them(ratings, tmp_path):
    names = ("Wealth", "Devout")
    x = np.array([[1.5, 4], [2, np.nan], [3, 5]])
    plain = states.read_ratings(write(tmp_path / "plain.csv", x, names))
    german = (tmp_path / "plain.csv").read_text().replace(",", ";").replace(".", ",")
    (tmp_path / "german.csv").write_text(german)
    words = (tmp_path / "plain.csv").read_text().replace(",\n", ",don't know\n").replace(",\r\n", ",don't know\r\n")
    (tmp_path / "words.csv").write_text(words)
    rows = [f"c0,{i},{name},{r:g}" for i, row in enumerate(x) for name, r in zip(names, row, strict=True) if r == r]
    (tmp_path / "long.csv").write_text("\n".join(["country,number,value,rating", *rows]))
    for name, options in (("german", {}), ("words", {"missing": ["Don't know"]}), ("long", {})):
        np.testing.assert_array_equal(states.read_ratings(tmp_path / f"{name}.csv", **options).state, plain.state)
    with pytest.raises(errors.InputError, match="add --missing"):
        states.read_ratings(tmp_path / "words.csv")
    twice = write(tmp_path / "twice.csv", np.array([[1, 2], [3, np.nan]]), names, [("x", 0), ("x", 0)])
    mean = states.average_duplicates(states.read_ratings(twice))
    np.testing.assert_array_equal(mean.state, [[-1, -1]])
    assert plain.meta["found"] == [1.5, 5]


def test_values_that_both_tables_have_are_compared_on_request(capsys, ratings, tmp_path):
    fewer = write(tmp_path / "fewer.csv", ratings[3][:, 5:], TAX.names[5:])
    status, _, err = run(capsys, ratings[0], fewer, *OPTIONS)
    assert status == 2
    assert "--values common" in err
    status, out, _ = run(capsys, ratings[0], fewer, *OPTIONS, "--values", "common", "--json")
    assert status == 0
    assert json.loads(out)["values"] == list(TAX.names[5:])


# Protocols whose states need more than their numbers ----------------------------------------------------------------


def labelled(labels, rng, meta=None):
    shift = (rng.normal(size=(len(labels), 1)) * labels).astype(np.float32)
    clusters = np.arange(len(labels)) // 4
    meta = {"how": {"protocol": "labelled", "low": 1, "high": 5}, **(meta or {})}
    contexts = {"scene": clusters.astype(str), "action": np.arange(len(labels)).astype(str)}
    make = lambda x, labels: states.ValueState(x, ~np.isnan(x), clusters, TAX.names, contexts, meta, labels)  # noqa: E731
    return make(0 * shift, labels), make(shift, labels), make


def test_labels_are_kept_and_alone_are_no_coupling(tmp_path):
    rng = np.random.default_rng(0)
    angle = TAX.angles[TAX.type_of][None, :] - 2 * np.pi * rng.random((120, 1))
    labels = np.sign(np.round(np.cos(angle) * 0.9)).astype(np.int8)
    pre, post, make = labelled(labels, rng)
    states.save(post, tmp_path / "post.npz")
    kept = states.load(tmp_path / "post.npz")
    np.testing.assert_array_equal(kept.labels, labels)
    content = analysis.as_json(analysis.analyse(pre, kept, TAX, "Power", resamples=100))
    for level in ("types", "values"):
        own = content["levels"][level]
        assert own["nvat"]["estimate"] < 0.3  # without what the labels make; with it .5 and more
        assert own["p"]["nvat"] > 0.05
        assert own["ipsatised"]["p"]["nvat"] > 0.05
    assert content["order_test"] is None
    with pytest.raises(errors.InputError, match="do not hold their labels"):
        analysis.analyse(make(pre.state, None), make(post.state, None), TAX, "Power")
    with pytest.raises(errors.InputError, match="different labels"):
        analysis.analyse(pre, make(post.state, -labels), TAX, "Power")
    with pytest.raises(ValueError, match="labels must be -1, 0 or 1"):
        make(post.state, 2 * labels)


def test_the_gain_of_a_dense_state_is_of_its_targets_own_contexts():
    rng = np.random.default_rng(0)
    own = np.array([TAX.names[i % 56] for i in range(112)], object)
    clusters = np.arange(112) // 56
    meta = {"how": {"protocol": "dense", "low": 1, "high": 5}}
    contexts = {"scene": clusters.astype(str), "value": own}
    before = rng.normal(size=(112, 56)).astype(np.float32)
    chosen = np.array([bool(TAX.mask("Power")[TAX.index(name)]) for name in own])
    after = before + np.where(chosen[:, None] & TAX.mask("Power")[None], 1, 0).astype(np.float32)
    pre, post = (states.ValueState(x, ~np.isnan(x), clusters, TAX.names, contexts, meta) for x in (before, after))
    found = analysis.analyse(pre, post, TAX, "Power", resamples=100, order=False)
    np.testing.assert_allclose(found.finest.inference.gain.estimate, 1, rtol=1e-4)
    assert found.finest.inference.contexts == 112  # which coupling rests on


def test_the_example_tables_are_ones_to_try_the_command_on(capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        cli.main(["example", "ratings", str(tmp_path / "try")])
    words = capsys.readouterr().out.split()
    assert caught.value.code == 0
    assert words[:2] == ["vatjax", "tax"]
    status, out, _ = run(capsys, *words[2:], "--resamples", "200")
    said = " ".join(out.split())
    assert status == 0
    assert "clusters by country+topic (two-way)" in said
    assert "Power rose by" in said
    assert "Beyond the placebo: gain" in said
    with pytest.raises(SystemExit) as caught:
        cli.main(["example", "ratings", str(tmp_path / "try")])
    assert caught.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_a_placebo_with_more_coupling_is_not_exceeded(capsys, ratings, tmp_path):
    """A difference in the wrong direction is significant too, and is no evidence."""
    _, _, pre, post = ratings
    factor = np.random.default_rng(1).normal(size=(len(pre), 1))
    coupled = write(tmp_path / "coupled.csv", np.clip(pre + 1.2 * factor, 1, 5))
    status, out, _ = run(capsys, *ratings[:2], *OPTIONS, "--placebo", coupled, "--json")
    content = json.loads(out)
    assert status == 0
    assert content["placebo"]["nvat"]["estimate"] < 0
    assert content["placebo"]["p_nvat"] == 1
    assert any("not shown to be more than under the placebo" in line for line in summary.sentences(content))
    blank = post.copy()
    blank[:, TAX.mask("Power")] = np.nan
    status, _, err = run(capsys, *ratings[:2], *OPTIONS, "--placebo", write(tmp_path / "blank.csv", blank))
    assert status == 2
    assert "--placebo" in err
    assert "rates no value of the target" in err
    status, _, _ = run(capsys, *ratings[:2], *OPTIONS, "--placebo", ratings[0])  # nothing moved there
    assert status == 0


def test_types_of_equal_size_keep_their_members_where_a_value_is_not_rated():
    """Ten independent types, each a factor and noise: the order of the circle must not be found in them."""
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(12):
        d = rng.normal(size=(132, 10))[:, TAX.type_of] + rng.normal(size=(132, 56))
        d[:, 0] = np.nan
        pre = np.where(np.isnan(d), np.nan, 0.0)
        keys = {"scene": np.arange(132).astype(str)}
        made = [
            states.ValueState(x, ~np.isnan(x), np.arange(132, dtype=np.int32), TAX.names, keys) for x in (pre, pre + d)
        ]
        found = analysis.analyse(*made, TAX, "Achievement", resamples=100)
        equal = found.levels["values"].inference.equal
        right = np.abs(np.asarray(equal.coupling)[~np.eye(10, dtype=bool)]).max()
        assert right < 0.4  # neighbours share members where columns slip: .48
        alarms.append(found.levels["types"].order_test.p <= 0.05)
    assert np.mean(alarms) <= 0.25
    assert found.unrated == [TAX.names[0]]
    assert any(f"without a rating in both states: '{TAX.names[0]}'" in line for line in found.warnings())


def test_several_values_are_judged_among_values(ratings):
    rated = [states.read_ratings(path) for path in ratings[:2]]
    found = analysis.analyse(*rated, TAX, ("Wealth", "Authority"), resamples=100)
    content = analysis.as_json(found)
    gain = (ratings[3] - ratings[2])[:, [TAX.index("Wealth"), TAX.index("Authority")]].mean()
    assert content["target_level"] == "values"
    assert f"rose by {gain:.2f}" in summary.sentences(content)[0]
    beyond = analysis.beyond_placebo(found, [rated[0]], TAX)
    np.testing.assert_allclose(beyond["gain"]["estimate"], gain, rtol=1e-4)


def test_a_target_that_is_everything_has_no_margin(capsys, ratings):
    status, out, _ = run(capsys, *ratings[:2], "--target", ",".join(TAX.types), "--resamples", "100", "--margin", "0.1")
    assert status == 0
    assert "No other type is rated." in out
    assert "Margin" not in out


def test_one_large_cluster_is_named(capsys, ratings, tmp_path):
    _, _, pre, post = ratings
    keys = [("big", i) if i < 30 else (f"c{i}", i) for i in range(58)]
    files = [write(tmp_path / f"{i}.csv", x, keys=keys) for i, x in enumerate((pre, post))]
    _, out, err = run(capsys, *files, *OPTIONS, "--clusters", "country")
    assert "one cluster holds 52% of the contexts" in " ".join(out.split())
    assert "p of coupling cannot be given" in " ".join(err.split())
    assert "cannot be distinguished from 0" not in out.partition("\n\n")[2].rpartition("Coupling does not")[0]


@pytest.mark.parametrize("extra", ["0", "nan", "inf", "-1"])
def test_a_margin_is_a_number_above_0(capsys, ratings, extra):
    status, _, err = run(capsys, *ratings[:2], *OPTIONS, "--margin", extra)
    assert status == 2
    assert "--margin: expected a number above 0" in err


def test_what_would_be_lost_in_silence_is_said(capsys, ratings, tmp_path):
    _, _, pre, post = ratings
    rng = np.random.default_rng(0)
    greed = [[(f"c{i // 4}", i, rng.integers(1, 6)) for i in range(58)] for _ in range(2)]
    header = ("country", "number", "Greed")
    files = [
        write(tmp_path / f"g{i}.csv", x, keys=k, header=header)
        for i, (x, k) in enumerate(zip((pre, post), greed, strict=True))
    ]
    _, _, err = run(capsys, *files, *OPTIONS)
    assert "'Greed' is not a value of the taxonomy, and is used as a context key" in err
    assert "--on country,number" in err
    states.save(states.read_ratings(files[0], scale=(1, 7)), tmp_path / "seven.npz")
    status, _, err = run(capsys, tmp_path / "seven.npz", files[1], *OPTIONS, "--on", "country,number")
    assert status == 2
    assert "the scale of the first is [1, 7], of the second [1.0, 5.0]" in err.replace("[1.0, 7.0]", "[1, 7]")
    status, _, err = run(capsys, tmp_path / "seven.npz", tmp_path / "seven.npz", *OPTIONS, "--scale", "1:7")
    assert status == 2
    assert "--scale: " in err
    half = [
        write(tmp_path / f"h{i}.csv", x, keys=[("" if j < 20 else f"c{j}", j) for j in range(58)])
        for i, x in enumerate((pre, post))
    ]
    status, _, err = run(capsys, *half, *OPTIONS, "--clusters", "Country")
    assert status == 2
    assert "20 of 58 contexts have nothing in the cluster column 'country'" in err
    less = write(tmp_path / "less.csv", post[:, 1:], names=TAX.names[1:])
    _, _, err = run(capsys, ratings[0], less, *OPTIONS, "--values", "common")
    assert f"left out, not in every table: '{TAX.names[0]}'" in err


def test_long_tables_with_a_row_number_and_numbers_as_missing(capsys, tmp_path):
    lines = ["id,country,value,rating"]
    number = 0
    for i in range(20):
        for name in TAX.names[:6]:
            lines.append(f"{number},c{i},{name},{1 + (i + number) % 5}")
            number += 1
    path = tmp_path / "long.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(errors.InputError, match=r"'id' differs in each row.*--on country"):
        states.read_ratings(path)
    assert len(states.read_ratings(path, keys=("country",)).clusters) == 20
    rows = [{"country": f"c{i}", "Wealth": 99 if i == 3 else 1 + i % 5, "Devout": 2} for i in range(8)]
    path = tmp_path / "n.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert np.isnan(states.read_ratings(path, missing=("99",)).state[3]).any()
    path.write_text("\n".join(json.dumps({**row, "Wealth": row["Wealth"] % 5 - 2}) for row in rows))
    with pytest.raises(errors.InputError, match=r"such as --scale -2:2 "):
        states.read_ratings(path)


def test_another_wording_or_dtype_is_said(tmp_path, capsys):
    """Part of a shift may be the question's or the rounding's."""
    rng = np.random.default_rng(3)
    contexts = {"scene": np.array([f"s{i}" for i in range(30)])}
    meta = {"how": {"protocol": "paired", "low": 1, "high": 5, "prefill": "cue", "wording": ["agree"]}}
    places = []
    for wording, dtype in (("agree", "float32"), ("right", "mixed")):
        x = rng.normal(size=(30, len(TAX.names))).astype(np.float32)
        own = {**meta, "how": {**meta["how"], "wording": [wording]}, "model": {"dtype": dtype}}
        noise = {"numerical_noise": {"sd": 0.0061, "most": 0.02, "prompts": 64}} if dtype == "mixed" else {}
        state = states.ValueState(x, ~np.isnan(x), np.arange(30, dtype=np.int32), TAX.names, contexts, {**own, **noise})
        places.append(str(tmp_path / f"{wording}.npz"))
        states.save(state, places[-1])
    status, out, err = run(capsys, *places, "--target", "Power", "--resamples", "200")
    assert status == 0, err
    assert "the wording differs, and with it the cue that the answer begins with: agree before, right after" in err
    assert "the dtype differs: float32 before, mixed after" in err
    assert "Numerical noise of a rating, by the size of a pass: sd 0.0061 points." in out
    status, _, err = run(capsys, places[0], places[0], "--target", "Power", "--resamples", "200")
    assert "differs" not in err


def test_two_contexts_have_a_gain_and_no_coupling(tmp_path, capsys):
    names, random = ("Power", "Wealth", "Honesty"), np.random.default_rng(0)
    files = [write(tmp_path / f"{i}.csv", random.uniform(1, 5, (2, 3)), names) for i in range(2)]
    status, out, _ = run(capsys, *files, "--target", "Power", "--on", "country,number")
    assert status == 0
    assert "a correlation of two contexts is 1 or -1 whatever their" in out.replace("\n", " ")
    status, out, _ = run(capsys, *files, "--target", "Power", "--on", "country,number", "--json")
    for level in json.loads(out)["levels"].values():
        assert level["nvat"]["estimate"] is None
        assert set(level["vat"].values()) == {None}
        assert level["gain"]["estimate"] is not None
