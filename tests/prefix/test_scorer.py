"""Answers read from the tree are those of each whole prompt alone: every family, every kind of edit, every mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.checkpoints import FAMILIES, checkpoint
from tests.prefix.test_plan import OPTIONS, forest
from tests.tiers import quick
from vatjax import errors, models
from vatjax.models import decoder
from vatjax.prefix import execute, scorer
from vatjax.prefix import packing as layout
from vatjax.prefix import plan as planning
from vatjax.prefix.plan import Size
from vatjax.prefix.tokenize import answer_log_probs
from vatjax.prefix.tree import build_tree

pytestmark = [pytest.mark.long, pytest.mark.fast_compile]

SPLITS = [split for split in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(split) == 8]
FOUND = forest(7, scenes=2, actions=3, values=4, rubric=11, longest=9)
SIZE = Size(tokens=128, shard=60)


def load(family, mesh=None):
    return models.load(checkpoint(family).folder, mesh=mesh)


def scored(model, found=FOUND, size=SIZE, **options):
    logs = np.full((len(found.which), 3), np.nan)
    for shard in scorer.score(model, found, OPTIONS, size=size, **options):
        logs[shard.prompts] = shard.log_probs
    return logs


def one_by_one(model, found=FOUND, edit=None):
    """Each prompt with each way to answer it as a text of its own, padded to one length on the right."""
    texts = [(found.tokens(i), option.tokens) for i in range(len(found.which)) for option in OPTIONS]
    longest = max(len(prompt) + len(answer) for prompt, answer in texts)
    tokens, mask, written = np.zeros((3, len(texts), longest), np.int32)
    for row, (prompt, answer) in enumerate(texts):
        tokens[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        mask[row, : len(prompt) + len(answer)] = 1
        written[row, len(prompt) : len(prompt) + len(answer)] = 1
    shares = np.asarray(models.log_probs(model, tokens, mask, edit=edit, written=written))
    ways = [shares[row, len(p) : len(p) + len(a)].sum() for row, (p, a) in enumerate(texts)]
    return answer_log_probs(OPTIONS, np.array(ways).reshape(-1, len(OPTIONS)))


def random_edit(config, seed=0):
    random = np.random.default_rng(seed)

    def drawn(*shape):
        return jnp.asarray(random.normal(scale=0.2, size=shape), jnp.float32)

    factors = models.LowRank(drawn(config.layers, config.width, 2), drawn(config.layers, 2, config.hidden))
    return models.Edit(
        jnp.asarray(0.7), drawn(config.layers, config.width), drawn(config.layers, config.hidden), {"gate": factors}
    )


@pytest.mark.parametrize("family", quick(FAMILIES, ["llama", "gemma3", "phi3"]))
def test_the_tree_gives_what_each_prompt_gives_alone(family):
    model = load(family)
    expected = one_by_one(model)
    assert expected.std() > 0.1
    np.testing.assert_allclose(scored(model), expected, rtol=0, atol=2e-5)


def test_in_bfloat16_the_tree_is_as_near_to_float32_as_whole_prompts_are():
    """Sums are made in another order, so bits differ; what the rounding costs must not."""
    wide, narrow = (models.load(checkpoint("llama").folder, dtype=dtype) for dtype in ("float32", "bfloat16"))
    exact = one_by_one(wide)
    tree, alone = (np.abs(found - exact) for found in (scored(narrow), one_by_one(narrow)))
    assert 0 < tree.mean() < 1.5 * alone.mean()
    assert tree.max() < 2 * alone.max()


@pytest.mark.parametrize("change", ["one", "twice", "no trunk"])
def test_a_single_prompt_equal_prompts_and_prompts_that_share_nothing(change):
    model, which = load("llama"), FOUND.which
    found = {
        "one": FOUND._replace(which=which[:1]),
        "twice": FOUND._replace(which=np.concatenate([which[:5], which[2:7]])),
        "no trunk": FOUND._replace(
            levels=(((5,), (6,), (7,)), *FOUND.levels[1:]),
            which=which[:9] + [[1, 0, 0, 0]] * np.arange(3).repeat(3)[:, None],
        ),
    }[change]
    np.testing.assert_allclose(scored(model, found), one_by_one(model, found), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("family", "part"),
    quick(
        itertools.product(["llama", "gemma2", "phi3"], ["residual", "neurons", "lora"]),
        [("llama", "residual"), ("gemma2", "neurons"), ("phi3", "lora")],
    ),
)
def test_every_kind_of_edit_reaches_every_token_once(family, part):
    model = load(family)
    whole = random_edit(model.config)
    edit = models.Edit(whole.strength, **{part: getattr(whole, part)})
    found = scored(model, edit=edit)
    np.testing.assert_allclose(found, one_by_one(model, edit=edit), rtol=0, atol=2e-5)
    assert np.abs(found - scored(model)).max() > 1e-2
    np.testing.assert_array_equal(scored(model, edit=edit * 0.0), scored(model))


@pytest.mark.parametrize("split", quick(SPLITS, [(2, 2, 2)], whole=True))
def test_eight_devices_in_every_split_give_what_one_gives(split):
    mesh = models.mesh(*split)
    size = Size(tokens=1024, shard=60)
    np.testing.assert_allclose(scored(load("llama", mesh), size=size), scored(load("llama")), rtol=0, atol=2e-5)


@pytest.mark.parametrize("seed", quick(range(3), [1]))
def test_long_scenes_and_texts_that_begin_alike(seed):
    found = forest(seed, scenes=2, actions=2, values=3, rubric=5, longest=90, alphabet=3)
    model = load("gemma3")
    np.testing.assert_allclose(scored(model, found, Size(64, 40)), one_by_one(model, found), rtol=0, atol=2e-5)


def test_a_whole_run_compiles_a_few_functions():
    found = forest(4, scenes=6, actions=8, values=12, rubric=40)
    model = load("llama")

    def count():
        return {name: getattr(execute, name)._cache_size() for name in ("init_buffers", "run_pass", "token_log_probs")}

    before = count()
    compiled, listening = [], [True]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            compiled.append(event) if listening and event.endswith("backend_compile_duration") else None
        )
    )
    size = Size(tokens=512, shard=300)
    (part,) = scorer.plan_prompts(model, [(found, OPTIONS)], size)
    scored(model, found, size, part=part)
    listening.clear()
    assert len(part.plan.shards) > 3
    assert sum(count().values()) - sum(before.values()) <= 4
    assert 1 <= len(compiled) <= 6


def test_where_memory_runs_out_passes_are_halved(monkeypatch):
    model = load("llama")
    size, expected = Size(tokens=256, shard=300), scored(model)
    plain, refused = execute.run_pass, []

    def scarce(*arguments):
        if arguments[4].tokens.size > 64:
            refused.append(arguments[4].tokens.size)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return plain(*arguments)

    monkeypatch.setattr(execute, "run_pass", scarce)
    told = []
    np.testing.assert_allclose(scored(model, size=size, on_halved=told.append), expected, rtol=0, atol=2e-5)
    assert len(refused) == len(told) >= 1
    assert told[-1].tokens < 256
    assert len(set(refused)) == len(refused)  # it is remembered

    def never(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(execute, "run_pass", never)
    with pytest.raises(errors.InputError, match="cannot hold passes of 64 tokens; spread the model over more devices"):
        scored(model)
    monkeypatch.setattr(
        execute, "run_pass", lambda *_: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("INTERNAL: x"))
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        scored(model)


def test_logits_that_are_not_finite_name_the_prompt():
    model = load("llama with biases")  # whose head is not the embedding
    weights = dict(model.arrays)
    token = next(t for text in FOUND.levels[2][3:] for t in text if t not in FOUND.tokens(0))
    weights["embedding"] = weights["embedding"].at[token].set(jnp.nan)
    broken = models.Model(weights, model.config)
    with pytest.raises(errors.InputError, match=r"prompt \d+: the model's logits are not finite") as caught:
        scored(broken)
    named = int(str(caught.value).split(":")[0].removeprefix("prompt "))
    assert token in FOUND.tokens(named)
    assert token not in FOUND.tokens(0)


def test_the_one_that_is_not_finite_is_named_among_many_neighbours():
    model = load("llama with biases")
    found = forest(3, scenes=1, actions=2, values=56, rubric=9, longest=1)
    levels = [*found.levels]
    token = 95
    levels[3] = tuple((token,) if i in (55,) else (4 + i,) for i in range(56))
    found = found._replace(levels=tuple(levels))
    weights = dict(model.arrays)
    weights["embedding"] = weights["embedding"].at[token].set(jnp.nan)
    with pytest.raises(errors.InputError, match="prompt 55: the model's logits are not finite"):
        scored(models.Model(weights, model.config), found, Size(2048, 65_536))


def test_what_a_plan_says_a_pass_needs_is_what_its_program_takes():
    model = load("llama")
    found = forest(4, scenes=4, actions=8, values=12, rubric=40)
    (part,) = scorer.plan_prompts(model, [(found, OPTIONS)], Size(tokens=1024, shard=2000))
    shapes, plan = part.plan.shapes, part.plan
    begun = execute.init_buffers(
        model, np.zeros(shapes.trunk, np.int32), np.int32(1), None, shapes.store, shapes.answers
    )
    every = layout.make_passes(build_tree(found, plan.shards[0], plan.trunk, OPTIONS), shapes)
    one = max(every, key=lambda one: len(one.rows.tokens))
    lowered = execute.run_pass.lower(model, begun.trunk, begun.store, begun.read, *one, None)
    took = lowered.compile().memory_analysis()
    weights = sum(x.nbytes for x in jax.tree.leaves(model.arrays))
    took = took.temp_size_in_bytes + took.argument_size_in_bytes - weights
    said = planning.pass_memory(shapes, model.config)
    assert 0.5 * took < said < 3 * took
    limited = scorer.plan_prompts(model, [(found, OPTIONS)], Size(1024, 2000, memory=said // 3))[0].plan.shapes
    assert planning.pass_memory(limited, model.config) <= said // 3
    assert limited.many * limited.time < shapes.many * shapes.time


def test_a_prompt_beyond_the_context_is_named():
    model = load("llama")
    found = forest(0, rubric=250)
    longest = int(found.lengths().argmax())
    with pytest.raises(errors.InputError, match=f"prompt {longest}: a prompt of .* context of 256"):
        scored(model, found)


@pytest.mark.thorough
@pytest.mark.parametrize("family", quick(["llama", "gemma3"], ["gemma3"]))
def test_residuals_are_those_of_each_prompt_alone(family):
    model = load(family)
    change = random_edit(model.config)
    texts = [FOUND.tokens(i) for i in range(len(FOUND.which))]
    for prompts, found in scorer.last_token_states(model, FOUND, change, SIZE):
        assert found.shape == (model.config.layers, len(prompts), model.config.width)
        for k in (0, len(prompts) - 1):
            ids = jnp.asarray([texts[prompts[k]]])
            hidden = decoder.embed(model.arrays, model.config, ids)
            there, at = jnp.ones(ids.shape, bool), jnp.arange(ids.shape[1])[None]
            for layer in range(model.config.layers):
                run = decoder.run_layers(
                    model.arrays,
                    model.config,
                    hidden,
                    decoder.Layout(at, there),
                    first=layer,
                    last=layer + 1,
                    edit=change,
                )
                hidden = run.hidden
                np.testing.assert_allclose(found[layer, k], hidden[0, -1], rtol=0, atol=5e-5)


def test_shards_that_are_there_are_not_computed_again():
    model = load("llama")
    every = {shard.number: shard for shard in scorer.score(model, FOUND, OPTIONS, size=SIZE)}
    assert len(every) > 1
    rest = list(scorer.score(model, FOUND, OPTIONS, size=SIZE, skip=lambda number: number == 0))
    assert [shard.number for shard in rest] == list(every)[1:]
    for shard in rest:
        np.testing.assert_array_equal(shard.log_probs, every[shard.number].log_probs)


def test_ratings_have_a_gradient_through_the_tree():
    """What a training step needs that keeps an eye on ratings: the derivative of an answer by an edit's strength."""
    model = load("llama")
    edit = random_edit(model.config)
    (plan,) = planning.make_plans([(FOUND, OPTIONS)], model.config, Size())
    shapes, tree = plan.shapes, build_tree(FOUND, plan.shards[0], plan.trunk, OPTIONS)
    jobs = list(layout.make_passes(tree, shapes))
    trunk, length = np.zeros(shapes.trunk, np.int32), np.int32(plan.trunk)
    trunk[:length] = FOUND.tokens(0)[:length]

    def answer(strength):
        own = models.Edit(strength, edit.residual)
        begun = execute.init_buffers(model, trunk, length, own, shapes.store, shapes.answers)
        store, read = begun.store, begun.read
        for rows, answers in jobs:
            store, read, _ = execute.run_pass(model, begun.trunk, store, read, rows, answers, own)
        return jnp.sum(jnp.tanh(execute.token_log_probs(model, read, np.array([91, 92], np.int32))))

    slope = jax.grad(answer)(0.5)
    step = 0.1  # five points: of a smaller step float32 rounds more away than is cut off here
    one, two = (answer(0.5 + k * step) - answer(0.5 - k * step) for k in (1, 2))
    expected = (8 * one - two) / (12 * step)
    assert abs(expected) > 0.01
    np.testing.assert_allclose(slope, expected, rtol=0.02)
