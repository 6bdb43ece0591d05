"""A push by words: the taxonomy's own spelling, both ways, on a line before the rubric."""

import pytest

from vatjax import errors, prompts, values

TAXONOMY = values.schwartz()


@pytest.mark.parametrize("name", prompts.instructions())
@pytest.mark.parametrize("target", ["self direction", "social power", "Conservation"])
def test_an_instruction_names_the_target_either_way(name, target):
    towards, away = (prompts.instruction(TAXONOMY, target, direction, name) for direction in (1, -1))
    spelt = {"self direction": "Self-direction", "social power": "Social Power", "Conservation": "Conservation"}[target]
    assert spelt in towards
    assert spelt in away
    assert towards != away


def test_it_stands_before_the_rubric():
    said = prompts.instruction(TAXONOMY, "Power")
    row = {"scene": "A town needs a mayor.", "action": "Run for it."}
    wording = prompts.wording("paired")
    plain, pushed = (prompts.assemble([row], wording, instruction=text).text(0) for text in ("", said))
    assert pushed == f"{said}\n{plain}"
    shown = []

    def chat(messages):
        shown.append(messages)
        return "".join(f"[{m['role']}]{m['content']}" for m in messages)

    prompts.assemble([row], wording, chat=chat, instruction=said)
    assert shown[0][0]["content"].startswith(f"{said}\n")


def test_mistakes_are_named():
    with pytest.raises(errors.InputError, match="unknown value, type or group 'Powr'; did you mean 'Power'"):
        prompts.instruction(TAXONOMY, "Powr")
    with pytest.raises(errors.InputError, match="direction: expected 1 or -1, found 2"):
        prompts.instruction(TAXONOMY, "Power", 2)
    with pytest.raises(errors.InputError, match="unknown instruction 'frist'; did you mean 'first'"):
        prompts.instruction(TAXONOMY, "Power", 1, "frist")
