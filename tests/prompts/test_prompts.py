"""Wordings as data, prompts as trees: what is shared stands first, what differs last, and hashes tell them apart."""

import numpy as np
import pytest

from vatjax import errors, prompts

ROWS = [
    {"scene": "A flood.", "action": "Help.", "value": "Wealth", "definition": "money", "country": "X", "topic": "Y"},
    {"scene": "A flood.", "action": "Leave.", "value": "Wealth", "definition": "money", "country": "X", "topic": "Y"},
    {"scene": "A feast.", "action": "Help.", "value": "Wisdom", "definition": "sense", "country": "X", "topic": "Z"},
]


def chat(messages):
    return "".join(f"[{m['role']}]{m['content']}[/]" for m in messages) + "[assistant]"


@pytest.mark.parametrize("protocol", prompts.PROTOCOLS)
def test_each_protocol_has_three_wordings(protocol):
    known = prompts.wordings(protocol)
    assert len(known) == 3
    assert len({wording.system for wording in known.values()}) == 3
    for name, wording in known.items():
        assert wording == prompts.wording(protocol, name.upper())
        assert wording.version == 1
        made = prompts.assemble(ROWS, wording)
        for row in range(3):
            assert made.text(row).endswith(f"\n{wording.answer}")
            for line in wording.levels:
                assert line.format(**ROWS[row]) in made.text(row)


def test_texts_are_kept_once():
    made = prompts.assemble(ROWS, prompts.wording("paired"))
    assert [len(level) for level in made.levels] == [1, 2, 2]
    np.testing.assert_array_equal(made.which, [[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert made.text(1) == made.levels[0][0] + "Situation: A flood.\nAction: Leave.\nRating:"


def test_the_scale_is_worded_both_ways():
    wording = prompts.wording("paired")
    rising, falling = prompts.Scale(1, 7), prompts.Scale(1, 7, falling=True)
    assert "from 1 (strongly disagree) to 7 (strongly agree)" in wording.rubric(rising)
    assert "from 1 (strongly agree) to 7 (strongly disagree)" in wording.rubric(falling)
    assert rising.options == falling.options
    assert falling.ratings == (7, 6, 5, 4, 3, 2, 1)
    assert falling.answer(7) == "1"
    assert rising.middle == 4
    for low, high in ((5, 1), (3, 3), (-1, 4), (0, 101)):
        with pytest.raises(errors.InputError, match="scale: expected whole numbers"):
            prompts.Scale(low, high)


def test_shots_stand_in_the_rubric_with_their_answers():
    shots = [prompts.Shot({"scene": "A war.", "action": "Flee."}, 2)]
    wording = prompts.wording("paired")
    plain = prompts.assemble(ROWS, wording, shots=shots)
    assert "Situation: A war.\nAction: Flee.\nRating: 2\n\n" in plain.levels[0][0]
    turned = prompts.assemble(ROWS, wording, prompts.Scale(falling=True), shots)
    assert "Action: Flee.\nRating: 4\n\n" in turned.levels[0][0]
    talked = prompts.assemble(ROWS, wording, shots=shots, chat=chat)
    assert "[user]Situation: A war.\nAction: Flee.[/][assistant]2[/][user]" in talked.levels[0][0]
    assert talked.text(0).endswith("Action: Help.[/][assistant]")
    assert len({made.digest for made in (plain, turned, talked)}) == 3


def test_a_template_without_a_system_role_gets_the_rubric_in_the_first_message():
    def strict(messages):
        if messages[0]["role"] == "system":
            raise ValueError("no system role")
        return chat(messages)

    made = prompts.assemble(ROWS, prompts.wording("paired"), chat=strict)
    assert made.levels[0][0].startswith("[user]You will read a situation")
    assert made.text(0).count("[user]") == 1
    shots = [prompts.Shot({"scene": "A war.", "action": "Flee."}, 2)]
    shown = prompts.assemble(ROWS, prompts.wording("paired"), shots=shots, chat=strict)
    assert shown.text(0).index("You will read") < shown.text(0).index("A war.") < shown.text(0).index("A flood.")


def test_a_template_that_leaves_the_system_message_out_gets_it_from_the_user():
    def deaf(messages):
        return chat([message for message in messages if message["role"] != "system"])

    made = prompts.assemble(ROWS, prompts.wording("paired"), chat=deaf)
    assert "[user]You will read a situation" in made.text(0)


def test_a_template_that_loses_the_message_is_refused():
    with pytest.raises(errors.InputError, match="does not show the question, the examples and the user's message"):
        prompts.assemble(ROWS, prompts.wording("paired"), chat=lambda messages: "hello")


def test_a_user_s_wordings_are_read_and_checked(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "version: 3\nwordings:\n  short:\n    system: 'Rate {low} to {high}.'\n    weak: bad\n    strong: good\n"
        "    levels: ['{scene}', '{action}']\n    answer: 'So:'\n"
    )
    mine = prompts.read_wordings(file)["short"]
    assert (mine.name, mine.version) == ("short", 3)
    assert prompts.assemble(ROWS, mine).text(0) == "Rate 1 to 5.\n\nA flood.\nHelp.\nSo:"
    file.write_text(file.read_text().replace("{action}", "{act}"))
    with pytest.raises(errors.InputError, match=r"short: 'act' is not a field; known are .*\{action\}"):
        prompts.read_wordings(file)
    file.write_text("version: 1\nwordings: {}\n")
    with pytest.raises(errors.InputError, match="no wordings"):
        prompts.read_wordings(file)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(errors.InputError, match="unknown protocol 'pared'; did you mean 'paired'"):
        prompts.wordings("pared")
    with pytest.raises(errors.InputError, match="unknown wording 'advice'; did you mean 'advise'"):
        prompts.wording("paired", "advice")


def test_turns_stand_between_the_examples_and_the_question():
    wording = prompts.wording("paired")
    shots = [prompts.Shot({"scene": "A storm.", "action": "Hide."}, 4)]
    turns = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Well:"},
    ]
    talked = prompts.assemble(ROWS, wording, shots=shots, chat=chat, turns=turns).text(0)
    assert "4[/][user]Hi.[/][assistant]Hello.[/][user]Well:\n\nSituation: A flood." in talked
    answered = prompts.assemble(ROWS, wording, chat=chat, turns=turns[:2]).text(0)
    assert "[assistant]Hello.[/][user]Situation: A flood." in answered
    plain = prompts.assemble(ROWS, wording, turns=turns[2:]).text(0)
    assert plain == prompts.assemble(ROWS, wording).text(0).replace("Situation:", "Well:\n\nSituation:")
    with pytest.raises(errors.InputError, match="turns of an assistant need a model with a chat template"):
        prompts.assemble(ROWS, wording, turns=turns)


def test_a_template_that_loses_a_turn_is_refused():
    def forgetful(messages):
        return chat([{**message, "content": message["content"].replace("Well:\n\n", "")} for message in messages])

    with pytest.raises(errors.InputError, match="does not show"):
        prompts.assemble(ROWS, prompts.wording("paired"), chat=forgetful, turns=[{"role": "user", "content": "Well:"}])
