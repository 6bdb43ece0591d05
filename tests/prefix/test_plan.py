"""The plan computes each token once, lets each see exactly what it continues, and is the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.checkpoints import checkpoint
from tests.tiers import quick
from vatjax.models import families
from vatjax.prefix import packing as layout
from vatjax.prefix import plan as planning
from vatjax.prefix.plan import Size
from vatjax.prefix.tokenize import Spelling, TokenizedPrompts
from vatjax.prefix.tree import answer_places, build_tree, common_prefix_length, cut_tree

OPTIONS = (Spelling((91,), 0), Spelling((92,), 1), Spelling((92, 93), 2))


def forest(seed, scenes=3, actions=4, values=5, rubric=20, longest=14, alphabet=90):
    """Texts of random tokens; a small alphabet makes many of them begin alike."""
    random = np.random.default_rng(seed)

    def text(low, high):
        return tuple(int(t) for t in random.integers(3, 3 + alphabet, random.integers(low, high + 1)))

    levels = (
        (text(rubric, rubric),),
        tuple(text(1, longest) for _ in range(scenes)),
        tuple(text(1, longest) for _ in range(scenes * actions)),
        tuple(text(1, longest) for _ in range(values)),
    )
    which = [(0, s, s * actions + a, v) for s in range(scenes) for a in range(actions) for v in range(values)]
    return TokenizedPrompts(levels, np.array(which, np.int32))


def config():
    return families.read_config(checkpoint("llama").folder)


def texts_computed(found, plan):
    """Carries a plan out with texts in place of keys: each token's text is what it sees, in order, and itself."""
    trunk = tuple(found.tokens(0)[: plan.trunk])
    read = {}
    computed = 0
    for shard in plan.shards:
        tree = build_tree(found, shard, plan.trunk, OPTIONS)
        store, answers = {}, {}
        for one in layout.make_passes(tree, plan.shapes):
            rows = one.rows
            new = {}
            for r, t in zip(*np.nonzero(rows.sees_row.any(-1) & (rows.positions > 0)), strict=True):
                far = [store[p] for p in rows.path[r][rows.sees_path[r, t]]]
                near = [(rows.positions[r, i], rows.tokens[r, i]) for i in np.flatnonzero(rows.sees_row[r, t])]
                seen = sorted([*far, *near])
                positions = [position for position, _ in seen]
                assert positions == list(range(len(trunk), rows.positions[r, t] + 1))
                text = trunk + tuple(int(token) for _, token in seen)
                computed += 1
                if rows.places[r, t] < plan.shapes.store:
                    new[rows.places[r, t]] = (rows.positions[r, t], rows.tokens[r, t])
                if one.answers[r, t] < plan.shapes.answers:
                    assert one.answers[r, t] not in answers
                    answers[one.answers[r, t]] = text
            assert not set(new) & set(store)
            store |= new  # only later passes see it
        places = layout.same_ends(tree)
        for row, prompt in enumerate(shard):
            read[prompt] = [answers[place] for place in places[row]]
    return read, computed


@pytest.mark.parametrize("alphabet", quick([2, 5, 90], [5]))
@pytest.mark.parametrize("tokens", [64, 300])
@given(seed=st.integers(0, 10_000), shard=st.sampled_from([1, 60, 10_000]))
def test_every_answer_is_read_behind_its_own_prompt_and_no_token_is_computed_twice(alphabet, tokens, seed, shard):
    found = forest(seed, alphabet=alphabet)
    (plan,) = planning.make_plans([(found, OPTIONS)], config(), Size(tokens=tokens, shard=shard))
    read, computed = texts_computed(found, plan)
    places = answer_places(OPTIONS)
    assert sorted(read) == list(range(len(found.which)))
    for prompt, texts in read.items():
        assert texts == [tuple(found.tokens(prompt)) + place for place in places]
    assert computed == plan.cost.distinct - plan.trunk
    assert plan.cost.full == sum(len(found.tokens(i)) for i in range(len(found.which)))
    if len(plan.shards) == 1:  # one tree: each distinct beginning once
        prompts = {texts[0] for texts in read.values()}
        within = {text[:k] for text in prompts for k in range(1, len(text))}
        behind = {text for texts in read.values() for text in texts[1:]}
        assert plan.cost.distinct == len(within) + len(prompts) + len(behind)


def test_the_trunk_is_what_all_prompts_begin_with():
    found = forest(0)
    texts = [found.tokens(i) for i in range(len(found.which))]
    shared = common_prefix_length(found)
    assert len({tuple(text[:shared]) for text in texts}) == 1
    assert len({tuple(text[: shared + 1]) for text in texts}) > 1
    one = TokenizedPrompts(found.levels, found.which[:1])
    assert common_prefix_length(one) == len(one.tokens(0)) - 1


def test_long_texts_become_stems_and_chains_of_one_row():
    levels = ((1,),), (tuple(range(3, 300)), tuple(range(300, 420))), ((5, 6), (7,), (8, 9, 10))
    which = np.array([(0, s, a) for s in range(2) for a in range(3)], np.int32)
    found = TokenizedPrompts((levels[0][0:1], *levels[1:]), which)
    tree = build_tree(found, np.arange(6), common_prefix_length(found), OPTIONS)
    units = cut_tree(tree, 64)
    assert max(len(unit.nodes) for unit in units) <= 64
    assert max(unit.wave for unit in units) == 4  # 297 tokens: four whole rows, and what is left with its leaves
    assert sorted(node for unit in units for node in unit.nodes) == list(range(len(tree.token)))


def test_the_same_prompts_have_the_same_plan():
    first, second = (planning.make_plans([(forest(3), OPTIONS)], config(), Size(300, 60))[0] for _ in range(2))
    assert first.shapes == second.shapes
    jobs = [
        list(layout.make_passes(build_tree(forest(3), s, p.trunk, OPTIONS), p.shapes))
        for p in (first, second)
        for s in p.shards
    ]
    half = len(jobs) // 2
    for one, other in zip(jobs[:half], jobs[half:], strict=True):
        for a, b in zip(one, other, strict=True):
            for x, y in zip((*a.rows, a.answers), (*b.rows, b.answers), strict=True):
                np.testing.assert_array_equal(x, y)


def test_rows_are_full():
    """A study's shape: 24 actions of one scene, 56 values each."""
    found = forest(1, scenes=1, actions=24, values=56, rubric=300, longest=12)
    (plan,) = planning.make_plans([(found, (Spelling((91,), 0), Spelling((92,), 1)))], config(), Size())
    assert plan.cost.distinct / plan.cost.computed > 0.9
    assert plan.cost.full > 20 * plan.cost.distinct
