"""What is no plain sum: each step does what its formula says, only where its gate and its positions let it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import checkpoint
from tests.models.test_edit import FAMILIES, edit, texts
from tests.prefix.test_scorer import FOUND, one_by_one, scored
from tests.tiers import quick
from vatjax import errors, models
from vatjax.models.edit import KINDS, LAST, POSITIONS, PROMPT, WRITTEN, edit_residual
from vatjax.models.model import token_kinds

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]

RUN = jax.jit(models.logits)


def step(config, kind, gated=False, layers=(1, 2), seed=0):
    random = np.random.default_rng(seed)
    direction = random.normal(size=(config.layers, config.width))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    share = np.zeros(config.layers)
    share[list(layers)] = 0.9
    gate = random.normal(size=(config.layers, config.width)) if gated else None
    parts = (direction, np.full(config.layers, 1.5), share, gate, np.zeros(config.layers) if gated else None)
    return models.Step(*(None if x is None else jnp.asarray(x, jnp.float32) for x in parts), kind=kind)


def steps(config, kind, gated=False, positions="all", strength=0.8):
    return models.Edit(jnp.float32(strength), steps=(step(config, kind, gated),), positions=positions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gated", [False, True])
def test_a_step_is_its_formula_in_float64(kind, gated):
    random = np.random.default_rng(1)
    h = random.normal(size=(2, 5, 8))
    u, gate = random.normal(size=(2, 8))
    u /= np.linalg.norm(u)
    a, s, threshold = 0.7, 0.6 * 0.9, 0.1
    along = (h @ u)[..., None]
    new = {
        "add": h + s * a * u,
        "project": h - s * along * u,
        "set": h + s * (a - along) * u,
        "raise": h + s * np.maximum(0, a - along) * u,
        "turn": (h + s * a * u) * (np.linalg.norm(h, axis=-1) / np.linalg.norm(h + s * a * u, axis=-1))[..., None],
    }[kind]
    if gated:
        passed = h @ gate / np.linalg.norm(h, axis=-1) / np.linalg.norm(gate) >= threshold
        assert 0 < passed.sum() < passed.size
        new = np.where(passed[..., None], new, h)
    own = models.Step(u, jnp.asarray(a), jnp.asarray(0.9), gate if gated else None, threshold if gated else None, kind)
    found = edit_residual(jnp.asarray(h, jnp.float32), models.Edit(jnp.asarray(0.6), steps=(own,)), None)
    np.testing.assert_allclose(found, new, rtol=0, atol=2e-6)


def every(config, positions="all"):
    """All kinds of steps, one after the other, some behind a gate, and a vector before them."""
    own = tuple(step(config, kind, gated=number % 2 == 1, seed=number) for number, kind in enumerate(KINDS))
    return models.Edit(jnp.float32(0.4), edit(config, "residual").residual, steps=own, positions=positions)


@pytest.mark.parametrize("family", quick(FAMILIES, ["gemma2"]))
def test_strength_0_is_no_edit_and_a_stack_is_a_loop(family):
    model, (tokens, mask) = models.load(checkpoint(family).folder), texts()
    plain, change = RUN(model, tokens, mask), every(model.config)
    broken = jax.tree.map(lambda x: x * jnp.inf, change)
    none = dataclasses.replace(broken, strength=jnp.zeros(()))
    np.testing.assert_array_equal(RUN(model, tokens, mask, none), plain)
    strengths = jnp.array([0.0, 0.5, -1.0])
    together = jax.jit(jax.vmap(lambda s: models.logits(model, tokens, mask, dataclasses.replace(change, strength=s))))(
        strengths
    )
    np.testing.assert_allclose(together[0][mask > 0], plain[mask > 0], rtol=0, atol=2e-5)
    one = jax.jit(lambda s: models.logits(model, tokens, mask, dataclasses.replace(change, strength=s)))
    for s, found in zip(strengths, together, strict=True):
        alone = one(s)
        np.testing.assert_allclose(found[mask > 0], alone[mask > 0], rtol=0, atol=2e-5)
    assert np.abs(together[1] - plain)[mask > 0].max() > 1e-3


def test_layers_with_no_share_are_left_alone_bit_for_bit():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    nowhere = models.Edit(jnp.ones(()), steps=tuple(step(model.config, kind, layers=()) for kind in KINDS))
    np.testing.assert_array_equal(RUN(model, tokens, mask, nowhere), RUN(model, tokens, mask))


@pytest.mark.parametrize(
    ("positions", "part"),
    [
        ("all", "steps"),
        ("prompt", "lora"),
        ("last", "residual"),
        ("last", "lora"),
        ("written", "neurons"),
        ("written", "steps"),
    ],
)
def test_only_the_tokens_that_are_meant_are_touched(positions, part):
    """Of a text with four written tokens: the streams above an edited layer differ first at the first touched token."""
    model, (tokens, _) = models.load(checkpoint("llama").folder), texts()
    config = model.config
    change = steps(config, "add") if part == "steps" else edit(config, part)
    change = dataclasses.replace(change, positions=positions)
    written = np.zeros(tokens.shape, int)
    written[:, -4:] = 1
    plain, found = (np.asarray(RUN(model, tokens, None, e, None, written)) for e in (None, change))
    differs = np.abs(found - plain).max(-1) > 1e-5
    first = {"all": 0, "prompt": 0, "last": tokens.shape[1] - 5, "written": tokens.shape[1] - 4}[positions]
    np.testing.assert_array_equal(differs.argmax(1), first)
    kind = np.asarray(token_kinds(jnp.ones(tokens.shape, bool), written))
    touched = change.touched(jnp.asarray(kind))
    expected = {
        "all": None,
        "prompt": kind != WRITTEN,
        "last": kind == LAST,
        "written": kind == WRITTEN,
    }[positions]
    np.testing.assert_array_equal(touched, expected)
    assert (kind == LAST).sum() == len(tokens)
    assert (kind[:, :-5] == PROMPT).all()


@pytest.mark.parametrize(
    ("family", "positions"),
    quick(
        [*zip(FAMILIES, ("all", "last", "written"), strict=True), ("llama", "prompt")],
        [("olmo2", "written")],
    ),
)
def test_cached_decoding_touches_what_the_whole_text_does_on_either_side_of_padding(family, positions):
    model = models.load(checkpoint(family).folder)
    change = every(model.config, positions)
    random = np.random.default_rng(0)
    lengths = [9, 14, 6]
    prompts = [random.integers(3, 96, n) for n in lengths]
    left = np.zeros((3, 14), np.int32)
    mask = np.zeros((3, 14), np.int32)
    for row, prompt in enumerate(prompts):
        left[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    out = models.generate(model, left, mask, models.Sampling(5, stop=()), edit=change)
    right, present, written = np.zeros((3, 3, 19), np.int32)
    for row, prompt in enumerate(prompts):
        whole = [*prompt, *np.asarray(out.tokens[row])]
        right[row, : len(whole)], present[row, : len(whole)] = whole, 1
        written[row, len(prompt) : len(whole)] = 1
    logits = np.asarray(RUN(model, right, present, change, None, written))
    shares = np.asarray(models.log_probs(model, right, present, change, None, written))
    for row, prompt in enumerate(prompts):
        places = np.arange(len(prompt), len(prompt) + 5)
        np.testing.assert_array_equal(logits[row, places - 1].argmax(-1), out.tokens[row])
        np.testing.assert_allclose(shares[row, places], out.log_probs[row], rtol=0, atol=5e-5)


@pytest.mark.parametrize("positions", quick(POSITIONS, ["all", "last"]))
def test_the_tree_touches_what_whole_prompts_do_also_where_one_ends_within_another(positions):
    model = models.load(checkpoint("llama").folder)
    change = steps(model.config, "set", positions=positions, strength=1.0)
    levels = list(FOUND.levels)
    base = FOUND.levels[3]
    levels[3] = (base[0], base[0] + (92, 7), base[0] + (92,), *base[3:])  # the answer's tokens are others' texts
    found = FOUND._replace(levels=tuple(levels))
    np.testing.assert_allclose(
        scored(model, found, edit=change), one_by_one(model, found, edit=change), rtol=0, atol=2e-5
    )


# The vector space, and the order ------------------------------------------------------------------------------------


def test_additive_edits_scale_add_and_have_a_negative():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    a, b = (edit(model.config, "all", strength, seed) for strength, seed in ((0.5, 1), (-0.3, 2)))
    there = mask > 0

    def run(e):
        return np.asarray(RUN(model, tokens, mask, e))[there]

    np.testing.assert_allclose(run(a + b), run(b + a), rtol=0, atol=2e-5)
    np.testing.assert_allclose(run(a + a), run(2 * a), rtol=0, atol=2e-5)
    np.testing.assert_allclose(run(a - a), run(None), rtol=0, atol=2e-5)
    np.testing.assert_allclose(run((a + b) * 0.0), run(None), rtol=0, atol=0)
    assert np.abs(run(a + b) - run(a)).max() > 0.01


def test_steps_have_an_order_and_no_sum():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    a, b = steps(model.config, "project"), models.Edit(jnp.ones(()), steps=(step(model.config, "add", seed=3),))
    with pytest.raises(errors.InputError, match="give their order with `then`"):
        a + b
    forth, back = (np.asarray(RUN(model, tokens, mask, e))[mask > 0] for e in (a.then(b), b.then(a)))
    assert np.abs(forth - back).max() > 1e-4
    assert [s.kind for s in a.then(b).steps] == ["project", "add"]
    with pytest.raises(errors.InputError, match="edits of all and of last tokens can't be one edit"):
        a.then(dataclasses.replace(b, positions="last"))


def test_some_layers_alone():
    model, (tokens, mask) = models.load(checkpoint("llama").folder), texts()
    whole = edit(model.config, "residual")
    parts = [whole.only_layers([layer]) for layer in range(model.config.layers)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    expected = np.asarray(RUN(model, tokens, mask, whole))[mask > 0]
    np.testing.assert_allclose(np.asarray(RUN(model, tokens, mask, total))[mask > 0], expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(whole.only_layers([-1]).residual, parts[3].residual)
    own = steps(model.config, "add").only_layers([2]).steps[0].share
    np.testing.assert_array_equal(own > 0, [False, False, True, False])
    with pytest.raises(errors.InputError, match="layer 4: the model has layers 0 to 3"):
        whole.only_layers([1, 4])


def test_what_can_not_be_is_refused():
    model = models.load(checkpoint("llama").folder)
    with pytest.raises(errors.InputError, match="unknown kind of step 'projct'; did you mean 'project'"):
        step(model.config, "projct")
    with pytest.raises(errors.InputError, match="unknown positions 'lst'; did you mean 'last'"):
        steps(model.config, "add", positions="lst")
    wrong = models.Edit(jnp.ones(()), steps=(dataclasses.replace(step(model.config, "add"), amount=jnp.ones(3)),))
    with pytest.raises(errors.InputError, match=r"step 0 \(add\): amount has the shape \[3\], expected \[4\]"):
        models.logits(model, jnp.arange(3, 9)[None], edit=wrong)
