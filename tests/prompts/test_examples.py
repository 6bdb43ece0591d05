"""Training data and shots: from the train side alone, balanced, seeded, and pushing the right way."""

import numpy as np
import pytest

from vatjax import errors, items, prompts

pytestmark = pytest.mark.long

DATA = items.bundled().where(country=["Egypt", "Germany", "France"])
TRAIN, TEST = DATA.split(0.25, 3)
EVALUATED = {scene.text for scene in TEST.scenes}


def chat(messages):
    return "".join(f"[{m['role']}]{m['content']}[/]" for m in messages) + "[assistant]"


@pytest.mark.parametrize("make", [prompts.judgements, prompts.preferences, prompts.actions])
@pytest.mark.parametrize("template", [None, chat])
def test_no_evaluated_scene_leaks(make, template):
    examples = list(make(DATA, "Power", chat=template, seed=3))
    assert len(EVALUATED) > 10
    assert len(examples) > 100
    for example in examples:
        assert not any(scene in text for scene in EVALUATED for text in example.values())
    leaked = list(make(DATA, "Power", chat=template, seed=4))
    assert any(scene in example["prompt"] for scene in EVALUATED for example in leaked)  # the check sees what leaks


def by_action():
    return {(scene, action): side for scene, action, side in zip(DATA.scene, DATA.action, DATA.polarity, strict=True)}


@pytest.mark.parametrize("direction", [1, -1])
def test_judgements_agree_with_what_the_direction_wants(direction):
    train = TRAIN.take(DATA.taxonomy.mask("Power")[TRAIN.value])
    found = list(prompts.judgements(DATA, "Power", direction, seed=3))
    assert len(found) == len(train)
    for example, polarity, action in zip(found, train.polarity, train.action, strict=True):
        assert action in example["prompt"]
        assert example["completion"] == (" 5" if polarity == direction else " 1")
    talked = prompts.judgements(DATA, "Power", direction, chat=chat, scale=prompts.Scale(falling=True), seed=3)[0]
    assert talked["completion"] == ("1" if train.polarity[0] == direction else "5")


@pytest.mark.parametrize("direction", [1, -1])
def test_preferences_choose_what_the_direction_wants(direction):
    sides = by_action()
    for example in prompts.preferences(DATA, "Wealth", direction, seed=3):
        scene = next(scene for scene in {s.text for s in TRAIN.scenes} if scene in example["prompt"])
        assert sides[scene, example["chosen"][1:]] == direction
        assert sides[scene, example["rejected"][1:]] == -direction
    wanted = list(prompts.actions(DATA, "Wealth", direction, seed=3))
    chosen = [
        (example["prompt"], example["chosen"]) for example in prompts.preferences(DATA, "Wealth", direction, seed=3)
    ]
    assert [(example["prompt"], example["completion"]) for example in wanted] == chosen


@pytest.mark.parametrize("count", [0, 2, 4, 8, 5])
@pytest.mark.parametrize("direction", [1, -1])
def test_shots_are_balanced_seeded_and_from_the_train_side(count, direction):
    shots = prompts.demonstrations(DATA, "Power", direction, count, seed=3)
    assert len(shots) == count
    sides = by_action()
    polarity = [sides[shot.fields["scene"], shot.fields["action"]] for shot in shots]
    assert sum(side == 1 for side in polarity) == (count + 1) // 2
    assert [shot.rating for shot in shots] == [5 if side == direction else 1 for side in polarity]
    assert not {shot.fields["scene"] for shot in shots} & EVALUATED
    assert shots == prompts.demonstrations(DATA, "Power", direction, count, seed=3)
    if count > 2:
        assert shots != prompts.demonstrations(DATA, "Power", direction, count, seed=5)


def test_what_there_is_not_is_said():
    with pytest.raises(errors.InputError, match="600 shots of Wealth need 300 actions for it and 300 against it"):
        prompts.demonstrations(DATA, "Wealth", count=600)
    alone = DATA.take(np.array(DATA.polarity == 1))
    with pytest.raises(errors.InputError, match="has both actions of Wealth"):
        list(prompts.preferences(alone, "Wealth"))
    with pytest.raises(errors.InputError, match="no item of Power is on the train side"):
        list(prompts.judgements(DATA.where(value="Wisdom"), "Power"))
