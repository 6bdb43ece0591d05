import jax
import numpy as np
import pytest

from vatjax import elicit, items, models, prefix

pytestmark = pytest.mark.fast_compile


def test_it_has_the_shapes_and_the_tokens_of_the_model() -> None:
    whole, shapes = models.load("pocket"), models.abstract_model("pocket")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), whole.arrays) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes.arrays
    )
    _, test = items.bundled().split()
    some = test.take(np.arange(224))
    size = prefix.Size(512, 4096)
    assert elicit.cost(shapes, some, size=size) == elicit.cost(whole, some, size=size)


def test_what_is_compiled_of_it_is_what_a_rating_runs() -> None:
    """As many tokens a pass as the plan says, and memory for all of the weights."""
    shapes = models.abstract_model("pocket")
    some = items.bundled().split()[1].take(np.arange(224))
    parts = elicit.plan_ratings(shapes, some, size=prefix.Size(512, 4096))
    found = {}

    def compiled(label: str, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        found[label] = lowered.compile()
        return found[label]

    prefix.compile_programs(shapes, parts, compiled)
    plan = parts[0].plan.shapes
    names = [f"the first {plan.trunk} tokens"]
    names += [f"a pass of {rows} x {plan.time} tokens" for rows in dict.fromkeys((plan.many, plan.few))]
    assert list(found) == [*names, "the answers"]
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes.arrays))
    assert found[names[1]].memory_analysis().argument_size_in_bytes >= 0.9 * weights


def test_a_stand_in_counts_words_once_and_has_a_chat_template() -> None:
    words = models.stand_in_tokenizer(["the minister opens the archive", "the neighbour closes it"] * 5)
    assert len(words(" the archive the neighbour")["input_ids"]) == 4
    assert "<|im_start|>user" in words.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
