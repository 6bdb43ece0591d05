"""The front door: what `vatjax.measure` says is what the packages below it compute."""

import json

import numpy as np
import pytest

import vatjax
from vatjax import analysis, edits, elicit, errors, items, prompts, states, values

DATA = items.bundled().where(country=["Egypt", "Germany"])
TEST = DATA.split()[1]


@pytest.fixture(scope="module")
def model():
    return vatjax.load("pocket")


@pytest.fixture(scope="module")
def unedited(model):
    return elicit.rate(model, TEST)


def test_an_edit_is_measured_as_by_hand(model, unedited, tmp_path):
    edit = vatjax.steer(model, "Power", items=DATA, layers=[0], strengths=[1.0])
    by_hand = edits.find(model, DATA, "Power", layers=[0])
    np.testing.assert_array_equal(edit.residual, by_hand.residual)
    tax = vatjax.measure(model, edit, target="Power", items=DATA, unedited=unedited)
    post = elicit.ratings(model, TEST, edit=by_hand).state
    content = analysis.as_json(analysis.analyse(unedited, post, values.schwartz(), "Power"))
    assert tax.gain._asdict() == content["levels"]["types"]["gain"]
    assert tax.p == content["levels"]["types"]["p"]["nvat"]
    assert "Power *" in str(tax)
    assert f"gain {tax.gain.estimate:.2f}" in repr(tax)
    assert tax._repr_html_().startswith("<pre>")
    assert "<td>residual</td><td>(4, 128)</td>" in edit._repr_html_()
    assert "<td>vocabulary</td><td>1,370</td>" in model._repr_html_()
    assert len(tax.rows()) == sum(len(level["names"]) for level in content["levels"].values())
    tax.save(tmp_path / "tax.json")
    assert json.loads((tmp_path / "tax.json").read_text())["target"] == "Power"
    for suffix in ("svg", "png"):
        tax.plot(tmp_path / f"tax.{suffix}")
        assert (tmp_path / f"tax.{suffix}").stat().st_size > 1000
    with pytest.raises(errors.InputError, match=r"expected a path that ends in .svg or .png"):
        tax.plot(tmp_path / "tax.pdf")


def test_prompts_are_measured_as_by_hand(model, unedited):
    sentence = prompts.instruction(DATA.taxonomy, "Power")
    shots = prompts.demonstrations(DATA, "Power", 1, 4)
    for intervention, options in ((vatjax.shots("Power", 4), {"shots": shots}), (sentence, {"instruction": sentence})):
        tax = vatjax.measure(model, intervention, target="Power", items=DATA, unedited=unedited)
        np.testing.assert_array_equal(tax.after.state, elicit.ratings(model, TEST, **options).state.state)


def test_states_and_files_are_compared(unedited, tmp_path):
    states.save(unedited, tmp_path / "pre.npz")
    tax = vatjax.measure(str(tmp_path / "pre.npz"), unedited, target="Power")
    assert not tax.content["changed"]
    with pytest.raises(errors.InputError, match="expected a value state or the path of ratings, found float"):
        vatjax.measure(unedited, 1.0, target="Power")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: vatjax.measure(m, 1.0, target="Power", items=DATA, scenes=1), "expected an edit, shots, a sentence"),
        (lambda m: vatjax.measure(m, "x", target="Power", items=DATA, split="tset"), "did you mean 'test'"),
        (lambda m: vatjax.steer(m, "Power", "exprss"), "did you mean 'express'"),
        (lambda m: vatjax.finetune(m, "Power", loss="dop"), "did you mean 'dpo'"),
        (lambda m: vatjax.finetune(m, "Power", loss="kto"), "it learns from verdicts"),
    ],
)
def test_a_wrong_argument_is_one_sentence(model, call, message):
    with pytest.raises(errors.InputError, match=message):
        call(model)


def test_objects_describe_themselves_in_one_line(model, unedited):
    edit = edits.steer(edits.directions(edits.contrast(model, DATA, "Power", pairs=8)), [0])
    for thing in (model, unedited, values.schwartz(), edit):
        assert "\n" not in repr(thing)
        assert len(repr(thing)) < 200
    assert set(dir(vatjax)) == {*vatjax.__all__, "__version__"}
