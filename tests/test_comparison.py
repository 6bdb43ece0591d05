"""`vatjax compare`: the numbers of `vatjax tax` and of a study, for states from anywhere."""

import dataclasses
import json

import numpy as np
import pytest

from tests.test_cli import run
from vatjax import analysis, comparison, errors, metrics, states, values

TAXONOMY = values.schwartz()
MEMBER = TAXONOMY.mask("Power")


def state(seed, push=0.0, common=0.0, contexts=90):
    rng = np.random.default_rng(7)  # the same contexts before any push
    base = np.clip(rng.normal(size=(contexts, 56)), -2, 2)
    rng = np.random.default_rng(seed)
    moved = base + push * MEMBER + common * rng.normal(size=(contexts, 1)) + 0.3 * rng.normal(size=(contexts, 56))
    keys = {"scene": np.array([f"s{i // 3}" for i in range(contexts)]), "item": np.arange(contexts).astype(str)}
    array = (moved if seed else base).astype(np.float32)
    return states.ValueState(array, ~np.isnan(array), np.arange(contexts) // 3, TAXONOMY.names, keys, {})


PRE = state(0)
POSTS = {"strong": state(1, 0.9, 0.4), "weak": state(2, 0.3), "none": state(3)}


def test_rows_and_differences_are_those_of_the_functions_below():
    content = comparison.compare(PRE, POSTS, TAXONOMY, "Power")
    for row in content["rows"]:
        alone = analysis.as_json(analysis.analyse(PRE, POSTS[row["name"]], TAXONOMY, "Power"))["levels"]["types"]
        for key in ("gain", "off_target_shift", "off_target", "nvat_debiased"):
            assert row[key] == alone[key]
        assert row["nvat_p"] == alone["p"]["nvat"]
    shifts = {name: TAXONOMY.aggregate(post.state - PRE.state, PRE.mask, "types") for name, post in POSTS.items()}
    target = TAXONOMY.column_mask("Power")
    by_hand = metrics.difference(np.float32(shifts["strong"]), np.float32(shifts["weak"]), target, PRE.clusters)
    (pair,) = (pair for pair in content["pairs"] if (pair["first"], pair["second"]) == ("strong", "weak"))
    assert pair["gain"]["estimate"] == pytest.approx(float(by_hand.gain.estimate), abs=1e-6)
    assert pair["nvat"]["high"] == pytest.approx(float(by_hand.nvat.high), abs=1e-6)
    assert len(content["pairs"]) == 3
    assert (content["contexts"], content["clusters"]) == (90, 30)


def test_the_front_is_planted():
    """More gain at the same shift of the others beats less; an intervention that only shifts others is beaten."""
    posts = {"good": state(1, 0.9), "half": state(1, 0.45), "harm": state(1, 0.9, 0.0)}
    array = posts["harm"].state + 0.8 * ~MEMBER
    posts["harm"] = dataclasses.replace(posts["harm"], state=array.astype(np.float32))
    shares = {row["name"]: row["front_share"] for row in comparison.compare(PRE, posts, TAXONOMY, "Power")["rows"]}
    assert shares["good"] == pytest.approx(1, abs=0.02)
    assert shares["harm"] < 0.02


def test_only_contexts_that_all_have_count(tmp_path):
    some, blank = POSTS["weak"].take(np.arange(60)), np.array(POSTS["none"].state)
    blank[:6] = np.nan
    none = dataclasses.replace(POSTS["none"], state=blank, mask=~np.isnan(blank))
    content = comparison.compare(PRE, {"strong": POSTS["strong"], "some": some, "none": none}, TAXONOMY, "Power")
    assert content["contexts"] == 54
    assert content["left_out"] == {"before": 36, "strong": 36, "some": 6, "none": 36}
    alone = analysis.as_json(analysis.analyse(PRE.take(np.arange(6, 60)), POSTS["strong"], TAXONOMY, "Power"))
    assert content["rows"][0]["gain"] == alone["levels"]["types"]["gain"]


def test_the_command(tmp_path, capsys):
    states.save(PRE, tmp_path / "pre.npz")
    for name, post in POSTS.items():
        states.save(post, tmp_path / f"{name}.npz")
    files = [str(tmp_path / f"{name}.npz") for name in ("pre", *POSTS)]
    status, out, err = run(capsys, "compare", *files, "--target", "power", "--json")
    assert status == 0, err
    assert json.loads(out)["rows"] == comparison.compare(PRE, POSTS, TAXONOMY, "Power")["rows"]
    status, out, _ = run(capsys, "compare", *files, "--target", "power")
    assert "strong minus" in out
    assert "<.001" in out
    assert "--json has all 3 differences" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pre", "strong", "strong"], "POST: expected one file or more, and none twice"),
        (["pre", "nowhere"], "nowhere.npz: no such file"),
        (["pre", "strong", "other"], "other: the two states have different values"),
        (["pre", "strong", "apart"], "apart: "),
    ],
)
def test_mistakes_name_the_file(words, message, tmp_path, capsys):
    other = POSTS["weak"].take(np.arange(90), np.arange(30))
    apart = dataclasses.replace(POSTS["weak"], contexts={"item": np.array([f"x{i}" for i in range(90)])})
    for name, each in {"pre": PRE, **POSTS, "other": other, "apart": apart}.items():
        states.save(each, tmp_path / f"{name}.npz")
    status, _, err = run(capsys, "compare", *(str(tmp_path / f"{word}.npz") for word in words), "--target", "Power")
    assert status == 2
    assert message in err


def test_nothing_after_is_refused():
    with pytest.raises(errors.InputError, match="no state after an intervention is given"):
        comparison.compare(PRE, {}, TAXONOMY, "Power")
