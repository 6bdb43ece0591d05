"""An edit survives the disk in every part, and is refused by a model that it was not made for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.models.checkpoints import checkpoint
from tests.models.test_edit import edit
from tests.models.test_steps import every
from vatjax import errors, models

pytestmark = pytest.mark.fast_compile


def load(family="llama", **options):
    return models.load(checkpoint(family).folder, **options)


@pytest.mark.parametrize("kind", ["residual", "neurons", "all", "steps"])
def test_every_part_survives_the_disk(tmp_path, kind):
    model = load()
    made = every(model.config, "last") if kind == "steps" else edit(model.config, kind)
    if kind == "neurons":
        made = models.Edit(made.strength, gains=made.neurons, neurons=made.neurons)
    models.save_edit(made, model, tmp_path / "e", {"method": "by hand"})
    again = models.load_edit(tmp_path / "e", model)
    assert jax.tree.structure(again) == jax.tree.structure(made)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(one, other)
    assert models.edit_facts(tmp_path / "e")["meta"] == {"method": "by hand"}
    assert models.load_edit(tmp_path / "e", load(dtype="bfloat16")).positions == made.positions


def test_another_model_is_refused_and_both_are_named(tmp_path):
    model = load()
    models.save_edit(edit(model.config, "residual"), model, tmp_path)
    with pytest.raises(errors.InputError, match=f"was made for {model.name}, not for .*family llama against gemma2"):
        models.load_edit(tmp_path, load("gemma2"))
    other = models.Model({**model.arrays, "norm": model.arrays["norm"] + 1}, model.config, name="other")
    with pytest.raises(errors.InputError, match="not for other: weights"):
        models.load_edit(tmp_path, other)


def test_what_is_no_edit_is_refused(tmp_path):
    model = load()
    with pytest.raises(errors.InputError, match=r"no edit.json there, so it is not an edit"):
        models.load_edit(tmp_path, model)
    with pytest.raises(errors.InputError, match="residual has the shape"):
        models.save_edit(models.Edit(jnp.ones(()), jnp.ones((2, 3))), model, tmp_path / "e")
    models.save_edit(every(model.config), model, tmp_path / "e")
    facts = json.loads((tmp_path / "e" / "edit.json").read_text())
    for change, message in (
        ({"format": 2}, "format 2; this version reads 1"),
        ({"steps": [*facts["steps"], facts["steps"][0]]}, "no tensor 'steps.5.direction'"),
        ({"positions": "first"}, "unknown positions 'first'"),
        ({"model": None}, "not the facts of an edit"),
    ):
        (tmp_path / "e" / "edit.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises(errors.InputError, match=message):
            models.load_edit(tmp_path / "e", model)
    (tmp_path / "e" / "edit.json").write_text(json.dumps(facts))
    with pytest.raises(errors.InputError, match="the edit: residual holds values that are not finite"):
        models.save_edit(models.Edit(jnp.ones(()), every(model.config).residual * jnp.nan), model, tmp_path)
    arrays = tmp_path / "e" / "edit.safetensors"
    whole = safetensors.numpy.load_file(arrays)
    for change, message in (
        ({"residual": None}, "no tensor 'residual'; the edit is damaged"),
        ({"extra": whole["residual"]}, "a tensor 'extra' that edit.json does not name"),
        ({"residual": whole["residual"] * np.nan}, "edit.safetensors: residual holds values that are not finite"),
    ):
        altered = {name: x for name, x in {**whole, **change}.items() if x is not None}
        safetensors.numpy.save_file(altered, arrays)
        with pytest.raises(errors.InputError, match=message):
            models.load_edit(tmp_path / "e", model)
    arrays.unlink()
    with pytest.raises(errors.InputError, match=r"no edit\.safetensors there, so it is not an edit"):
        models.load_edit(tmp_path / "e", model)
    with pytest.raises(errors.InputError, match="low-rank changes alone; this edit has residual and steps"):
        models.save_adapter(every(model.config), model.config, tmp_path / "a")
