"""A function as a user writes one, for the kind `function`."""

from vatjax import elicit, prompts


def sentence(model, target, sign, level, text="Think of {}."):
    """Says a sentence about the target, once for each level."""
    return elicit.Condition(instruction=" ".join([text.format(target)] * int(level)))


def broken(model, target, sign, level):
    raise RuntimeError("no such luck")


def other(model, target, sign, level):
    return prompts.neutral_texts()[0]
