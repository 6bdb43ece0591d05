"""Answers under many edits at one time are those under each alone; and one compiled program serves any first layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.prefix.test_scorer import FOUND, OPTIONS, SIZE, load, random_edit, scored
from tests.tiers import quick
from vatjax import errors, models
from vatjax.prefix import score_edits
from vatjax.prefix.tokenize import TokenizedPrompts

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]


def apart(model, edits):
    return np.stack([scored(model, edit=edit) for edit in edits])


def compare(model, edits, **options):
    found = score_edits.score_edits(model, FOUND, OPTIONS, edits, SIZE, **options)
    assert found.shape == (len(edits), len(FOUND.which), 3)
    np.testing.assert_allclose(np.exp(found), np.exp(apart(model, edits)), rtol=0, atol=2e-5)
    return found


def steps(config, layer, kind, seed):
    random = np.random.default_rng(seed)
    u = random.normal(size=(config.layers, config.width)).astype(np.float32)
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    share = np.float32(np.arange(config.layers) == layer)
    step = models.Step(jnp.asarray(u), jnp.full(config.layers, 2.0), jnp.asarray(share), kind=kind)
    return models.Edit(jnp.float32(1), steps=(step,), positions="last" if kind == "turn" else "all")


# A plain one, one whose layers differ in their windows, and one with experts of its own family's kind of norms.
@pytest.mark.parametrize("family", quick(["llama", "gemma2", "qwen3"], ["llama"]))
def test_many_at_once_are_each_alone(family):
    model = load(family)
    whole = [random_edit(model.config, seed) for seed in range(3)]
    edits = [edit.only_layers([layer]) for edit, layer in zip(whole, (3, 1, 2), strict=True)]
    edits.append(0.0 * edits[0])
    found = compare(model, edits, at_once=3)  # the last chunk is filled up
    np.testing.assert_allclose(np.exp(found[3]), np.exp(scored(model)), atol=2e-5)
    assert np.abs(np.exp(found[0]) - np.exp(found[1])).max() > 1e-3


@pytest.mark.parametrize("kind", quick(["project", "turn"], ["turn"]))
def test_steps_at_some_positions(kind):
    model = load("llama")
    compare(model, [steps(model.config, layer, kind, layer) for layer in (2, 3)])


@pytest.mark.parametrize("layers", [(0, 1, 3), (3, 3, 3)])
def test_what_vectors_do_behind_a_layer_leaves_the_layer_shared(layers):
    model = load("llama")
    drawn = jax.random.normal(jax.random.key(1), (3, 4, 64))
    made = [
        models.Edit(jnp.float32(1), residual=x).only_layers([layer]) for x, layer in zip(drawn, layers, strict=True)
    ]
    found = compare(model, made)
    assert np.abs(np.exp(found[0]) - np.exp(found[1])).max() > 1e-3


def test_the_first_layer_is_no_part_of_the_program():
    model = load("llama")
    edit = models.Edit(jnp.float32(1), residual=jax.random.normal(jax.random.key(0), (4, 64)))

    def programs():
        return [
            f._cache_size()
            for f in (score_edits._begin_below, score_edits._begin_above, score_edits._below, score_edits._above)
        ]

    before = programs()
    for layer in (0, 2, 3):
        score_edits.score_edits(model, FOUND, OPTIONS, [edit.only_layers([layer]), -edit.only_layers([layer])], SIZE)
    assert max(b - a for a, b in zip(before, programs(), strict=True)) == 1


def test_prompts_that_begin_differently_have_no_trunk():
    model = load("llama")
    found = TokenizedPrompts((((5, 6, 7), (8, 9, 10, 11)),), np.array([[0], [1]], np.int32))
    made = [random_edit(model.config, seed).only_layers([2]) for seed in range(2)]
    together_ = score_edits.score_edits(model, found, OPTIONS, made, SIZE)
    for one, edit in zip(together_, made, strict=True):
        np.testing.assert_allclose(np.exp(one), np.exp(scored(model, found, edit=edit)), atol=2e-5)
    with pytest.raises(errors.InputError, match="no embedding for the token 4000"):
        score_edits.score_edits(model, found._replace(levels=(((5, 4000), (8, 9)),)), OPTIONS, made, SIZE)


@pytest.mark.thorough
def test_where_memory_runs_out_fewer_are_computed_together(monkeypatch):
    model = load("llama")
    made = [random_edit(model.config, seed) for seed in range(3)]
    expected, plain, counts = score_edits.score_edits(model, FOUND, OPTIONS, made, SIZE), score_edits._above, []

    def scarce(*arguments):
        counts.append(len(arguments[5].strength))
        if counts[-1] > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return plain(*arguments)

    monkeypatch.setattr(score_edits, "_above", scarce)
    np.testing.assert_allclose(score_edits.score_edits(model, FOUND, OPTIONS, made, SIZE), expected, atol=2e-5)
    assert counts[0] == 3
    assert counts[-1] == 1


def test_how_many_layers_are_the_same():
    edit = random_edit(load("llama").config)
    assert score_edits.unedited_layers(edit) == 0
    assert score_edits.unedited_layers(edit.only_layers([2, 3])) == 2
    assert score_edits.unedited_layers(0.0 * edit) == 4
    assert score_edits.unedited_layers(steps(load("llama").config, 1, "set", 0)) == 2
    vector = models.Edit(jnp.float32(1), residual=edit.residual)
    assert [score_edits.unedited_layers(vector.only_layers([layer])) for layer in range(4)] == [1, 2, 3, 4]
    assert score_edits.unedited_layers(vector.only_layers([1]) + edit.only_layers([3])) == 2
    assert score_edits.unedited_layers(vector.only_layers([3]) + edit.only_layers([1])) == 1


def test_edits_of_several_forms_are_refused():
    config = load("llama").config
    with pytest.raises(errors.InputError, match="only edits of one form"):
        score_edits.stack_edits([random_edit(config), steps(config, 1, "set", 0)])
    with pytest.raises(errors.InputError, match="no edits"):
        score_edits.stack_edits([])
